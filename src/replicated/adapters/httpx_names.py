"""What httpx calls things, and httpx2, which continues it: one interface under two names.

Which of the two speaks is told by the class of the request, since a client makes requests of its own module.
Decides nothing about a request.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from ..errors import MissingExtra, NoReplica, Refused
from .httpx_attempts import Ending

if TYPE_CHECKING:
    import httpx
else:
    try:
        import httpx
    except ImportError:
        try:
            import httpx2 as httpx
        except ImportError:
            raise MissingExtra("replicated.adapters.httpx_transport", "httpx") from None

__all__ = ["Names", "NoReplicaError", "RefusedError", "names_of"]


KNOWN: WeakKeyDictionary[type, Names] = WeakKeyDictionary()


class NoReplicaError(NoReplica, httpx.ConnectError):
    """Nobody can serve; to the client's users a ConnectError like any other, with a ``retry_after``."""

    speaks: ClassVar[str] = httpx.__name__

    def __init__(self, message: str, retry_after: float) -> None:
        NoReplica.__init__(self, message, retry_after)
        self._request = None

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return again, ("no_replica", self.speaks, str(self), self.retry_after)


class RefusedError(Refused, httpx.TransportError):
    """The throttle said no, before anything was sent."""

    speaks: ClassVar[str] = httpx.__name__

    def __init__(self, message: str, retry_after: float) -> None:
        Refused.__init__(self, message, retry_after)
        self._request = None

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return again, ("refused", self.speaks, str(self), self.retry_after)


class SyncBody:
    """A response's body that tells when it is over."""

    transport_error: type[Exception]

    def __init__(self, stream: Any, ending: Ending) -> None:
        self.stream = stream
        self.ending = ending

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self.stream
        except self.transport_error as error:
            self.ending.broke(error)
            raise
        self.ending.outcome = self.ending.whole

    def close(self) -> None:
        """Close the body, and finish the attempt."""
        try:
            self.stream.close()
        finally:
            self.ending.finish()


class AsyncBody:
    """A response's body that tells when it is over."""

    transport_error: type[Exception]

    def __init__(self, stream: Any, ending: Ending) -> None:
        self.stream = stream
        self.ending = ending

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self.stream:
                yield piece
        except self.transport_error as error:
            self.ending.broke(error)
            raise
        self.ending.outcome = self.ending.whole

    async def aclose(self) -> None:
        """Close the body, and finish the attempt."""
        try:
            await self.stream.aclose()
        finally:
            self.ending.finish()


class Names:
    """The classes of one of the two modules, and those of ours that must be subclasses of them.

    Args:
        module: ``httpx`` or ``httpx2``.

    Attributes:
        not_sent: Errors after which it is certain that nothing was sent.
        ours: Failures of this side: no replica is to blame, and another one would change nothing.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.TransportError: type[Exception] = module.TransportError
        self.not_sent: tuple[type[Exception], ...] = (module.ConnectError, module.ConnectTimeout)
        self.ours: tuple[type[Exception], ...] = (
            module.LocalProtocolError,
            module.UnsupportedProtocol,
            module.PoolTimeout,
        )
        errors = {"transport_error": module.TransportError}
        self.sync_body: Any = type("SyncBody", (SyncBody, module.SyncByteStream), errors)
        self.async_body: Any = type("AsyncBody", (AsyncBody, module.AsyncByteStream), errors)
        self.no_replica: Any = NoReplicaError
        self.refused: Any = RefusedError
        if module is not httpx:  # they have to be caught by its names as well
            speaks = {"speaks": module.__name__}
            self.no_replica = type("NoReplicaError", (NoReplicaError, module.ConnectError), speaks)
            self.refused = type("RefusedError", (RefusedError, module.TransportError), speaks)


@functools.cache
def names(module: str) -> Names:
    """Return the names of a module."""
    return Names(importlib.import_module(module))


def names_of(kind: type) -> Names:
    """Return the names of the module that a class of requests is of, or is derived from.

    Raises:
        TypeError: It is of neither.
    """
    found = KNOWN.get(kind)
    if found is not None:
        return found
    for base in kind.__mro__:
        module = base.__module__.partition(".")[0]
        if module in ("httpx", "httpx2"):
            return KNOWN.setdefault(kind, names(module))
    raise TypeError(f"request must be one of httpx or httpx2, not a {kind.__qualname__}")


def again(kind: str, module: str, message: str, retry_after: float) -> Exception:
    """Make an error once more, at the other end of a pickle."""
    error: Exception = getattr(names(module), kind)(message, retry_after)
    return error
