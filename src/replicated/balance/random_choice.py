"""Any replica, by weight: the strategy that knows nothing and so cannot be misled."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Sequence

from ..outcome import Outcome
from ..readiness import ReadySet
from ..replica import Replica
from .strategy import Key

__all__ = ["RandomChoice"]


class RandomChoice:
    """Pick at random, in proportion to the weights. O(1) when they are even, else O(log n).

    Args:
        rng: Where chance comes from.
    """

    __slots__ = ("_random",)

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self._random = (random.Random() if rng is None else rng).random

    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return any of ``ready``; the key is ignored."""
        candidates, sums = (ready if isinstance(ready, ReadySet) else ReadySet(ready)).draw
        if not candidates:
            return None
        if sums is None:
            return candidates[int(self._random() * len(candidates))]
        return candidates[bisect(sums, self._random() * sums[-1], 0, len(sums) - 1)]

    def started(self, replica: Replica) -> None:
        """Hear that a request started; nothing is learnt."""

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Hear that one finished; nothing is learnt."""
