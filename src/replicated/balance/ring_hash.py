"""The replica where a key lives while it can serve and is not too busy; else the next of the key's order.

Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2017). Where a key lives is the
table's business; this decides who of the key's preference order serves now.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from ..errors import EmptyRing
from ..outcome import Outcome
from ..readiness import ReadySet
from ..readiness.arguments import count
from ..replica import Replica
from ..ring import HashRing
from .key_fraction import key_fraction
from .load import HEARS, InFlight, Summed, listen
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


# The snapshot seen, the table of its members, how to find a replica where weights are even, and how many.
_View: TypeAlias = tuple[ReadySet, Table, Callable[[str], Replica | None] | None, int]


class Both(NamedTuple):
    """A load and a fallback that hears for itself: told one after the other."""

    load: InFlight
    fallback: Strategy

    def started(self, replica: Replica) -> None:
        self.load.started(replica)
        self.fallback.started(replica)

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        self.load.finished(replica, outcome)
        self.fallback.finished(replica, outcome)


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
        load: What is in flight, to share the counts with another strategy. A plain ``InFlight`` sums them up
            for a pick under a bound, in O(n); a ``Summed`` one keeps the sum, as what is made here does.

    Raises:
        ValueError: ``bound`` is not above 1, or ``slack`` is negative.

    Attributes:
        started: The load's own, so that hearing of a request costs one call less; with a ``fallback`` given,
            that is told as well.
        finished: Likewise.
    """

    __slots__ = ("_lock", "_make_table", "_members", "_of", "_table", "_view", "bound",
                 "fallback", "load", "slack", *HEARS)  # fmt: skip

    if TYPE_CHECKING:  # slots in truth, see `listen`

        def started(self, replica: Replica) -> None:
            """Hear that a request goes to ``replica``."""

        def finished(self, replica: Replica, outcome: Outcome) -> None:
            """Hear how one ended."""

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
        if load is None:
            load = InFlight() if bound is None else Summed()
        self.load = load
        self._of = self.load.of
        self.fallback: Strategy = PowerOfTwo(self.load) if fallback is None else fallback
        listen(RingHash, self, self.load if fallback is None else Both(self.load, fallback))
        self._make_table = make_table
        self._lock = threading.Lock()
        self._members: tuple[Replica, ...] = ()
        self._table: Table = make_table({})
        self._view: _View = (ReadySet(), self._table, None, 0)

    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return the first of the key's order that can serve and has room; without a key, ``fallback``'s."""
        if not key:
            return self.fallback.pick(ready)
        seen, table, find, n = self._view
        if seen is not ready:
            seen, table, find, n = self._look(ready)
        try:
            owner = table.owner(key)
        except EmptyRing:
            return None
        if find is not None:
            replica = find(owner)
            if replica is not None:
                # An idle one always has room. For others count + 1 <= ceil(x) is count < x, a count being
                # whole, and a product is exact where a quotient may round up to one too many.
                if (bound := self.bound) is None or not (count := self._of(owner)):
                    return replica
                if (count - self.slack) * n < bound * (self.load.total + 1):
                    return replica
        for replica, obstacle in self._order(seen, key, table) if n else ():
            if not obstacle:
                return replica
        return self._most_room(seen)

    def passed_over(self, ready: Sequence[Replica], key: Key) -> list[tuple[str, str]]:
        """Return the ids that a pick for ``key`` passes over now, in the key's order, each with why."""
        if not key:
            return []
        seen, table, _, n = self._look(ready)
        if not n:
            return []
        reasons, chosen = dict[str, str](), ""
        for replica, obstacle in self._order(seen, key, table):
            if not obstacle:
                chosen = replica.id
                break
            reasons[replica.id] = obstacle
        before = takewhile(lambda id: id != chosen, table.walk(key))
        return [(id, reasons.get(id, "not ready")) for id in before]

    def _look(self, ready: Sequence[Replica]) -> _View:
        """Take a snapshot apart, once for all its picks; a new membership takes a new table."""
        snapshot = ready if isinstance(ready, ReadySet) else ReadySet(ready)
        with self._lock:
            # Equal members may come in another tuple, where the caller makes ready sets of a list.
            if snapshot.members is not self._members and snapshot.members != self._members:
                self._table = self._make_table({replica.id: replica.weight for replica in snapshot.members})
            self._members = snapshot.members
            eligible = snapshot.eligible
            # A table that knows no weights may own keys by a replica of weight 0, which nobody may pick.
            owners = snapshot.by_id if len(eligible) == len(snapshot) else {r.id: r for r in eligible}
            find = owners.get if snapshot.even else None
            self._view = view = (snapshot, self._table, find, len(eligible))
        return view

    def _order(self, ready: ReadySet, key: str | bytes, table: Table) -> Iterator[tuple[Replica, str]]:
        """Yield those of the key's order that are ready, each with what speaks against it, or an empty str.

        Twice where the first time everyone has something against them: a warming replica is better than none.
        """
        weights, ramp, by_id = ready.weights, ready.ramp, ready.by_id
        room = math.inf if self.bound is None else self.bound * (self.load.total + 1)
        whole = ready.total_weight
        cold: list[Replica] = []
        for id in table.walk(key):
            weight = weights.get(id)
            if weight is None:
                continue
            replica, count = by_id[id], self._of(id)
            if (count - self.slack) * whole >= room * weight:
                yield replica, f"{count} in flight, its bound"
            elif id in ramp and key_fraction(key, id) >= ramp[id]:
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
