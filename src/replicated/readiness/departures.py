"""Who was removed while requests were in flight there: known until the last of them ends.

A removal takes effect on picks at once; what it waits for is what others hold for the replica. How many
requests are in flight is counted elsewhere, by whoever sends them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from ..replica import Replica
from .state import Explanation, State

__all__ = ["Departures", "InFlightOf"]

InFlightOf: TypeAlias = Callable[[str], int]
"""Returns how many requests are in flight on the replica of that id."""


class Departure(NamedTuple):
    """A replica on its way out, and since when it is."""

    replica: Replica
    since: float


class Departures:
    """Those that are leaving, by id. Its owner holds a lock; whether there are any needs none."""

    __slots__ = ("_counters", "leaving")

    def __init__(self) -> None:
        self.leaving: dict[str, Departure] = {}
        self._counters: tuple[InFlightOf, ...] = ()

    def watch(self, in_flight_of: InFlightOf) -> None:
        """Have removals wait for what this counts as well."""
        self._counters = (*self._counters, in_flight_of)

    def begin(self, replica: Replica, now: float) -> bool:
        """Return whether one that is removed has to wait, and note it if so."""
        # Noted before it is counted: a request that ends and sees nobody leaving is not counted any more.
        self.leaving[replica.id] = Departure(replica, now)
        if self._in_flight(replica.id):
            return True
        del self.leaving[replica.id]
        return False

    def end(self, id: str) -> Replica | None:
        """Return the replica that has left now, if it was leaving and nothing is in flight there."""
        if id not in self.leaving or self._in_flight(id):
            return None
        return self.leaving.pop(id).replica

    def explain(self, id: str, now: float) -> Explanation | None:
        """Return why one that is leaving is still known; None for all others."""
        departure = self.leaving.get(id)
        if departure is None:
            return None
        count = self._in_flight(id)
        reason = f"it was removed, and {count} request{'' if count == 1 else 's'} in flight there will end"
        return Explanation(departure.replica, State.LEAVING, reason, now - departure.since, None, False)

    def _in_flight(self, id: str) -> int:
        return sum([count(id) for count in self._counters])
