"""ASGI's face of the library: a reverse proxy, and a throttle, a cache and a readiness endpoint for any app.

Each is an ASGI application around the handlers that ``replicated serve`` runs, for those who compose an
application of their own. What a message looks like is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from ..affinity import Affinity
from ..errors import MissingExtra
from ..http.caching import HttpCacheRules
from ..http.fields import problem
from ..http.framing import Limits
from ..http.identity import Identity, Network
from ..tier import Tier
from .asgi_app import AppHandler
from .asgi_front import (
    Arrivals,
    ASGIApp,
    HandlerApp,
    Message,
    Receive,
    Scope,
    Send,
    reject,
    respond,
)
from .asgi_throttle import ThrottleMiddleware, identity_of
from .engine.upstream import Upstream
from .proxy.exchange import Exchange
from .proxy.gatekeeper import gatekeeper
from .proxy.http_cache import HttpCache
from .proxy.probe_answers import ProbeAnswers
from .proxy.purging import Purging
from .redis_pages import RedisPages

__all__ = ["CacheMiddleware", "ReadinessEndpoint", "ReverseProxy", "ThrottleMiddleware"]


class ReverseProxy(HandlerApp):
    """A reverse proxy: balances requests over the replicas of a tier, on any ASGI server.

    ``app = ReverseProxy(Tier([Replica("a", "http://127.0.0.1:9001"), ...]))``. Serve it with one event loop
    a process, and put probes beside it with ``replicated.adapters.probes``. WebSockets are relayed message by
    message, which needs the extra ``websocket``; without it they are refused.

    Args:
        tier: Decides who serves.
        affinity: What requests are kept on one replica by.
        trusted: Networks whose forwarding headers are believed; nobody's by default.
        identity: Finds out who asks, where that is not said by ``trusted``.
        limits: What is too large to pass.
        message_limit: Bytes of a WebSocket message of a replica, which is kept until it is whole. What
            clients send is limited by the server.
        upstream: Carries the requests; one with default timeouts by default.
        pseudonym: What this proxy calls itself in Via.

    Raises:
        ValueError: A network or a limit cannot be, or ``identity`` is given beside ``trusted``.
    """

    def __init__(
        self,
        tier: Tier,
        *,
        affinity: Affinity | None = None,
        trusted: Iterable[str | Network] = (),
        identity: Identity | None = None,
        limits: Limits | None = None,
        message_limit: int = 16 * 1024 * 1024,
        upstream: Upstream | None = None,
        pseudonym: str = "replicated",
    ) -> None:
        if isinstance(message_limit, bool) or not isinstance(message_limit, int) or message_limit < 1:
            raise ValueError(f"message_limit must be a positive integer of bytes, not {message_limit!r}")
        self.message_limit = message_limit
        self.upstream = upstream or Upstream()
        exchange = Exchange(
            tier,
            self.upstream,
            identity=identity_of(trusted, identity),
            affinity=affinity,
            pseudonym=pseudonym,
        )
        super().__init__(gatekeeper(exchange, limits or Limits(), pseudonym.encode("latin-1")))

    async def websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay a WebSocket to a replica."""
        try:
            from .asgi_websocket import Relay  # an extra, which not everyone has
        except MissingExtra as error:
            failure = {"message": "a WebSocket was refused", "exception": error}
            asyncio.get_running_loop().call_exception_handler(failure)
            await reject(problem(500, "there are no WebSockets here"), scope, receive, send)
        else:
            await Relay(self.handler, scope, receive, send, self.message_limit).run()

    async def shutdown(self) -> None:
        """Close the connections that are idle."""
        await self.upstream.aclose()


class CacheMiddleware(HandlerApp):
    """A shared HTTP cache (RFC 9111) in front of any ASGI application.

    Args:
        app: Answers what the cache cannot.
        size: Bytes that stored responses may take together.
        ttl: Seconds for responses that do not say how long they keep; by default those that say when they
            were modified are kept for a tenth of the time since then, the others not at all.
        grace: Seconds beyond its lifetime that a response is served while a new one is fetched.
        keep: Seconds beyond its lifetime that a response is served when the application fails.
        trusted: Networks whose X-Forwarded-Proto and -Host are believed.
        identity: Finds out who asks, where that is not said by ``trusted``.
        purge_from: Networks whose peers may send PURGE, as
            :class:`~replicated.adapters.proxy.purging.Purging` reads it; None leaves PURGE, and the tags of
            responses, to the application and its clients.
        level: What caches in other processes share with this one.

    Attributes:
        cache: What it keeps; ``cache.purge(tag)`` forgets what carries a Surrogate-Key.

    Raises:
        ValueError: A number cannot be, or ``identity`` is given beside ``trusted``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        size: int = 64 * 1024 * 1024,
        ttl: float | None = None,
        grace: float = 0.0,
        keep: float = 0.0,
        trusted: Iterable[str | Network] = (),
        identity: Identity | None = None,
        purge_from: Iterable[str | Network] | None = None,
        level: RedisPages | None = None,
    ) -> None:
        self.app = app
        rules = HttpCacheRules(ttl=ttl, grace=grace, keep=keep)
        self.cache = HttpCache(
            AppHandler(app), size=size, rules=rules, identity=identity_of(trusted, identity), level=level
        )
        super().__init__(self.cache if purge_from is None else Purging(self.cache, allowed=purge_from))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope; everything but HTTP goes to the application as it is."""
        if scope["type"] == "http":
            await self.serve(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class ReadinessEndpoint:
    """Answers probes for an ASGI application, and turns its readiness off before it stops.

    ``live_path`` answers 200 as long as the event loop runs; ``ready_path`` 200 while the application can
    serve and 503 otherwise. After ``drain`` it says 503 while requests go on being served, each with
    ``Connection: close``, so that the balancer in front moves on before the listener closes.

    Args:
        app: Answers everything else.
        ready: Whether the application can serve; by default it always can.
        live_path: Where to ask whether the process is alive; None answers nowhere.
        ready_path: Where to ask whether it can serve; None answers nowhere.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        ready: Callable[[], bool] | None = None,
        live_path: str | None = "/livez",
        ready_path: str | None = "/readyz",
    ) -> None:
        self.app = app
        self.probes = ProbeAnswers(ready=ready, live_path=live_path, ready_path=ready_path)

    def drain(self) -> None:
        """Stop being ready; requests are still served."""
        self.probes.drain()

    @property
    def draining(self) -> bool:
        """Whether ``drain`` was called."""
        return self.probes.draining

    @property
    def can_serve(self) -> bool:
        """Whether the readiness path says 200."""
        return self.probes.can_serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = self.probes.answer(scope["method"], scope["path"])
        if answer is not None:
            await respond(answer, Arrivals(scope, receive), send)
        elif self.draining and scope.get("http_version", "1.1") in ("1.0", "1.1"):
            await self.app(scope, receive, closing(send))
        else:
            await self.app(scope, receive, send)


def closing(send: Send) -> Send:
    """Return ``send``, asking the client to open a new connection for what it asks next."""

    async def send_closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return send_closing
