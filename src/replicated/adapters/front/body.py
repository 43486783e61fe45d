"""What comes of a client behind the head of its request: a body, or after a switch of protocols anything.

Decides when the client may be asked for more, and for how long it is waited for. Knows no handler.
"""

from __future__ import annotations

import asyncio

from ...http.chunks import Chunks
from ...http.framing import Violation
from ..proxy.gatekeeper import ClientGone

__all__ = ["Arriving", "Refused"]

HIGH_WATER = 256 * 1024
"""Bytes that wait for the handler, beyond which the client is not listened to."""


class Refused(ClientGone):
    """The rest of a request is not read, because of what has come of it; the front answers."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.detail)
        self.violation = violation


class Arriving:
    """An asynchronous iterator over what arrives. The front feeds it, a handler reads it.

    Args:
        transport: Whom to tell to stop, and to go on.
        length: Bytes of it; -1 where it is in chunks, and None where it has no end but the connection's.
        most: Bytes beyond which a body in chunks is refused.
        time: Seconds that its reader waits for it, as ``FrontLimits.body_time``.
        expected: Whether the client waits to be told ``100 Continue``.

    Attributes:
        complete: Whether all of it is here.
        error: Why it will never be.
    """

    __slots__ = (
        "arrived",
        "chunks",
        "complete",
        "error",
        "expected",
        "left",
        "most",
        "paused",
        "pieces",
        "raw",
        "time",
        "time_left",
        "transport",
        "unread",
        "waiter",
    )

    def __init__(
        self, transport: asyncio.Transport, length: int | None, most: int, time: float, *, expected: bool
    ) -> None:
        self.transport = transport
        self.raw = length is None
        self.chunks = Chunks() if length == -1 else None
        self.left = length or 0
        self.most = most
        self.time = self.time_left = time
        self.expected = expected
        self.complete = False
        self.error: Exception | None = None
        self.paused = False
        self.pieces: list[bytes] = []
        self.unread = 0
        self.arrived = 0  # since the last look at the clock
        self.waiter: asyncio.Future[None] | None = None

    # -- what the front calls ---------------------------------------------------------------------------

    def feed(self, data: bytes) -> bytes:
        """Take what has arrived; return what no longer belongs to it."""
        rest = b""
        if self.error is not None:
            return rest
        if self.chunks is not None:
            try:
                data = self.chunks.feed(data)
            except ValueError as error:
                self.fail(Refused(Violation(400, str(error))))
                return rest
            self.most -= len(data)
            if self.most < 0:
                self.fail(Refused(Violation(413, "the body is longer than is read here")))
                return rest
            self.complete, rest = self.chunks.over, self.chunks.rest
        elif not self.raw:
            if len(data) >= self.left:
                data, rest = data[: self.left], data[self.left :]
                self.complete = True
            self.left -= len(data)
        if data:
            self.expected = False
            self.arrived += len(data)
            self.pieces.append(data)
            self.unread += len(data)
            if self.unread > HIGH_WATER and not self.complete:
                self.paused = True
                self.transport.pause_reading()
        self.wake()
        return rest

    def fail(self, error: Exception) -> None:
        """Tell the reader, after what is here, that no more will come."""
        if self.error is None and not self.complete:
            self.error = error
            self.wake()

    def end(self) -> None:
        """Note that the client sends no more: the end, where there is no other, or else a body cut short."""
        if self.raw:
            self.complete = True
            self.wake()
        else:
            self.fail(ClientGone("the client left within its request"))

    def waited(self, seconds: float, rate: float) -> None:
        """Take time off, and give some for what has arrived; where none is left, the client is refused.

        Only while someone waits: what a client does that nobody waits for keeps nobody.
        """
        arrived, self.arrived = self.arrived, 0
        if self.waiter is None or self.raw:
            return
        self.time_left = min(self.time, self.time_left + arrived / rate) - seconds
        if self.time_left <= 0:
            self.fail(Refused(Violation(408, "the rest of the request did not come in time")))

    # -- what the handler calls -------------------------------------------------------------------------

    def __aiter__(self) -> Arriving:
        return self

    async def __anext__(self) -> bytes:
        while not self.pieces:
            if self.error is not None:
                raise self.error
            if self.complete:
                raise StopAsyncIteration
            if self.expected:
                self.expected = False
                if self.transport.is_closing():
                    raise ClientGone("the client went away")
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await self.wait()
        pieces = self.pieces
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.unread = 0
        self.go_on()
        return piece

    async def skip(self) -> None:
        """Wait until all of it is here, and drop it.

        Raises:
            ClientGone: It will never be.
        """
        while not self.complete:
            self.pieces.clear()
            self.unread = 0
            self.go_on()
            if self.error is not None:
                raise self.error
            await self.wait()

    async def wait(self) -> None:
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def go_on(self) -> None:
        if self.paused:
            self.paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()
