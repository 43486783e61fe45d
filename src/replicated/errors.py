"""Every exception of the library, in one tree.

Decisions are values, so a refusal or an empty ready set is not an exception: these are for misuse, and
for callers whose own protocol wants one.

::

    ReplicatedError
    ├── EmptyRing          (LookupError)    a key was asked of a table without a node that may own one
    ├── UnknownReplica     (LookupError)    the replica named is not a member
    ├── StrategyError      (RuntimeError)   a strategy picked a replica that cannot serve
    ├── AlreadyFinished    (RuntimeError)   a Forward or a lease was finished a second time
    ├── LoadReentered      (RuntimeError)   a loader was asked for the key that it is loading
    ├── MissingExtra       (ImportError)    an adapter is used without its optional dependency
    ├── UpstreamError                       a replica did not answer as HTTP asks
    │   ├── UpstreamUnreachable             no connection came about: the replica saw nothing of the request
    │   │   └── UpstreamExhausted           for want of a descriptor, a port or a free place on this side
    │   ├── UpstreamTimeout                 a deadline passed
    │   └── UpstreamBroken                  it closed, reset or spoke garbage
    └── NotServed                           `lease` found no replica to lend, and says when to come back
        ├── Refused                         the throttle said no
        └── NoReplica      (LookupError)    nobody can serve
"""

from __future__ import annotations

__all__ = [
    "AlreadyFinished",
    "EmptyRing",
    "LoadReentered",
    "MissingExtra",
    "NoReplica",
    "NotServed",
    "Refused",
    "ReplicatedError",
    "StrategyError",
    "UnknownReplica",
    "UpstreamBroken",
    "UpstreamError",
    "UpstreamExhausted",
    "UpstreamTimeout",
    "UpstreamUnreachable",
]


class ReplicatedError(Exception):
    """The root: whatever this library raises of its own is one of these."""


class EmptyRing(ReplicatedError, LookupError):
    """A key was asked of a table that has no node with a weight above zero."""


class UnknownReplica(ReplicatedError, LookupError):
    """The replica named is not a member."""


class StrategyError(ReplicatedError, RuntimeError):
    """A strategy picked a replica that is not in the ready set it was given."""


class AlreadyFinished(ReplicatedError, RuntimeError):
    """A Forward or a lease was finished a second time."""


class LoadReentered(ReplicatedError, RuntimeError):
    """A loader was asked, by the load of a key, for that same key: it would wait for itself."""


class MissingExtra(ReplicatedError, ImportError):
    """An adapter needs an optional dependency; the message says which extra to install."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} needs an extra: pip install 'replicated-tier[{extra}]'")


class NotServed(ReplicatedError):
    """No replica was lent.

    Attributes:
        retry_after: Seconds after which asking again may succeed.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type, tuple[str, float]]:
        return type(self), (str(self), self.retry_after)


class Refused(NotServed):
    """The throttle said no."""


class NoReplica(NotServed, LookupError):
    """Nobody can serve."""


class UpstreamError(ReplicatedError):
    """A replica did not answer as HTTP asks.

    Attributes:
        kind: What RFC 9209 (2.3) calls it.
    """

    kind = "destination_unavailable"

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        if kind:
            self.kind = kind


class UpstreamUnreachable(UpstreamError):
    """No connection came about: the replica saw nothing of the request."""


class UpstreamExhausted(UpstreamUnreachable):
    """No connection came about for want of something on this side: the replica is not to blame."""

    kind = "connection_limit_reached"


class UpstreamTimeout(UpstreamError):
    """A deadline passed: for the first byte, or between two pieces of a body."""

    kind = "http_response_timeout"


class UpstreamBroken(UpstreamError):
    """The connection was closed, was reset or carried what is not HTTP, before the response was whole."""

    kind = "connection_terminated"
