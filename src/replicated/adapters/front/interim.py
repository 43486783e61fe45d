"""Interim answers: what a client of HTTP/1.1 is told before its answer comes, such as 103 Early Hints.

Decides whether one may still be written. What it says, and who said it, is not known here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...http.forwarding import forwarded_response
from ...http.message import Headers
from .answer import END, Contradiction, joined

if TYPE_CHECKING:
    from .connection import FrontConnection

__all__ = ["interim_to", "write_final"]

LINES = {102: b"HTTP/1.1 102 Processing", 103: b"HTTP/1.1 103 Early Hints"}


def interim_to(connection: FrontConnection) -> Callable[[int, Headers], None]:
    """Begin a request of the connection's; return what writes interim answers to it, until it is answered."""
    connection.served += 1
    connection.answerable = True
    return functools.partial(write_interim, connection, connection.served)


def write_interim(connection: FrontConnection, number: int, status: int, headers: Headers) -> None:
    """Write an interim answer, unless the answer has begun: that of a second attempt may come late.

    Raises:
        Contradiction: It is none, or one of its lines holds another.
    """
    if not 102 <= status < 200:
        raise Contradiction(f"status {status} is not an interim answer")
    if number != connection.served or not connection.answerable or connection.transport.is_closing():
        return
    lines = [LINES.get(status) or b"HTTP/1.1 %d " % status]
    lines += map(b": ".join, forwarded_response(headers, 204))  # nothing of a body, which it has not
    write(connection, joined([*lines, *END]))


def write_final(connection: FrontConnection, sent: bytes) -> None:
    """Write the answer, or its head: from here on no interim one may come."""
    connection.answerable = False
    write(connection, sent)


def write(connection: FrontConnection, sent: bytes) -> None:
    connection.transport.write(sent)
    connection.written += len(sent)
