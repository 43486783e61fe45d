"""Where a replica listens, as its URL says; and whose fault it is when no connection to it comes about.

Reads text and errors. Opens nothing.
"""

from __future__ import annotations

import errno
import functools
import re
import socket
import ssl
import urllib.parse
from typing import NamedTuple

from ...errors import UpstreamExhausted, UpstreamUnreachable

__all__ = ["Origin", "authority", "origin_of", "unreachable"]

HOST = re.compile(r"[A-Za-z0-9._~-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._~-]+)?")
OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))
"""Of this process or this host: descriptors, memory and ephemeral ports that are used up."""
KINDS: tuple[tuple[type[Exception], str], ...] = (
    (socket.gaierror, "dns_error"),
    (UnicodeError, "dns_error"),
    (ssl.SSLCertVerificationError, "tls_certificate_error"),
    (ssl.SSLError, "tls_protocol_error"),
    (ConnectionRefusedError, "connection_refused"),
)


class Origin(NamedTuple):
    """Where a replica listens: what a URL says, checked once.

    Attributes:
        host: Name or address.
        port: TCP port.
        tls: Whether it is https.
    """

    host: str
    port: int
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Read ``http://host:port`` or ``https://host``.

        Raises:
            ValueError: It is not such a URL, or has a path, a query or a user.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"url must be http://host:port, not {url!r}: {error}") from None
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not HOST.fullmatch(host) or port == 0:
            raise ValueError(f"url must be http://host:port, not {url!r}")
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"url must name an origin alone, without path, query or user, not {url!r}")
        tls = parts.scheme == "https"
        return cls(host, (443 if tls else 80) if port is None else port, tls)


origin_of = functools.lru_cache(4096)(Origin.parse)
"""``Origin.parse``, remembered: the URLs of replicas repeat."""


def authority(host: str, port: int | str) -> str:
    """Return a host and a port as they stand in a URL, where an IPv6 address has brackets around it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unreachable(origin: Origin, error: Exception) -> UpstreamUnreachable:
    """Return what to raise where a connection failed: by whose fault, and as RFC 9209 names it."""
    message = f"no connection to {origin.host}:{origin.port}: {error}"
    if isinstance(error, OSError) and error.errno in OURS:
        return UpstreamExhausted(message)
    for kind, name in KINDS:
        if isinstance(error, kind):
            return UpstreamUnreachable(message, name)
    return UpstreamUnreachable(message)
