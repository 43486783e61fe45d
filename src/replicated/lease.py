"""A replica lent for the length of a block: ``with tier.lease(key) as lease``.

How a lease begins and ends, and that it ends once. Who is lent, and who hears of the end, is its tier's to
say. It is the way through a tier that is walked most, so what costs time here was measured.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from .balance import Pick
from .balance.load import Counts
from .clock import Clock
from .decision import Forward, Knows, Refuse, Unavailable, new_tuple
from .errors import AlreadyFinished, NoReplica, Refused
from .outcome import Outcome, Verdict
from .pins import Pin
from .readiness import ReadinessTracker, ReadySet
from .replica import Replica
from .retries import RetryBudget

__all__ = ["Lease", "Throttled"]

OK = Verdict.OK  # in CPython 3.11 to look up a member of an enumeration costs as much as two calls
FINE = Outcome(OK)

BECOMING = threading.Lock()
"""Held while a lease becomes a Forward, which few do: one for all is enough."""


class Lender(Knows, Protocol):
    """What a lease needs of its tier."""

    readiness: ReadinessTracker
    _open: set[Forward | Lease]
    _clock: Clock
    _started: Callable[[Replica], None]
    _finished: Callable[[Replica, Outcome], None]
    _untimed: bool
    _way: Way
    _way_back: WayBack

    def admit(self, throttle_key: Hashable, cost: float = 1) -> Refuse | None:
        """Ask the throttle."""
        ...

    def finish(self, forward: Forward, outcome: Outcome) -> None:
        """End a Forward."""
        ...

    def _conclude(self, replica: Replica, outcome: Outcome) -> None: ...

    def _see_off(self, replica: Replica) -> None: ...

    def _unavailable(self, now: float, tried: tuple[str, ...], pin: Pin | None) -> Unavailable: ...


# What a lease passes on its way in and on its way back, each taken from its tier in one piece: at half the
# price of looking it up there. The counts, if any, are all that is told that it begins, or ends well.
Way: TypeAlias = tuple[ReadinessTracker, Clock, RetryBudget, Pick, Counts | None, Callable[[Any], None]]
WayBack: TypeAlias = tuple[Callable[[Any], None], Counts | None, Mapping[str, object]]


class Lease:
    """A replica, borrowed: ``with tier.lease(key) as lease: call(lease.replica.url)``.

    Leaving the block gives it back: an ``Exception`` as the replica's failure, anything else that breaks out
    (a cancelled task, Ctrl-C) as the caller's own leaving. ``finish`` says otherwise.
    """

    # It stands for itself among what the tier has open, so that no Forward is made unless one is asked for.

    __slots__ = ("_forward", "_key", "_ready", "_replica", "_since", "_tier")

    _tier: Lender
    _key: str | bytes | None
    _replica: Replica
    _since: float
    _ready: ReadySet
    _forward: Forward

    @property
    def replica(self) -> Replica:
        """Who was lent."""
        try:
            return self._replica
        except AttributeError:
            raise AlreadyFinished("the lease has not begun: use it in a with statement") from None

    @property
    def forward(self) -> Forward:
        """The lease as a Forward, to explain it, to finish or to retry it."""
        replica, tier = self.replica, self._tier
        with BECOMING:
            if not hasattr(self, "_forward"):
                fields = (replica, 1, self._key, None, self._since, self._ready, (), tier, None)
                self._forward = forward = new_tuple(Forward, fields)
                tier._open.add(forward)  # before the lease is taken out: who finds neither takes it for over
                try:
                    tier._open.remove(self)
                except KeyError:
                    tier._open.discard(forward)
            return self._forward

    def finish(self, outcome: Outcome) -> None:
        """Say early how it ended; leaving the block then adds nothing.

        Raises:
            AlreadyFinished: It has ended before.
        """
        replica = self.replica
        try:
            self._tier._open.remove(self)
        except KeyError:
            self._tier.finish(self.forward, outcome)
        else:
            self._tier._conclude(replica, outcome)

    def __enter__(self) -> Lease:
        """Borrow.

        Raises:
            Refused: The throttle said no.
            NoReplica: Nobody can serve.
        """
        # What Tier.decide does, less what a lease has no use for.
        readiness, clock, retries, choose, counts, opened = self._tier._way
        self._since = now = clock()
        if not now < readiness.wakes:
            readiness.tick(now)
        self._ready = ready = readiness.ready
        retries.firsts += 1
        replica = choose(ready, self._key)
        if replica is None:
            nobody = self._tier._unavailable(now, (), None)
            raise NoReplica(nobody.explain(), nobody.retry_after)
        self._replica = replica
        if counts is None:
            self._tier._started(replica)
        else:  # what that would do: a call less
            counts[replica.id] += 1
        opened(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closed, counts, leaving = self._tier._way_back
        try:
            closed(self)
        except KeyError:
            self._exit_as_forward(error)
            return
        if error is not None or counts is None:
            self._give_back(error)
            return
        counts[self._replica.id] -= 1
        if leaving:
            self._tier._see_off(self._replica)

    def _give_back(self, error: BaseException | None) -> None:
        tier, replica = self._tier, self._replica
        if error is not None or not tier._untimed:
            tier._conclude(replica, self._ending(error))
            return
        tier._finished(replica, FINE)  # nobody else is to be told, and nothing but that it is over
        if tier.readiness.leaving:
            tier._see_off(replica)

    def _exit_as_forward(self, error: BaseException | None) -> None:
        forward: Forward | None = getattr(self, "_forward", None)
        if forward is not None and forward in self._tier._open:  # else it was finished within the block
            self._tier.finish(forward, self._ending(error))

    def _ending(self, error: BaseException | None) -> Outcome:
        if error is None:
            latency = self._tier._clock() - self._since
            outcome: Outcome = new_tuple(Outcome, (OK, latency if latency > 0 else 0.0, None, None, ""))
            return outcome
        if isinstance(error, Exception):
            return Outcome.failure(f"{type(error).__name__}: {error}")
        return Outcome.cancelled(type(error).__name__)


class Throttled(Lease):
    """A lease that the throttle is asked for first. One of its own, since most are asked of nobody."""

    __slots__ = ("_cost", "_throttle_key")

    def __init__(self, throttle_key: Hashable, cost: float) -> None:
        self._throttle_key = throttle_key
        self._cost = cost

    def __enter__(self) -> Lease:
        """Ask, and borrow."""
        refusal = self._tier.admit(self._throttle_key, self._cost)
        if refusal is not None:
            raise Refused(refusal.explain(), refusal.retry_after)
        return super().__enter__()
