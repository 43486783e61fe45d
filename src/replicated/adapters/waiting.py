"""A queue before a tier whose replicas are all full: bounded, in order, with a deadline.

Who waits, for how long and in which order is decided here; whether anybody has room is the tier's to say. For
coroutines of one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Hashable

from ..outcome import Outcome
from ..pins import Pin
from ..tier import Decision, Forward, Tier, Unavailable

__all__ = ["WaitingRoom"]


class WaitingRoom:
    """Decides as ``tier`` does, but waits its turn where nobody has room: ``await room.decide(key)``.

    First come, first served: who comes while others wait waits behind them. Each waits at most ``timeout``
    seconds and at most ``limit`` wait at once; whoever is beyond either is told ``Unavailable``. Where nobody
    is ready at all, waiting for room is in vain, and nobody begins to. A request is counted against its
    throttle once, when it comes.

    Args:
        tier: Who decides. Its strategy should be ``Capped``: others never are without room. Let that one's
            ``on_room`` be ``call_next``, and a Forward may be finished by the tier as well as by ``finish``.
        limit: Requests that may wait, 0 for none.
        timeout: Seconds that one may wait.

    Raises:
        ValueError: One of them is out of its range.
    """

    def __init__(self, tier: Tier, *, limit: int = 100, timeout: float = 1.0) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ValueError(f"limit must be an integer of at least 0, not {limit!r}")
        if isinstance(timeout, bool) or not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be above 0 seconds, finite, not {timeout!r}")
        self.tier = tier
        self.limit = limit
        self.timeout = timeout
        self._line: deque[asyncio.Event] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    async def decide(
        self,
        key: str | bytes | None = None,
        *,
        throttle_key: Hashable = None,
        cache_key: Hashable = None,
        cost: float = 1,
        pin: Pin | None = None,
    ) -> Decision:
        """Decide about one request, as ``Tier.decide`` does, perhaps later. To be cancelled at any time."""
        if throttle_key is not None and (refusal := self.tier.admit(throttle_key, cost)) is not None:
            return refusal
        decision: Decision | None = None
        if not self._line:
            decision = self.tier.decide(key, cache_key=cache_key, pin=pin)
            if not isinstance(decision, Unavailable) or not self.tier.readiness.ready:
                return decision
        if len(self._line) >= self.limit:
            return decision or Unavailable(self.timeout, reason=f"{self.limit} are waiting already")
        turn = asyncio.Event()
        self._line.append(turn)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.timeout):
                    while True:
                        await turn.wait()
                        turn.clear()
                        decision = self.tier.decide(key, cache_key=cache_key, pin=pin)
                        if not isinstance(decision, Unavailable):
                            return decision
            return Unavailable(self.timeout, reason=f"nobody had room for {self.timeout:g} s")
        finally:
            # However it ended: there may be room for the next, or the turn was never used.
            self._line.remove(turn)
            self.call_next()

    def finish(self, forward: Forward, outcome: Outcome) -> None:
        """Finish as ``Tier.finish`` does, and call the next in line. AlreadyFinished likewise."""
        try:
            self.tier.finish(forward, outcome)
        finally:
            self.call_next()

    def call_next(self) -> None:
        """Let the first in line ask again: for when room came about otherwise, as by a new replica."""
        if self._line:
            self._line[0].set()
