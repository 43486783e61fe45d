"""What can be said of a replica: its state, the sentence that explains it, and events that tell of changes.

Values only; which of them is true is decided by the tracker.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from ..replica import Replica

__all__ = ["Event", "Explanation", "Joined", "Left", "PanicChanged", "State", "StateChanged"]


class State(enum.StrEnum):
    """Where a replica stands. An operator's word goes before a probe's, and that before what traffic says."""

    STARTING = "starting"
    """No probe has said yet that it can serve."""
    READY = "ready"
    """It can serve."""
    UNREADY = "unready"
    """It was ready, and its probes say that it no longer is."""
    EJECTED = "ejected"
    """Its probes are content, but what traffic met there was not."""
    DRAINING = "draining"
    """An operator lets its sessions end: no new ones."""
    MAINTENANCE = "maintenance"
    """An operator took it out: no sessions, no probes."""
    LEAVING = "leaving"
    """It was removed, and is known only until what is in flight there ends."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a replica is in its state; ``str()`` of it is a sentence.

    Attributes:
        replica: Whom it is about.
        state: What it is.
        reason: Why, in a few words.
        age: For how many seconds.
        changes_in: Seconds until this can next change by itself: 0.0 when an answer is awaited now, None when
            only an operator, or what traffic meets, can change it.
        serves: Whether it is in the ready set; in a panic also some that are not ready are.
        weight: The fraction of its own weight that it gets while it warms up; 1.0 otherwise.
    """

    replica: Replica
    state: State
    reason: str
    age: float
    changes_in: float | None
    serves: bool
    weight: float = 1.0

    def __str__(self) -> str:
        text = f"{self.replica.id} is {self.state} since {self.age:.1f} s: {self.reason}"
        if self.serves and self.state is not State.READY:
            text += "; it serves all the same, since too few would be left without it"
        if self.weight < 1:
            text += f"; it warms up, at {self.weight:.0%} of its weight"
        if self.state is State.LEAVING:
            return text
        if self.changes_in is None:
            return f"{text}; only an operator or what traffic meets can change that"
        return f"{text}; this can next change in {self.changes_in:.1f} s"


@dataclass(frozen=True, slots=True)
class Joined:
    """A replica became a member."""

    replica: Replica
    at: float
    version: int


@dataclass(frozen=True, slots=True)
class Left:
    """A replica is no longer a member, and nothing is in flight there that a tier knows of."""

    replica: Replica
    at: float
    version: int


@dataclass(frozen=True, slots=True)
class StateChanged:
    """A member went from one state to another, ``at`` seconds by the tracker's clock.

    ``version`` is that of the ready set that shows it.
    """

    replica: Replica
    old: State
    new: State
    reason: str
    at: float
    version: int


@dataclass(frozen=True, slots=True)
class PanicChanged:
    """Too few replicas are fit, so unfit ones serve as well (``on``); or that is over."""

    on: bool
    fit: int
    members: int
    at: float
    version: int


Event: TypeAlias = Joined | Left | StateChanged | PanicChanged
