"""One HTTP/1.1 connection to a replica: an asyncio protocol, one exchange at a time.

Decides when a response is whole, and when the connection may serve again. It knows no pool and no retry.
After any surprise (bytes nobody asked for, a body cut short, framing in doubt) the connection is closed:
what is left on it could be taken for the answer to someone else's request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

from ...errors import UpstreamBroken, UpstreamTimeout
from ...http.chunks import Chunks
from ...http.forwarding import switches
from ...http.message import Headers
from ...http.response_heads import ResponseHead, ResponseHeadReader

__all__ = ["Connection"]

HIGH_WATER = 256 * 1024
"""Bytes that wait for the reader, beyond which the replica is not listened to. What comes in one read of the
socket (256 KiB in asyncio and uvloop) may lie on top."""
MOST_HEADER_BYTES = 64 * 1024
"""Bytes without a byte of a body among them: a header, interim responses, chunk extensions, trailers."""
PROTOCOL_ERROR = "http_protocol_error"
END = b"\r\n\r\n"
HEADS = ResponseHeadReader()


class Connection(asyncio.Protocol):
    """A connection that carries one request after another.

    Life of an exchange: ``send`` writes the head, ``upload`` the body, ``head`` waits for the response's
    head, ``read`` for each piece of its body. Whoever breaks off calls ``abort``. After a 101 the connection
    is a tunnel: ``upload`` and ``read`` carry bytes whose meaning is not known here.

    Attributes:
        response: The final head, once it is there.
        interim: Told of each interim response, where it is set after ``send``.
        told: Where it is set at ``send``, nobody waits for the head, and this is called instead, once:
            when the response is whole, or its head is there and the rest is to be read, or the exchange has
            failed (``error`` says how), by an ``abort`` too. It is forgotten first, and may send again.
    """

    __slots__ = (
        "buffer",
        "chunks",
        "closed",
        "complete",
        "deadline",
        "error",
        "idle_since",
        "interim",
        "keep_alive",
        "left",
        "loop",
        "may_switch",
        "method",
        "partial",
        "paused",
        "response",
        "starved",
        "status",
        "timeout",
        "timer",
        "told",
        "transport",
        "unread",
        "until_close",
        "waiter",
        "writable",
    )

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.error: Exception | None = None
        self.closed = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.waiter: asyncio.Future[None] | None = None
        self.told: Callable[[Connection], None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.deadline = 0.0
        self.timeout = 0.0
        self.idle_since = 0.0
        self.begin("")
        self.complete = True

    def begin(self, method: str) -> None:
        """Forget the last exchange."""
        self.method = method
        self.may_switch = False
        self.interim: Callable[[int, Headers], None] | None = None
        self.response: ResponseHead | None = None
        self.status = 0  # until the final head is there
        self.complete = False
        self.until_close = False
        self.keep_alive = False
        self.partial = b""  # of a head that has not ended
        self.left = 0  # bytes of the body that are still to come
        self.chunks: Chunks | None = None  # where it comes in chunks
        self.buffer: list[bytes] = []
        self.unread = 0  # bytes off the wire since the reader last took a piece
        self.paused = False
        self.starved = False  # the request's own next piece is awaited: the replica owes nothing

    # -- what the owner calls ---------------------------------------------------------------------------

    @property
    def headers(self) -> Headers:
        """The header of the final head. It is remembered: whoever changes something, changes a copy."""
        return [] if self.response is None else self.response.headers

    @property
    def reusable(self) -> bool:
        """Whether the next request may go over this connection."""
        return (
            self.complete
            and self.keep_alive
            and not self.closed
            and not self.buffer
            and self.waiter is None  # someone still reads, who would read another's answer
            and not self.transport.get_write_buffer_size()  # answered before the request was all sent
        )

    def send(
        self, method: str, target: bytes, headers: Headers, timeout: float, *, may_switch: bool = False
    ) -> None:
        """Write a request's head; the response's head is due within ``timeout`` seconds, and may be a 101
        where the protocol ``may_switch``.
        """
        lines = [method.encode("latin-1"), b" ", target, b" HTTP/1.1\r\n"]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n")
        self.send_bytes(method, b"".join(lines), timeout)
        self.may_switch = may_switch

    def send_bytes(self, method: str, data: bytes, timeout: float) -> None:
        """Write a request that is bytes already; the response's head is due within ``timeout`` seconds."""
        self.begin(method)
        self.transport.write(data)
        self.arm(timeout)

    async def upload(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        """Write a request's body as it comes, no faster than the replica reads it.

        Ends early when the answer is whole. What ``body`` raises ends the exchange, and is raised by
        ``head`` or ``read``: the replica did nothing wrong.
        """
        try:
            self.starved = True
            async for piece in body:
                if self.complete or self.closed:
                    self.keep_alive = False  # the replica still waits for the rest of this request
                    return
                self.starved = False
                self.arm(self.timeout)
                if piece:
                    self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                    await self.writable.wait()
                self.starved = True
            if self.closed:
                pass
            elif chunked:
                self.transport.write(b"0\r\n\r\n")
            elif self.status == 101 and self.transport.can_write_eof():
                self.transport.write_eof()  # what the replica still has to say is passed on
            elif self.status == 101:
                self.abort()
        except Exception as error:
            self.abort(error)
        finally:
            self.starved = False
        if not self.closed:
            self.arm(self.timeout)  # the answer's time runs from the last piece

    async def head(self) -> None:
        """Wait until ``status`` and ``headers`` are there.

        Raises:
            UpstreamError: They will not come.
        """
        while not self.status:
            if self.error is not None:
                raise self.error
            await self.wait()

    async def read(self, timeout: float) -> bytes:
        """Return the next piece of the body, due within ``timeout`` seconds; nothing when it is whole.

        Raises:
            UpstreamError: The body was cut short.
        """
        while not self.buffer:
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error
            self.arm(timeout)  # only now: the reader's own time is not the replica's
            await self.wait()
        piece = self.take()
        if self.paused:
            self.paused = False
            if not self.closed:
                self.transport.resume_reading()
        return piece

    def take(self) -> bytes:
        """Return what is there of the body."""
        buffer = self.buffer
        piece = b"".join(buffer) if len(buffer) != 1 else buffer[0]
        buffer.clear()
        self.unread = 0
        return piece

    def abort(self, error: Exception | None = None) -> None:
        """Close at once; whoever waits is told ``error``."""
        if self.error is None and not self.complete:
            self.error = error or UpstreamBroken("the exchange was broken off")
        self.closed = True
        self.disarm()
        self.transport.abort()
        self.writable.set()
        self.wake()

    def broken(self, error: Exception) -> None:
        """Close at once for what the replica sent, be it behind an answer that was whole."""
        self.keep_alive = False
        self.abort(error)

    # -- waiting and deadlines --------------------------------------------------------------------------

    async def wait(self) -> None:
        self.waiter = self.loop.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def wake(self) -> None:
        """Tell whoever waits: the last thing done, since another exchange may begin in it."""
        told = self.told
        if told is not None:
            self.told = None
            told(self)
        elif self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def arm(self, timeout: float) -> None:
        """Set the deadline. The timer is armed once and looks at the deadline when it fires: moving a
        number costs nothing, while cancelling and arming a timer for every piece would fill the heap.
        """
        self.timeout = timeout
        self.deadline = self.loop.time() + timeout
        if self.timer is not None:
            if self.timer.when() <= self.deadline:
                return
            self.timer.cancel()
        self.timer = self.loop.call_at(self.deadline, self.tick)

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def tick(self) -> None:
        self.timer = None
        if self.told is None and (self.waiter is None or self.waiter.done()):
            return  # nobody waits: whoever will, arms it again
        if self.starved and self.status != 101:  # in a tunnel nobody owes anything, and silence is counted
            self.arm(self.timeout)
        elif self.loop.time() < self.deadline:
            self.timer = self.loop.call_at(self.deadline, self.tick)
        else:
            what = "the rest of the body" if self.status else "an answer"
            kind = "connection_read_timeout" if self.status else ""
            self.abort(UpstreamTimeout(f"no sign of {what} for {self.timeout:g} s", kind))

    # -- asyncio.Protocol -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it

    def data_received(self, data: bytes) -> None:
        if self.complete or self.closed:
            self.abort()  # nobody asked
            return
        self.unread += len(data)
        try:
            news = self.more(data) if self.status else self.begun(data)
        except ValueError as error:
            self.broken(UpstreamBroken(f"not HTTP/1.1: {error}", PROTOCOL_ERROR))
            return
        if self.unread > MOST_HEADER_BYTES and not self.complete:
            if not self.buffer:
                what = f"over {MOST_HEADER_BYTES} bytes came that belong to no body"
                self.abort(UpstreamBroken(what, PROTOCOL_ERROR))
                return
            if self.unread > HIGH_WATER and not self.paused:
                self.paused = True
                self.transport.pause_reading()
        if news:
            self.wake()

    def eof_received(self) -> None:
        # TLS calls this only for a closing that was announced: one cut by a stranger is not the end.
        self.complete |= self.until_close
        self.closed |= self.complete  # nobody would read what is sent from here on

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.disarm()
        if self.error is None and not self.complete:
            where = "within the response" if self.status else "before the response"
            kind = "http_response_incomplete" if self.status else ""
            self.error = UpstreamBroken(f"the connection was lost {where}: {exc or 'closed'}", kind)
        self.writable.set()
        self.wake()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    # -- responses --------------------------------------------------------------------------------------

    def begun(self, data: bytes) -> bool:
        """Read a response from its beginning; return whether its final head is there.

        Raises:
            ValueError: It is none, or there is more than was asked for.
        """
        start = at = 0
        if self.partial:
            at = max(0, len(self.partial) - len(END) + 1)
            data, self.partial = self.partial + data, b""
        while True:
            end = data.find(END, at)
            if end < 0:
                self.partial = data[start:]
                HEADS.not_yet(self.partial)
                return False
            if end - start > MOST_HEADER_BYTES:
                raise ValueError(f"the header is longer than {MOST_HEADER_BYTES} bytes")
            head = HEADS.read(data, end, start)
            start = at = end + len(END)
            status = head.status
            if status >= 200 or (status == 101 and self.may_switch and switches(head.headers)):
                break
            if status == 101:
                raise ValueError("it switched protocols, which nobody asked for")
            if self.interim is not None and status != 100:  # which was for us
                self.interim(status, head.headers)
        self.response = head
        self.status = status
        length = head.length
        if self.method == "HEAD" or status in (204, 304):
            self.complete = True
            # Who says how a body is coded that must not be there may send it all the same.
            self.keep_alive = head.keep and length != -1
            if start < len(data):
                raise ValueError("a body came where none is allowed")
            return True
        if length is None or status == 101:
            self.until_close = True
        elif length < 0:
            self.chunks = Chunks()
        else:
            self.left = length
        self.keep_alive = head.keep and not self.until_close
        if start < len(data) or not length:
            self.more(data[start:])
        return True

    def more(self, data: bytes) -> bool:
        """Read on in a body; return whether there is more of it, or its end.

        Raises:
            ValueError: It is none, or there is more than was asked for.
        """
        surplus = b""
        if self.chunks is not None:
            data = self.chunks.feed(data)
            self.complete, surplus = self.chunks.over, self.chunks.rest
        elif not self.until_close:
            self.left = left = self.left - len(data)
            self.complete = left <= 0
            if left < 0:
                data, surplus = data[:left], data[left:]
        if data:
            self.buffer.append(data)
        if surplus:
            raise ValueError("more came than was asked for")
        return self.complete or bool(data)
