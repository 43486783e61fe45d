"""Which entries carry which tag. It may not know why they are purged, and removes nothing from the store."""

from __future__ import annotations

from collections.abc import Hashable

from .entry import Entry

__all__ = ["Tags"]


class Tags:
    """An index both ways. Entries without tags cost nothing. Not thread-safe: the store holds its lock."""

    __slots__ = ("_by_tag", "of")

    def __init__(self) -> None:
        self.of: dict[Entry, frozenset[Hashable]] = {}
        self._by_tag: dict[Hashable, dict[Entry, None]] = {}  # dicts, for their order

    def add(self, entry: Entry, tags: frozenset[Hashable]) -> None:
        """Tag an entry that has no tags yet. O(tags)."""
        self.of[entry] = tags
        for tag in tags:
            self._by_tag.setdefault(tag, {})[entry] = None

    def remove(self, entry: Entry) -> None:
        """Forget an entry, which must have tags. O(its tags)."""
        for tag in self.of.pop(entry):
            tagged = self._by_tag[tag]
            del tagged[entry]
            if not tagged:
                del self._by_tag[tag]

    def clear(self) -> None:
        """Forget everyone. ``of`` stays the same object."""
        self.of.clear()
        self._by_tag.clear()

    def tagged(self, tag: Hashable) -> list[Entry]:
        """Return the entries that carry ``tag``, in the order they got it. O(their number)."""
        return list(self._by_tag.get(tag, ()))
