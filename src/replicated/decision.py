"""What can be decided about a request: one of a closed set of immutable values, each of which says why.

Values alone: who decides, and how, is not known here. To be matched, with ``assert_never`` at the end.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, Protocol, TypeAlias

from .pins import Pin
from .readiness import ReadySet
from .replica import Replica

__all__ = ["Decision", "Forward", "Hit", "Knows", "Refuse", "Unavailable", "new_tuple"]


class Knows(Protocol):
    """Who can say of a snapshot why somebody is not in it."""

    def reasons(self, ready: ReadySet) -> list[tuple[str, str]]:
        """Return the id of every member that is not in ``ready``, each with why."""
        ...


class Refuse(NamedTuple):
    """The throttle says no: come back in ``retry_after`` seconds."""

    retry_after: float
    key: Hashable = None

    def explain(self) -> str:
        """Say why, in a sentence."""
        return f"{self.key!r} has used up its allowance; the next unit is free in {self.retry_after:.3f} s"


class Hit(NamedTuple):
    """The cache has it: ``value``."""

    value: object
    key: Hashable = None

    def explain(self) -> str:
        """Say why, in a sentence."""
        return f"{self.key!r} is in the cache and fresh"


class Unavailable(NamedTuple):
    """Nobody can serve: ask again in ``retry_after`` seconds.

    Attributes:
        retry_after: Seconds until a probe may have found someone.
        reasons: Why, replica by replica: (id, reason).
        reason: Why there is no further attempt, where there was one before.
    """

    retry_after: float
    reasons: tuple[tuple[str, str], ...] = ()
    reason: str = "no replica can serve"

    def explain(self) -> str:
        """Name every replica and why it cannot serve."""
        return "\n".join([self.reason, *(f"{name}: {why}" for name, why in self.reasons)])


class Forward(NamedTuple):
    """Send it to ``replica``, and tell ``Tier.finish`` how it ended.

    A tuple, since that is the cheapest immutable value there is, but compared by identity: two requests
    for the same key to the same replica are two.

    Attributes:
        replica: Who serves it.
        attempt: 1 for the first.
        key: The affinity key that was asked with.
        cache_key: Where ``finish`` stores the outcome's value; None for nowhere.
        started: The tier's clock at the pick, in seconds.
        ready: The snapshot that the pick was made from.
        tried: Ids of the replicas that earlier attempts failed on.
        tier: Who decided, and can say why.
        pin: What the request was asked to stay on, if anything.
    """

    replica: Replica
    attempt: int
    key: str | bytes | None
    cache_key: Hashable
    started: float
    ready: ReadySet
    tried: tuple[str, ...]
    tier: Knows
    pin: Pin | None

    def explain(self) -> str:
        """Name the replica, and those passed over with the reason for each."""
        lines = [f"{self.replica.id} serves attempt {self.attempt}"]
        lines += [f"{name}: failed an earlier attempt" for name in self.tried]
        lines += [f"{name}: {why}" for name, why in self.tier.reasons(self.ready)]
        return "\n".join(lines)


Forward.__eq__ = object.__eq__  # type: ignore[method-assign]
Forward.__ne__ = object.__ne__  # type: ignore[method-assign]
Forward.__hash__ = object.__hash__  # type: ignore[method-assign]

new_tuple = tuple.__new__
"""Makes a Forward or an Outcome of its fields without a frame of Python, which is a third of the price."""

Decision: TypeAlias = Refuse | Hit | Forward | Unavailable
