"""The access log: one event for each request that was answered, or was not.

What is told of a request, and how it reads as a line of JSON. Where lines go is the caller's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Access", "json_lines"]


class Access(NamedTuple):
    """What became of one request.

    Attributes:
        peer: Whose connection it came over; a client's address, or that of a proxy before us.
        client: Who asked, as far as the peer is believed; the peer itself where it is not, and for what was
            refused while it was read.
        method: As sent; empty for what was refused while it was read.
        target: Path and query, as sent; empty likewise.
        status: What was answered; 0 for nothing, to a client that left.
        sent: Bytes that were written for it, head and body.
        seconds: From its head until its answer was written.
        replica: Who answered, as far as a handler says; else empty.
        whole: Whether the answer was written to its end.
    """

    peer: str
    client: str
    method: str
    target: str
    status: int
    sent: int
    seconds: float
    replica: str
    whole: bool


def json_lines(write: Callable[[str], object], clock: Callable[[], float]) -> Callable[[Access], None]:
    """Return a log that writes each event as one line of JSON.

    Args:
        write: Takes a line with its end, such as ``sys.stderr.write``.
        clock: Says in Unix seconds when a request was over, ``time.time``.
    """

    def log(access: Access) -> None:
        seconds = round(access.seconds, 6)
        event = {"time": round(clock(), 3), **access._replace(seconds=seconds)._asdict()}
        write(json.dumps(event) + "\n")

    return log
