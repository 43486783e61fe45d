"""What a connection does with requests that are answered without a task: those whose answer is there at once,
and those that a replica answers in one piece.

Decides which requests these are. All others are offered to the connection's task, with the answer that was
begun for them; what becomes of answers that fail, or stream, is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, NamedTuple

from ...http.heads import Head
from ...http.message import Request, Response, nothing
from ..proxy.express import Express, Whole
from .access_log import Access
from .answer import plain
from .interim import interim_to, write_final

if TYPE_CHECKING:
    from .connection import FrontConnection

__all__ = ["Asked", "answer_soon", "ask", "drop", "heard", "log", "may_be_soon"]


class Asked(NamedTuple):
    """A request whose answer has been asked for.

    Attributes:
        head: What the request says.
        answering: Its answer, for who awaits it.
        began: When it came, by the loop's time, where somebody keeps a log.
    """

    head: Head
    answering: Awaitable[Response]
    began: float


def may_be_soon(head: Head) -> bool:
    """Return whether a request has nothing behind its head, and comes from who speaks HTTP/1.1."""
    fields = head.fields
    return not fields.length and not fields.websocket and head.minor == 1


def ask(connection: FrontConnection, head: Head, request: Request) -> Asked:
    """Ask the handler."""
    front = connection.front
    began = 0.0 if front.log is None else front.loop.time()
    answering: Awaitable[Response]
    try:
        answering = front.handler(request)
    except Exception as error:
        answering = raising(error)
    return Asked(head, answering, began)


async def raising(error: Exception) -> Response:
    """Raise what a handler has raised before there was anything to await: it is all the same to the task."""
    raise error


def answer_soon(connection: FrontConnection, head: Head) -> Asked | None:
    """Answer a request, or have it answered; return what the task is to see to, if that takes one."""
    front, fields = connection.front, head.fields
    # The header is remembered, and a handler may change its own.
    headers = fields.headers.copy()
    peer, scheme = connection.peer, connection.scheme
    interim = interim_to(connection)
    request = Request(
        head.method, head.target, headers, peer, scheme, None, None, None, fields.short, interim
    )
    asked = ask(connection, head, request)
    answering = asked.answering
    if isinstance(answering, Express):
        connection.asked = asked
        return None if answering.start(connection.heard) else asked
    if isinstance(answering, Response) and answering.close is nothing and head.method != "HEAD":
        try:
            sent = plain(answering, front.date)
        except Exception:
            sent = None  # what is wrong with it is found out once more, and said
        if sent is not None and not fields.close and not front.parting and not connection.parting:
            write(connection, asked, sent, answering.status, answering.served_by, keep=True)
            return None
    connection.asked = asked
    return asked


def heard(connection: FrontConnection, asked: Asked, whole: Whole) -> None:
    """Write an answer that has come in one piece."""
    front = connection.front
    keep = not (asked.head.fields.close or front.parting or connection.parting)
    lines = [whole.lines] if whole.dated else [whole.lines, front.date]
    if not keep:
        lines.append(b"connection: close")
    sent = b"%b\r\n\r\n%b" % (b"\r\n".join(lines), whole.body)
    write(connection, asked, sent, whole.status, whole.served_by, keep=keep)


def write(
    connection: FrontConnection, asked: Asked, sent: bytes, status: int, served_by: str, *, keep: bool
) -> None:
    """Write an answer; afterwards the connection is ``handling`` where it waits for the client to read."""
    front = connection.front
    if connection.transport.is_closing():
        if front.log is not None:
            log(connection, asked, 0, 0, "", whole=False)
        return  # and the connection is about to hear of that
    write_final(connection, sent)
    if front.log is not None:
        log(connection, asked, status, len(sent), served_by, whole=True)
    if not keep:
        connection.finish()
    elif connection.drained is not None:
        connection.stalled = True
    else:
        connection.handling = False


def log(
    connection: FrontConnection, asked: Asked, status: int, sent: int, served_by: str, *, whole: bool
) -> None:
    """Tell the access log of a request that is over."""
    front, head = connection.front, asked.head
    peer = client = connection.peer
    if front.identity is not None:
        client = front.identity.client(peer, connection.scheme, head.fields.headers).address
    target, seconds = head.target.decode("latin-1"), front.loop.time() - asked.began
    front.tell(Access(peer, client, head.method, target, status, sent, seconds, served_by, whole))


def drop(connection: FrontConnection, asked: Asked) -> None:
    """Give up an answer that nobody has awaited, to a client that is gone."""
    front, answering = connection.front, asked.answering
    try:
        if isinstance(answering, Express | Coroutine):
            answering.close()
        elif isinstance(answering, asyncio.Future):
            answering.cancel()
    except Exception as error:  # a strategy of somebody's own has raised: the connection ends all the same
        front.complain("a request could not be given up", error)
    if front.log is not None:
        log(connection, asked, 0, 0, "", whole=False)
