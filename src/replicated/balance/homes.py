"""Whose a session was before the members changed: what lets a scale-out move no live session.

A hash table alone sends some keys elsewhere whenever members come. Here the tables before a change are kept
for a while. It says who had a key, and which sessions need a pin; pins themselves, and who can serve, are
others' business.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from ..clock import Clock, monotonic
from ..errors import EmptyRing
from ..readiness import ReadySet
from ..ring import HashRing
from .ring_hash import Table

__all__ = ["Homes"]

MOST = 8
"""Tables kept at most: each is as large as the ring in use. More changes than that shorten what is kept."""


class Homes:
    """The owners of keys, now and before.

    A session that has no pin is where ``home`` says, and one that begins goes where the strategy sends it.
    After each request ``differs`` says whether the session needs a pin to where it is. So one that asks at
    least every ``keep`` seconds stays for as long as its replica is ready or draining: without a pin it has
    the same owner in every table kept, and the next request finds one of those. Routers that saw the same
    changes agree, and share nothing.

    Args:
        keep: Seconds that the table before a change is kept: what a session may be idle for.
        make_table: The same as the strategy's own.
        clock: Seconds, monotonic.

    Raises:
        ValueError: ``keep`` is not finite seconds above 0.
    """

    def __init__(
        self,
        *,
        keep: float = 3600.0,
        make_table: Callable[[dict[str, float]], Table] = HashRing,
        clock: Clock = monotonic,
    ) -> None:
        if isinstance(keep, bool) or not 0 < keep < math.inf:
            raise ValueError(f"keep must be above 0 seconds, finite, not {keep!r}")
        self.keep = keep
        self._make_table = make_table
        self._clock = clock
        self._lock = threading.Lock()
        self._members: object = None
        self._weights: dict[str, float] = {}
        self._former: tuple[tuple[float, Table], ...] = ()
        self._table: Table | None = None

    def home(self, ready: ReadySet, key: str | bytes) -> str | None:
        """Return on whom a session without a pin began, where that is not for the strategy to find.

        That is the owner of ``key`` in the oldest table kept or, without a change lately, its owner where
        that drains. Else None: a bound may send it elsewhere, and it comes back.
        """
        former, table = self._look(ready)
        if former:
            return owner(former[0], key)
        return owner(table, key) if drains(ready, owner(table, key)) else None

    def differs(self, ready: ReadySet, key: str | bytes, replica_id: str, *, pinned: bool = False) -> bool:
        """Return whether a session that was served by this replica needs a pin to be found there again.

        Args:
            ready: What was picked from.
            key: The session.
            replica_id: Who served it.
            pinned: Whether it came with a pin, which then is to be issued anew.
        """
        former, table = self._look(ready)
        if not former and not pinned and not drains(ready, owner(table, key)):
            return False
        return any(owner(one, key) != replica_id for one in (*former, table))

    def beginning(self, ready: ReadySet, key: str | bytes) -> str | None:
        """Return to whom a session that begins now needs a pin, lest it be taken for one that began before.

        That is its owner, where the oldest table kept names another one; else None.
        """
        former, table = self._look(ready)
        if not former or owner(former[0], key) == (mine := owner(table, key)):
            return None
        return mine

    def _look(self, ready: ReadySet) -> tuple[list[Table], Table]:
        now = self._clock()
        with self._lock:
            if ready.members is not self._members or self._table is None:
                weights = {replica.id: replica.weight for replica in ready.members}
                if self._table is None or weights != self._weights:
                    if self._table is not None and any(weight > 0 for weight in self._weights.values()):
                        self._former = (*self._former, (now + self.keep, self._table))[-MOST:]
                    self._table, self._weights = self._make_table(weights), weights
                self._members = ready.members
            if self._former and self._former[0][0] <= now:
                self._former = tuple([kept for kept in self._former if kept[0] > now])
            return [table for _, table in self._former], self._table


def owner(table: Table, key: str | bytes) -> str | None:
    try:
        return table.owner(key)
    except EmptyRing:
        return None


def drains(ready: ReadySet, id: str | None) -> bool:
    return any(replica.id == id for replica in ready.draining)
