"""One client's connection: bytes in, requests to a handler in order, responses out.

Decides when a request is read, when the connection may serve another, and who is waited for how long. It
knows neither the socket that accepted it nor what the handler does.

One task a connection and not a request: a task costs as much as all else here for a small request. The
limits of time are numbers that one tick of the whole front looks at: a timer for each request would cost as
much again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from typing import TYPE_CHECKING, cast

from ..errors import UpstreamError
from ..http.fields import problem, token_list
from ..http.framing import Violation
from ..http.heads import Head, no_head_yet, parse_head
from ..http.message import Request, Response
from .front_answer import Answer, Contradiction, answer_of
from .front_body import Arriving, Refused
from .gatekeeper import ClientGone

if TYPE_CHECKING:
    from .front import Front

__all__ = ["FrontConnection"]

SMALL_REST = 64 * 1024
"""Bytes of a request that are read for nothing rather than close the connection: less than what opening the
next one costs both sides."""


class FrontConnection(asyncio.Protocol):
    """A connection of a client.

    Args:
        front: Whose it is.
        peer: Whose address the client has.
        tls: Whether it is encrypted.
    """

    __slots__ = (
        "arriving",
        "deadline",
        "drained",
        "ended",
        "found",
        "front",
        "handling",
        "leaving",
        "lingering",
        "lost",
        "paused",
        "peer",
        "pending",
        "sent",
        "served",
        "task",
        "tls",
        "transport",
        "unread",
        "waiter",
        "write_time_left",
        "written",
    )

    transport: asyncio.Transport

    def __init__(self, front: Front, peer: str, *, tls: bool) -> None:
        self.front = front
        self.peer = peer
        self.tls = tls
        self.task: asyncio.Task[None] | None = None
        self.found: Head | Violation | None = None  # what the task begins with
        self.waiter: asyncio.Future[Head | Violation] | None = None  # set while the task waits for a request
        self.drained: asyncio.Future[None] | None = None  # set while what was written waits for the client
        self.arriving: Arriving | None = None  # what the request being answered still sends
        self.pending = b""  # what has come behind it
        self.paused = False  # because of what is pending
        self.handling = False
        self.ended = False  # the client has closed its half
        self.leaving = False  # the next answer is the last one
        self.lingering = False
        self.lost = False
        self.unread = False  # the client may still send what nobody will read
        self.served = 0
        self.written = 0  # bytes, as far as is known
        self.sent = 0  # of them, at the last look at the clock
        self.write_time_left = front.limits.write_time
        self.deadline = math.inf

    # -- bytes in ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it
        self.deadline = self.front.after(self.front.limits.header_time)
        self.front.arrived(self)

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            return
        if self.arriving is not None and not self.arriving.complete:
            data = self.arriving.feed(data)
            if not data:
                return
        before = self.pending
        self.pending = before + data if before else data
        if self.handling:
            if len(self.pending) > self.front.limits.pipelined and not self.paused:
                self.paused = True
                self.transport.pause_reading()
        else:
            if not before:
                self.deadline = self.front.after(self.front.limits.header_time)
            self.offer(self.cut(max(0, len(before) - 3)))

    def eof_received(self) -> bool:
        self.ended = True
        if self.arriving is not None:
            self.arriving.end()
        if self.handling:
            # What was asked is still answered to a client that only says that it asks no more.
            self.deadline = self.front.after(self.front.limits.half_closed)
        else:
            self.close()
        return not self.tls  # which knows no half

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.front.left(self)
        if self.drained is not None and not self.drained.done():
            self.drained.set_result(None)
        if self.arriving is not None:
            self.arriving.fail(ClientGone("the client went away"))
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.drained = self.front.loop.create_future()

    def resume_writing(self) -> None:
        drained, self.drained = self.drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- requests ---------------------------------------------------------------------------------------

    def cut(self, start: int = 0) -> Head | Violation | None:
        """Take the next head off what is pending; None while there is none."""
        data, limits = self.pending, self.front.limits.request
        end = data.find(b"\r\n\r\n", start)
        if end > 0:
            self.pending = data[end + 4 :]
            # One empty line before a request is ignored (RFC 9112, 2.2).
            head = data[2:end] if data.startswith(b"\r\n") else data[:end]
            return parse_head(head, limits, self.host)
        return no_head_yet(data, limits)

    @property
    def host(self) -> bytes:
        """What a client that names no host has asked, as only those of HTTP/1.0 may."""
        name = self.transport.get_extra_info("sockname")
        if not isinstance(name, tuple):
            return b"localhost"
        return (f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}").encode()

    def offer(self, found: Head | Violation | None) -> None:
        """Hand what was found to the task."""
        if found is None:
            return
        self.handling = True
        self.deadline = math.inf
        if self.waiter is not None:
            self.waiter.set_result(found)
        else:
            self.found = found
            self.task = self.front.loop.create_task(self.serve())

    async def serve(self) -> None:
        """Answer requests, one by one."""
        found, self.found = self.found, None
        assert found is not None
        try:
            while await self.answer(found):
                self.handling = False
                self.arriving = None
                if self.paused:
                    self.paused = False
                    self.transport.resume_reading()
                next_one = self.cut() if self.pending else None
                if next_one is None:
                    if self.ended:
                        break
                    limits = self.front.limits
                    self.deadline = self.front.after(
                        limits.header_time if self.pending else limits.keep_alive
                    )
                    self.waiter = self.front.loop.create_future()
                    next_one = await self.waiter
                    self.waiter = None
                self.handling = True
                self.deadline = math.inf
                found = next_one
            self.finish()
        except (ClientGone, UpstreamError, asyncio.CancelledError):
            self.cut_off()
        except Exception as error:
            self.front.complain("a response was cut off", error)
            self.cut_off()

    async def answer(self, found: Head | Violation) -> bool:
        """Answer one request; return whether another may follow."""
        front = self.front
        self.served += 1
        keep = not (self.leaving or front.draining or self.served == front.limits.requests)
        if isinstance(found, Violation):
            await self.send(problem(found.status, found.detail), "", 1, keep=False)
            self.unread = True
            return False
        request = self.request(found)
        try:
            response = await front.handler(request)
        except Refused as error:
            response, keep = problem(error.violation.status, error.violation.detail), False
        except ClientGone:
            raise
        except Exception as error:
            front.complain("the handler failed", error)
            response = problem(500, "the request could not be answered")
        keep = keep and found.keeps_alive and not self.ended
        try:
            if isinstance(response.body, bytes):
                keep = keep and not self.much_is_unread
            keep = await self.send(response, found.method, found.minor, keep=keep)
        finally:
            await response.close()
        if self.arriving is not None and not self.arriving.complete:
            self.unread = not keep or self.much_is_unread
            if self.unread:
                return False
            await self.arriving.skip()
        if self.drained is not None:
            await self.drained
        return keep

    @property
    def much_is_unread(self) -> bool:
        """Whether so much of the request is still to come that closing is cheaper than reading it."""
        arriving = self.arriving
        if arriving is None or arriving.complete or arriving.raw:
            return False
        # Whoever was not told to go on may send the body all the same, or not: nobody knows.
        return arriving.chunks is not None or arriving.expected or arriving.left > SMALL_REST

    def request(self, head: Head) -> Request:
        """Make a request of a head."""
        body = upgrade = None
        fields, limits = head.fields, self.front.limits
        if head.length:
            expected = head.minor == 1 and b"expect" in fields
            body = self.arriving = Arriving(
                self.transport, head.length, limits.request.body, limits.body_time, expected=expected
            )
        elif b"upgrade" in fields and upgrades(head):
            upgrade = self.arriving = Arriving(self.transport, None, 0, limits.body_time, expected=False)
        if self.arriving is not None and self.pending:
            self.pending = self.arriving.feed(self.pending)
        return Request(
            head.method,
            head.target,
            head.headers,
            self.peer,
            "https" if self.tls else "http",
            body,
            None,
            upgrade,
        )

    # -- responses --------------------------------------------------------------------------------------

    async def send(self, response: Response, method: str, minor: int, *, keep: bool) -> bool:
        """Write a response; return whether another may follow it."""
        try:
            answer = answer_of(response, method, minor, self.front.date, keep=keep)
            if response.status == 101 and (self.arriving is None or not self.arriving.raw):
                raise Contradiction("the protocol is switched where nobody asked for it")
        except Contradiction as error:
            self.front.complain("the handler's response was not sent", error)
            response = problem(500, "the request could not be answered")
            answer = answer_of(response, method, minor, self.front.date, keep=keep)
        if response.status != 101 and self.arriving is not None and self.arriving.raw:
            # Not switched: what has come is the next request, as if nobody had asked.
            self.arriving.go_on()
            self.pending, self.arriving = b"".join(self.arriving.pieces), None
        self.transport.write(answer.head)
        self.written += len(answer.head)
        if answer.stream:
            await self.stream(response, answer)
        return answer.keep

    async def stream(self, response: Response, answer: Answer) -> None:
        """Write a body piece by piece, no faster than the client reads it."""
        transport, left = self.transport, answer.length
        assert not isinstance(response.body, bytes)
        async for piece in response.body:
            if not piece:
                continue
            if self.drained is not None:
                await self.drained
            if left is not None:
                left -= len(piece)
                if left < 0:
                    raise Contradiction("the body is longer than was said")
            if answer.chunked:
                transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
            else:
                transport.write(piece)
            self.written += len(piece)
            if self.ended:
                self.deadline = self.front.after(self.front.limits.half_closed)
        if left:
            raise Contradiction("the body is shorter than was said")
        if answer.chunked:
            transport.write(b"0\r\n\r\n")

    # -- the end ----------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Close after the last answer, in a way that lets the client read it.

        Closing a socket that has unread bytes, or gets some more, resets the connection, and the reset
        overtakes the answer. So where the client may still send, it is read for a while (RFC 9112, 9.6).
        """
        if self.ended or not (self.unread or self.pending):
            self.close()
            return
        self.lingering, self.handling = True, False
        self.pending = b""
        self.deadline = self.front.after(self.front.limits.linger)
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def close(self) -> None:
        """Close when all that was written is sent."""
        self.lingering, self.handling = True, False
        self.deadline = self.front.after(self.front.limits.linger)
        self.transport.close()

    def cut_off(self) -> None:
        """Close at once, and by a reset: a body that ends with its connection must not seem to be whole."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.lost:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def leave(self) -> None:
        """Serve no more than what has been asked: close where nothing has."""
        self.leaving = True
        if self.handling or self.pending or self.lingering:
            return
        if self.served:
            self.close()
        else:
            self.deadline = min(self.deadline, self.front.after(self.front.limits.fresh))

    @property
    def idle(self) -> bool:
        """Whether it waits for a request that has not begun."""
        return not self.handling and not self.pending and not self.lingering and self.served > 0

    def tick(self, now: float, seconds: float) -> None:
        """Look at the limits of time; ``seconds`` have passed since the last look."""
        limits = self.front.limits
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            sent = self.written - unsent
            progress, self.sent = sent - self.sent, sent
            left = self.write_time_left + max(0, progress) / limits.least_rate
            self.write_time_left = min(limits.write_time, left) - seconds
            if self.write_time_left <= 0:
                self.cut_off()
                return
            if progress > 0 and (self.ended or self.lingering):
                self.deadline = self.front.after(limits.half_closed)
        else:
            self.sent = self.written
            self.write_time_left = limits.write_time
        if self.arriving is not None:
            self.arriving.waited(seconds, limits.least_rate)
        if now < self.deadline:
            return
        if self.handling or self.lingering:
            self.transport.abort()  # a half-closed client that nobody writes to, or one that does not close
        elif self.pending:
            self.offer(Violation(408, "the head of the request did not come in time"))
        else:
            self.close()


def upgrades(head: Head) -> bool:
    """Return whether a request asks for the one protocol that there is a tunnel for (RFC 6455, 4.1)."""
    return (
        head.method == "GET"
        and head.minor == 1
        and head.fields[b"upgrade"].lower() == b"websocket"
        and b"upgrade" in token_list(head.headers, b"connection")
    )
