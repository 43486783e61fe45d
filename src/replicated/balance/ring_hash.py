"""The replica where a key lives while it can serve and is not too busy; else the next of the key's order.

Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2017). Where a key lives is the
table's business; this decides who of the key's preference order serves now.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Protocol

from ..errors import EmptyRing
from ..outcome import Outcome
from ..readiness import ReadySet
from ..readiness.arguments import count
from ..replica import Replica
from ..ring import HashRing
from .load import InFlight
from .power_of_two import PowerOfTwo
from .strategy import Key, Strategy

__all__ = ["RingHash"]


class Table(Protocol):
    """What is asked of a ring, a Maglev table, or a rendezvous."""

    def owner(self, key: str | bytes) -> str:
        """Return the id where ``key`` lives; EmptyRing when there is none."""
        ...

    def walk(self, key: str | bytes) -> Iterator[str]:
        """Yield the key's preference order, the owner first, every id once."""
        ...


class RingHash:
    """Keep a key on its replica: the first of the key's preference order that can serve and has room.

    The table is built over ``ready.members``, and anew only when those change: a replica that was not ready
    and comes back gets exactly its own keys back. With a bound, no replica gets a request that would bring it
    above ``ceil(bound * (total + 1) * its share of the weights) + slack`` in flight, ``total`` being all
    that is in flight through this strategy; a key whose replica is full goes on along its own order and is
    back as soon as there is room. A replica that warms up takes the part of its keys that its ramp allows,
    always the same ones, and more as it warms.

    Args:
        bound: How far above the mean a replica may be loaded: above 1; for HAProxy's ``hash-balance-factor``
            1.25 to 2.0 are the useful ones. None: no bound.
        slack: Requests in flight that each replica may have on top. Where few are in flight the bound alone
            moves a key for its second concurrent request; a few of slack keep it.
        fallback: Who picks without a key; ``PowerOfTwo`` over the same counts when left out. Never the table.
        make_table: Builds the table from a mapping of id to weight, such as ``Maglev`` or
            ``functools.partial(HashRing, vnodes=512)``.
        load: What is in flight, to share the counts with another strategy.

    Raises:
        ValueError: ``bound`` is not above 1, or ``slack`` is negative.
    """

    __slots__ = ("_fallback_hears", "_lock", "_make_table", "_members", "_of", "_table", "bound", "fallback",
                 "load", "slack")  # fmt: skip

    def __init__(
        self,
        bound: float | None = 1.25,
        *,
        slack: int = 0,
        fallback: Strategy | None = None,
        make_table: Callable[[dict[str, float]], Table] = HashRing,
        load: InFlight | None = None,
    ) -> None:
        if bound is not None and not 1 < bound < math.inf:
            raise ValueError(f"bound must be above 1 and finite, or None for no bound, not {bound!r}")
        count("slack", slack, least=0)
        self.bound = bound
        self.slack = slack
        self.load = InFlight() if load is None else load
        self._of = self.load.of
        self._fallback_hears = fallback is not None
        self.fallback: Strategy = PowerOfTwo(self.load) if fallback is None else fallback
        self._make_table = make_table
        self._lock = threading.Lock()
        self._members: tuple[Replica, ...] | None = None
        self._table: Table = make_table({})

    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return the first of the key's order that can serve and has room; without a key, ``fallback``'s."""
        if not key:
            return self.fallback.pick(ready)
        if not isinstance(ready, ReadySet):
            ready = ReadySet(ready)
        table = self._table if ready.members is self._members else self._adopt(ready.members)
        try:
            owner = table.owner(key)
        except EmptyRing:
            return None
        if ready.even:
            replica = ready.by_id.get(owner)
            if replica is not None:
                bound = self.bound
                # count + 1 <= ceil(x) is count < x for a whole count; a product is cheaper than a quotient.
                if bound is None or (self._of(owner) - self.slack) * len(ready.eligible) < bound * (
                    self.load.total + 1
                ):
                    return replica
        for replica, obstacle in self._order(ready, key, table):
            if not obstacle:
                return replica
        return self._most_room(ready)

    def passed_over(self, ready: Sequence[Replica], key: Key) -> list[tuple[str, str]]:
        """Return the ids that a pick for ``key`` passes over now, in the key's order, each with why."""
        if not isinstance(ready, ReadySet):
            ready = ReadySet(ready)
        if not key or not ready.eligible:
            return []
        table = self._table if ready.members is self._members else self._adopt(ready.members)
        passed = []
        order = {replica.id: obstacle for replica, obstacle in self._order(ready, key, table)}
        for id in table.walk(key):
            if not (reason := order.get(id, "not ready")):
                break
            passed.append((id, reason))
        return passed

    def started(self, replica: Replica) -> None:
        """Hear that a request goes to ``replica``."""
        self.load.started(replica)
        if self._fallback_hears:
            self.fallback.started(replica)

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Hear how one ended."""
        self.load.finished(replica, outcome)
        if self._fallback_hears:
            self.fallback.finished(replica, outcome)

    def _adopt(self, members: tuple[Replica, ...]) -> Table:
        with self._lock:
            if members != self._members:
                self._table = self._make_table({replica.id: replica.weight for replica in members})
            self._members = members
            return self._table

    def _order(self, ready: ReadySet, key: str | bytes, table: Table) -> Iterator[tuple[Replica, str]]:
        """Yield those of the key's order that are ready, each with what speaks against it, or an empty str.

        Twice where the first time everyone has something against them: a warming replica is better than none.
        """
        weights, ramp, by_id = ready.weights, ready.ramp, ready.by_id
        room = math.inf if self.bound is None else self.bound * (self.load.total + 1) / sum(weights.values())
        cold: list[Replica] = []
        for id in table.walk(key):
            replica = by_id.get(id)
            if replica is None:
                continue
            if self._of(id) - self.slack >= room * weights[id]:
                yield replica, f"{self._of(id)} in flight, its bound"
            elif id in ramp and _fraction(key, id) >= ramp[id]:
                cold.append(replica)
                yield replica, f"it warms up, at {ramp[id]:.0%}"
            else:
                yield replica, ""
        yield from [(replica, "") for replica in cold]

    def _most_room(self, ready: ReadySet) -> Replica | None:
        # Only reached when counts move during the walk: the bounds of all together exceed the total.
        weights = ready.weights
        return min(
            ready.eligible, key=lambda replica: self._of(replica.id) / weights[replica.id], default=None
        )


def _fraction(key: str | bytes, id: str) -> float:
    """Return a number from 0 to 1 that is the pair's own, and independent of where the table puts the key."""
    data = key if isinstance(key, bytes) else key.encode()
    return int.from_bytes(blake2b(data, digest_size=8, key=id.encode()[:64]).digest()) / 2**64
