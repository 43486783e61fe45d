"""One after the other, by weight, the heavy ones spread between the light ones: smooth weighted round robin.

The sequences are nginx's. It counts its own turns and nothing else.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from itertools import count
from math import gcd

from ..outcome import Outcome
from ..replica import Replica
from .strategy import Key, faithful, untimed
from .view import NOTHING, look

__all__ = ["RoundRobin"]

_LONGEST = 4096  # picks of a cycle that are kept: more would cost more memory than the picks they spare


class RoundRobin:
    """Take turns: with even weights the plain circle, else nginx's smooth weighted round robin.

    Every replica's current value grows by its weight, the largest (the first on ties) is picked and loses the
    sum of the weights. Weights 5, 1, 1 give ``a a b a c a a``.

    O(1) with even weights. With others O(n) a pick until one cycle is complete, O(1) from there on where the
    weights are whole numbers. A change of readiness or weight goes on where the replicas that stay were.
    """

    __slots__ = ("_current", "_cycle", "_lock", "_next", "_period", "_start", "_turn", "_view", "_weights")

    def __init__(self) -> None:
        self._next = count().__next__  # a builtin that threads may share: no turn is lost or taken twice
        self._lock = threading.Lock()
        self._weights: dict[str, float] = {}
        self._current: dict[str, float] = {}
        self._start: dict[str, float] = {}
        self._cycle: list[str] = []
        self._period = 0
        self._turn = 0
        self._view = NOTHING

    @faithful
    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return the one whose turn it is; the key is ignored."""
        seen, candidates, n, sums = self._view
        if seen is not ready:
            seen, candidates, n, sums = self._view = look(ready)
        if sums is None:
            return candidates[self._next() % n]
        if n < 2:
            return candidates[0] if n else None
        with self._lock:
            # The weights of one snapshot are one dict, so its identity tells whether they may have changed.
            if seen.weights is not self._weights:
                self._adopt(seen.weights)
            id = self._cycle[self._turn] if self._turn < len(self._cycle) else self._step()
            self._turn = (self._turn + 1) % self._period if self._period else 0
        return seen.by_id[id]

    def started(self, replica: Replica) -> None:
        """Hear that a request started; nothing is learnt."""

    @untimed
    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Hear that one finished; nothing is learnt."""

    def _step(self) -> str:
        current, weights = self._current, self._weights
        for id, weight in weights.items():
            current[id] += weight
        best = max(current, key=current.__getitem__)  # the first of the largest, since dicts keep their order
        current[best] -= sum(weights.values())
        if self._period:
            self._cycle.append(best)
            if len(self._cycle) == self._period and current != self._start:
                # Values carried over from other weights settle first: only a cycle that ends where it began
                # repeats itself.
                self._cycle, self._start = [], dict(current)
        return best

    def _adopt(self, weights: dict[str, float]) -> None:
        if weights == self._weights and list(weights) == list(self._weights):
            self._weights = weights
            return
        if self._period and len(self._cycle) == self._period:
            # The cycle was replayed, not stepped through: put the values where stepping would have them.
            total, picks = sum(self._weights.values()), Counter(self._cycle[: self._turn])
            for id, weight in self._weights.items():
                self._current[id] += self._turn * weight - total * picks[id]
        self._current = {id: self._current.get(id, 0.0) for id in weights}
        self._start, self._weights = dict(self._current), weights
        self._cycle, self._turn, self._period = [], 0, _period(list(weights.values()))


def _period(weights: list[float]) -> int:
    """Return after how many picks the sequence repeats; 0 for never, or too late to be worth keeping."""
    if not all(weight == int(weight) for weight in weights):
        return 0
    whole = [int(weight) for weight in weights]
    period = sum(whole) // gcd(*whole)
    return period if period <= _LONGEST else 0
