"""What happens when: one entry a key, moved at will, taken out in the order of its time.

A binary heap with lazy deletion: moving an entry pushes a new one and the old one is skipped when it
surfaces, so that setting is O(log n) and looking at the next is O(1). It knows neither what the keys mean nor
what time it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Timetable"]

K = TypeVar("K", bound=Hashable)


class Timetable(Generic[K]):
    """Times by key. Not thread-safe: its owner holds a lock."""

    __slots__ = ("_heap", "_times", "_turn")

    def __init__(self) -> None:
        self._times: dict[K, tuple[float, int]] = {}
        # The turn breaks ties in the order of setting, and keeps keys from being compared.
        self._heap: list[tuple[float, int, K]] = []
        self._turn = 0

    def __len__(self) -> int:
        return len(self._times)

    def set(self, key: K, at: float) -> None:
        """Let ``key`` be due at ``at``, and no longer at the time it had."""
        self._turn += 1
        self._times[key] = (at, self._turn)
        heapq.heappush(self._heap, (at, self._turn, key))
        if len(self._heap) > 2 * len(self._times) + 16:
            # Entries moved earlier leave old ones that may surface years from now: drop them by halves.
            self._heap = [(at, turn, key) for key, (at, turn) in self._times.items()]
            heapq.heapify(self._heap)

    def drop(self, key: K) -> None:
        """Forget ``key``; one that is not there is no error."""
        self._times.pop(key, None)

    def at(self, key: K) -> float | None:
        """Return when ``key`` is due, or None."""
        entry = self._times.get(key)
        return None if entry is None else entry[0]

    def next(self) -> float | None:
        """Return the earliest time, or None when nothing is set."""
        heap, times = self._heap, self._times
        while heap:
            at, turn, key = heap[0]
            if times.get(key) == (at, turn):
                return at
            heapq.heappop(heap)
        return None

    def take(self, now: float) -> list[K]:
        """Take out every key due at ``now`` or before, earliest first."""
        taken = []
        while (at := self.next()) is not None and at <= now:
            key = heapq.heappop(self._heap)[2]
            del self._times[key]
            taken.append(key)
        return taken
