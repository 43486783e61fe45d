"""How a forwarded request ended: the one value that travels back through tier, loads and passive health.

It says whether the replica is to blame, how long it took, and what came out that a cache may keep. What
an HTTP status means is decided by ``replicated.http``, not here.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

__all__ = ["Outcome", "Verdict"]


class Verdict(enum.Enum):
    """Who is to blame for how it ended."""

    OK = "ok"
    """The replica answered as it should. A 4xx is the client's fault, hence OK."""
    FAILED = "failed"
    """The replica refused, reset, timed out or broke."""
    CANCELLED = "cancelled"
    """The caller went away first: nothing is learnt about the replica."""


class _Fields(NamedTuple):
    verdict: Verdict
    latency: float | None
    value: object
    ttl: float | None
    reason: str


class Outcome(_Fields):
    """The end of one forwarded request.

    A tuple, because one is made for every request: a frozen dataclass costs four times as much to make.

    Args:
        verdict: Who is to blame.
        latency: Seconds from the pick to the end, or None where it was not measured or means nothing.
        value: What came out; a tier with a cache stores it when the verdict is OK and it is not None.
        ttl: Seconds that ``value`` may be kept, or None for the cache's own.
        reason: A few words for ``explain`` and logs.

    Raises:
        ValueError: ``latency`` is negative, NaN or infinite.
    """

    __slots__ = ()

    def __new__(
        cls,
        verdict: Verdict,
        latency: float | None = None,
        value: object = None,
        ttl: float | None = None,
        reason: str = "",
    ) -> Outcome:
        """Check and make one."""
        if latency is not None and not 0 <= latency < math.inf:
            raise ValueError(f"latency must be seconds, finite and not negative, not {latency!r}")
        return tuple.__new__(cls, (verdict, latency, value, ttl, reason))

    @property
    def ok(self) -> bool:
        """Whether the replica answered as it should."""
        return self.verdict is Verdict.OK

    @classmethod
    def success(
        cls, latency: float | None = None, *, value: object = None, ttl: float | None = None
    ) -> Outcome:
        """Return the outcome of a request that the replica answered."""
        return cls(Verdict.OK, latency, value, ttl)

    @classmethod
    def failure(cls, reason: str = "", latency: float | None = None) -> Outcome:
        """Return the outcome of a request that the replica failed."""
        return cls(Verdict.FAILED, latency, reason=reason)

    @classmethod
    def cancelled(cls, reason: str = "") -> Outcome:
        """Return the outcome of a request whose caller went away."""
        return cls(Verdict.CANCELLED, reason=reason)
