"""Rendezvous: every node scores the key, the highest score owns it.

It decides the scores. There is no state to search and so nothing to move: what a change moves follows from
the weights alone.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise, repeat
from math import inf, log

from .fixed import FixedTable
from .keys import Key, xxh3
from .weights import Nodes

__all__ = ["Rendezvous"]


class Rendezvous(FixedTable):
    """Highest random weight (Thaler and Ravishankar, 1998), with weights by the logarithm of Schindelhauer.

    Shares follow the weights exactly, a change moves no key between nodes that stay, and there is nothing
    to build; but a key costs a hash a node. Take it for a few dozen nodes.

    With unequal weights a score is a float out of the platform's ``log``: two platforms may differ where
    two scores are equal to the last bit, one key in about 10**15. With equal weights all is in integers.

    Args:
        nodes: Names, or a mapping of name to weight; 0 drains a node.

    Raises:
        TypeError, ValueError: As for any table.
    """

    def __init__(self, nodes: Nodes = ()) -> None:
        super().__init__(nodes)
        # By name, so that of equal hashes the lower name comes first, both here and among the scores.
        self._names = sorted(node for node, weight in self._weights.items() if weight)
        self._seeds = [xxh3(name.encode()) for name in self._names]
        self._factors = [self._weights[name] for name in self._names]
        self._equal = len(set(self._factors)) <= 1

    def owner(self, key: Key) -> str:
        """Return the node where ``key`` lives. O(N)."""
        hashes = self._hashes(key)
        if self._equal:
            return self._names[hashes.index(max(hashes))]
        return min(self._scores(hashes))[2]

    def walk(self, key: Key) -> Iterator[str]:
        """Return the preference order, lazily. O(N), and O(log N) a step.

        The order of the others stays as it is when a node leaves or joins.
        """
        return self._ranked(self._hashes(key))

    def _ranked(self, hashes: list[int]) -> Iterator[str]:
        # Equal weights rank by the hash alone; it also breaks the ties of the floats, so that the order of
        # two nodes is the same whatever the weights of a third.
        scores = self._scores(hashes)
        heapq.heapify(scores)
        while scores:
            yield heapq.heappop(scores)[2]

    def _hashes(self, key: Key) -> list[int]:
        # The key is hashed once, to eight bytes; each node's own hash is the seed of a second hash over them.
        data = xxh3(self._data(key)).to_bytes(8, "little")
        return list(map(xxh3, repeat(data), self._seeds))

    def _scores(self, hashes: list[int]) -> list[tuple[float, int, str]]:
        # -log(u)/w of a uniform u is exponentially distributed with rate w, and of independent ones the node
        # of rate w comes first with probability w/sum.
        if self._equal:
            return [(0.0, -value, name) for value, name in zip(hashes, self._names, strict=True)]
        return [
            (-log((value + 1) * 2.0**-64) / weight, -value, name)
            for value, weight, name in zip(hashes, self._factors, self._names, strict=True)
        ]

    def shares(self) -> dict[str, Fraction]:
        """Return for every node its exact part of all keys, which is its part of the weights."""
        total = sum(map(Fraction, self._weights.values()))
        return {node: Fraction(weight) / (total or 1) for node, weight in self._weights.items()}

    def moved(self, other: Rendezvous) -> dict[tuple[str, str], Fraction]:
        """Return ``(from, to)`` -> the exact part of all keys that changes owner with ``other``.

        Exact for uniform hashes, of any two sets of weights. O(N²) pairs at most.

        Raises:
            TypeError: ``other`` is not a Rendezvous.
            EmptyRing: One of them has no node with a weight above 0.
        """
        other = self._peer(other)
        before = {node: Fraction(weight) for node, weight in self._weights.items()}
        after = {node: Fraction(weight) for node, weight in other._weights.items()}
        # A node of weight w scores E/w, E exponential, and the lowest score owns. That i owns before with the
        # score x and j after with the score y has the density w_i w'_j exp(-sum_k max(w_k x, w'_k y)), where
        # q = x/y is at least i's growth w'_i/w_i (else i were lower after than y) and at most j's. Integrated
        # along the rays of one q it is w_i w'_j times the integral of dq / S(q)² from i's growth to j's;
        # S(q) = sum_k max(w_k q, w'_k) is linear between two growths, so each piece is rational:
        # (b - a) / (S(a) S(b)).
        zero = Fraction()
        growth: dict[str, Fraction | float] = {}
        for node in before.keys() | after.keys():
            was, will = before.get(node, zero), after.get(node, zero)
            if was or will:
                growth[node] = will / was if was else inf
        rates: defaultdict[Fraction | float, Fraction] = defaultdict(Fraction)
        rests: defaultdict[Fraction | float, Fraction] = defaultdict(Fraction)
        for node, value in growth.items():
            rates[value] += before.get(node, zero)
            rests[value] += after.get(node, zero)
        steps = sorted(rates)
        integral: dict[Fraction | float, Fraction] = {steps[0]: zero}
        rate, rest = zero, sum(after.values(), zero)
        for low, high in pairwise(steps):
            rate += rates[low]
            rest -= rests[low]
            at_low = rate * Fraction(low) + rest
            piece = 1 / (rate * at_low)
            if high != inf:
                piece = (Fraction(high) - Fraction(low)) / (at_low * (rate * Fraction(high) + rest))
            integral[high] = integral[low] + piece
        return {
            (source, target): before[source] * after[target] * (integral[ahead] - integral[behind])
            for source, behind in growth.items()
            for target, ahead in growth.items()
            if behind < ahead and before.get(source) and after.get(target)
        }
