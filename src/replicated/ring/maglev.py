"""Maglev: a table of slots that the nodes take in turn, each by its own permutation.

It decides which node has which slot, as Envoy does. It may not know how a slot table of a ring works; the
two share nothing but the idea of indexing by a hash.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from .fixed import FixedTable
from .keys import Key, xxh64
from .weights import Nodes

__all__ = ["Maglev"]

_encode = str.encode
MAX_SIZE = 5_000_011
"""The largest size that Envoy takes."""


def is_prime(number: int) -> bool:
    """Return whether ``number`` is a prime, by division: it is at most a few million."""
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))


class Maglev(FixedTable):
    """Maglev hashing (Eisenbud et al., NSDI 2016), weighted, with the very table of Envoy 1.40.

    The shares are even to within one slot a node, at the price of some excess movement: a change of
    membership also moves a few keys between nodes that stay. A key costs one look-up, whatever the number
    of nodes. The table is that of Envoy's ``maglev`` policy over hosts of these names (``ip:port``, or the
    hostname if that is configured) and weights.

    The preference order is the one in which Envoy retries: attempt a > 0 looks up the
    hash, exclusive or -a. Removing a node may reorder the others, as it may move their keys.

    Args:
        nodes: Names, or a mapping of name to weight; 0 drains a node.
        size: Slots; a prime, at least the number of nodes. A share is a whole number of slots.

    Raises:
        TypeError: ``size`` is not an int, or as for any table.
        ValueError: ``size`` is not a prime, above 5,000,011 or below the number of nodes with a weight; or
            as for any table.
    """

    def __init__(self, nodes: Nodes = (), size: int = 65_537) -> None:
        super().__init__(nodes)
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"size must be an int, not {size!r}")
        if size > MAX_SIZE or not is_prime(size):
            raise ValueError(f"size must be a prime of at most {MAX_SIZE}, not {size!r}")
        self._size = size
        # Precedence by name, so that the order in which nodes are given never matters.
        self._names = tuple(sorted(node for node, weight in self._weights.items() if weight))
        if len(self._names) > size:
            raise ValueError(f"size must be at least {len(self._names)}, one slot a node, not {size!r}")
        self._slots = self._filled()

    def owner(self, key: Key) -> str:
        """Return the node where ``key`` lives. O(1)."""
        try:
            return self._names[self._slots[xxh64(_encode(key)) % self._size]]  # type: ignore[arg-type]
        except (TypeError, UnicodeEncodeError, IndexError):  # bytes, no key at all, or nobody to own it
            return self._names[self._slots[xxh64(self._data(key)) % self._size]]

    def walk(self, key: Key) -> Iterator[str]:
        """Return the nodes in the order in which Envoy tries them, each once, the owner first."""
        return self._tries(xxh64(self._data(key)))

    def _tries(self, position: int) -> Iterator[str]:
        seen: dict[int, None] = {}
        for attempt in range(self._size):
            number = self._slots[(position ^ -attempt % (1 << 64)) % self._size]
            if number not in seen:
                seen[number] = None
                yield self._names[number]
                if len(seen) == len(self._names):
                    return
        # The attempts need not meet every slot; what has one or two may be missed.
        for number, name in enumerate(self._names):
            if number not in seen:
                yield name

    def shares(self) -> dict[str, Fraction]:
        """Return for every node the exact part of all 64-bit hashes that it owns; together they are 1."""
        counts: Counter[int] = Counter(self._slots)
        # 2**64 hashes do not divide evenly: the first slots have one more than the others.
        each, more = divmod(1 << 64, self._size)
        extra: Counter[int] = Counter(self._slots[:more])
        owned = {name: counts[number] * each + extra[number] for number, name in enumerate(self._names)}
        return {node: Fraction(owned.get(node, 0), 1 << 64) for node in self._weights}

    def moved(self, other: Maglev) -> dict[tuple[str, str], Fraction]:
        """Return ``(from, to)`` -> the exact part of all hashes that changes owner with ``other``.

        Raises:
            TypeError: ``other`` is not a Maglev.
            ValueError: It has another size.
            EmptyRing: One of them has no node with a weight above 0.
        """
        other = self._peer(other)
        if other._size != self._size:
            raise ValueError(f"other must have the size {self._size}, not {other._size}")
        each, more = divmod(1 << 64, self._size)
        lengths: Counter[tuple[int, int]] = Counter()
        for slot, pair in enumerate(zip(self._slots, other._slots, strict=True)):
            lengths[pair] += each + (slot < more)
        named = {
            (self._names[mine], other._names[theirs]): length for (mine, theirs), length in lengths.items()
        }
        return {pair: Fraction(length, 1 << 64) for pair, length in named.items() if pair[0] != pair[1]}

    @property
    def size(self) -> int:
        """How many slots there are."""
        return self._size

    @property
    def slots(self) -> list[str]:
        """The node of every slot, a copy; empty if nobody may own a key."""
        return [self._names[number] for number in self._slots]

    def _identity(self) -> tuple[Any, ...]:
        return (*super()._identity(), self._size)

    def _filled(self) -> bytes | array[int]:
        """Let the nodes take slots in turn until all are taken. O(size log size) steps on average."""
        size, names = self._size, self._names
        slots: list[int] = [-1] * size
        if names:
            # Weights divided by their sum and compared as doubles, since Envoy rounds so.
            total = sum(self._weights[name] for name in names)
            weights = [self._weights[name] / total for name in names]
            largest = max(weights)
            places = [xxh64(name.encode()) % size for name in names]
            skips = [xxh64(name.encode(), 1) % (size - 1) + 1 for name in names]
            targets = [0.0] * len(names)
            left, turn = size, 0
            while left:
                turn += 1
                for number, weight in enumerate(weights):
                    if turn * weight < targets[number]:
                        continue
                    targets[number] += largest
                    place, skip = places[number], skips[number]
                    while slots[place] >= 0:
                        place = (place + skip) % size
                    slots[place] = number
                    places[number] = (place + skip) % size
                    left -= 1
                    if not left:
                        break
        if len(names) <= 1 << 8:
            return bytes(slots if names else b"")  # indexed in half the time of an array
        return array("H" if len(names) <= 1 << 16 else "I", slots)
