"""Ranges of bytes (RFC 9110, 14): which a request asks for, which an answer brings, how several make one.

Reads fields and cuts; it does not know what is stored, nor whether that may be used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from .fields import find, find_all
from .message import Headers, Response

__all__ = ["Span", "content_range", "partial", "single", "spans"]

MOST_RANGES = 16
"""Ranges of one request; more are answered with the whole, which costs no more than they would."""
SHORT = 80
"""Bytes between two ranges that are sent along: the head of another part is about as long."""
UNIT = b"bytes="
RANGE = re.compile(rb"(\d{1,18})-(\d{1,18})?|-(\d{1,18})")
CONTENT_RANGE = re.compile(rb"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.IGNORECASE)
DESCRIBES_BODY = frozenset((b"content-length", b"content-range", b"content-type", b"content-encoding"))


class Span(NamedTuple):
    """What a part is of its whole: the first byte, the last one, and how long the whole is."""

    first: int
    last: int
    size: int

    @property
    def length(self) -> int:
        """Bytes of the part."""
        return self.last + 1 - self.first


def content_range(headers: Headers) -> Span | None:
    """Return which part a response brings; None unless it says that once, and of how many bytes."""
    said = find_all(headers, b"content-range")
    found = CONTENT_RANGE.fullmatch(said[0]) if len(said) == 1 else None
    if found is None:
        return None
    span = Span(*map(int, found.groups()))
    return span if span.first <= span.last < span.size else None


def single(headers: Headers) -> str | None:
    """Return the one range that a request asks for, in one way of writing it; None for several, or none."""
    said = find_all(headers, b"range")
    if len(said) != 1 or said[0][: len(UNIT)].lower() != UNIT:
        return None
    found = RANGE.fullmatch(said[0][len(UNIT) :].strip(b" \t"))
    if found is None:
        return None
    first, last, suffix = ("" if number is None else str(int(number)) for number in found.groups())
    return f"-{suffix}" if suffix else f"{first}-{last}"


def spans(wanted: bytes, size: int) -> list[tuple[int, int]] | None:
    """Return the first and the last byte of each range that is asked for of so many bytes.

    Those that overlap or lie close together are one (RFC 9110, 15.3.7.2), so that all of them are never
    longer than the whole. Empty where none can be had; None where the field is to be ignored.

    Args:
        wanted: The value of Range.
        size: Bytes of the whole.
    """
    wanted = wanted.strip(b" \t")
    if wanted[: len(UNIT)].lower() != UNIT:
        return None
    asked = wanted[len(UNIT) :].split(b",", MOST_RANGES)
    if len(asked) > MOST_RANGES:
        return None
    found, said = [], False
    for turn, text in enumerate(asked):
        text = text.strip(b" \t")
        if not text:
            continue  # a list may have empty members (RFC 9110, 5.6.1)
        numbers = RANGE.fullmatch(text)
        if numbers is None:
            return None
        said = True
        if numbers[3] is not None:
            first, last = max(0, size - int(numbers[3])), size - 1
        else:
            first, last = int(numbers[1]), size - 1
            if numbers[2] is not None:
                if int(numbers[2]) < first:
                    return None  # no range at all
                last = min(last, int(numbers[2]))
        if first <= last:
            found.append((first, last, turn))
    if len(found) < 2:
        return [(first, last) for first, last, _ in found] if said else None
    merged: list[tuple[int, int, int]] = []
    for first, last, turn in sorted(found):
        if merged and first <= merged[-1][1] + SHORT:
            before = merged.pop()
            first, last, turn = before[0], max(before[1], last), min(before[2], turn)
        merged.append((first, last, turn))
    # In the order in which they were asked for.
    return [(first, last) for first, last, _ in sorted(merged, key=lambda span: span[2])]


def partial(headers: Headers, size: int, parts: Sequence[tuple[int, int, bytes]]) -> Response:
    """Return the 206 that brings parts of a whole, or the 416 where there are none.

    Args:
        headers: Those of the whole.
        size: Its bytes.
        parts: The first and the last byte of each, and the bytes.
    """
    if not parts:
        kept = [line for line in headers if line[0] not in DESCRIBES_BODY]
        return Response(416, [*kept, (b"content-range", b"bytes */%d" % size), (b"content-length", b"0")])
    kept = [line for line in headers if line[0] not in (b"content-length", b"content-range")]
    if len(parts) == 1:
        [(first, last, body)] = parts
        kept.append((b"content-range", b"bytes %d-%d/%d" % (first, last, size)))
    else:
        kind = find(headers, b"content-type")
        kept = [line for line in kept if line[0] != b"content-type"]
        boundary, body = multipart(kind, size, parts)
        kept.append((b"content-type", b"multipart/byteranges; boundary=" + boundary))
    return Response(206, [*kept, (b"content-length", b"%d" % len(body))], body)


def multipart(kind: bytes | None, size: int, parts: Sequence[tuple[int, int, bytes]]) -> tuple[bytes, bytes]:
    """Return a boundary and the body that it separates (RFC 9110, 14.6)."""
    # No text holds its own digest: so the boundary stands in no part, whoever has written them.
    digest = hashlib.blake2b(digest_size=16)
    for _, _, body in parts:
        digest.update(body)
    boundary = digest.hexdigest().encode()
    said = b"" if kind is None else b"Content-Type: %b\r\n" % kind
    pieces: list[bytes] = []
    for first, last, body in parts:
        head = b"\r\n--%b\r\n%bContent-Range: bytes %d-%d/%d\r\n\r\n"
        pieces += (head % (boundary, said, first, last, size), body)
    return boundary, b"".join((*pieces, b"\r\n--%b--\r\n" % boundary))
