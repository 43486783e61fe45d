"""What a connection does with the heads that it reads: a handler is asked, and its response is written.

Decides whether a connection may carry another request, and what becomes of a response that fails. Bytes
come and go through the connection; what they mean is not known here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ...errors import UpstreamError
from ...http.fields import problem
from ...http.framing import Violation
from ...http.heads import Head
from ...http.message import Request, Response, nothing
from ..proxy.gatekeeper import ClientGone
from .access_log import Access
from .answer import Answer, Contradiction, answer_of, plain
from .body import Arriving, Refused
from .interim import interim_to, write_final
from .soon import Asked, ask, log

if TYPE_CHECKING:
    from .connection import FrontConnection

__all__ = ["serve"]

SMALL_REST = 64 * 1024
"""Bytes of a request that are read for nothing rather than close the connection: less than what opening the
next one costs both sides."""


async def serve(connection: FrontConnection, found: Head | Violation | Asked | None) -> None:
    """Answer the requests of a connection, one by one, from ``found`` on; then close it."""
    front = connection.front
    try:
        while found is not None:
            if isinstance(found, Violation):
                connection.unread = True
                peer = connection.peer
                front.tell(Access(peer, peer, "", "", found.status, 0, 0.0, "", True))
                await send(connection, problem(found.status, found.detail), found.method, 1, keep=False)
                break
            if isinstance(found, Asked):
                if connection.asked is None:
                    raise ClientGone("what was asked has been given up before this began")
                connection.asked, asked = None, found
            else:
                asked = ask(connection, found, request_of(connection, found))
            if front.log is None:
                keep = await answer(connection, asked)
            else:
                keep = await logged(connection, asked)
            if not keep:
                break
            found = connection.next()
            if found is None and not connection.parting:
                # In this frame, since each one more is passed through by every wake-up.
                connection.waiter = front.loop.create_future()
                found = await connection.waiter
                connection.waiter = None
        connection.finish()
    except (ClientGone, UpstreamError, asyncio.CancelledError):
        connection.cut_off()
    except Exception as error:
        front.complain("a response was cut off", error)
        connection.cut_off()


def request_of(connection: FrontConnection, head: Head) -> Request:
    """Make a request of a head, and have its body arrive."""
    method, target, minor, fields = head
    arriving: Arriving | None = None
    upgrade: Arriving | None = None
    if fields.length:
        limits = connection.front.limits
        arriving = Arriving(
            connection.transport,
            fields.length,
            limits.request.body,
            limits.body_time,
            expected=fields.expects and minor == 1,
        )
    elif fields.websocket and method == "GET" and minor == 1:
        upgrade = Arriving(connection.transport, None, 0, 0.0, expected=False)
    if arriving is not None or upgrade is not None:
        connection.receive(arriving or upgrade)
    # The header is remembered, and a handler may change its own.
    headers = fields.headers.copy()
    peer, scheme = connection.peer, connection.scheme
    tell = interim_to(connection)
    interim = tell if minor else None  # which HTTP/1.0 does not know
    return Request(method, target, headers, peer, scheme, arriving, None, upgrade, fields.short, interim)


async def answer(connection: FrontConnection, asked: Asked) -> bool:
    """Answer one request; return whether another may follow."""
    front, head = connection.front, asked.head
    keep = True
    try:
        response = await asked.answering
    except Refused as error:
        response = problem(error.violation.status, error.violation.detail)
        keep = False
    except (ClientGone, UpstreamError):
        raise
    except Exception as error:
        front.complain("the handler failed", error)
        response = problem(500, "the request could not be answered")
    fields = head.fields
    # Only now: a stop may have begun while the handler was at work.
    if fields.close or (not head.minor and not fields.keep_alive) or front.parting or connection.parting:
        keep = False
    arriving = connection.arriving
    if keep and arriving is None and front.log is None and head.minor and head.method != "HEAD":
        try:
            sent = plain(response, front.date)
        except Contradiction:
            sent = None  # which is found out once more, and said
        if sent is not None and response.close is nothing:
            if connection.transport.is_closing():
                raise ClientGone("the client went away")
            write_final(connection, sent)
            if connection.drained is not None:
                await connection.drained
            return True
    try:
        if arriving is not None and keep and isinstance(response.body, bytes):
            keep = not much_is_unread(arriving)
        keep = await send(connection, response, head.method, head.minor, keep=keep)
    finally:
        if response.close is not nothing:
            await response.close()
    if arriving is not None and not arriving.complete and connection.arriving is arriving:
        if not keep or much_is_unread(arriving):
            connection.unread = not arriving.raw
            return False
        await arriving.skip()
    if connection.drained is not None:
        await connection.drained
    return keep


def much_is_unread(arriving: Arriving) -> bool:
    """Return whether so much of a request is still to come that closing is cheaper than reading it."""
    if arriving.complete or arriving.raw:
        return False
    # Whoever was not told to go on may send the body all the same, or not: nobody knows.
    return arriving.chunks is not None or arriving.expected or arriving.left > SMALL_REST


async def send(
    connection: FrontConnection, response: Response, method: str, minor: int, *, keep: bool
) -> bool:
    """Write a response; return whether another may follow it."""
    front, arriving = connection.front, connection.arriving
    try:
        framed = answer_of(response, method, minor, front.date, keep=keep)
        if response.status == 101 and (arriving is None or not arriving.raw):
            raise Contradiction("the protocol is switched where nobody asked for it")
    except Contradiction as error:
        front.complain("the handler's response was not sent", error)
        failed = problem(500, "the request could not be answered")
        framed = answer_of(failed, method, minor, front.date, keep=keep)
    if arriving is not None and arriving.raw and framed.status != 101:
        # Not switched: what has come is the next request, as if nobody had asked.
        arriving.go_on()
        connection.pending, connection.arriving = b"".join(arriving.pieces), None
    if connection.transport.is_closing():
        raise ClientGone("the client went away")
    if front.log is not None:
        connection.said = (framed.status, response.served_by)
    write_final(connection, framed.head)
    if framed.stream:
        await stream(connection, response, framed)
    return framed.keep


async def stream(connection: FrontConnection, response: Response, framed: Answer) -> None:
    """Write a body piece by piece, no faster than the client reads it."""
    front, transport, left = connection.front, connection.transport, framed.length
    assert not isinstance(response.body, bytes)
    async for piece in response.body:
        if not piece:
            continue
        if connection.drained is not None:
            await connection.drained
        if transport.is_closing():
            raise ClientGone("the client went away")
        if left is not None:
            left -= len(piece)
            if left < 0:
                raise Contradiction("the body is longer than was said")
        if framed.chunked:
            transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
        else:
            transport.write(piece)
        connection.written += len(piece)
        if connection.ended:
            connection.deadline = front.after(front.limits.half_closed)
    if left:
        raise Contradiction("the body is shorter than was said")
    if framed.chunked:
        transport.write(b"0\r\n\r\n")


async def logged(connection: FrontConnection, asked: Asked) -> bool:
    """Answer one request, and tell the access log of it however it ends."""
    before = connection.written
    connection.said = (0, "")
    whole = False
    try:
        keep = await answer(connection, asked)
        whole = True
        return keep
    finally:
        status, replica = connection.said
        log(connection, asked, status, connection.written - before, replica, whole=whole)
