"""What a request asks of the caches on its way (RFC 9111, 5.2.1): answers younger than they need be.

Reads a request's header and compares instants; it does not know what is stored, nor what is done about it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .freshness import delta, directives
from .message import Headers
from .stored import Stored

__all__ = ["Demands"]


@dataclass(frozen=True, slots=True)
class Demands:
    """What a request asks of caches (RFC 9111, 5.2.1)."""

    fresh: bool
    most_age: float
    least_left: float
    cached_only: bool

    @classmethod
    def of(cls, headers: Headers) -> Demands:
        """Read a request's Cache-Control, and Pragma where it has none."""
        said = directives(headers, b"cache-control")
        if not said:
            return cls(b"no-cache" in directives(headers, b"pragma"), float("inf"), 0.0, False)
        return cls(
            b"no-cache" in said,
            delta(said[b"max-age"]) if b"max-age" in said else float("inf"),
            delta(said.get(b"min-fresh", b"")),
            b"only-if-cached" in said,
        )

    @property
    def demanding(self) -> bool:
        """Whether what is stored and fresh may not do."""
        return self.fresh or self.most_age != float("inf") or self.least_left > 0

    def allow(self, stored: Stored, now: float) -> bool:
        """Return whether a stored response is young enough for the client."""
        if self.fresh or now - stored.born > self.most_age:
            return False
        return not self.demanding or now + self.least_left < stored.fresh_until
