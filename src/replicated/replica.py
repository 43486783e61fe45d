"""What a replica is: a name that rings hash, an address, a weight and a place.

A value and nothing more. Whether a replica is ready, how busy it is and whether it is draining are
facts about it that other rooms keep under its ``id``, so that they survive a change of membership.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Replica"]


@dataclass(frozen=True, slots=True)
class Replica:
    """One of N identical members of a service.

    Args:
        id: The identity that rings hash; unique in a tier. Keep it when the process moves to another
            address, and its keys stay with it.
        url: Where it listens, ``http://host:port``; empty where the caller needs no address.
        weight: Its share of the traffic relative to the others. 0 gives it none.
        zone: Where it runs, for strategies that prefer what is near.
        incarnation: Differs when the process restarted and lost what it held in memory.

    Raises:
        ValueError: ``id`` is empty, or ``weight`` is negative, NaN or infinite.
        TypeError: ``id`` is not a str, or ``weight`` is not a number.
    """

    id: str
    url: str = ""
    weight: float = 1.0
    zone: str = ""
    incarnation: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str):
            raise TypeError(f"id must be a str, not {self.id!r}")
        if not self.id:
            raise ValueError("id must not be empty: it is what rings hash")
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float):
            raise TypeError(f"weight must be a number, not {self.weight!r}")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be finite and not negative, not {self.weight!r}")
