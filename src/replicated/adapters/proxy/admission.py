"""Admission: those who have had enough are refused, before a byte of their body is read.

Acts on what a throttle decides: the tier's own, or one that replicas share. Knows no replica.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import TypeAlias

from ...http.fields import problem, retry_after
from ...http.identity import Client, Identity
from ...http.message import Handler, Headers, Request, Response
from ...http.ratelimit import with_ratelimit
from ...throttle import Admits, AdmitsLater, Quota, TellsQuotas, Told
from ...tier import Tier

__all__ = ["ThrottleKey", "admission", "left", "taken", "telling", "too_many"]

ThrottleKey: TypeAlias = Callable[[Client, Request], str | None]
"""Names whom a request counts against; None for nobody."""


def admission(
    inner: Handler,
    tier: Tier,
    identity: Identity,
    key_of: ThrottleKey,
    *,
    throttle: Admits | AdmitsLater | None = None,
    fields: bool = False,
) -> Handler:
    """Refuse those who have had enough, before a byte of their body is read.

    Args:
        inner: Answers those who may.
        tier: Whose throttle counts, where no other is given.
        identity: Finds out who asks.
        key_of: Whom a request counts against.
        throttle: Counts, as ``ThrottleMiddleware`` takes it.
        fields: Say in RateLimit and RateLimit-Policy what is left, on each answer to a request that counts.

    Raises:
        TypeError: ``fields`` are asked of a throttle that does not tell what is left.
    """
    counts = tier.throttle if throttle is None else throttle
    tells = telling(counts) if fields else None

    def handle(request: Request) -> Awaitable[Response]:
        client = identity.client(request.peer, request.scheme, request.headers)
        key = key_of(client, request)
        if key is None or counts is None:
            return inner(request)
        wait = counts.take(key)
        if tells is None and isinstance(wait, float | int):
            return inner(request) if wait <= 0 else too_many(wait)
        return later(request, key, wait)

    async def later(request: Request, key: str, answer: float | Awaitable[float]) -> Response:
        wait = await taken(answer)
        response = await inner(request) if wait <= 0 else too_many(wait)
        if tells is not None:
            response.headers = with_ratelimit(response.headers, left(tells, key, wait))
        return response

    return handle


async def taken(answer: float | Awaitable[float]) -> float:
    """Return the wait that a throttle has answered, or answers by a coroutine."""
    return answer if isinstance(answer, float | int) else await answer


def telling(throttle: object) -> TellsQuotas:
    """Return the throttle as one that tells what is left.

    Raises:
        TypeError: It does not.
    """
    if not isinstance(throttle, TellsQuotas):
        raise TypeError(f"fields need a throttle that tells what is left, not {throttle!r}")
    return throttle


def left(throttle: TellsQuotas, key: Hashable, wait: float) -> tuple[Quota, ...]:
    """Return what is left to ``key``: by the answer that was given it, or by what the throttle has now."""
    return wait.quotas if isinstance(wait, Told) else throttle.quotas(key)


def too_many(wait: float, extra: Headers | None = None) -> Response:
    """Return the answer to a client that has had enough for ``wait`` seconds (RFC 6585, 4)."""
    return problem(429, "too many requests", [(b"retry-after", retry_after(wait)), *(extra or ())])
