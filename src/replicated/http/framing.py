"""Whether a request may pass: its framing must be beyond doubt and its size within limits.

Judges a parsed head, never bytes on a wire. Where two readers could disagree on where a request ends,
one of them is being lied to: the answer is 400 and the connection ends (RFC 9112, 6.3 and 11.2).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from .fields import token_list
from .message import Headers

__all__ = [
    "IN_TARGET",
    "IN_TOKEN",
    "IN_VALUE",
    "Limits",
    "Violation",
    "check_fields",
    "check_method",
    "check_request",
]

DIGITS = re.compile(rb"[0-9]{1,18}")
HOST = re.compile(rb"(?:[A-Za-z0-9\-._~%!$&'()*+;=]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
MOST_HOST = 300  # a DNS name has at most 253 characters, an address fewer
# Deleting all that is allowed and looking for a rest is several times faster than a search for what is not.
IN_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# HTTP/2 can carry in a value, a method or a path what on an HTTP/1.1 wire would begin another line.
IN_VALUE = bytes({9, *range(32, 256)} - {127})
IN_TARGET = bytes({*range(33, 127)} - {ord("#")})  # beyond ASCII everything is percent-encoded (RFC 3986)
USUAL = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))
# What follows `Connection:` is removed on the way; naming one of these would disarm those who rely on it.
NEVER_NOMINATED = frozenset(
    (b"authorization", b"cache-control", b"content-length", b"content-type", b"cookie", b"forwarded", b"host")
    + (b"transfer-encoding", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto")
)
# To CGI, WSGI and PHP the underscore is a hyphen: a second length for whoever comes behind us.
TWINS = frozenset((b"content_length", b"transfer_encoding"))
SINGLE = (b"host", b"content-length", b"transfer-encoding", b"content-type", b"authorization")


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes beyond which a request is refused, and with what.

    Args:
        target: Bytes of the request target; beyond it 414. 8 KiB, as RFC 9110 (4.1) asks at least.
        header_bytes: Bytes of all header lines; beyond it 431.
        header_count: Number of header lines; beyond it 431.
        body: Bytes of a request body; beyond it 413. nginx's default is 1 MiB, HAProxy has none.

    Raises:
        ValueError: A limit is not a positive integer.
    """

    target: int = 8192
    header_bytes: int = 32768
    header_count: int = 100
    body: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer of bytes or lines, not {value!r}")


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a request may not pass.

    Args:
        status: 400, 405, 413, 414, 417, 431 or 501.
        detail: What is wrong with it, for the client.
        method: ``HEAD`` where it is known to be one, whose answer has no body whatever it says.
    """

    status: int
    detail: str
    method: str = ""


def check_request(method: str, target: bytes, headers: Headers, limits: Limits) -> Violation | None:
    """Return why a request may not pass, or None. O(size of the head)."""
    if method not in USUAL and (violation := check_method(method)) is not None:
        return violation
    if len(target) > limits.target:
        return Violation(414, f"the request target is longer than {limits.target} bytes")
    if not target.startswith(b"/") and not (method == "OPTIONS" and target == b"*"):
        return Violation(400, "the request target must be a path")
    if target.translate(None, IN_TARGET):
        return Violation(400, "the request target has a character that it may not have")
    if len(headers) > limits.header_count:
        return Violation(431, f"there are more than {limits.header_count} header lines")
    names = [name for name, _ in headers]
    all_names = b"".join(names)
    all_values = b"".join([value for _, value in headers])
    if len(all_names) + len(all_values) + 4 * len(headers) > limits.header_bytes:
        return Violation(431, f"the header is longer than {limits.header_bytes} bytes")
    if b"" in names or all_names.translate(None, IN_TOKEN):
        return Violation(400, "a header name has a character that it may not have")
    if all_values.translate(None, IN_VALUE):
        return Violation(400, "a header value has a character that it may not have")
    return check_fields(headers, dict(headers), limits)


def check_method(method: str) -> Violation | None:
    """Return why a request may not pass by its method, or None."""
    if method in ("CONNECT", "TRACE"):
        return Violation(405, f"{method} is not forwarded")
    if not method.isascii() or not method or method.encode().translate(None, IN_TOKEN):
        return Violation(400, "the method has a character that it may not have")
    return None


def check_fields(headers: Headers, fields: dict[bytes, bytes], limits: Limits) -> Violation | None:
    """Return why a request may not pass whose characters and sizes are known to be right, or None.

    Args:
        headers: Names in lower case.
        fields: The same as a mapping.
        limits: What is too large to pass.
    """
    if len(fields) < len(headers):
        names = [name for name, _ in headers]
        for name in SINGLE:
            if names.count(name) > 1:
                return Violation(400, f"there is more than one {name.decode()} line")
    if not TWINS.isdisjoint(fields):
        return Violation(400, "content_length and transfer_encoding are too like what they are not")
    violation = framing_violation(fields, limits)
    if violation is None and b"connection" in fields:
        violation = nomination_violation(headers)
    return violation


@functools.lru_cache(1024)
def is_host(host: bytes) -> bool:
    """Return whether ``host`` can be a host and a port; remembered, since hosts repeat."""
    return HOST.fullmatch(host) is not None


def framing_violation(fields: dict[bytes, bytes], limits: Limits) -> Violation | None:
    """Return what leaves doubt about where the request ends or whom it is for."""
    host = fields.get(b"host")
    if host is None or len(host) > MOST_HOST or not is_host(host):
        return Violation(400, "there is no host, or it is not one")
    length = fields.get(b"content-length")
    coding = fields.get(b"transfer-encoding")
    if length is not None and coding is not None:
        return Violation(400, "both content-length and transfer-encoding are given")
    if coding is not None and coding.lower() != b"chunked":
        return Violation(501, "the only transfer coding understood is chunked")
    if length is not None:
        if not DIGITS.fullmatch(length):
            return Violation(400, "content-length is not a number")
        if int(length) > limits.body:
            return Violation(413, f"the body is longer than {limits.body} bytes")
    if b"expect" in fields and fields[b"expect"].lower() != b"100-continue":
        return Violation(417, "the only expectation understood is 100-continue")
    return None


def nomination_violation(headers: Headers) -> Violation | None:
    """Return whether the Connection field asks for the removal of what others rely on."""
    for name in token_list(headers, b"connection"):
        if name in NEVER_NOMINATED:
            return Violation(400, f"connection may not name {name.decode('latin-1')}")
    return None
