"""The head of a request as bytes on a wire: where it ends, and what it says, or why it is none.

Reads HTTP/1.1 as RFC 9112 writes it and nothing that merely looks like it: no bare LF, no folded line, no
space before a colon, one space where one is asked for. Whether the request that it finds may pass is not
known here.

llhttp, as httptools offers it, is not used for this: it cannot be told to stop after one request, so that all
that a client pipelines is parsed at once; of what is wrong it says neither what nor which answer is due; and
lines that are remembered are cheaper than a callback for each.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from .fields import token_list
from .framing import IN_TARGET, IN_TOKEN, IN_VALUE, Limits, Violation, check_fields
from .message import Headers

__all__ = ["Head", "no_head_yet", "parse_head"]

VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
ABSOLUTE = re.compile(rb"https?://([^/?#@]*)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")}
REMEMBERED = 256  # bytes of a line that is remembered; longer ones are cookies and tokens, and differ
SLACK = 64  # bytes of a request line beside its target: a method, two spaces, a version


class Head(NamedTuple):
    """What a request's head says.

    Attributes:
        method: A token.
        target: Path and query, or ``*``.
        minor: 1 for HTTP/1.1, 0 for HTTP/1.0.
        headers: Names in lower case, values without the white space around them.
        fields: The same as a mapping, where a name that is repeated has its last value.
        length: Bytes of the body; -1 for one in chunks, and 0 for none.
    """

    method: str
    target: bytes
    minor: int
    headers: Headers
    fields: dict[bytes, bytes]
    length: int

    @property
    def keeps_alive(self) -> bool:
        """Whether the client would send another request over this connection."""
        if b"connection" not in self.fields:
            return self.minor == 1
        asked = token_list(self.headers, b"connection")
        return b"close" not in asked and (self.minor == 1 or b"keep-alive" in asked)


def parse_head(data: bytes, limits: Limits, host: bytes = b"") -> Head | Violation:
    """Read a head. O(its length).

    Args:
        data: The head, without the empty line at its end.
        limits: What is too large to pass.
        host: The host of a request of HTTP/1.0 that names none.
    """
    first, *lines = data.split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3:
        return Violation(400, "the request line must be a method, a target and a version")
    verb, target, version = parts
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":
        if VERSION.fullmatch(version):
            return Violation(505, "the version must be HTTP/1.1 or HTTP/1.0")
        return Violation(400, "the request line must end with a version")
    method = METHODS.get(verb)
    if method is None:
        if not verb or verb.translate(None, IN_TOKEN):
            return Violation(400, "the method has a character that it may not have")
        method = verb.decode("ascii")
        if method in ("CONNECT", "TRACE"):
            return Violation(405, f"{method} is not forwarded")
    if len(target) > limits.target:
        return Violation(414, f"the request target is longer than {limits.target} bytes")
    if target.translate(None, IN_TARGET):
        return Violation(400, "the request target has a character that it may not have")
    if len(lines) > limits.header_count:
        return Violation(431, f"there are more than {limits.header_count} header lines")
    if len(data) - len(first) > limits.header_bytes:
        return Violation(431, f"the header is longer than {limits.header_bytes} bytes")
    try:
        headers = [remembered(line) if len(line) <= REMEMBERED else parse_line(line) for line in lines]
    except ValueError as error:
        return Violation(400, str(error))
    fields = dict(headers)
    minor = 1 if version == b"HTTP/1.1" else 0
    if minor == 0:
        if b"transfer-encoding" in fields:
            return Violation(400, "HTTP/1.0 has no transfer codings")
        if b"host" not in fields and host:
            fields[b"host"] = host
            headers.append((b"host", host))
    violation = check_fields(headers, fields, limits)
    if violation is not None:
        return violation
    if not target.startswith(b"/"):
        origin = origin_form(method, target, fields[b"host"])
        if origin is None:
            return Violation(400, "the request target must be a path, or a URL of the host that is asked")
        target = origin
    length = -1 if b"transfer-encoding" in fields else int(fields.get(b"content-length", 0))
    return Head(method, target, minor, headers, fields, length)


def parse_line(line: bytes) -> tuple[bytes, bytes]:
    """Read one line of a header.

    Raises:
        ValueError: It is none.
    """
    name, colon, value = line.partition(b":")
    if not colon or not name or name.translate(None, IN_TOKEN):
        raise ValueError("a header line must begin with a name and a colon")
    if value.translate(None, IN_VALUE):
        raise ValueError("a header value has a character that it may not have")
    return name.lower(), value.strip(b" \t")


# The lines of one client repeat with each of its requests, and many clients send the same ones. What is
# remembered is only what is well-formed: an exception is not kept.
remembered = functools.lru_cache(2048)(parse_line)


def origin_form(method: str, target: bytes, host: bytes) -> bytes | None:
    """Return path and query of a URL, or None where that is not one of ``host`` (RFC 9112, 3.2.2).

    RFC 9112 has the URL's authority win over Host. Where the two differ, whoever is behind us may see it the
    other way: nobody honest sends that.
    """
    if target == b"*":
        return target if method == "OPTIONS" else None
    found = ABSOLUTE.fullmatch(target)
    if found is None or found[1].lower() != host.lower():
        return None
    rest = found[2] or b""
    if rest.startswith(b"/"):
        return rest
    return b"*" if method == "OPTIONS" and not rest else b"/" + rest


def no_head_yet(data: bytes, limits: Limits) -> Violation | None:
    """Judge what has come of a head that has not ended: None while more may make it one."""
    if data[:1].translate(None, IN_TOKEN) and not b"\r\n".startswith(data[:2]):
        return Violation(400, "this does not begin as a request does")
    if data.count(b"\n") != data.count(b"\r\n"):
        return Violation(400, "a line must end with CR and LF")
    end = data.find(b"\r\n", 2)
    if (len(data) if end < 0 else end) > limits.target + SLACK:
        return Violation(414, f"the request target is longer than {limits.target} bytes")
    if end >= 0 and len(data) - end > limits.header_bytes + 4:
        return Violation(431, f"the header is longer than {limits.header_bytes} bytes")
    return None
