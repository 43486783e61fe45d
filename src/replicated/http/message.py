"""What a request and a response are between a front and whatever answers: plain values around a body.

Header names are lower-case bytes and every line stays a line of its own, in order: a header list folded
into a mapping loses the second Set-Cookie. A body is bytes where it is whole, or an asynchronous iterator
of bytes where it streams; whoever is handed a response closes it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["REPEATABLE", "RETRIED", "Body", "Handler", "Headers", "Request", "Response"]

Headers: TypeAlias = list[tuple[bytes, bytes]]
Body: TypeAlias = bytes | AsyncIterator[bytes]

REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
"""Methods that mean the same when they are carried out twice (RFC 9110, 9.2.2)."""
RETRIED = frozenset((502, 503, 504))
"""Answers by which a replica says that it is not the one to ask: another may be."""


async def nothing() -> None:
    """Close what needs no closing."""


@dataclass(slots=True)
class Request:
    """One request as it came in.

    Args:
        method: As sent; methods are case-sensitive.
        target: Raw path and query, as sent: ``b"/a%2Fb?c=d"``.
        headers: In the order sent, names in lower case.
        peer: The address of the other end of the connection, without its port; empty for a Unix socket.
        scheme: ``http`` or ``https``, of this connection.
        body: The body, or None when the request has none.
        context: What a front hands itself along; nobody in between looks at it.
        upgrade: What the client sends once the protocol is switched, where it asks for one that the front can
            switch to: a handler that passes this on answers 101, with what comes back as the body. None
            where nothing can be switched; an Upgrade field is then ignored (RFC 9110, 7.8).
        short: Whether its header is so short that what is worked out from it may be remembered.
        interim: Called with the status and the header of an answer that is none yet, such as 103 Early Hints,
            as often as one comes; a proxy passes them on (RFC 9110, 15.2). None where nobody can be told.
    """

    method: str
    target: bytes
    headers: Headers
    peer: str = ""
    scheme: str = "http"
    body: AsyncIterator[bytes] | None = None
    context: object = None
    upgrade: AsyncIterator[bytes] | None = None
    short: bool = False
    interim: Callable[[int, Headers], None] | None = None

    @property
    def path(self) -> str:
        """The target without its query, as sent: what was percent-encoded stays so."""
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def replayable(self) -> bool:
        """Whether sending it a second time means the same: idempotent (RFC 9110, 9.2.2), and no body."""
        return self.body is None and self.method in REPEATABLE


@dataclass(slots=True)
class Response:
    """One response, on its way to the client. To await it is to have it: a handler that need not wait returns
    it as it is, and whoever calls one may look whether it did.

    Args:
        status: A final status code, or 101 to switch protocols where the request's ``upgrade`` allows it.
        headers: Names in lower case; no hop-by-hop field.
        body: Whole, or streaming.
        close: Gives back what the response holds; called once, however the response ends.
        served_by: The id of the replica that answered, for an access log; empty where none did.
    """

    status: int
    headers: Headers = field(default_factory=list)
    body: Body = b""
    close: Callable[[], Awaitable[None]] = nothing
    served_by: str = ""

    def __await__(self) -> Generator[Any, None, Response]:
        yield from ()
        return self


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
"""Whatever answers a request: a throttle, a cache and a proxy are handlers around handlers."""
