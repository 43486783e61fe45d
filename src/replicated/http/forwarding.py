"""What of a request and a response travels on, and what a hop adds: hop-by-hop, Via, X-Forwarded-*.

Parse, rebuild, never forward: a field that belongs to one connection ends with it (RFC 9110, 7.6.1), and
the fields that say who asked are written new, from what was believed and not from what was sent.
"""

from __future__ import annotations

from .fields import find, find_all, token_list
from .identity import Client
from .message import Headers, Request

__all__ = ["forwarded_request", "forwarded_response", "is_loop"]

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection")
    + (b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
# Written anew on every hop, together with `expect`: the front has answered 100-continue itself.
REWRITTEN = frozenset(
    (b"expect", b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip")
    + (b"x-forwarded-port", b"x-forwarded-server", b"x-original-url", b"x-rewrite-url", b"via", b"host")
)
MOST_VIA = 16
"""Hops after which a request is taken for a loop even where each hop has a name of its own."""


def is_loop(headers: Headers, pseudonym: bytes) -> bool:
    """Return whether the request has passed this very tier before, or too many others."""
    hops = token_list(headers, b"via")
    return len(hops) > MOST_VIA or any(hop.split(b" ")[1:2] == [pseudonym.lower()] for hop in hops)


def forwarded_request(request: Request, client: Client, *, trusted: bool, pseudonym: bytes) -> Headers:
    """Return the header that goes on to a replica.

    Args:
        request: As it came in.
        client: Who asks, as believed.
        trusted: Whether the peer may say whom it speaks for; then its X-Forwarded-For is continued, else
            it is replaced, so that the application never sees what a stranger made up.
        pseudonym: What this tier calls itself in Via.
    """
    headers = request.headers
    dropped = {*HOP_BY_HOP, *REWRITTEN, *token_list(headers, b"connection")}
    host = find(headers, b"host") or b""
    forwarded = [(b"host", host)]
    forwarded += [line for line in headers if line[0] not in dropped]
    chain = find_all(headers, b"x-forwarded-for") if trusted else []
    peer = (request.peer or client.address).encode("latin-1")
    forwarded += [
        (b"x-forwarded-for", b", ".join([*chain, peer])),
        (b"x-forwarded-proto", client.scheme.encode()),
        (b"x-forwarded-host", host if client.host is None else client.host),
        (b"via", b", ".join([*find_all(headers, b"via"), b"1.1 " + pseudonym])),
    ]
    if request.body is not None and find(headers, b"content-length") is None:
        forwarded.append((b"transfer-encoding", b"chunked"))
    return forwarded


def forwarded_response(headers: Headers) -> Headers:
    """Return the header of a response as it goes on to the client: the same, less what ends with the hop."""
    nominated = token_list(headers, b"connection")
    dropped = HOP_BY_HOP.union(nominated) if nominated else HOP_BY_HOP
    return [line for line in headers if line[0] not in dropped]
