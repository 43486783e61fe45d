"""Header fields: how to read them as the RFCs say, and those that our own answers carry.

Knows no connection and no body. Lists are read over all lines of a field (RFC 9110, 5.3), because the
second line is where a request is smuggled.
"""

from __future__ import annotations

import json
import math
import re
from http import HTTPStatus

from .message import Headers, Response

__all__ = ["entity_tag_matches", "find", "find_all", "problem", "retry_after", "token_list"]

QUOTED_OR_COMMA = re.compile(rb'"(?:[^"\\]|\\.)*"|,')


def find(headers: Headers, name: bytes) -> bytes | None:
    """Return the value of the first line called ``name`` (lower case), or None. O(n)."""
    for field, value in headers:
        if field == name:
            return value
    return None


def find_all(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of all lines called ``name`` (lower case), in order. O(n)."""
    return [value for field, value in headers if field == name]


def token_list(headers: Headers, name: bytes) -> list[bytes]:
    """Return the members of a comma-separated field over all its lines, lower-cased, empty ones dropped."""
    lines = [value for field, value in headers if field == name]
    if not lines:
        return lines
    return [token for part in b",".join(lines).lower().split(b",") if (token := part.strip(b" \t"))]


def entity_tag_matches(if_none_match: bytes, etag: bytes) -> bool:
    """Compare a validator with ``If-None-Match``, weakly, as RFC 9110 (13.1.2) asks of a GET."""
    if if_none_match.strip() == b"*":
        return True
    wanted = etag.removeprefix(b"W/")
    members, start = [], 0
    for found in QUOTED_OR_COMMA.finditer(if_none_match):
        if found.group() == b",":  # a comma within quotes belongs to the tag
            members.append(if_none_match[start : found.start()])
            start = found.end()
    members.append(if_none_match[start:])
    return any(member.strip(b" \t").removeprefix(b"W/") == wanted for member in members)


def retry_after(seconds: float) -> bytes:
    """Return ``seconds`` as a Retry-After value: whole seconds, rounded up, never 0.

    Rounding down would invite the client into a second refusal, and 0 into a tight loop. Longer than what
    RFC 9111 (1.2.2) asks a reader of seconds to understand is said as that.
    """
    return b"%d" % math.ceil(min(max(1.0, seconds), 2.0**31))


def problem(status: int, detail: str, extra: Headers | None = None) -> Response:
    """Return an answer of our own as problem details (RFC 9457): never cached, no secrets in it."""
    document = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body = json.dumps(document).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *(extra or ()),
    ]
    return Response(status, headers, body)
