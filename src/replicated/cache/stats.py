"""What a store counted, as one value; and why an entry was evicted. It counts nothing itself."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Reason", "Stats"]


class Reason(enum.Enum):
    """Why an entry left without the caller naming its key."""

    CAPACITY = "capacity"
    """Room was needed, and the policy chose it."""
    EXPIRED = "expired"
    """Its ttl had passed."""
    PURGED = "purged"
    """One of its tags was purged."""


@dataclass(frozen=True, slots=True)
class Stats:
    """The counters of a store at one instant, since it was made.

    Attributes:
        hits: Look-ups by ``get`` and ``[]`` that found a live entry.
        misses: Those that did not.
        expired: Entries evicted because their ttl had passed.
        capacity: Entries evicted to make room.
        purged: Entries evicted by tag.
        refused: Values that were not kept because they alone exceed ``maxsize``.
        entries: Entries held, those that expired and were not cleared yet included.
        size: What they weigh.
        maxsize: What they may weigh.
    """

    hits: int
    misses: int
    expired: int
    capacity: int
    purged: int
    refused: int
    entries: int
    size: float
    maxsize: float

    @property
    def hit_ratio(self) -> float:
        """Hits as a fraction of all look-ups; 0 before the first."""
        return self.hits / max(1, self.hits + self.misses)
