"""How good a loaded value still is, and how long it may be used: pure functions of a record and an instant.

It decides between fresh, due for an early refresh, stale but servable at once (grace), stale but better than
an error (keep), and gone. It may not know keys, stores, who asks, or how a load is run.
"""

from __future__ import annotations

import copy
import enum
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .bounds import not_negative, share

__all__ = ["Loaded", "State", "Terms", "judge"]


class State(enum.Enum):
    """What a record is good for at an instant."""

    FRESH = "fresh"
    EARLY = "early"
    """Fresh, and chosen to be loaded again before it expires."""
    GRACE = "grace"
    """Expired, and served while one caller loads it again."""
    KEPT = "kept"
    """Expired, and served only if the load fails."""
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loader keeps in the store where a bare value would not do: the value, and until when it is what.

    Attributes:
        value: What the load returned.
        fresh_until: The instant at which it expires.
        grace_until: Until when it is served while one caller loads it again.
        keep_until: Until when it is served if that load fails.
        cost: Seconds that the load took.
        error: What the load raised, where the failure itself is the answer that was kept; else None.
    """

    value: Any
    fresh_until: float
    grace_until: float
    keep_until: float
    cost: float = 0.0
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """How long values are used; times in seconds.

    Args:
        ttl: How long a value is fresh: a number, a function of key and value, or None for the store's own.
        grace: How long after that it is served at once, while one caller loads it again.
        keep: How long after it expired it is served if that load fails.
        negative: The exceptions that are an answer, "there is no such thing", and no failure.
        negative_ttl: How long such an answer is remembered; 0 for not at all.
        jitter: The share of the ttl that chance may take off, so that what was loaded together does not
            expire together. It never adds.
        early: The beta of early refresh; 0 for none, 1 what its authors recommend.
        backoff: How long after a failed load a kept value is served without another try.

    Raises:
        TypeError: One is of the wrong type.
        ValueError: A time is negative, NaN or infinite, or ``jitter`` is not from 0 to 1.
    """

    ttl: float | Callable[[Any, Any], float | None] | None = None
    grace: float = 0.0
    keep: float = 0.0
    negative: type[Exception] | tuple[type[Exception], ...] = LookupError
    negative_ttl: float = 0.0
    jitter: float = 0.0
    early: float = 0.0
    backoff: float = 0.0

    def __post_init__(self) -> None:
        if self.ttl is not None and not callable(self.ttl):
            not_negative("ttl", self.ttl)
        for name in ("grace", "keep", "negative_ttl", "early", "backoff"):
            not_negative(name, getattr(self, name))
        share("jitter", self.jitter)
        kinds = self.negative if isinstance(self.negative, tuple) else (self.negative,)
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise TypeError(f"negative must be exception classes, not {kind!r}")

    @property
    def windowed(self) -> bool:
        """Whether a value is of use after it expires, or before that to refresh it early."""
        return bool(self.grace or self.keep or self.early)

    def lifetime(self, key: object, value: object, default: float | None, rng: random.Random) -> float | None:
        """Return the seconds for which a new value is fresh; None for ever."""
        ttl = self.ttl(key, value) if callable(self.ttl) else self.ttl
        ttl = default if ttl is None else not_negative("ttl", ttl)
        if ttl is None or not self.jitter:
            return ttl
        return ttl * (1 - self.jitter * rng.random())

    def record(self, value: object, ttl: float, now: float, cost: float) -> Loaded:
        """Return the record of a value loaded at ``now``."""
        fresh = now + ttl
        return Loaded(value, fresh, fresh + self.grace, fresh + max(self.grace, self.keep), cost)

    def absent(self, error: Exception, now: float) -> Loaded:
        """Return the record of a negative answer."""
        until = now + self.negative_ttl
        try:  # a copy has no traceback, which would keep alive all locals of the load for as long
            error = copy.copy(error)
        except Exception:  # not every exception can be made again from its arguments
            error = error.with_traceback(None)
        return Loaded(None, until, until, until, error=error)


def judge(record: Loaded, now: float, early: float, rng: random.Random) -> State:
    """Return what ``record`` is good for at ``now``.

    Early refresh is XFetch: each look-up refreshes with a probability that rises as the expiry comes near,
    and sooner for what takes long to load, so that of many processes about one loads before any of them
    misses. Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB
    2015.
    """
    if now < record.fresh_until:
        # 1 - random() is in (0, 1], where the logarithm exists.
        if (
            early
            and record.cost
            and now - record.cost * early * math.log(1 - rng.random()) >= record.fresh_until
        ):
            return State.EARLY
        return State.FRESH
    if now < record.grace_until:
        return State.GRACE
    return State.KEPT if now < record.keep_until else State.GONE
