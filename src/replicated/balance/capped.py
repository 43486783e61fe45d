"""A limit to what each replica serves at once, around any strategy: those that are full are not shown to it.

It waits for nothing and queues nobody: when all are full it picks nobody, and whoever asks is told at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ..outcome import Outcome
from ..readiness import ReadySet
from ..readiness.arguments import count
from ..replica import Replica
from .power_of_two import PowerOfTwo
from .strategy import Key, Pick, Strategy, as_strategy

__all__ = ["Capped"]


class Capped:
    """Let ``strategy`` choose among the replicas with less than ``limit`` requests in flight.

    O(1) more than the strategy's pick while nobody is full, else O(n) once for every change in who is. The
    count is this router's own. A pick and its ``started`` are two calls, so that threads that pick in the
    same instant may exceed the limit by their number less one.

    Args:
        limit: Requests that one replica may have in flight, a whole number from 1.
        strategy: Who serves of those with room; ``PowerOfTwo()`` when left out.

    Attributes:
        on_room: Called without arguments when one that was full has room again; for who waits for that.

    Raises:
        ValueError: ``limit`` is below 1.
        TypeError: ``limit`` is not a whole number.
    """

    __slots__ = ("_counts", "_full", "_lock", "_view", "limit", "on_room", "strategy")

    def __init__(self, limit: int, strategy: Strategy | Pick | None = None) -> None:
        count("limit", limit, least=1)
        self.limit = limit
        self.on_room: Callable[[], object] | None = None
        self.strategy = PowerOfTwo() if strategy is None else as_strategy(strategy)
        self._counts: dict[str, int] = {}
        self._full: frozenset[str] = frozenset()  # swapped whole, so that picks take no lock
        self._lock = threading.Lock()
        self._view: tuple[ReadySet, frozenset[str], ReadySet] | None = None

    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return the strategy's pick of those with room; None when all are full."""
        full = self._full
        if not full:
            return self.strategy.pick(ready, key)
        if not isinstance(ready, ReadySet):
            ready = ReadySet(ready)
        view = self._view
        if view is None or view[0] is not ready or view[1] is not full:
            # Of the same membership, so that a full replica costs a hash no table.
            view = self._view = (ready, full, ready.without(full))
        return self.strategy.pick(view[2], key) if view[2] else None

    def started(self, replica: Replica) -> None:
        """Hear that a request goes to ``replica``."""
        self.strategy.started(replica)
        self._count(replica.id, 1)

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Hear how one ended."""
        has_room = self._count(replica.id, -1)
        self.strategy.finished(replica, outcome)
        if has_room and self.on_room is not None:
            self.on_room()

    def _count(self, id: str, step: int) -> bool:
        """Count, and return whether that changed who is full."""
        with self._lock:
            now = self._counts.get(id, 0) + step
            if now > 0:
                self._counts[id] = now
            else:
                self._counts.pop(id, None)
            changed = (now >= self.limit) is not (id in self._full)
            if changed:
                self._full = self._full ^ {id}
            return changed
