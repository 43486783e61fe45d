"""One HTTP/1.1 connection to a replica: an asyncio protocol around llhttp, one exchange at a time.

Decides when a response is whole, and when the connection may serve again. It knows no pool and no retry.
After any surprise (bytes nobody asked for, a body cut short, framing in doubt) the connection is closed:
what is left on it could be taken for the answer to someone else's request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

from ...errors import MissingExtra, UpstreamBroken, UpstreamTimeout
from ...http.fields import token_list
from ...http.forwarding import switches
from ...http.message import Headers

try:
    import httptools
except ImportError:
    raise MissingExtra(__name__, "serve") from None

__all__ = ["Connection"]

HIGH_WATER = 256 * 1024
"""Bytes that wait for the reader, beyond which the replica is not listened to. What comes in one read of the
socket (256 KiB in asyncio and uvloop) may lie on top."""
MOST_HEADER_BYTES = 64 * 1024
"""Bytes without a byte of a body among them: a header, interim responses, chunk extensions, trailers."""


PROTOCOL_ERROR = "http_protocol_error"


class Connection(asyncio.Protocol):
    """A connection that carries one request after another.

    Life of an exchange: ``send`` writes the head, ``upload`` the body, ``head`` waits for the response's
    head, ``read`` for each piece of its body. Whoever breaks off calls ``abort``. After a 101 the connection
    is a tunnel: ``upload`` and ``read`` carry bytes whose meaning is not known here.
    """

    __slots__ = (
        "buffer",
        "closed",
        "complete",
        "deadline",
        "error",
        "feed",
        "headers",
        "idle_since",
        "keep_alive",
        "loop",
        "may_switch",
        "method",
        "parser",
        "paused",
        "starved",
        "status",
        "timeout",
        "timer",
        "transport",
        "unread",
        "until_close",
        "waiter",
        "writable",
    )

    transport: asyncio.Transport
    feed: Callable[[bytes], None]

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.parse()
        self.error: Exception | None = None
        self.closed = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.waiter: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.deadline = 0.0
        self.timeout = 0.0
        self.idle_since = 0.0
        self.method = ""
        self.begin("")
        self.complete = True

    def parse(self) -> None:
        """Take what comes for responses, from a first byte."""
        self.parser = httptools.HttpResponseParser(self)
        self.feed = self.parser.feed_data

    def begin(self, method: str) -> None:
        """Forget the last exchange."""
        if self.method == "HEAD":
            # llhttp still waits for the body that Content-Length announced and HEAD does not have.
            self.parse()
        self.method = method
        self.may_switch = False
        self.status = 0  # until the final head is there
        self.headers: Headers = []
        self.complete = False
        self.until_close = False
        self.keep_alive = False
        self.buffer: list[bytes] = []
        self.unread = 0  # bytes off the wire since the reader last took a piece
        self.paused = False
        self.starved = False  # the request's own next piece is awaited: the replica owes nothing

    # -- what the owner calls ---------------------------------------------------------------------------

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
        self.begin(method)
        self.may_switch = may_switch
        lines = [method.encode("latin-1"), b" ", target, b" HTTP/1.1\r\n"]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n")
        self.transport.write(b"".join(lines))
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
        if self.waiter is not None and not self.waiter.done():
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
        if self.waiter is None or self.waiter.done():
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
            self.feed(data)
        except httptools.HttpParserUpgrade as error:
            if self.status != 101:
                self.broken(UpstreamBroken("it switched protocols, which nobody asked for", PROTOCOL_ERROR))
                return
            self.feed = self.on_body
            if rest := data[error.args[0] :]:
                self.on_body(rest)
        except httptools.HttpParserError as error:
            ours = error.__context__  # what a callback of ours raised, llhttp only passes on
            if not isinstance(ours, UpstreamBroken):
                ours = UpstreamBroken(f"not HTTP/1.1: {error}", PROTOCOL_ERROR)
            self.broken(ours)
            return
        if self.unread > MOST_HEADER_BYTES and not self.complete:
            if not self.buffer:
                what = f"over {MOST_HEADER_BYTES} bytes came that belong to no body"
                self.abort(UpstreamBroken(what, PROTOCOL_ERROR))
            elif self.unread > HIGH_WATER and not self.paused:
                self.paused = True
                self.transport.pause_reading()

    def eof_received(self) -> None:
        # TLS calls this only for a closing that was announced: one cut by a stranger is not the end.
        if self.until_close:
            self.complete = True

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

    # -- httptools --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:
            self.keep_alive = False  # the first byte of an answer to a request that was never sent

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # else it is a trailer, which nobody may rely on
            # llhttp leaves the white space behind a value, which is no part of it (RFC 9112, 5).
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if self.status:
            raise UpstreamBroken("a second response came where one was asked for", PROTOCOL_ERROR)
        if 100 <= status < 200 and status != 101:
            self.headers = []
            return
        headers = self.headers
        if status == 101 and self.may_switch and switches(headers):
            self.status = 101
            self.until_close = True
            self.wake()
            return
        if not 200 <= status < 600:
            raise UpstreamBroken(f"status {status} came, which nobody asked for", PROTOCOL_ERROR)
        if self.unread > MOST_HEADER_BYTES and sum(map(len_of_line, headers)) > MOST_HEADER_BYTES:
            raise UpstreamBroken(f"the header is longer than {MOST_HEADER_BYTES} bytes", PROTOCOL_ERROR)
        fields = dict(headers)
        coding = fields.get(b"transfer-encoding")
        sized = b"content-length" in fields
        if len(fields) < len(headers):
            names = [name for name, _ in headers]
            if names.count(b"content-length") > 1 or names.count(b"transfer-encoding") > 1:
                raise UpstreamBroken("where the response ends is said twice", PROTOCOL_ERROR)
        if coding is not None and (
            sized or coding.lower() != b"chunked" or self.parser.get_http_version() != "1.1"
        ):
            raise UpstreamBroken("where the response ends is in doubt", PROTOCOL_ERROR)
        self.status = status
        if self.method == "HEAD":
            # Its answer ends with its header. A stray body is recognised by its first byte, except where
            # it would be chunked: then the size of the first chunk could pass unseen.
            self.complete = True
            self.keep_alive = (
                coding is None
                and self.parser.get_http_version() == "1.1"
                and b"close" not in token_list(headers, b"connection")
            )
        else:
            self.until_close = not sized and coding is None and status not in (204, 304)
        self.wake()

    def on_body(self, data: bytes) -> None:
        if self.complete:
            raise UpstreamBroken("a body came where none is allowed", PROTOCOL_ERROR)
        self.buffer.append(data)
        self.wake()

    def on_message_complete(self) -> None:
        if self.status and not self.complete and self.status != 101:
            self.complete = True
            self.keep_alive = self.parser.should_keep_alive()
            self.wake()


def len_of_line(line: tuple[bytes, bytes]) -> int:
    return len(line[0]) + len(line[1]) + 4
