"""What goes wrong in a simulation, and when: values that name a replica and a time.

They are carried out by the simulation; here they are only written down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from .server import Behaviour

__all__ = ["Become", "Incident", "Restart", "rolling"]


@dataclass(frozen=True, slots=True)
class Become:
    """From ``at`` on a replica behaves in another way: slower, failing, with fewer workers."""

    replica: str
    at: float
    behaviour: Behaviour

    def __post_init__(self) -> None:
        _time("at", self.at)


@dataclass(frozen=True, slots=True)
class Restart:
    """A replica goes down at ``at`` and is back after ``down`` seconds, as a new incarnation.

    With ``grace`` routers drain it for so many seconds before; without, it dies with what it has in hand.
    """

    replica: str
    at: float
    down: float
    grace: float = field(default=0.0)

    def __post_init__(self) -> None:
        for name in ("at", "down", "grace"):
            _time(name, getattr(self, name))


Incident: TypeAlias = Become | Restart


def rolling(
    replicas: Iterable[str], *, at: float, every: float, down: float, grace: float = 0.0
) -> list[Incident]:
    """Return the restarts of a rolling restart: one replica ``every`` so many seconds, from ``at`` on."""
    return [Restart(id, at + i * every, down, grace) for i, id in enumerate(replicas)]


def _time(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more seconds, finite, not {value!r}")
