"""In which order entries are to leave, as far as all policies share it; and LRU, where a use moves an entry.

It may not know what an entry holds. Each method is one step for other threads (see the module on steps): hits
move entries in between what writers do, at any call that these make.
"""

from __future__ import annotations

from collections.abc import Iterator

from .entry import Entry

__all__ = ["Lru", "Order"]


class Order:
    """A ring of entries, closed by ``root``: the oldest of them is newer than it, the newest is older."""

    __slots__ = ("root",)

    def __init__(self) -> None:
        self.root = root = Entry()
        root.older = root.newer = root

    def append(self, entry: Entry) -> None:
        """Let an entry join as the newest. O(1)."""
        root = self.root
        entry.older = last = root.older
        entry.newer = root
        last.newer = root.older = entry

    def remove(self, entry: Entry) -> None:
        """Take an entry out. O(1)."""
        older = entry.older
        older.newer = newer = entry.newer
        newer.older = older
        entry.older = None

    def __iter__(self) -> Iterator[Entry]:
        """Go from the oldest to the newest; a hit meanwhile may end this early, or have it start again."""
        entry = self.root.newer
        while entry is not self.root:
            yield entry
            entry = entry.newer


class Lru(Order):
    """The least recently used leaves first."""

    __slots__ = ()

    def touch(self, entry: Entry) -> None:
        """Note a use. O(1); nothing, if the entry has left."""
        older = entry.older
        if older is not None:
            root = self.root
            older.newer = newer = entry.newer
            newer.older = older
            entry.older = last = root.older
            entry.newer = root
            last.newer = root.older = entry

    def pop(self) -> Entry:
        """Take out the entry that leaves next, of one at least. O(1)."""
        root = self.root
        entry: Entry = root.newer
        root.newer = newer = entry.newer
        newer.older = root
        entry.older = None
        return entry
