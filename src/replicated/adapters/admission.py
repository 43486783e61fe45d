"""Admission: those who have had enough are refused, before a byte of their body is read.

Acts on what the tier's throttle decides. Knows no replica.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..http.fields import problem, retry_after
from ..http.identity import Client, Identity
from ..http.message import Handler, Headers, Request, Response
from ..http.ratelimit import with_ratelimit
from ..throttle import TellsQuotas
from ..tier import Tier

__all__ = ["ThrottleKey", "admission", "too_many"]

ThrottleKey: TypeAlias = Callable[[Client, Request], str | None]
"""Names whom a request counts against; None for nobody."""


def admission(
    inner: Handler, tier: Tier, identity: Identity, key_of: ThrottleKey, *, fields: bool = False
) -> Handler:
    """Refuse those who have had enough, before a byte of their body is read.

    Args:
        inner: Answers those who may.
        tier: Whose throttle counts.
        identity: Finds out who asks.
        key_of: Whom a request counts against.
        fields: Say in RateLimit and RateLimit-Policy what is left, on each answer to a request that counts.

    Raises:
        TypeError: ``fields`` are asked of a throttle that does not tell what is left.
    """
    tells: TellsQuotas | None = None
    if fields:
        if not isinstance(tier.throttle, TellsQuotas):
            raise TypeError(f"fields need a throttle that tells what is left, not {tier.throttle!r}")
        tells = tier.throttle

    async def handle(request: Request) -> Response:
        client = identity.client(request.peer, request.scheme, request.headers)
        key = key_of(client, request)
        if key is None:
            return await inner(request)
        refusal = tier.admit(key)
        response = await inner(request) if refusal is None else too_many(refusal.retry_after)
        if tells is not None:
            response.headers = with_ratelimit(response.headers, tells.quotas(key))
        return response

    return handle


def too_many(wait: float, extra: Headers | None = None) -> Response:
    """Return the answer to a client that has had enough for ``wait`` seconds (RFC 6585, 4)."""
    return problem(429, "too many requests", [(b"retry-after", retry_after(wait)), *(extra or ())])
