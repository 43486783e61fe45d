"""The head of a response as bytes on a wire: what it says, and how it goes on, or why it is none.

Reads HTTP/1.1 as RFC 9112 writes it and nothing that merely looks like it, as the heads of requests are read.
Where two readers could disagree on where a response ends, it is none. Knows no connection, and of the request
nothing: whether a response to it has a body is for others to say.

llhttp, as httptools offers it, calls Python once for each line of a header. A replica's heads repeat for as
long as nothing in them changes, which the date does once a second, and most lines of a new one were in one
before: so both heads and lines are remembered, and only what is new is read.
"""

from __future__ import annotations

import functools
import re
from http import HTTPStatus
from typing import NamedTuple

from .fields import token_list
from .forwarding import HOP_BY_HOP
from .heads import parse_line
from .message import RETRIED, Headers

__all__ = ["ResponseHead", "ResponseHeadReader"]

BEGINNING = b"HTTP/1."
# A server must send the space behind its status, and not all do that have no phrase.
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t -~\x80-\xff]*)?")
STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode()
    for status in HTTPStatus
    if status >= 200
}
NEVER_PLAIN = frozenset((204, 304)) | RETRIED
# One called `close` is nominated by the very option.
TELLING = frozenset(
    (b"close", b"connection", b"content-length", b"date", b"proxy-status", b"transfer-encoding")
)
USUAL_OPTIONS = frozenset((b"close", b"keep-alive"))
MOST_DIGITS = 18
REMEMBERED = 1024
"""How many heads and how many lines are remembered; and bytes of a head beyond which it is not."""
REMEMBERED_LINE = 256
"""Bytes beyond which a line is not remembered."""


class ResponseHead(NamedTuple):
    """What the head of a response says. It is remembered: whoever changes something, changes a copy.

    Attributes:
        status: From 100 to 599.
        headers: Names in lower case, values without the white space around them.
        length: Bytes of the body by Content-Length; -1 for one in chunks, None for one that ends with the
            connection. A status or a method that has no body has none whatever is said here.
        keep: Whether the connection may serve again, as far as the header goes.
        plain: The head as it goes on to a client of HTTP/1.1, less what ends with the hop and less the empty
            line, where a body of ``length`` bytes behind it is all that it wants. None where more is to be
            known or to be said: a length as we would write it, a status without a body or one after which
            another replica is asked, fields that are nominated, a proxy that tells of itself.
        dated: Whether there is a date.
    """

    status: int
    headers: Headers
    length: int | None
    keep: bool
    plain: bytes | None
    dated: bool


class ResponseHeadReader:
    """Reads heads. One serves many connections, of several threads too."""

    def __init__(self) -> None:
        self._head = functools.lru_cache(REMEMBERED)(self._new_head)
        self._line = functools.lru_cache(REMEMBERED)(line_of)

    def read(self, data: bytes, end: int, start: int = 0) -> ResponseHead:
        """Read a head, be it an interim one. O(its length).

        Args:
            data: Has a head in it.
            end: Where that ends, without the empty line.
            start: Where it begins.

        Raises:
            ValueError: It is none; says what is wrong.
        """
        text = data[start:end]
        return self._head(text) if len(text) <= REMEMBERED else self._new_head(text)

    def not_yet(self, data: bytes) -> None:
        """Judge what has come of a head that has not ended.

        Raises:
            ValueError: Nothing that follows can make it one.
        """
        if not data.startswith(BEGINNING[: len(data)]):
            raise ValueError("this does not begin as a response does")
        ends = data.count(b"\r\n")
        if data.count(b"\n") != ends or data.count(b"\r") - data.endswith(b"\r") != ends:
            raise ValueError("a line must end with CR and LF")
        end = data.find(b"\r\n")
        if end >= 0:
            status_of(data[:end])

    def _new_head(self, text: bytes) -> ResponseHead:
        first, *rest = text.split(b"\r\n")
        minor, status, said = status_of(first)
        known = self._line
        headers: Headers = []
        telling: Headers = []
        goes_on = [said]
        for line in rest:  # once, since for a new head this is most of the time
            field, said, tells = known(line) if len(line) <= REMEMBERED_LINE else line_of(line)
            headers.append(field)
            if said:
                goes_on.append(said)
            if tells:
                telling.append(field)
        named = dict(telling)
        once = len(named) == len(telling)
        if not once:
            names = [name for name, _ in telling]
            if names.count(b"content-length") > 1 or names.count(b"transfer-encoding") > 1:
                raise ValueError("where the response ends is said twice")
        options = token_list(telling, b"connection") if b"connection" in named else []
        length = length_of(named, minor)
        plain = None
        if (
            length is not None
            and length >= 0
            and once
            and goes_on[0]
            and named[b"content-length"] == b"%d" % length
            and b"close" not in named
            and b"proxy-status" not in named
            and USUAL_OPTIONS.issuperset(options)
        ):
            plain = b"\r\n".join(goes_on)
        keep = b"close" not in options and (minor == 1 or b"keep-alive" in options)
        return ResponseHead(status, headers, length, keep, plain, b"date" in named)


@functools.lru_cache(64)
def status_of(line: bytes) -> tuple[int, int, bytes]:
    """Return what a status line says: the minor version, the status, and the line as it goes on to a client;
    nothing does, where a response with that status is not passed on as it is.

    Raises:
        ValueError: It is none, or has a version or a status that there is not.
    """
    found = STATUS_LINE.fullmatch(line)
    if found is None:
        raise ValueError("a response must begin with HTTP/1.1 or HTTP/1.0 and a status from 100 to 599")
    status = int(found[2])
    if status < 200 or status in NEVER_PLAIN:
        return int(found[1]), status, b""
    return int(found[1]), status, STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status


def line_of(line: bytes) -> tuple[tuple[bytes, bytes], bytes, bool]:
    """Return a line of a header, as it goes on to a client (empty where it ends with the hop), and whether it
    tells us something.

    Raises:
        ValueError: It is none.
    """
    field = parse_line(line)
    name = field[0]
    return field, b"" if name in HOP_BY_HOP else b": ".join(field), name in TELLING


def length_of(named: dict[bytes, bytes], minor: int) -> int | None:
    """Return how long the body is, in the terms of ``ResponseHead.length``.

    Raises:
        ValueError: It is in doubt.
    """
    length = named.get(b"content-length")
    coding = named.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise ValueError("both content-length and transfer-encoding are given")
        if coding.lower() != b"chunked":
            raise ValueError("the only transfer coding understood is chunked")
        if not minor:
            raise ValueError("HTTP/1.0 has no transfer codings")
        return -1
    if length is None:
        return None
    if not length.isdigit() or len(length) > MOST_DIGITS:
        raise ValueError("content-length is not a number")
    return int(length)
