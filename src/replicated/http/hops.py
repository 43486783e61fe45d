"""What forwarding fields say: one entry a hop, from the right, where the nearest hop has written.

It reads how X-Forwarded-For and Forwarded (RFC 7239) are spelt; whom to believe is not known here. Entries
are told apart from the right: a client can send the beginning of anything, a quote that it never closes
included, and must not swallow by it what our own proxy has appended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .fields import find_all
from .message import Headers

__all__ = ["MOST_HOPS", "Hop", "forwarded", "x_forwarded_for"]

MOST_HOPS = 32
"""Entries that are looked at; a longer chain is the work of a stranger."""

MOST_ENTRY = 1024
"""Bytes of one entry of Forwarded: four parameters of the longest names that DNS allows fit."""

# A value may also stand without the quotes that ports and brackets ask for: some proxies leave them out, and
# where an entry begins and ends does not depend on it.
PAIR = re.compile(rb"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s",;\\]+)""")
ENTRY = re.compile(rb"(?:%b)(?:[ \t]*;[ \t]*(?:%b))*" % (PAIR.pattern, PAIR.pattern))
QUOTED_PAIR = re.compile(rb"\\(.)")


class Hop(NamedTuple):
    """What one hop has said of the request that it passed on.

    Attributes:
        node: Who sent it, as written: an address with or without a port, or a word that is none.
        proto: The scheme by which it came, or None where the hop does not say.
        host: The host that it asked for, or None where the hop does not say.
    """

    node: str
    proto: bytes | None = None
    host: bytes | None = None


def x_forwarded_for(headers: Headers) -> Iterator[Hop]:
    """Yield the entries of X-Forwarded-For from the right, over all its lines, at most 32."""
    lines = find_all(headers, b"x-forwarded-for")
    if lines:
        # All lines are one list (RFC 9110, 5.3); rsplit bounds the work on a list of ten thousand.
        for entry in reversed(b",".join(lines).rsplit(b",", MOST_HOPS)[-MOST_HOPS:]):
            yield Hop(entry.strip().decode("latin-1"))


def forwarded(headers: Headers) -> Iterator[Hop]:
    """Yield the entries of Forwarded from the right, over all its lines: at most 32, up to a malformed."""
    looks = MOST_HOPS
    for line in reversed(find_all(headers, b"forwarded")):
        end: int | None = len(line)
        while end is not None and end >= 0:
            start = beginning(line, end)
            looks -= 1
            if start is None or looks < 0:
                return
            entry = line[start:end].strip(b" \t")
            if entry:  # lists may have empty members (RFC 9110, 5.6.1)
                said = parameters(entry)
                if said is None:
                    return
                yield Hop(said.get(b"for", b"").decode("latin-1"), said.get(b"proto"), said.get(b"host"))
            end = start - 1


def beginning(line: bytes, end: int) -> int | None:
    """Return where the entry begins that ends at ``end``; None where that cannot be told.

    In an entry that is well formed a quote that is not escaped begins or ends a string, read from either
    side; so what stands to the left of our proxy's entry cannot move where that begins.
    """
    low = max(0, end - MOST_ENTRY)
    at = end
    while True:
        comma, quote = line.rfind(b",", low, at), line.rfind(b'"', low, at)
        if comma >= quote:
            return comma + 1 if comma >= 0 else 0 if low == 0 else None
        at = opening(line, low, quote)
        if at < 0:
            return None


def opening(line: bytes, low: int, closing: int) -> int:
    """Return where the string begins whose last quote is at ``closing``; -1 for nowhere."""
    at = closing
    while (at := line.rfind(b'"', low, at)) >= 0:
        before = line[low:at]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            break
    return at


def parameters(entry: bytes) -> dict[bytes, bytes] | None:
    """Return the parameters of an entry by name in lower case; None for one that is malformed."""
    if not ENTRY.fullmatch(entry):
        return None
    said: dict[bytes, bytes] = {}
    for name, value in PAIR.findall(entry):
        if said.setdefault(name.lower(), value) is not value:
            return None  # each at most once (RFC 7239, 4)
    return {
        name: QUOTED_PAIR.sub(rb"\1", value[1:-1]) if value.startswith(b'"') else value
        for name, value in said.items()
    }
