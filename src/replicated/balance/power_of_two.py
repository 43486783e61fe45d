"""The less busy of two drawn at random: nearly as even as looking at all of them, at the price of two.

Mitzenmacher, *The power of two choices in randomized load balancing* (2001). With stale or partial
knowledge, as each of many routers has, it does not herd as picking the least loaded does.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Sequence
from math import floor
from typing import TYPE_CHECKING

from ..outcome import Outcome
from ..replica import Replica
from .load import HEARS, InFlight, Load, listen
from .strategy import Key, faithful
from .view import NOTHING, look

__all__ = ["PowerOfTwo"]


class PowerOfTwo:
    """Draw two different replicas by weight and pick the one with less load a unit of weight.

    Equal loads go to the first drawn: so idle replicas are picked in proportion to their weights, and busy
    ones are filled in proportion to them. O(1) when the weights are even, else O(log n).

    Args:
        load: What busy means; ``InFlight()`` when left out.
        rng: Where chance comes from.

    Attributes:
        started: The load's own, so that hearing of a request costs one call less.
        finished: Likewise.
    """

    __slots__ = ("_of", "_random", "_view", "load", *HEARS)

    if TYPE_CHECKING:  # slots in truth, see `listen`

        def started(self, replica: Replica) -> None:
            """Hear that a request goes to ``replica``."""

        def finished(self, replica: Replica, outcome: Outcome) -> None:
            """Hear how one ended."""

    def __init__(self, load: Load | None = None, *, rng: random.Random | None = None) -> None:
        self.load: Load = InFlight() if load is None else load
        self._of = self.load.of
        listen(PowerOfTwo, self, self.load)
        self._random = (random.Random() if rng is None else rng).random
        self._view = NOTHING

    @faithful
    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return the less loaded of two of ``ready``; the key is ignored."""
        seen, candidates, n, sums = self._view
        if seen is not ready:
            seen, candidates, n, sums = self._view = look(ready)
        random, of = self._random, self._of
        if sums is None:
            first = candidates[i := floor(random() * n)]
            second = candidates[floor(random() * n)]
            if second is first:
                # Only then from the others, by 1 to n - 1 places before the first: an index below zero goes
                # round the end by itself. All in all that is even over the others, and the arithmetic is
                # rare, whose whole numbers above 256 are objects to be made.
                second = candidates[i - 1 - floor(random() * (n - 1))]
            return first if of(first.id) <= of(second.id) else second
        if n < 2:
            return candidates[0] if n else None
        first = candidates[i := bisect(sums, random() * sums[-1], 0, n - 1)]
        # The second is drawn from the others: a line without the first one's piece, which is stepped over.
        before = sums[i - 1] if i else 0.0
        weight = sums[i] - before
        point = random() * (sums[-1] - weight)
        j = bisect(sums, point if point < before else point + weight, 0, n - 1)
        second, other = candidates[j], sums[j] - (sums[j - 1] if j else 0.0)
        return first if of(first.id) * other <= of(second.id) * weight else second
