"""A stored response as bytes, and back: what caches hand each other through a server that they share.

Decides what such bytes must be to be taken for a response. They are read as a stranger's: whatever could not
have been stored here is no response, whoever wrote it. It knows no server and no clock: instants are written
as seconds since one that both sides know.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .fields import find_all, token_list
from .message import Headers
from .stored import Stored

__all__ = ["pack", "unpack"]

VERSION = b"1"
"""What the bytes begin with. A reader that knows another one reads nothing, and asks the origin."""
HEAD = re.compile(VERSION + rb" (\d{1,9})\n")
NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
VALUE = re.compile(r"[\t -~\x80-\xff]*")
"""What a field may hold on its way to a client: a line end within it would be the beginning of another."""
NEVER = frozenset(
    (b"age", b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authentication-info")
    + (b"proxy-connection", b"set-cookie", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
LONGEST = 10.0 * 366 * 86400
"""Seconds from which an instant is none."""


def pack(stored: Stored, since: float) -> bytes:
    """Return ``stored`` as bytes, its instants as seconds since ``since``."""
    times = (stored.born, stored.fresh_until, stored.grace_until, stored.keep_until)
    head = {
        "status": stored.status,
        "headers": text(stored.headers),
        "vary": text(stored.vary),
        "times": [round(instant - since, 6) for instant in times],
        "assumed": stored.assumed,
    }
    packed = json.dumps(head, separators=(",", ":")).encode()
    return b"%b %d\n%b%b" % (VERSION, len(packed), packed, stored.body)


def unpack(data: bytes, since: float) -> Stored:
    """Return the response that bytes say, with the instant that stands here for what was ``since`` there.

    Raises:
        ValueError: They are none, or one that is never stored.
    """
    found = HEAD.match(data)
    if found is None:
        raise ValueError("it does not begin as a stored response of this version")
    end = found.end() + int(found[1])
    try:
        head: Any = json.loads(data[found.end() : end])
        status, assumed = head["status"], head["assumed"]
        headers, vary = lines(head["headers"]), lines(head["vary"])
        born, *until = (since + seconds(value) for value in head["times"])
        fresh, grace, keep = until
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"its head is none: {error!r}") from None
    body = data[end:]
    if type(status) is not int or not 200 <= status <= 599 or status in (206, 304):
        raise ValueError(f"status {status!r} is never stored")
    if type(assumed) is not bool:
        raise ValueError(f"assumed must be true or false, not {assumed!r}")
    if not NEVER.isdisjoint(name for name, _ in headers):
        raise ValueError("it has fields that are never stored")
    if find_all(headers, b"content-length") != [b"%d" % len(body)] and (status != 204 or body):
        raise ValueError("its body is not as long as it says")
    if [name for name, _ in vary] != sorted(set(token_list(headers, b"vary"))) or (b"*", b"") in vary:
        raise ValueError("it was not selected by what its Vary names")
    return Stored(status, headers, body, tuple(vary), born, fresh, grace, keep, assumed)


def text(headers: Any) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def lines(said: Any) -> Headers:
    """Return header lines that were text."""
    if not isinstance(said, list):
        raise ValueError(f"header lines must be a list, not {said!r}")
    read = []
    for name, value in said:
        if not (NAME.fullmatch(name) and VALUE.fullmatch(value)):
            raise ValueError(f"{name!r}: {value!r} is no header line")
        read.append((name.encode("latin-1"), value.encode("latin-1")))
    return read


def seconds(value: object) -> float:
    if type(value) not in (int, float) or not -LONGEST < value < LONGEST:  # type: ignore[operator]
        raise ValueError(f"{value!r} is no number of seconds")
    return float(value)  # type: ignore[arg-type]
