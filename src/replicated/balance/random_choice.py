"""Any replica, by weight: the strategy that knows nothing and so cannot be misled."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Sequence
from math import floor

from ..outcome import Outcome
from ..replica import Replica
from .strategy import Key, faithful, untimed
from .view import NOTHING, look

__all__ = ["RandomChoice"]


class RandomChoice:
    """Pick at random, in proportion to the weights. O(1) when they are even, else O(log n).

    Args:
        rng: Where chance comes from.
    """

    __slots__ = ("_random", "_view")

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self._random = (random.Random() if rng is None else rng).random
        self._view = NOTHING

    @faithful
    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return any of ``ready``; the key is ignored."""
        seen, candidates, n, sums = self._view
        if seen is not ready:
            seen, candidates, n, sums = self._view = look(ready)
        if sums is None:
            return candidates[floor(self._random() * n)]
        return candidates[bisect(sums, self._random() * sums[-1], 0, n - 1)] if n else None

    def started(self, replica: Replica) -> None:
        """Hear that a request started; nothing is learnt."""

    @untimed
    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Hear that one finished; nothing is learnt."""
