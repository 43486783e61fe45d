"""The least busy of all, whoever that is: exact, and as costly as there are replicas."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..outcome import Outcome
from ..readiness import ReadySet
from ..replica import Replica
from .load import HEARS, InFlight, Load, listen
from .strategy import Key, faithful

__all__ = ["LeastLoaded"]


class LeastLoaded:
    """Pick the replica with the least load a unit of weight, at random by weight among equals. O(n).

    Args:
        load: What busy means; ``InFlight()`` when left out.
        rng: Where chance comes from.

    Attributes:
        started: The load's own, so that hearing of a request costs one call less.
        finished: Likewise.
    """

    __slots__ = ("_of", "_random", "load", *HEARS)

    if TYPE_CHECKING:  # slots in truth, see `listen`

        def started(self, replica: Replica) -> None:
            """Hear that a request goes to ``replica``."""

        def finished(self, replica: Replica, outcome: Outcome) -> None:
            """Hear how one ended."""

    def __init__(self, load: Load | None = None, *, rng: random.Random | None = None) -> None:
        self.load: Load = InFlight() if load is None else load
        self._of = self.load.of
        listen(LeastLoaded, self, self.load)
        self._random = (random.Random() if rng is None else rng).random

    @faithful
    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return the least loaded of ``ready``; the key is ignored."""
        if not isinstance(ready, ReadySet):
            ready = ReadySet(ready)
        candidates, sums = ready.draw
        if not candidates:
            return None
        of, weights = self._of, ready.weights
        if sums is None:
            loads = [of(replica.id) for replica in candidates]
        else:
            loads = [of(replica.id) / weights[replica.id] for replica in candidates]
        least = min(loads)
        if loads.count(least) == 1:
            return candidates[loads.index(least)]
        # Always taking the first of equals would send every lone request to the same replica.
        equals = [replica for replica, load in zip(candidates, loads, strict=True) if load == least]
        if sums is None:
            return equals[int(self._random() * len(equals))]
        point = self._random() * sum([weights[replica.id] for replica in equals])
        for replica in equals[:-1]:
            point -= weights[replica.id]
            if point < 0:
                return replica
        return equals[-1]
