"""The head of a request as bytes on a wire: where it ends, and what it says, or why it is none.

Reads HTTP/1.1 as RFC 9112 writes it and nothing that merely looks like it: no bare LF, no folded line, no
space before a colon, one space where one is asked for. Knows no connection.

llhttp, as httptools offers it, is not used for this: it cannot be told to stop after one request, so that all
that a client pipelines is parsed at once; of what is wrong it says neither what nor which answer is due; and
most of what comes has come before. A client's header is the same in each of its requests, and a path the same
for each client, so that both are remembered, and only what is new is read.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from .fields import token_list
from .framing import IN_TARGET, IN_TOKEN, IN_VALUE, Limits, Violation, check_fields, check_method
from .message import Headers

__all__ = ["Fields", "Head", "HeadReader", "parse_line"]

VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
ABSOLUTE = re.compile(rb"https?://([^/?#@]*)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")}
REMEMBERED = 1024
"""How many request lines and how many headers are remembered; and bytes of one beyond which it is not."""
SLACK = 64
"""Bytes of a request line beside its target: a method, two spaces, a version."""


class Fields(NamedTuple):
    """What the header of a request says. It is remembered: whoever changes something, changes a copy.

    Attributes:
        headers: Names in lower case, values without the white space around them.
        named: The same as a mapping, where a name that is repeated has its last value.
        length: Bytes of the body; -1 for one in chunks, and 0 for none.
        close: Whether the client will close the connection.
        keep_alive: Whether it asks to keep it, as HTTP/1.0 must.
        expects: Whether it waits to be told to send the body.
        websocket: Whether it asks for the one protocol that there is a tunnel for (RFC 6455, 4.1).
        short: Whether it is remembered.
    """

    headers: Headers
    named: dict[bytes, bytes]
    length: int
    close: bool
    keep_alive: bool
    expects: bool
    websocket: bool
    short: bool


class Head(NamedTuple):
    """What the head of a request says.

    Attributes:
        method: A token.
        target: Path and query, or ``*``.
        minor: 1 for HTTP/1.1, 0 for HTTP/1.0.
        fields: Its header.
    """

    method: str
    target: bytes
    minor: int
    fields: Fields


class HeadReader:
    """Reads heads.

    Args:
        limits: What is too large to pass.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._line = functools.lru_cache(REMEMBERED)(self._new_line)
        self._fields = functools.lru_cache(REMEMBERED)(self._new_fields)

    def read(self, data: bytes, end: int, host: bytes = b"") -> Head | Violation:
        """Read a head. O(its length).

        Args:
            data: Begins with a head.
            end: Where that ends, without the empty line.
            host: The host of a request of HTTP/1.0 that names none.
        """
        first_end = data.find(b"\r\n")
        line = data[:first_end]
        text = data[first_end + 2 : end]
        found = self._line(line) if first_end <= REMEMBERED else self._new_line(line)
        if isinstance(found, Violation):
            return found
        fields = self._fields(text) if len(text) <= REMEMBERED else self._new_fields(text)
        if isinstance(fields, Violation):
            return fields
        method, target, minor = found
        if minor == 0 or b"host" not in fields.named or target[:1] != b"/":
            return self._unusual(Head(method, target, minor, fields), host)
        return Head(method, target, minor, fields)

    def not_yet(self, data: bytes) -> Violation | None:
        """Judge what has come of a head that has not ended: None while more may make it one."""
        limits = self.limits
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

    def _new_line(self, line: bytes) -> tuple[str, bytes, int] | Violation:
        """Read a request line."""
        parts = line.split(b" ")
        if len(parts) != 3:
            return Violation(400, "the request line must be a method, a target and a version")
        verb, target, version = parts
        if version != b"HTTP/1.1" and version != b"HTTP/1.0":
            if VERSION.fullmatch(version):
                return Violation(505, "the version must be HTTP/1.1 or HTTP/1.0")
            return Violation(400, "the request line must end with a version")
        method = METHODS.get(verb)
        if method is None:
            method = verb.decode("latin-1")
            violation = check_method(method)
            if violation is not None:
                return violation
        if len(target) > self.limits.target:
            return Violation(414, f"the request target is longer than {self.limits.target} bytes")
        if not target or target.translate(None, IN_TARGET):
            return Violation(400, "the request target has a character that it may not have")
        return method, target, 1 if version == b"HTTP/1.1" else 0

    def _new_fields(self, text: bytes) -> Fields | Violation:
        """Read a header; one without a host may yet be one of HTTP/1.0."""
        limits = self.limits
        if len(text) > limits.header_bytes:
            return Violation(431, f"the header is longer than {limits.header_bytes} bytes")
        lines = text.split(b"\r\n") if text else []
        if len(lines) > limits.header_count:
            return Violation(431, f"there are more than {limits.header_count} header lines")
        try:
            headers = [parse_line(line) for line in lines]
        except ValueError as error:
            return Violation(400, str(error))
        named = dict(headers)
        if b"host" in named:
            violation = check_fields(headers, named, limits)
        else:  # in both, or a line that is there twice would no longer show in their lengths
            violation = check_fields([*headers, (b"host", b"-")], {**named, b"host": b"-"}, limits)
        if violation is not None:
            return violation
        connection = token_list(headers, b"connection")
        return Fields(
            headers,
            named,
            -1 if b"transfer-encoding" in named else int(named.get(b"content-length", 0)),
            b"close" in connection,
            b"keep-alive" in connection,
            b"expect" in named,
            b"upgrade" in connection and named.get(b"upgrade", b"").lower() == b"websocket",
            len(text) <= REMEMBERED,
        )

    def _unusual(self, head: Head, host: bytes) -> Head | Violation:
        """Read on what is neither a path of HTTP/1.1 nor one of its hosts."""
        method, target, minor, fields = head
        named = fields.named
        if minor == 0 and b"transfer-encoding" in named:
            return Violation(400, "HTTP/1.0 has no transfer codings")
        if b"host" not in named:
            if minor == 1 or not host:
                return Violation(400, "there is no host, or it is not one")
            fields = fields._replace(
                headers=[(b"host", host), *fields.headers], named={**named, b"host": host}
            )
        if not target.startswith(b"/"):
            origin = origin_form(method, target, fields.named[b"host"])
            if origin is None:
                return Violation(400, "the request target must be a path, or a URL of the host that is asked")
            target = origin
        return Head(method, target, minor, fields)


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
