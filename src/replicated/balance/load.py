"""How busy a replica is: the interface of a load, and the plain count of what is in flight.

A load compares replicas; it does not choose between them, and knows neither weights nor readiness.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from ..errors import AlreadyFinished
from ..one_step import ATOMIC, one_step
from ..outcome import Outcome
from ..replica import Replica
from .strategy import Strategy, untimed

__all__ = ["HEARS", "InFlight", "Load", "Summed", "listen", "tally"]

HEARS = ("started", "finished")
"""What a strategy hears, as slots that `listen` fills."""


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


def listen(owner: type, strategy: object, load: object) -> None:
    """Let ``load`` hear what ``strategy`` hears, by its own methods: a call less, twice a request.

    They fill the slots ``started`` and ``finished`` of ``owner``, the strategy's class. Were they assigned to
    the strategy, they would hide the methods by which a subclass listens itself.
    """
    for name in HEARS:
        owner.__dict__[name].__set__(strategy, getattr(load, name))


class Counts(dict[str, int]):
    """A count by id, 0 for one never counted; its bound ``__getitem__`` is an ``of`` without a frame."""

    __slots__ = ()

    # How often an id is in an empty tuple: 0, said by a builtin. A method would cost a frame whenever a pick
    # looks at an idle replica, and would let another thread in where a count must not.
    __missing__: Callable[[str], int] = ().count

    def forget(self, replica_id: str) -> int:
        """Forget a replica that leaves, unless something is in flight there. 0: that is for others to say."""
        if replica_id in self and not self[replica_id]:
            del self[replica_id]
        return 0


def tally(strategy: Strategy) -> Counts | None:
    """Return the counts that are all that hears what ``strategy`` hears; None where anything else does.

    Who starts and finishes so often that two calls a request are too dear may count there in their place, by
    one step of the interpreter each, and lets them ``forget`` who leaves.
    """
    load = getattr(strategy.started, "__self__", None)
    if not ATOMIC or type(load) is not InFlight:  # a subclass may do more than count
        return None
    hears = (strategy.started, strategy.finished)
    return load._counts if hears == (load.started, load.finished) else None


class InFlight:
    """The number of requests in flight on each replica, as seen from here."""

    # Reading a count and writing it are one step here, without a lock (see `one_step`): a lock would be
    # a third of what starting and finishing a request cost. So nothing may be called in between.

    __slots__ = ("_counts", "_lock", "_roomy", "of")

    def __init__(self) -> None:
        self._counts = Counts()
        self._lock = threading.RLock()  # taken only by interpreters on which the above does not hold
        self._roomy = 1024
        # A builtin bound to the dict: reading a load costs no Python frame, and two are read a pick.
        self.of = self._counts.__getitem__

    @property
    def total(self) -> int:
        """All that is in flight, wherever it is. O(n)."""
        return sum(self._counts.copy().values())

    @one_step
    def started(self, replica: Replica) -> None:
        """Count one more on ``replica``."""
        self._counts[replica.id] += 1

    @one_step
    @untimed
    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Count one less. AlreadyFinished when none is in flight there."""
        counts, id = self._counts, replica.id
        if count := counts[id]:
            counts[id] = count - 1
            if len(counts) > self._roomy:
                self._sweep()
        else:
            raise AlreadyFinished(f"nothing is in flight on {id!r}: it was finished more often than started")

    def _sweep(self) -> None:
        # Zeros stay, since a dict that keeps its keys need not grow again, until names of replicas long gone
        # pile up.
        counts = self._counts
        for id in list(counts):
            counts.forget(id)
        self._roomy = max(1024, 2 * len(counts))

    def __repr__(self) -> str:
        busy = {id: count for id, count in self._counts.copy().items() if count}
        return f"<{type(self).__name__} {sum(busy.values())} on {len(busy)} replicas>"


class Summed(InFlight):
    """The same with a total that is kept, for who asks for it with every pick."""

    __slots__ = ("_total",)

    def __init__(self) -> None:
        super().__init__()
        self._total = 0

    @property
    def total(self) -> int:
        """All that is in flight, wherever it is. O(1)."""
        return self._total

    @one_step
    def started(self, replica: Replica) -> None:
        """Count one more on ``replica``."""
        self._counts[replica.id] += 1
        self._total += 1

    @one_step
    @untimed
    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Count one less. AlreadyFinished when none is in flight there."""
        super().finished(replica, outcome)
        self._total -= 1
