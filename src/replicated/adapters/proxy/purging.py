"""Who may make an HTTP cache forget, and how they say so: PURGE, by URL or by tag.

Stands before the cache. It judges by the address at the other end of the connection: a forwarding header is
what the sender says, and can at most speak against it. What is stored where is the cache's business.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Iterable

from ...http.fields import find, problem
from ...http.identity import Identity, Network
from ...http.message import Headers, Request, Response
from ...http.stored import TAG_FIELDS, surrogate_tags
from .http_cache import HttpCache

__all__ = ["LOOPBACK", "Purging"]

LOOPBACK = ("127.0.0.0/8", "::1")
SOFT = b"fastly-soft-purge"
"""Says 1 where what is purged may still be served stale, by the name that Fastly gave it."""
PASSED_ON = frozenset(
    (b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip")
)
"""What proxies add, of which one is enough to know that the sender is not the peer."""


class Purging:
    """A handler around a cache that carries out PURGE, for those who may.

    ``PURGE`` of a URL forgets what is stored for it, every variant, under http and https: a cache behind a
    tier that terminates TLS is purged over plain HTTP. With tags in ``Surrogate-Key`` (separated by white
    space) or ``Cache-Tag`` (by commas), it forgets instead whatever carries one of them. What is being
    fetched at that moment is passed on and not stored. The answer is 200 and ``{"purged": 2}``, how many
    stored URLs went; 400 where a field names no tag, and 405 for those who may not. Where caches share a
    level it also says ``"shared": true``, or 202 and ``false`` while that has not been confirmed.

    With ``Fastly-Soft-Purge: 1`` pages are not forgotten but stale at once: within their grace they answer
    while a new one is fetched, and afterwards they can be validated.

    It takes both fields out of all responses: they are between the origin and its caches.

    Args:
        cache: What forgets, and answers everything else.
        allowed: Networks whose peers may purge. A request that a proxy has passed on, as Via, Forwarded,
            X-Forwarded-* or X-Real-IP show, is refused even from there. A proxy that adds none of them must
            refuse PURGE itself, where its own address is allowed.

    Raises:
        ValueError: A network cannot be parsed.
        TypeError: ``allowed`` is one str, or holds something else than networks.
    """

    def __init__(self, cache: HttpCache, *, allowed: Iterable[str | Network] = LOOPBACK) -> None:
        try:
            self.allowed = Identity(allowed)
        except (TypeError, ValueError) as error:
            raise type(error)(f"allowed is to be read as networks: {error}") from None
        self.cache = cache

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Purge, or answer through the cache."""
        if request.method == "PURGE":
            return self.purge(request)
        answering = self.cache(request)
        return untagged(answering) if isinstance(answering, Response) else self.later(answering)

    async def later(self, answering: Awaitable[Response]) -> Response:
        return untagged(await answering)

    async def purge(self, request: Request) -> Response:
        """Answer a PURGE."""
        names = {name for name, _ in request.headers}
        if not self.allowed.trusts(request.peer) or not names.isdisjoint(PASSED_ON):
            return problem(405, "PURGE is not for you", [(b"allow", b"GET, HEAD")])
        soft = find(request.headers, SOFT) == b"1"
        if names.isdisjoint(TAG_FIELDS):
            purged = self.forget(request.target, find(request.headers, b"host") or b"", soft=soft)
        else:
            tags = surrogate_tags(request.headers)
            if not tags:
                return problem(400, "no tag is named")
            purged = sum(self.cache.purge(tag, soft=soft) for tag in tags)
        return counted(purged, await self.cache.confirmed())

    def forget(self, target: bytes, host: bytes, *, soft: bool) -> int:
        keys = [self.cache.rules.key(target, scheme, host) for scheme in ("http", "https")]
        return sum(self.cache.forget(key, soft=soft) for key in keys)


def untagged(response: Response) -> Response:
    response.headers = [line for line in response.headers if line[0] not in TAG_FIELDS]
    return response


def counted(purged: int, shared: bool | None) -> Response:
    """Return the answer that says how many went, and whether what is shared went too, where something is."""
    body = json.dumps({"purged": purged} if shared is None else {"purged": purged, "shared": shared}).encode()
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    return Response(202 if shared is False else 200, headers, body)
