"""What happens when: one entry a key, moved at will, taken out in the order of its time.

An ordered list beside a mapping. A heap would do for taking out, but a heap cannot let go of an entry that is
moved or dropped: it would keep it until its time, which may be years away. It knows neither what the keys
mean nor what time it is.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from sortedcontainers import SortedList

__all__ = ["Timetable"]

K = TypeVar("K", bound=Hashable)


class Timetable(Generic[K]):
    """Times by key; setting and dropping are O(log n), the next is O(1). Its owner holds a lock."""

    __slots__ = ("_entries", "_order", "_turn")

    def __init__(self) -> None:
        # The turn breaks ties in the order of setting, and keeps keys from being compared.
        self._entries: dict[K, tuple[float, int, K]] = {}
        self._order: SortedList[tuple[float, int, K]] = SortedList()
        self._turn = 0

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, key: K, at: float) -> None:
        """Let ``key`` be due at ``at``, and no longer at the time it had."""
        self.drop(key)
        self._turn += 1
        entry = self._entries[key] = (at, self._turn, key)
        self._order.add(entry)

    def drop(self, key: K) -> None:
        """Forget ``key``; one that is not there is no error."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._order.remove(entry)

    def at(self, key: K) -> float | None:
        """Return when ``key`` is due, or None."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def next(self) -> float | None:
        """Return the earliest time, or None when nothing is set."""
        return self._order[0][0] if self._order else None

    def take(self, now: float) -> list[K]:
        """Take out every key due at ``now`` or before, earliest first."""
        taken = []
        while self._order and self._order[0][0] <= now:
            key = self._order.pop(0)[2]
            del self._entries[key]
            taken.append(key)
        return taken
