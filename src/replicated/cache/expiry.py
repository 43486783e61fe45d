"""Which entry expires first: an exact index, in which no call takes longer than O(log n).

It may not know the clock, the policy or the keys: it compares instants that others computed.

Nearly every entry of a cache expires after all those set before it, because they share one ttl and the clock
does not step back. Those stand in a doubly linked lane: joining, leaving and asking for the first are O(1).
One that would have to join the lane in its middle (a shorter ttl of its own, or jitter) goes to a binary heap
in which every entry knows its index, so that it can leave from anywhere.

Rejected: a heap with lazy deletion (``heapq``), whose garbage is either cleared in one call of O(n) or
leaves the first live entry unknown; a timing wheel, which is exact only to its tick and cascades a whole slot
at once (moka: 1.3 s for a million entries); a second ``OrderedDict``, which costs 90 bytes an entry.
"""

from __future__ import annotations

import math

from .entry import Entry

__all__ = ["Schedule"]


class Schedule:
    """The entries that expire, by when. Not thread-safe: the store calls it under its lock."""

    __slots__ = ("heap", "root")

    def __init__(self) -> None:
        self.heap: list[Entry] = []
        # The lane is a ring through this sentinel, which never expires: `root.after.expires` is the soonest
        # of the lane also when it is empty.
        self.root = root = Entry()
        root.expires = math.inf
        root.before = root.after = root

    def add(self, entry: Entry) -> None:
        """Put an entry in line by its ``expires``, which must not be None. O(1), or O(log n) in the heap."""
        root = self.root
        last = root.before
        if last is root or last.expires <= entry.expires:
            entry.before = last
            entry.after = root
            root.before = last.after = entry
        else:
            entry.before = None
            self.heap.append(entry)
            self._up(len(self.heap) - 1)

    def remove(self, entry: Entry) -> None:
        """Take an entry out, which must be in line. O(1), or O(log n) in the heap."""
        before = entry.before
        after = entry.after
        if before is not None:
            before.after = after
            after.before = before
            return
        heap = self.heap
        last = heap.pop()
        if last is not entry:
            # The last leaf fills the hole; it may belong below it or, coming from another branch, above.
            heap[after] = last
            self._down(after)
            self._up(last.after)

    def due(self, now: float) -> Entry | None:
        """Return the entry that expires first if it has by ``now``, else None. O(1)."""
        first: Entry = self.root.after
        if self.heap and self.heap[0].expires < first.expires:
            first = self.heap[0]
        return first if first.expires <= now else None

    def _up(self, index: int) -> None:
        heap = self.heap
        entry = heap[index]
        expires = entry.expires
        while index:
            parent = heap[(index - 1) >> 1]
            if parent.expires <= expires:
                break
            heap[index] = parent
            parent.after = index
            index = (index - 1) >> 1
        heap[index] = entry
        entry.after = index

    def _down(self, index: int) -> None:
        heap = self.heap
        size = len(heap)
        entry = heap[index]
        expires = entry.expires
        while (child := 2 * index + 1) < size:
            if child + 1 < size and heap[child + 1].expires < heap[child].expires:
                child += 1
            lower = heap[child]
            if expires <= lower.expires:
                break
            heap[index] = lower
            lower.after = index
            index = child
        heap[index] = entry
        entry.after = index
