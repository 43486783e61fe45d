"""The body of an httpx request on its way to a replica: as long as its headers say, and written in time.

On the way to a replica a byte too many would be the beginning of another request. Opens nothing, and knows
no replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UpstreamTimeout
from ..http.fields import find
from ..http.message import Headers

if TYPE_CHECKING:
    from .httpx_names import Names

__all__ = ["OneWrite", "Streamed", "body_of"]

T = TypeVar("T")

ONE_WRITE = 32 * 1024
"""Bytes that an event loop takes without a wait: asyncio and uvloop pause a writer above 64 KiB."""


async def body_of(names: Names, request: Any, headers: Headers) -> OneWrite | Streamed | None:
    """Return what is sent after the head; None for nothing.

    Raises:
        LocalProtocolError: The body is not as long as the headers say. A stream says so when it is sent.
    """
    wrong = names.module.LocalProtocolError("the body is not as long as the headers say")
    length = find(headers, b"content-length")
    chunked = find(headers, b"transfer-encoding") is not None
    announced = int(length or 0)
    stream = request.stream
    if isinstance(stream, names.module.ByteStream):
        content = b"".join(stream)
        if len(content) != announced and not chunked:
            raise wrong
        if len(content) <= ONE_WRITE:
            return OneWrite(content) if content or chunked else None
    elif length is None and not chunked:  # then there is no body, and a stream that is one in spite of that
        async for piece in stream:
            if piece:
                raise wrong
        return None
    timeout = request.extensions.get("timeout") or {}
    return Streamed(stream, None if chunked else announced, timeout.get("write"), timeout.get("read"), wrong)


class OneWrite:
    """A small body: sent at once, with nothing to wait for."""

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __aiter__(self) -> OneWrite:
        return self

    async def __anext__(self) -> bytes:
        content, self.content = self.content, b""
        if not content:
            raise StopAsyncIteration
        return content


class Streamed:
    """A body that is sent piece by piece, with httpx's own sense of time.

    Each piece is to be written within ``write`` seconds, and the response's head to come within ``read``
    seconds of the last one; while the user thinks about the next piece, no clock runs.

    Args:
        stream: The user's.
        announced: Bytes that there have to be; None where the end says itself.
        write: Seconds, None for as many as it takes.
        read: Likewise.
        wrong: Raised where there are more or fewer bytes.
    """

    __slots__ = ("deadline", "left", "over", "pieces", "read", "stream", "write", "wrong")

    def __init__(
        self, stream: Any, announced: int | None, write: float | None, read: float | None, wrong: Exception
    ) -> None:
        self.stream = stream
        self.left = announced
        self.write = write
        self.read = read
        self.wrong = wrong
        self.over = False
        self.pieces: AsyncIterator[bytes] | None = None
        self.deadline: asyncio.Timeout | None = None

    async def in_time(self, sending: Awaitable[T]) -> T:
        """Await the response, as long as this body and its answer come along.

        Raises:
            UpstreamTimeout: They do not.
        """
        deadline = self.deadline = asyncio.timeout(None)
        try:
            async with deadline:
                return await sending
        except TimeoutError:
            if not deadline.expired():
                raise  # the user's own, out of the body
            what = "answered" if self.over else "read the request"
            raise UpstreamTimeout(f"the replica has not {what} in time") from None
        finally:
            self.deadline = None

    def due(self, seconds: float | None) -> None:
        if self.deadline is not None and not self.deadline.expired():
            now = asyncio.get_running_loop().time()
            self.deadline.reschedule(None if seconds is None else now + seconds)

    def __aiter__(self) -> Streamed:
        return self

    async def __anext__(self) -> bytes:
        pieces = self.pieces
        if pieces is None:  # only now: whoever never asks leaves the user's stream untouched
            pieces = self.pieces = self.stream.__aiter__()
        self.due(None)
        try:
            piece = await pieces.__anext__()
        except StopAsyncIteration:
            if self.left:
                raise self.wrong from None
            self.over = True
            self.due(self.read)
            raise
        if self.left is not None:
            self.left -= len(piece)
            if self.left < 0:
                raise self.wrong
        self.due(self.write)
        return piece
