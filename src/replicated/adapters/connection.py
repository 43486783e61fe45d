"""One HTTP/1.1 connection to a replica: an asyncio protocol around llhttp, one exchange at a time.

Decides when a response is whole, and when the connection may serve again. It knows no pool and no retry.
After any surprise (bytes nobody asked for, a body cut short, framing in doubt) the connection is closed:
what is left on it could be taken for the answer to someone else's request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import cast

from ..errors import MissingExtra, UpstreamBroken, UpstreamError, UpstreamTimeout
from ..http.fields import find_all
from ..http.message import Headers

try:
    import httptools
except ImportError:  # pragma: no cover - the environment without the extra has a test of its own
    raise MissingExtra(__name__, "serve") from None

__all__ = ["Connection"]

HIGH_WATER = 256 * 1024
LOW_WATER = 64 * 1024
MOST_HEADER_BYTES = 64 * 1024


class Connection(asyncio.Protocol):
    """A connection that carries one request after another.

    Life of an exchange: ``send`` writes the head, ``upload`` the body, ``head`` waits for the response's
    head, ``read`` for each piece of its body. Whoever breaks off calls ``abort``.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.error: UpstreamError | None = None
        self.closed = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.waiter: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.deadline = 0.0
        self.timeout = 0.0
        self.used = False  # it has carried an exchange before: its other end may be closing it right now
        self.idle_since = 0.0
        self.begin("")
        self.complete = True

    def begin(self, method: str) -> None:
        """Forget the last exchange."""
        self.method = method
        self.status = 0
        self.headers: Headers = []
        self.header_bytes = 0
        self.has_head = False
        self.complete = False
        self.until_close = False
        self.keep_alive = False
        self.received = False
        self.buffer: deque[bytes] = deque()
        self.buffered = 0
        self.paused = False

    # -- what the owner calls ---------------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether the next request may go over this connection."""
        return not self.closed and self.complete and self.keep_alive and not self.buffer

    def send(self, method: str, target: bytes, headers: Headers, timeout: float) -> None:
        """Write a request's head; the response's head is due within ``timeout`` seconds."""
        assert self.transport is not None
        self.begin(method)
        lines = [method.encode("latin-1"), b" ", target, b" HTTP/1.1\r\n"]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n")
        self.transport.write(b"".join(lines))
        self.arm(timeout)

    async def upload(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        """Write a request's body as it comes, no faster than the replica reads it."""
        assert self.transport is not None
        async for piece in body:
            if not piece:
                continue
            await self.writable.wait()
            if self.closed:
                return
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            self.deadline = self.loop.time() + self.timeout  # the answer's time runs from the last piece
        if chunked and not self.closed:
            self.transport.write(b"0\r\n\r\n")

    async def head(self) -> None:
        """Wait until ``status`` and ``headers`` are there.

        Raises:
            UpstreamError: They will not come.
        """
        while not self.has_head:
            if self.error is not None:
                raise self.error
            await self.wait()

    async def read(self, timeout: float) -> bytes:
        """Return the next piece of the body, due within ``timeout`` seconds; nothing when it is whole.

        Raises:
            UpstreamError: The body was cut short.
        """
        while True:
            if self.buffer:
                piece = b"".join(self.buffer) if len(self.buffer) > 1 else self.buffer[0]
                self.buffer.clear()
                self.buffered = 0
                if self.paused and not self.closed:
                    assert self.transport is not None
                    self.paused = False
                    self.transport.resume_reading()
                return piece
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error
            self.arm(timeout)  # only now: the reader's own time is not the replica's
            await self.wait()

    def abort(self, error: UpstreamError | None = None) -> None:
        """Close at once; whoever waits is told ``error``."""
        if self.error is None and not self.complete:
            self.error = error or UpstreamBroken("the exchange was broken off")
        self.closed = True
        self.disarm()
        if self.transport is not None:
            self.transport.abort()
        self.writable.set()
        self.wake()

    # -- waiting and deadlines --------------------------------------------------------------------------

    async def wait(self) -> None:
        self.waiter = self.loop.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def arm(self, timeout: float) -> None:
        """Set the deadline. The timer is armed once and looks at the deadline when it fires: moving a
        number costs nothing, while cancelling and arming a timer for every piece would fill the heap.
        """
        self.timeout = timeout
        self.deadline = self.loop.time() + timeout
        if self.timer is None:
            self.timer = self.loop.call_at(self.deadline, self.tick)
        elif self.timer.when() > self.deadline:
            self.timer.cancel()
            self.timer = self.loop.call_at(self.deadline, self.tick)

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def tick(self) -> None:
        self.timer = None
        if self.complete or self.closed:
            return
        if self.paused or self.buffer:
            # Waiting for the reader, not for the replica.
            self.arm(self.timeout)
        elif self.loop.time() < self.deadline:
            self.timer = self.loop.call_at(self.deadline, self.tick)
        else:
            what = "the rest of the body" if self.has_head else "an answer"
            self.abort(UpstreamTimeout(f"no sign of {what} for {self.timeout:g} s"))

    # -- asyncio.Protocol -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it

    def data_received(self, data: bytes) -> None:
        if self.complete:
            self.abort()  # nobody asked
            return
        self.received = True
        if not self.has_head:
            self.header_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.keep_alive = False
            if not self.complete:
                ours = error.__context__  # what a callback of ours raised, llhttp only passes on
                broken = (
                    ours if isinstance(ours, UpstreamBroken) else UpstreamBroken(f"not HTTP/1.1: {error}")
                )
                self.abort(broken)
        if not self.has_head and self.header_bytes > MOST_HEADER_BYTES:
            self.abort(UpstreamBroken(f"the header is longer than {MOST_HEADER_BYTES} bytes"))
        if self.method == "HEAD" and self.has_head:
            # llhttp would wait for the body that Content-Length announces and HEAD does not have.
            self.parser = httptools.HttpResponseParser(self)
        if self.buffered > HIGH_WATER and not self.paused and not self.closed:
            assert self.transport is not None
            self.paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        if self.has_head and self.until_close and not self.complete:
            self.complete = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.disarm()
        if not self.complete and self.error is None:
            where = "within the response" if self.has_head else "before the response"
            self.error = UpstreamBroken(f"the connection was lost {where}: {exc or 'closed'}")
        self.writable.set()
        self.wake()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    # -- httptools --------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else it is a trailer, which nobody may rely on
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if self.has_head:
            raise UpstreamBroken("a second response came where one was asked for")
        if 100 <= status < 200:
            self.headers = []
            if status == 101:
                raise UpstreamBroken("the protocol was switched where nobody asked for it")
            return
        lengths = find_all(self.headers, b"content-length")
        codings = find_all(self.headers, b"transfer-encoding")
        if (lengths and codings) or len(lengths) > 1 or any(c.lower() != b"chunked" for c in codings):
            raise UpstreamBroken("where the response ends is in doubt")
        self.status = status
        self.has_head = True
        self.until_close = not lengths and not codings and status not in (204, 304)
        if self.method == "HEAD":  # its answer ends with its header
            self.finish(self.parser.should_keep_alive())
        self.wake()

    def on_body(self, data: bytes) -> None:
        if self.complete:
            raise UpstreamBroken("a body came where none is allowed")
        self.buffer.append(data)
        self.buffered += len(data)
        self.wake()

    def on_message_complete(self) -> None:
        if self.has_head and not self.complete:
            self.finish(self.parser.should_keep_alive())

    def finish(self, keep_alive: bool) -> None:
        self.complete = True
        self.keep_alive = keep_alive and b"close" not in [
            value.lower() for name, value in self.headers if name == b"connection"
        ]
        self.wake()
