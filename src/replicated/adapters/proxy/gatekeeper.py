"""The gate: what may not pass is refused before anything is decided about it.

Framing in doubt, sizes beyond the limits, requests that go in circles. Knows no tier and no replica; what
the rules are, ``replicated.http`` says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

from ...http.fields import find, problem
from ...http.forwarding import is_loop
from ...http.framing import Limits, check_request
from ...http.message import Handler, Request, Response

__all__ = ["BodyTooLarge", "BoundedBody", "ClientGone", "gatekeeper"]


class ClientGone(Exception):
    """The client went away while its request was read: no replica is to blame."""


class BodyTooLarge(Exception):
    """The client sent more than the limit allows, or than it announced."""

    def __init__(self, most: int) -> None:
        super().__init__(f"the body is longer than {most} bytes")


def gatekeeper(inner: Handler, limits: Limits | None, pseudonym: bytes) -> Handler:
    """Refuse what may not pass: framing in doubt, sizes beyond the limits, requests that go in circles.

    Without limits only the last: behind a front that has judged all else.
    """

    def pass_on(request: Request) -> Awaitable[Response]:
        # No coroutine of its own: who can answer without one is to be seen behind this.
        if is_loop(request.headers, pseudonym):
            return problem(508, "the request has passed here before")
        return inner(request)

    if limits is None:
        return pass_on

    async def handle(request: Request) -> Response:
        violation = check_request(request.method, request.target, request.headers, limits)
        if violation is not None:
            # What was announced as a body is not worth reading: the connection ends with the answer.
            return problem(violation.status, violation.detail, [(b"connection", b"close")])
        if request.body is not None:
            length = find(request.headers, b"content-length")
            request.body = BoundedBody(request.body, limits.body if length is None else int(length), length)
        try:
            return await pass_on(request)
        except BodyTooLarge as error:
            return problem(413, str(error), [(b"connection", b"close")])

    return handle


class BoundedBody:
    """A request's body, exactly as long as it was announced, or else up to a limit.

    On the way to a replica a byte too many would be the beginning of another request.

    Raises:
        BodyTooLarge: There is more.
        ClientGone: There is less.
    """

    __slots__ = ("announced", "body", "left", "most")

    def __init__(self, body: AsyncIterator[bytes], most: int, announced: object) -> None:
        self.body = body
        self.most = self.left = most
        self.announced = announced is not None

    def __aiter__(self) -> BoundedBody:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self.body.__anext__()
        except StopAsyncIteration:
            if self.announced and self.left:
                raise ClientGone("the body ended before its announced length") from None
            raise
        self.left -= len(piece)
        if self.left < 0:
            raise BodyTooLarge(self.most)
        return piece
