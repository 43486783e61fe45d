"""Jump hash: buckets with numbers, no table at all.

It decides the bucket of a number. Names are given to the buckets by their order, which is therefore part of
the mapping, unlike with every other table.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from .fixed import FixedTable
from .keys import Key, xxh3
from .weights import Nodes

__all__ = ["JumpHash", "jump"]


def jumps(number: int, buckets: int) -> list[int]:
    """Return the buckets that ``number`` is in while their count grows from 1 to ``buckets``."""
    visited = []
    at = 0
    while at < buckets:
        visited.append(at)
        number = (number * 2862933555777941757 + 1) % (1 << 64)
        # In doubles, as published: the rounding is part of the mapping.
        at = int((at + 1) * (2147483648.0 / ((number >> 33) + 1)))
    return visited


def jump(number: int, buckets: int) -> int:
    """Return the bucket, from 0, of a 64-bit ``number``: Lamping and Veach's function, 2014. O(log buckets).

    Raises:
        ValueError: ``number`` is no unsigned integer of 64 bits, or ``buckets`` is below 1.
    """
    if not 0 <= number < 1 << 64:
        raise ValueError(f"number must be in [0, 2**64), not {number!r}")
    if buckets < 1:
        raise ValueError(f"buckets must be at least 1, not {buckets!r}")
    return jumps(number, buckets)[-1]


class JumpHash(FixedTable):
    """Jump consistent hash (Lamping and Veach, 2014) over nodes in the order given.

    Even shares and the least possible movement, without a byte of state; but nodes have no weights, and only
    the last one can leave: removing another renumbers all that follow it. It suits shards, not replicas.

    The preference order goes beyond the paper. A key's order over n nodes is its order over n-1 with the
    last node put in: at the front where the key jumps to it, else at a place drawn by the key and the node.
    So it is uniform, begins with the owner, and the last node's removal leaves the others' order as it was.

    Args:
        nodes: Names in the order of their buckets. Of a mapping, every weight must be 1.

    Raises:
        TypeError: As for any table.
        ValueError: A weight is not 1; or as for any table.
    """

    def __init__(self, nodes: Nodes = ()) -> None:
        super().__init__(nodes)
        for node, weight in self._weights.items():
            if weight != 1:
                raise ValueError(
                    f"weight of {node!r} must be 1, for jump hash knows no weights, not {weight!r}"
                )
        self._names = tuple(self._weights)

    def owner(self, key: Key) -> str:
        """Return the node where ``key`` lives. O(log N)."""
        return self._names[jumps(xxh3(self._data(key)), len(self._names))[-1]]

    def walk(self, key: Key) -> Iterator[str]:
        """Return the preference order, the owner first. O(N) from the second node on."""
        return self._ranked(xxh3(self._data(key)))

    def _ranked(self, number: int) -> Iterator[str]:
        visited = jumps(number, len(self._names))
        yield self._names[visited[-1]]
        data = number.to_bytes(8, "little")
        fronts = set(visited)
        order: list[int] = []
        for bucket in range(len(self._names)):
            order.insert(0 if bucket in fronts else 1 + xxh3(data, bucket) % bucket, bucket)
        for bucket in order[1:]:
            yield self._names[bucket]

    def shares(self) -> dict[str, Fraction]:
        """Return for every node its exact part of all keys: one of N."""
        return {node: Fraction(1, len(self._names)) for node in self._names}

    def moved(self, other: JumpHash) -> dict[tuple[str, str], Fraction]:
        """Return ``(from, to)`` -> the exact part of all keys that changes owner with ``other``.

        Exact for uniform hashes. O(N) pairs a bucket that comes or goes.

        Raises:
            TypeError: ``other`` is not a JumpHash.
            EmptyRing: One of them has no node.
        """
        mine, theirs = self._names, self._peer(other)._names
        few, many = sorted((len(mine), len(theirs)))
        # A key is uniform over the many buckets; if in one of the few it has always been there, else it was
        # uniform over the few before.
        parts = {(bucket, bucket): Fraction(1, many) for bucket in range(few)}
        for bucket in range(few):
            for new in range(few, many):
                pair = (bucket, new) if len(mine) == few else (new, bucket)
                parts[pair] = Fraction(1, few * many)
        moves: dict[tuple[str, str], Fraction] = {}
        for (old, new), part in parts.items():
            if mine[old] != theirs[new]:
                moves[mine[old], theirs[new]] = part
        return moves

    def _identity(self) -> tuple[Any, ...]:
        return (self._names,)
