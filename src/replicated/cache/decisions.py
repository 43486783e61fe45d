"""What a caller that asks for a key is told: a closed set of values, and the flight that two of them name.

They decide nothing. A driver matches on them and acts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

from .freshness import Loaded

__all__ = ["MISS", "Decision", "Flight", "Follow", "Lead", "Refresh", "Serve", "Wake", "loading"]

Wake: TypeAlias = Callable[[], object]

MISS = Loaded(None, 0.0, 0.0, 0.0)
"""What a store answers for nothing; a record, so that one look at the type tells a plain value."""

loading: ContextVar[tuple[Flight, ...]] = ContextVar("loading", default=())
"""The flights that this thread or task is running the load of."""


class Flight:
    """One key's load, under way or done.

    Attributes:
        key: What is loaded.
        kept: What the store had, which may serve if the load fails; or None.
        started: When the current attempt started.
        attempt: The number of that attempt, from 1.
        vacant: Whether its leader went away, and nobody took over yet.
        detached: Whether what it loads must not be stored: it was invalidated, or given up as overdue.
        done: Whether its outcome is known.
        value: What was loaded.
        error: What the load raised, or None.
        trace: The traceback that it had then.
        wakes: What wakes those who wait.
        awaits: The flights that its load waits for.
    """

    __slots__ = ("attempt", "awaits", "detached", "done", "error", "kept", "key", "started", "trace",
                 "vacant", "value", "wakes")  # fmt: skip

    def __init__(self, key: Any, kept: Loaded | None, now: float) -> None:
        self.key = key
        self.kept = kept
        self.started = now
        self.attempt = 0
        self.vacant = True
        self.detached = self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.trace: TracebackType | None = None
        self.wakes: dict[Wake, None] = {}
        self.awaits: set[Flight] = set()


@dataclass(frozen=True, slots=True)
class Serve:
    """Take this value."""

    value: Any


@dataclass(frozen=True, slots=True)
class Refresh:
    """Take this value, and see to it that the flight is run: you lead it."""

    value: Any
    flight: Flight


@dataclass(frozen=True, slots=True)
class Lead:
    """Run the load: you lead it."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class Follow:
    """Wait for the flight: someone else leads it."""

    flight: Flight


Decision: TypeAlias = Serve | Refresh | Lead | Follow
