"""Who leaves next under SIEVE: first in, first out, but whoever was asked for since gets passed over once.

It may not know what an entry holds. It offers what the store uses of an ``OrderedDict`` for LRU, so that a
policy is the mapping that keeps the order. Only a hit differs: here it is one flag that the reader sets.

SIEVE: Zhang, Yang, Yue, Vigfusson and Rashmi, "SIEVE is Simpler than LRU", NSDI 2024. A hit writes one flag
and moves nothing; a hand walks from the oldest entry to the newest, clears flags, and takes the first entry
that has none. One walk may clear many flags; every flag was paid for by the hit that set it.
"""

from __future__ import annotations

from collections.abc import Iterator

from .entry import Entry

__all__ = ["Sieve", "SieveEntry"]


class SieveEntry(Entry):
    """An entry with its place in the queue.

    Attributes:
        older: The neighbour that joined before it.
        newer: The neighbour that joined after it.
        visited: Whether it was asked for since the hand last passed.
    """

    __slots__ = ("newer", "older", "visited")

    older: SieveEntry
    newer: SieveEntry
    visited: bool


class Sieve:
    """The queue and the hand. Not thread-safe; that an entry was visited may be noted at any time."""

    __slots__ = ("_hand", "_root")

    def __init__(self) -> None:
        self._start()

    def clear(self) -> None:
        """Forget everyone. O(n)."""
        for entry in list(
            self
        ):  # neighbours hold each other: without this they would wait for a full collection
            del entry.older, entry.newer
        self._start()

    def _start(self) -> None:
        self._root = root = SieveEntry()
        root.older = root.newer = root
        root.visited = False
        self._hand = root

    def __bool__(self) -> bool:
        """Whether anyone is in the queue. O(1)."""
        return self._root.newer is not self._root

    def __setitem__(self, entry: SieveEntry, _: None) -> None:
        """Let an entry join as the newest. O(1)."""
        root = self._root
        last = root.older
        entry.visited = False
        entry.older = last
        entry.newer = root
        root.older = last.newer = entry

    def __delitem__(self, entry: SieveEntry) -> None:
        """Take an entry out. O(1)."""
        older = entry.older
        newer = entry.newer
        older.newer = newer
        newer.older = older
        if entry is self._hand:
            self._hand = newer

    def popitem(self, last: bool = False) -> tuple[SieveEntry, None]:
        """Take out the entry that leaves next; KeyError when there is none. O(1) amortised over the hits."""
        root = self._root
        if root.newer is root:
            raise KeyError("the queue is empty")
        hand = self._hand
        # The root is where the walk starts again at the oldest.
        while hand is root or hand.visited:
            hand.visited = False
            hand = hand.newer
        self._hand = hand
        del self[hand]
        return hand, None

    def __iter__(self) -> Iterator[SieveEntry]:
        """Go through the queue from the oldest to the newest."""
        entry = self._root.newer
        while entry is not self._root:
            yield entry
            entry = entry.newer
