"""A part of a large fleet: each of many routers keeps to a few replicas, and so to a few connections.

Which ones is a rendezvous of the router with the replicas; who of them serves is another strategy's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from ..outcome import Outcome
from ..readiness import ReadySet
from ..readiness.arguments import count
from ..replica import Replica
from .key_fraction import key_fraction
from .power_of_two import PowerOfTwo
from .strategy import Key, Pick, Strategy, as_strategy

__all__ = ["Subset"]


class _View(NamedTuple):
    ready: ReadySet
    chosen: ReadySet


class Subset:
    """Choose among the first ``size`` replicas that can serve, in an order of this router's own.

    Every router orders the members by a hash of its name and theirs (Thaler and Ravishankar, 1998). So a
    replica that leaves is replaced by one other in those routers alone that used it, and one that joins takes
    its part from all. How many routers use a replica is binomial: of ``n`` replicas and ``r`` routers the
    busiest is used by about ``3 * sqrt(r * size / n)`` more than the mean: ``r * size / n`` should be large.

    Args:
        size: How many replicas this router uses.
        router: The name of this router; another one for each.
        strategy: Who serves of the replicas chosen; ``PowerOfTwo()`` when left out.

    Raises:
        ValueError: ``size`` is below 1, or ``router`` is empty.
        TypeError: ``size`` is not a whole number, or ``router`` is not a str.
    """

    __slots__ = ("_order", "_views", "router", "size", "strategy")

    def __init__(self, size: int, router: str, strategy: Strategy | Pick | None = None) -> None:
        count("size", size, least=1)
        if not isinstance(router, str):
            raise TypeError(f"router must be a str, not {router!r}")
        if not router:
            raise ValueError("router must not be empty: routers of one name use the same replicas")
        self.size = size
        self.router = router
        self.strategy = PowerOfTwo() if strategy is None else as_strategy(strategy)
        nobody = ReadySet()
        self._order: tuple[object, tuple[str, ...]] = (nobody.members, ())
        # Two of them, swapped whole: before a strategy of zones stand a near and a far side in turns.
        self._views = (_View(nobody, nobody), _View(nobody, nobody))

    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return the strategy's pick of this router's replicas."""
        if not isinstance(ready, ReadySet):
            ready = ReadySet(ready)
        return self.strategy.pick(self.chosen(ready), key)

    def chosen(self, ready: ReadySet) -> ReadySet:
        """Return this router's part of ``ready``."""
        first, second = self._views
        if first.ready is ready:
            return first.chosen
        if second.ready is ready:
            return second.chosen
        members, order = self._order
        if members is not ready.members:
            places = {replica.id: key_fraction(replica.id, self.router) for replica in ready.members}
            order = tuple(sorted(places, key=places.__getitem__))
            self._order = (ready.members, order)
        weights = ready.weights
        chosen = ready.only(set(islice((id for id in order if id in weights), self.size)))
        self._views = (_View(ready, chosen), first)
        return chosen

    def started(self, replica: Replica) -> None:
        """Hear that a request goes to ``replica``."""
        self.strategy.started(replica)

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Hear how one ended."""
        self.strategy.finished(replica, outcome)
