"""Who leaves next under SIEVE: first in, first out, but whoever was asked for since gets passed over once.

It may not know what an entry holds.

SIEVE: Zhang, Yang, Yue, Vigfusson and Rashmi, "SIEVE is Simpler than LRU", NSDI 2024. A hit writes one flag
and moves nothing; a hand walks from the oldest entry to the newest, clears flags, and takes the first entry
that has none. One walk may clear many flags; every flag was paid for by the hit that set it.
"""

from __future__ import annotations

from .entry import Entry
from .order import Order

__all__ = ["Sieve"]


class Sieve(Order):
    """The queue and the hand. Not thread-safe; that an entry was visited may be noted at any time."""

    __slots__ = ("_hand",)

    def __init__(self) -> None:
        super().__init__()
        self.root.visited = False
        self._hand = self.root

    # What `append` and `remove` do in any order is written out, because `super()` would cost more than it.

    def append(self, entry: Entry) -> None:
        """Let an entry join as the newest. O(1)."""
        root = self.root
        entry.visited = False
        entry.older = last = root.older
        entry.newer = root
        last.newer = root.older = entry

    def touch(self, entry: Entry) -> None:
        """Note a use. O(1)."""
        entry.visited = True

    def remove(self, entry: Entry) -> None:
        """Take an entry out. O(1)."""
        older = entry.older
        older.newer = newer = entry.newer
        newer.older = older
        entry.older = None
        if entry is self._hand:
            self._hand = newer

    def pop(self) -> Entry:
        """Take out the entry that leaves next, of one at least. O(1) amortised over the hits."""
        root = self.root
        hand = self._hand
        # The root is where the walk starts again at the oldest.
        while hand is root or hand.visited:
            hand.visited = False
            hand = hand.newer
        self._hand = hand
        self.remove(hand)
        return hand
