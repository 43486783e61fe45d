"""The less busy of two drawn at random: nearly as even as looking at all of them, at the price of two.

Mitzenmacher, *The power of two choices in randomized load balancing* (2001). With stale or partial
knowledge, as each of many routers has, it does not herd as picking the least loaded does.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Sequence

from ..outcome import Outcome
from ..readiness import ReadySet
from ..replica import Replica
from .load import InFlight, Load
from .strategy import Key

__all__ = ["PowerOfTwo"]


class PowerOfTwo:
    """Draw two different replicas by weight and pick the one with less load a unit of weight.

    Equal loads go to the first drawn: so idle replicas are picked in proportion to their weights, and busy
    ones are filled in proportion to them. O(1) when the weights are even, else O(log n).

    Args:
        load: What busy means; ``InFlight()`` when left out.
        rng: Where chance comes from.
    """

    __slots__ = ("_of", "_random", "load")

    def __init__(self, load: Load | None = None, *, rng: random.Random | None = None) -> None:
        self.load: Load = InFlight() if load is None else load
        self._of = self.load.of
        self._random = (random.Random() if rng is None else rng).random

    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return the less loaded of two of ``ready``; the key is ignored."""
        if not isinstance(ready, ReadySet):
            ready = ReadySet(ready)
        candidates, sums = ready.draw
        n = len(candidates)
        if n < 2:
            return candidates[0] if n else None
        random, of = self._random, self._of
        if sums is None:
            i = int(random() * n)
            j = int(random() * (n - 1))
            if j >= i:
                j += 1
            first, second = candidates[i], candidates[j]
            return first if of(first.id) <= of(second.id) else second
        first = candidates[i := bisect(sums, random() * sums[-1], 0, n - 1)]
        # The second is drawn from the others: a line without the first one's piece, which is stepped over.
        weight = ready.weights[first.id]
        point = random() * (sums[-1] - weight)
        if point >= sums[i] - weight:
            point += weight
        second = candidates[bisect(sums, point, 0, n - 1)]
        return first if of(first.id) * ready.weights[second.id] <= of(second.id) * weight else second

    def started(self, replica: Replica) -> None:
        """Hear that a request goes to ``replica``."""
        self.load.started(replica)

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Hear how one ended."""
        self.load.finished(replica, outcome)
