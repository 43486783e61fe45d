"""Proxy-Status (RFC 9209): what a proxy says of an answer that is its own, or that it could not better.

Text alone. Which answers carry it, and what went wrong, is decided above. The next hop is never named: a
client has no business with the addresses of replicas.
"""

from __future__ import annotations

import functools
import re

__all__ = ["proxy_status"]

TOKEN = re.compile(rb"[A-Za-z*][A-Za-z0-9!#$%&'*+\-.^_`|~:/]*")


@functools.lru_cache(256)
def proxy_status(pseudonym: bytes, *, error: str = "", received: int | None = None) -> tuple[bytes, bytes]:
    """Return the field as a line of a header.

    Args:
        pseudonym: What this tier calls itself, as in Via.
        error: The type of error, one of RFC 9209 (2.3), where the answer is the proxy's own.
        received: The status that a replica answered, where that is passed on because no other replica could
            be asked.
    """
    value = pseudonym if TOKEN.fullmatch(pseudonym) else b'"%b"' % pseudonym
    if error:
        value += b"; error=" + error.encode("ascii")
    if received is not None:
        value += b"; received-status=%d" % received
    return b"proxy-status", value
