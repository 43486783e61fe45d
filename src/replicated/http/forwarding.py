"""What of a request and a response travels on, and what a hop adds: hop-by-hop, Via, X-Forwarded-*.

Parse, rebuild, never forward: a field that belongs to one connection ends with it (RFC 9110, 7.6.1), and
the fields that say who asked are written new, from what was believed and not from what was sent.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from .fields import find, find_all, token_list
from .identity import Client
from .message import Headers, Request

__all__ = ["forwarded_request", "forwarded_response", "is_loop", "switches", "wants_tunnel"]

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection")
    + (b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
# Written anew on every hop, as all of X-Forwarded-* is, together with `expect`: the front has answered
# 100-continue itself.
REWRITTEN = frozenset(
    (b"expect", b"forwarded", b"host", b"via", b"x-original-url", b"x-real-ip", b"x-rewrite-url")
)
SWITCH: Headers = [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
MOST_VIA = 16
"""Hops after which a request is taken for a loop even where each hop has a name of its own."""


def is_loop(headers: Headers, pseudonym: bytes) -> bool:
    """Return whether the request has passed this very tier before, or too many others."""
    hops = token_list(headers, b"via")
    if not hops:
        return False
    return len(hops) > MOST_VIA or any(hop.split()[1:2] == [pseudonym.lower()] for hop in hops)


def switches(headers: Headers) -> bool:
    """Return whether a header asks for, or grants, a switch to WebSocket: the one protocol passed through."""
    return b"upgrade" in token_list(headers, b"connection") and b"websocket" in token_list(
        headers, b"upgrade"
    )


def wants_tunnel(request: Request) -> bool:
    """Return whether a request opens a WebSocket, over a front that can switch to one."""
    return (
        request.upgrade is not None
        and request.method == "GET"
        and request.body is None
        and switches(request.headers)
    )


@functools.lru_cache(256)
def travels(name: bytes) -> bool:
    """Return whether a request's field goes on as it came; remembered, since names repeat.

    To CGI, WSGI and PHP ``X_Forwarded_For`` is X-Forwarded-For: what is ours is so in either spelling.
    """
    name = name.replace(b"_", b"-")
    return name not in HOP_BY_HOP and name not in REWRITTEN and not name.startswith(b"x-forwarded-")


def written_anew(
    peer: str,
    scheme: str,
    host: bytes,
    pseudonym: bytes,
    chain: Sequence[bytes] = (),
    hops: Sequence[bytes] = (),
) -> Headers:
    """Return the lines that this hop writes, behind those who passed the request on before."""
    return [
        (b"x-forwarded-for", b", ".join((*chain, peer.encode("latin-1")))),
        (b"x-forwarded-proto", scheme.encode()),
        (b"x-forwarded-host", host),
        (b"via", b", ".join((*hops, b"1.1 " + pseudonym))),
    ]


# A client's requests are alike in them; what it could make long is not among them but for the host, which is
# short by then.
usual = functools.lru_cache(1024)(written_anew)


def forwarded_request(request: Request, client: Client, *, trusted: bool, pseudonym: bytes) -> Headers:
    """Return the header that goes on to a replica.

    Args:
        request: As it came in.
        client: Who asks, as believed.
        trusted: Whether the peer's X-Forwarded-For is to be believed; then it is continued, else it is
            replaced by what is believed, so that the application never sees what a stranger made up.
        pseudonym: What this tier calls itself in Via.
    """
    headers = request.headers
    host = find(headers, b"host") or b""
    forwarded = [(b"host", host)]
    others: Headers = []  # few: most lines travel on, and are looked at once
    for line in headers:
        (forwarded if travels(line[0]) else others).append(line)
    if nominated := token_list(others, b"connection"):
        forwarded[1:] = [line for line in forwarded[1:] if line[0] not in nominated]
    peer = request.peer or client.address or "unknown"
    asked = host if client.host is None else client.host
    hops = find_all(others, b"via")
    if trusted:
        chain = find_all(others, b"x-forwarded-for")
    else:
        chain = [client.address.encode("latin-1")] if client.address not in ("", request.peer) else []
    if hops or chain:
        forwarded += written_anew(peer, client.scheme, asked, pseudonym, chain, hops)
    else:
        forwarded += usual(peer, client.scheme, asked, pseudonym)
    if request.body is not None:
        if find(forwarded, b"content-length") is None:
            forwarded.append((b"transfer-encoding", b"chunked"))
    elif wants_tunnel(request):
        forwarded += SWITCH
    return forwarded


def forwarded_response(headers: Headers, status: int = 200) -> Headers:
    """Return the header of a response as it goes on to the client: the same, less what ends with the hop.

    A 204 may have no Content-Length and a 304 need not (RFC 9110, 8.6); servers count a body by it. A 101
    says anew to what the protocol is switched.
    """
    nominated = token_list(headers, b"connection")
    dropped = HOP_BY_HOP.union(nominated) if nominated else HOP_BY_HOP
    if status == 101:
        return [line for line in headers if line[0] not in dropped] + SWITCH
    if status in (204, 304):
        dropped |= {b"content-length"}
    return [line for line in headers if line[0] not in dropped]
