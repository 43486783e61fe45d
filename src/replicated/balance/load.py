"""How busy a replica is: the interface of a load, and the plain count of what is in flight.

A load compares replicas; it does not choose between them, and knows neither weights nor readiness.
"""

from __future__ import annotations

import threading
from typing import Protocol

from ..errors import AlreadyFinished
from ..outcome import Outcome
from ..replica import Replica

__all__ = ["InFlight", "Load"]


class Load(Protocol):
    """How busy each replica is, learnt from what starts and what finishes there.

    Threads may call it at the same time. Kept by ``replica.id``, so that it survives a change of membership.
    """

    def of(self, replica_id: str, /) -> float:
        """Return the load: never negative, 0 for one that nothing is known of and nothing runs on.

        Only comparisons between replicas, at one moment, mean anything. O(1).
        """
        ...

    def started(self, replica: Replica) -> None:
        """Hear that a request goes to ``replica``."""
        ...

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Hear that one ended. AlreadyFinished when none is in flight there; nothing has changed then."""
        ...


class Counts(dict[str, int]):
    """A count by id, 0 for one never counted; its bound ``__getitem__`` is an ``of`` without a frame."""

    __slots__ = ()

    def __missing__(self, key: str) -> int:
        return 0


class InFlight:
    """The number of requests in flight on each replica, as seen from here.

    Attributes:
        total: All that is in flight, wherever it is.
    """

    __slots__ = ("_acquire", "_counts", "_release", "_roomy", "of", "total")

    def __init__(self) -> None:
        self._counts = Counts()
        # Bound once, and not by `with`: a lock's two builtins cost half as much as the statement does.
        lock = threading.Lock()
        self._acquire, self._release = lock.acquire, lock.release
        self._roomy = 1024
        self.total = 0
        # A builtin bound to the dict: reading a load costs no Python frame, and two are read a pick.
        self.of = self._counts.__getitem__

    def started(self, replica: Replica) -> None:
        """Count one more on ``replica``."""
        counts, id = self._counts, replica.id
        self._acquire()
        try:
            counts[id] = counts[id] + 1
            self.total += 1
        finally:
            self._release()

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Count one less. AlreadyFinished when none is in flight there."""
        counts, id = self._counts, replica.id
        self._acquire()
        try:
            count = counts[id]
            if not count:
                raise AlreadyFinished(
                    f"nothing is in flight on {id!r}: it was finished more often than started"
                )
            counts[id] = count - 1
            self.total -= 1
            if len(counts) > self._roomy:
                self._sweep()
        finally:
            self._release()

    def _sweep(self) -> None:
        # Zeros stay, so that `of` finds them without a frame, until names of replicas long gone pile up.
        for id in [id for id, count in self._counts.items() if not count]:
            del self._counts[id]
        self._roomy = max(1024, 2 * len(self._counts))

    def __repr__(self) -> str:
        busy = {id: count for id, count in self._counts.copy().items() if count}
        return f"<InFlight {self.total} on {len(busy)} replicas>"
