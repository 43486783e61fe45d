"""What a response looks like on an HTTP/1.1 connection: its head, and how its end is known.

Decides the framing and nothing else. A handler's response is taken for what it is: where it contradicts
itself it is not sent, since the client's next response would begin in the wrong place.
"""

from __future__ import annotations

from typing import NamedTuple

from ...http.message import Response
from ...http.response_heads import STATUS_LINES as ANSWERS

__all__ = ["END", "Answer", "Contradiction", "answer_of", "joined", "plain"]

STATUS_LINES = ANSWERS | {101: b"HTTP/1.1 101 Switching Protocols"}
OURS = frozenset(
    (b"connection", b"content-length", b"date", b"keep-alive", b"proxy-connection", b"trailer")
    + (b"transfer-encoding", b"upgrade")
)
"""Fields that a connection has an opinion on."""
BODILESS = frozenset((101, 204, 304))
USUAL = STATUS_LINES.keys() - BODILESS
UNUSUAL = OURS - {b"content-length", b"date"}
END = (b"", b"")
COLON_JOIN = b": ".join


class Contradiction(Exception):
    """A response that cannot be sent as it is."""


class Answer(NamedTuple):
    """How a response goes over a connection.

    Attributes:
        head: Its head; with the body behind it, where that is whole.
        stream: Whether the body follows piece by piece.
        chunked: Whether each piece is a chunk.
        length: Bytes that will follow; None where nobody knows.
        keep: Whether another request may come over this connection.
        status: Its status.
    """

    head: bytes
    stream: bool
    chunked: bool
    length: int | None
    keep: bool
    status: int


def answer_of(response: Response, method: str, minor: int, date: bytes, *, keep: bool) -> Answer:
    """Frame a response.

    Args:
        response: What a handler has answered.
        method: The request's.
        minor: 1 for a client of HTTP/1.1, 0 for one of HTTP/1.0.
        date: A line that says what day it is.
        keep: Whether the client may keep the connection, as far as the request goes.

    Raises:
        Contradiction: It says two things at once.
    """
    status, body = response.status, response.body
    first = STATUS_LINES.get(status)
    if first is None:
        if not 200 <= status < 600:
            raise Contradiction(f"status {status} is not an answer")
        first = b"HTTP/1.1 %d " % status
    headers = response.headers
    lines = [first]
    length: int | None = None
    for line in headers:
        name = line[0]
        if name not in OURS:
            lines.append(b": ".join(line))
        elif name == b"content-length":
            if length is not None or not line[1].isdigit():
                raise Contradiction(f"content-length {line[1]!r} is not the body's one length")
            length = int(line[1])
        elif name == b"date":
            date = b": ".join(line)
        elif name == b"connection":
            keep = keep and b"close" not in line[1].lower()
    lines.append(date)
    whole, stream, chunked = b"", not isinstance(body, bytes), False
    if status == 101:
        length, keep = None, False
        lines += (b"connection: upgrade", b"upgrade: websocket")
    elif method == "HEAD" or status in BODILESS:
        stream = False
        if status == 204:
            length = None  # it may not have one (RFC 9110, 8.6)
    elif isinstance(body, bytes):
        if length is not None and length != len(body):
            raise Contradiction(f"content-length is {length}, and the body has {len(body)} bytes")
        whole, length = body, len(body)
    elif length is None:
        if minor:
            chunked = True
            lines.append(b"transfer-encoding: chunked")
        else:
            keep = False
    if length is not None:
        lines.append(b"content-length: %d" % length)
    if not keep:
        if status != 101:
            lines.append(b"connection: close")
    elif not minor:
        lines.append(b"connection: keep-alive")
    lines += END
    head = joined(lines)
    return Answer(head + whole if whole else head, stream, chunked, length, keep, status)


def plain(response: Response, date: bytes) -> bytes | None:
    """Return a response as it is sent where nothing about it is unusual, as of nearly all; None for others.

    It has a body that is as long as it says, no field that a connection has an opinion on, and goes to a
    client of HTTP/1.1 that asked for the body and keeps the connection.

    Raises:
        Contradiction: A line of it holds another.
    """
    status, headers, body = response.status, response.headers, response.body
    named = dict(headers)
    if (
        not isinstance(body, bytes)
        or status not in USUAL
        or named.get(b"content-length") != b"%d" % len(body)
        or len(named) != len(headers)
        or not UNUSUAL.isdisjoint(named)
    ):
        return None
    lines = [STATUS_LINES[status], *map(COLON_JOIN, headers)]
    if b"date" not in named:
        lines.append(date)
    lines += END
    return joined(lines) + body


def joined(lines: list[bytes]) -> bytes:
    """Return lines as one head.

    Raises:
        Contradiction: One of them holds another (response splitting): counted at the speed of memchr.
    """
    head = b"\r\n".join(lines)
    ends = len(lines) - 1
    if head.count(b"\n") != ends or head.count(b"\r") != ends:
        raise Contradiction("a header line holds the end of one")
    return head
