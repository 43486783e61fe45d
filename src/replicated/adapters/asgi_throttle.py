"""A throttle in front of any ASGI application: who has had enough is told so, and the rest pass.

It names whom a request counts against, asks, and says the answer in HTTP. The arithmetic is the throttle's.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..http.identity import Client, Identity, Network, address_key
from ..http.message import Headers, Request
from ..http.ratelimit import ratelimit_fields, with_ratelimit
from ..throttle import Admits, AdmitsLater, PathTemplates, TellsQuotas, normalized
from .asgi_front import Arrivals, ASGIApp, Message, Receive, Scope, Send, reject, request_of, respond
from .proxy.admission import ThrottleKey, left, taken, telling, too_many

__all__ = ["ThrottleMiddleware", "by_address_and_path", "identity_of"]


class ThrottleMiddleware:
    """Refuses those who have had enough, with 429 and a Retry-After, before their body is read.

    A WebSocket counts as the request that opens it. It is refused with 429 where the server has the extension
    ``websocket.http.response`` (uvicorn and Hypercorn do), else closed, which servers say as 403.

    Args:
        app: Answers those who may.
        throttle: Counts: a ``Throttle``, ``Limits``, or one that replicas share. One that waits for a server
            in ``take`` itself, as ``RedisThrottle`` does, holds the event loop up for so long; its
            asynchronous twin does not.
        trusted: Networks whose X-Forwarded-For is believed; nobody's by default.
        identity: Finds out who asks, where that is not said by ``trusted``.
        key: Whom a request counts against; by default its client's address and its path.
        fields: Say in RateLimit and RateLimit-Policy what is left, on each answer to a request that counts.

    Raises:
        ValueError: A network cannot be parsed, or ``identity`` is given beside ``trusted``.
        TypeError: ``fields`` are asked of a throttle that does not tell what is left.
    """

    def __init__(
        self,
        app: ASGIApp,
        throttle: Admits | AdmitsLater,
        *,
        trusted: Iterable[str | Network] = (),
        identity: Identity | None = None,
        key: ThrottleKey | None = None,
        fields: bool = False,
    ) -> None:
        self.app = app
        self.throttle = throttle
        self.identity = identity_of(trusted, identity)
        self.key = key or by_address_and_path()
        self.tells = telling(throttle) if fields else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        key = self.key_of(scope) if scope["type"] in ("http", "websocket") else None
        if key is None:
            await self.app(scope, receive, send)
            return
        wait = await taken(self.throttle.take(key))
        if wait > 0:
            await self.refuse(key, wait, scope, receive, send)
        elif self.tells is not None and scope["type"] == "http":
            await self.app(scope, receive, telling_send(send, self.tells, key, wait))
        else:
            await self.app(scope, receive, send)

    def key_of(self, scope: Scope) -> str | None:
        request = request_of(scope)
        return self.key(self.identity.client(request.peer, request.scheme, request.headers), request)

    async def refuse(self, key: str, wait: float, scope: Scope, receive: Receive, send: Send) -> None:
        said: Headers = [] if self.tells is None else ratelimit_fields(left(self.tells, key, wait))
        if scope["type"] == "http":
            await respond(too_many(wait, said), Arrivals(scope, receive), send)
        else:
            await reject(too_many(wait, said), scope, receive, send)


def identity_of(trusted: Iterable[str | Network], identity: Identity | None) -> Identity:
    """Return who is believed, as it was said in one of two ways.

    Raises:
        ValueError: In both.
    """
    found = Identity(trusted)
    if identity is None:
        return found
    if found.trusted:
        raise ValueError(f"trusted must be left to the identity, not be {trusted!r}")
    return identity


def telling_send(send: Send, tells: TellsQuotas, key: str, wait: float) -> Send:
    """Return ``send`` for a response that says what is left to ``key`` when it begins."""

    async def send_told(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = with_ratelimit(message.get("headers", ()), left(tells, key, wait))
            message = {**message, "headers": headers}
        await send(message)

    return send_told


def by_address_and_path(
    *, paths: PathTemplates | None = None, ipv4_prefix: int = 32, ipv6_prefix: int = 64
) -> ThrottleKey:
    """Count by the client's address and the path, as Varnish's throttle module is used.

    Args:
        paths: What paths are counted together; by default those that are spellings of one.
        ipv4_prefix: Bits of an IPv4 address that count, 0 to 32.
        ipv6_prefix: Bits of an IPv6 address that count, 0 to 128.

    Raises:
        ValueError: A prefix is out of its range.
        TypeError: A prefix is not an int.
    """
    address_key("", ipv4_prefix=ipv4_prefix, ipv6_prefix=ipv6_prefix)  # which says what is wrong with them
    name = normalized if paths is None else paths.key

    def key(client: Client, request: Request) -> str:
        address = address_key(client.address, ipv4_prefix=ipv4_prefix, ipv6_prefix=ipv6_prefix)
        return f"{address} {name(request.path)}"

    return key
