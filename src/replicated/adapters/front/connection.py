"""A connection of one client: bytes in, heads cut off them, and an end by which the last answer arrives.

Decides when a request is read, who is waited for how long, and how a connection is closed. It knows neither
the socket that accepted it nor what is answered.

A request takes a task only where it must be waited for, and a connection has one: a task costs as much as
all else here for a small request. The limits of time are numbers that one tick of the whole front looks at:
a timer for each request would cost as much again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import socket
import struct
import sys
import termios
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from ...http.framing import Violation
from ...http.heads import Head
from ...http.message import Response
from ..engine.origin import authority
from ..proxy.express import Whole
from ..proxy.gatekeeper import ClientGone
from .body import Arriving
from .serving import serve
from .soon import Asked, answer_soon, drop, heard, may_be_soon

if TYPE_CHECKING:
    from .front import Front

__all__ = ["FrontConnection"]

RESET = struct.pack("ii", 1, 0)


class FrontConnection(asyncio.Protocol):
    """A connection of a client.

    Args:
        front: Whose it is.
        peer: Whose address the client has.
        tls: Whether it is encrypted.

    Attributes:
        answerable: Whether the answer to the last request has not begun.
        arriving: What the request being answered still sends.
        handling: Whether a request is being answered.
        ended: Whether the client has closed its half.
        leaving: Whether the next answer is the last one.
        lingering: Whether nothing more is answered.
        unread: Whether the client may still send what nobody will read.
        served: How many requests were read.
        written: Bytes that were written, as far as is known.
        drained: Set while what was written waits for the client.
    """

    __slots__ = (
        "answerable",
        "arriving",
        "asked",
        "deadline",
        "drained",
        "ended",
        "front",
        "handling",
        "leaving",
        "lingering",
        "lost",
        "paused",
        "peer",
        "pending",
        "said",
        "scheme",
        "sent",
        "served",
        "sock",
        "stalled",
        "task",
        "tls",
        "transport",
        "unread",
        "waiter",
        "write_time_left",
        "written",
    )

    transport: asyncio.Transport
    sock: socket.socket

    def __init__(self, front: Front, peer: str, *, tls: bool) -> None:
        self.front = front
        self.peer = peer
        self.tls = tls
        self.scheme = "https" if tls else "http"
        self.task: asyncio.Task[None] | None = None
        self.waiter: asyncio.Future[Head | Violation | Asked] | None = None  # while the task has no request
        self.drained: asyncio.Future[None] | None = None
        self.arriving: Arriving | None = None
        self.asked: Asked | None = None  # what is being answered, until a task takes it
        self.pending = b""  # what has come and was not read yet
        self.paused = False  # because of what is pending
        self.handling = False
        self.answerable = False
        self.stalled = False  # by a client that does not read, without a task
        self.ended = False
        self.leaving = False
        self.lingering = False
        self.lost = False
        self.unread = False
        self.served = 0
        self.said: tuple[int, str] = (0, "")  # for the access log: the status, and who answered
        self.written = 0
        self.sent = 0  # of these bytes, at the last look at the clock
        self.write_time_left = front.limits.write_time
        self.deadline = math.inf

    # -- asyncio.Protocol -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it
        self.sock = transport.get_extra_info("socket")
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
            if len(self.pending) > self.front.limits.pipelined:
                self.paused = True
                self.transport.pause_reading()
            return
        found = self.cut(max(0, len(before) - 3))
        if found is not None:
            self.take(found)
        elif self.pending and not before:  # empty lines begin nothing, and extend nothing
            self.deadline = self.front.after(self.front.limits.header_time)

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
        self.resume_writing()
        if self.arriving is not None:
            self.arriving.fail(ClientGone("the client went away"))
        self.forget()
        if self.task is not None and self.asked is None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.drained = self.front.loop.create_future()

    def resume_writing(self) -> None:
        drained, self.drained = self.drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
        if self.stalled and not self.lost:
            self.stalled = False
            self.go_on()

    # -- requests ---------------------------------------------------------------------------------------

    def cut(self, start: int = 0) -> Head | Violation | None:
        """Take the next head off what is pending; None while there is none."""
        data = self.pending
        if data[:2] == b"\r\n":  # one empty line before a request is ignored (RFC 9112, 2.2)
            data = self.pending = data[2:]
            start = 0
        end = data.find(b"\r\n\r\n", start)
        found: Head | Violation | None
        if end < 0:
            found = self.front.heads.not_yet(data)
        else:
            self.pending = data[end + 4 :]
            found = self.front.heads.read(data, end)
            if isinstance(found, Violation) and b" HTTP/1.0\r\n" in data[: end + 2]:
                found = self.front.heads.read(data, end, self.host)  # which may do without a host
        if isinstance(found, Violation) and data.startswith(b"HEAD "):
            return replace(found, method="HEAD")
        return found

    @property
    def host(self) -> bytes:
        """What a client that names no host has asked."""
        name = self.transport.get_extra_info("sockname")
        if not isinstance(name, tuple):
            return b"localhost"
        return authority(name[0], name[1]).encode()

    def take(self, found: Head | Violation) -> None:
        """See to it that what was found is answered, and what is pending behind it: by a task, or sooner."""
        while True:
            self.handling = True
            self.deadline = math.inf
            if isinstance(found, Violation) or not may_be_soon(found):
                self.offer(found)
                return
            asked = answer_soon(self, found)
            if asked is not None:
                self.offer(asked)
                return
            if self.handling or self.lingering:
                return
            after = self.next()
            if after is None:
                if self.parting:
                    self.finish()
                return
            found = after

    def go_on(self) -> None:
        """See to what is pending, after an answer that took no task."""
        found = self.next()
        if found is not None:
            self.take(found)
        elif self.parting:
            self.finish()

    def heard(self, whole: Whole | None) -> None:
        """Hear of an answer that was under way without a task: it is here, or takes one after all."""
        asked = self.asked
        if asked is None:
            return
        if whole is None:
            self.offer(asked)
            return
        self.asked = None
        heard(self, asked, whole)
        if not self.handling and not self.lingering:
            self.go_on()

    def forget(self) -> None:
        """Give up the answer that nobody has awaited; one that is there its task will close."""
        asked = self.asked
        if asked is not None and not isinstance(asked.answering, Response):
            self.asked = None
            drop(self, asked)

    def offer(self, found: Head | Violation | Asked) -> None:
        """Hand what was found to the task."""
        if self.waiter is not None:
            if not self.waiter.done():  # else the task has been cancelled, and the connection ends
                self.waiter.set_result(found)
        else:
            self.task = self.front.loop.create_task(serve(self, found))

    def receive(self, arriving: Arriving | None) -> None:
        """Have what comes from now on arrive as the rest of a request, beginning with what is here."""
        self.arriving = arriving
        if arriving is not None and self.pending:
            self.pending = arriving.feed(self.pending)
        self.listen()

    def listen(self) -> None:
        """Read on, where too much was pending."""
        if self.paused and len(self.pending) <= self.front.limits.pipelined:
            self.paused = False
            if self.arriving is None or not self.arriving.paused:
                self.transport.resume_reading()

    def next(self) -> Head | Violation | None:
        """Return the next head, after a request has been answered; None where it is to be waited for."""
        self.handling = False
        if self.arriving is not None:
            self.arriving.go_on()
            self.arriving = None
        limits = self.front.limits
        if self.pending:
            found = self.cut()
            if found is not None:
                self.handling = True
                self.listen()
                return found
            self.deadline = self.front.after(limits.header_time)
        else:
            self.deadline = self.front.after(limits.keep_alive)
        if self.paused:
            self.listen()
        return None

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
        if not self.transport.is_closing():
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
        self.forget()
        if not self.lost:
            with contextlib.suppress(OSError, ValueError):  # uvloop's is gone with its transport
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
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
    def parting(self) -> bool:
        """Whether its next answer is its last: by its age, or since no request can follow."""
        return self.leaving or self.served == self.front.limits.requests or (self.ended and not self.pending)

    @property
    def idle(self) -> bool:
        """Whether it waits for a request that has not begun."""
        return not self.handling and not self.pending and not self.lingering and self.served > 0

    def in_kernel(self) -> int:
        """Return how many bytes the kernel holds that the client has not acknowledged.

        It holds megabytes, and takes more only when a third of them is gone: without this, a client that
        reads slowly would seem not to read at all.
        """
        count = bytearray(4)
        try:
            fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, count)
        except (OSError, ValueError):
            return 0
        return int.from_bytes(count, sys.byteorder)

    # -- time -------------------------------------------------------------------------------------------

    def tick(self, now: float, seconds: float) -> None:
        """Look at the limits of time; ``seconds`` have passed since the last look."""
        limits = self.front.limits
        if self.tls and self.transport.is_closing():
            return  # asyncio counts the time from here on
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            sent = self.written - unsent - self.in_kernel()
            progress, self.sent = max(0, sent - self.sent), sent
            left = self.write_time_left + progress / limits.least_rate
            self.write_time_left = min(limits.write_time, left) - seconds
            if self.write_time_left <= 0:
                self.cut_off()
                return
            if progress and (self.ended or self.lingering):
                self.deadline = self.front.after(limits.half_closed)
        else:
            self.sent = self.written
            self.write_time_left = limits.write_time
        if self.arriving is not None:
            self.arriving.waited(seconds, limits.least_rate)
        if now < self.deadline:
            return
        if self.handling or self.lingering:
            self.cut_off()  # a half-closed client that nobody writes to, or one that does not close
        elif self.pending:
            method = "HEAD" if self.pending.startswith(b"HEAD ") else ""
            self.take(Violation(408, "the head of the request did not come in time", method))
        else:
            self.close()
