"""A request of an httpx client, carried to a replica by our own engine in place of httpx's.

Decides how what httpx says is said to the engine, timeouts and the server's name included, and how what
the engine raises is called in httpx. Which replica it is, and whether another one is tried, is decided above.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import sys
from collections.abc import Callable
from typing import Any

from ..errors import UpstreamError, UpstreamExhausted, UpstreamTimeout, UpstreamUnreachable
from ..http.framing import Limits, check_request
from ..http.message import Headers
from .engine.origin import Origin
from .engine.pool import Pool
from .engine.upstream import Timeouts, Upstream, UpstreamResponse
from .httpx_attempts import Ending
from .httpx_body import OneWrite, Streamed, body_of
from .httpx_names import Names

__all__ = ["Carrier"]

NO_LIMITS = Limits(target=1 << 20, header_bytes=1 << 24, header_count=1 << 16, body=sys.maxsize)
"""How much a user sends is not ours to bound; that it is one request, and the one he means, is."""
FOREVER = 1e9
"""Seconds: what httpx calls None. An event loop takes no infinity."""
MANY = 1 << 30
"""Connections to one replica: how many requests there are is bounded as a whole."""
MOST_KEPT = 64
"""Names of servers, and sets of timeouts, that are remembered: who has more makes them up as he goes."""

origin_of = functools.lru_cache(4096)(Origin.parse)


class Carrier:
    """Carries requests to replicas over connections of its own. Belongs to one event loop.

    Args:
        tls: For replicas at https; by default the system's trust, verified.
        max_idle: Connections to a replica that are kept for later.
        places: Requests under way at once; None for any number.
    """

    def __init__(self, tls: ssl.SSLContext | None, max_idle: int, places: int | None) -> None:
        self.tls = tls
        self.max_idle = max_idle
        self.places = places
        self.room = None if places is None else asyncio.Semaphore(places)
        # A connection belongs to the name that its certificate was checked for, whatever the timeouts.
        self.pools: dict[str | None, dict[Origin, Pool]] = {}
        self.upstreams: dict[object, Upstream] = {}

    async def enter(self, names: Names, request: Any) -> None:
        """Take a place, perhaps later; who has one leaves it.

        Raises:
            PoolTimeout: None became free within the request's ``pool`` timeout.
        """
        room = self.room
        if room is None:
            return
        if not room.locked():
            await room.acquire()  # which waits for nothing, and needs no timer
            return
        timeout = (request.extensions.get("timeout") or {}).get("pool")
        try:
            async with asyncio.timeout(timeout):
                await room.acquire()
        except TimeoutError:
            raise names.module.PoolTimeout(f"all {self.places} places are taken") from None

    def leave(self) -> None:
        """Free a place."""
        if self.room is not None:
            self.room.release()

    async def carry(self, names: Names, request: Any, url: str) -> Any:
        """Send a request to the replica at ``url``; return httpx's response when its head is there.

        Raises:
            TransportError: One of its subclasses, of the request's module, as httpx's own transport.
            ValueError: ``url`` does not say where a replica listens.
        """
        origin = origin_of(url)
        extensions = request.extensions
        target = extensions.get("target") or request.url.raw_path
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        refuse(names, request, target, headers)
        body = await body_of(names, request, headers)
        name = (
            (extensions.get("sni_hostname") or request.url.raw_host.decode("ascii")) if origin.tls else None
        )
        upstream = self.upstream(name, extensions.get("timeout") or {}, body)
        try:
            sending = upstream.send(origin, request.method, target, headers, body)
            response = await (body.in_time(sending) if isinstance(body, Streamed) else sending)
        except UpstreamError as error:
            raise named(names, error, body) from error
        stream = body_class(names)(names, response, body)
        if response.whole:
            await stream.take()  # waits for nothing
        return names.module.Response(
            response.status,
            headers=response.headers,
            stream=stream,
            extensions={"http_version": b"HTTP/1.1"},
        )

    def upstream(
        self, name: str | None, timeout: dict[str, float | None], body: OneWrite | Streamed | None
    ) -> Upstream:
        """Return what sends a request with these timeouts to servers of this name."""
        connect, first, read = timeout.get("connect"), timeout.get("read"), timeout.get("read")
        if isinstance(body, Streamed):
            first = None  # it has a clock of its own
        key = name, connect, first, read
        upstream = self.upstreams.get(key)
        if upstream is None:
            if len(self.upstreams) >= MOST_KEPT:
                self.upstreams.clear()  # but not the connections: they are the pools'
            upstream = self.upstreams[key] = Upstream(
                timeouts=Timeouts(seconds(connect), seconds(first), seconds(read)),
                max_idle=self.max_idle,
                max_connections=MANY,
                tls=None if name is None else self.tls or default_tls(),
                server_name=name,
            )
            if name not in self.pools and len(self.pools) >= MOST_KEPT:
                self.close()
            upstream.pools = self.pools.setdefault(name, upstream.pools)
        return upstream

    def forget(self, url: str) -> None:
        """Close what is idle to a replica that has left."""
        for pools in self.pools.values():
            pool = pools.pop(origin_of(url), None)
            if pool is not None:
                pool.close()

    def close(self) -> None:
        """Close every idle connection; those in use end with their responses."""
        for pools in self.pools.values():
            while pools:
                pools.popitem()[1].close()
        self.pools.clear()
        self.upstreams.clear()


@functools.cache
def default_tls() -> ssl.SSLContext:
    """Return a context that verifies by the system's trust; made once, since it takes tens of ms."""
    return ssl.create_default_context()


class UpstreamBody:
    """The body of a response, as the engine hands it over; it tells when it is over."""

    def __init__(self, names: Names, response: UpstreamResponse, sent: OneWrite | Streamed | None) -> None:
        self.names = names
        self.response = response
        self.sent = sent
        self.content: bytes | None = None
        self.ending: Ending | None = None
        self.leave: Callable[[], None] | None = None

    async def take(self) -> None:
        """Take all of a body that has come already, so that its connection serves others again."""
        try:
            self.content = await self.response.read_all()
        finally:
            self.response.close()

    def tell(self, ending: Ending, leave: Callable[[], None]) -> None:
        """Say who is to be told of the end, each once; at once where it has come."""
        self.ending = ending
        if self.content is not None:
            ending.outcome = ending.whole
            ending.finish()
            leave()
        else:
            self.leave = leave

    def __aiter__(self) -> UpstreamBody:
        return self

    async def __anext__(self) -> bytes:
        if self.content is not None:
            piece, self.content = self.content, b""
        else:
            try:
                piece = await self.response.read()
            except UpstreamError as error:
                raised = named(self.names, error, self.sent)
                assert self.ending is not None
                self.ending.broke(raised)
                raise raised from error
        if piece:
            return piece
        assert self.ending is not None
        self.ending.outcome = self.ending.whole
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Give the connection back, or close it; finish the attempt."""
        self.response.close()
        leave, self.leave = self.leave, None
        try:
            if self.ending is not None:
                self.ending.finish()
        finally:
            if leave is not None:
                leave()


@functools.cache
def body_class(names: Names) -> Any:
    """Return the class of bodies that a client of this module takes for one of its own."""
    return type("UpstreamBody", (UpstreamBody, names.module.AsyncByteStream), {})


def refuse(names: Names, request: Any, target: bytes, headers: Headers) -> None:
    """Raise what httpx raises for a request that HTTP/1.1 cannot carry, or this engine does not."""
    if request.url.scheme not in ("http", "https"):
        raise names.module.UnsupportedProtocol(
            f"the URL must begin with http:// or https://, not {request.url.scheme!r}; "
            "for WebSockets give a transport that has them as inner"
        )
    if request.method == "CONNECT" or any(name == b"upgrade" for name, _ in headers):
        raise names.module.UnsupportedProtocol(
            "this transport does not switch protocols: give a transport that does as inner"
        )
    violation = check_request(request.method, target, headers, NO_LIMITS)
    if violation is not None:
        raise names.module.LocalProtocolError(violation.detail)


def named(names: Names, error: UpstreamError, body: OneWrite | Streamed | None) -> Exception:
    """Return what httpx calls an error of the engine's."""
    module = names.module
    if isinstance(error, UpstreamExhausted):
        kind = module.PoolTimeout  # nothing is free on this side
    elif isinstance(error, UpstreamUnreachable):
        late = error.kind == "connection_timeout"
        kind = module.ConnectTimeout if late else module.ConnectError
    elif isinstance(error, UpstreamTimeout):
        unread = isinstance(body, Streamed) and not body.over
        kind = module.WriteTimeout if unread else module.ReadTimeout
    else:
        kind = module.RemoteProtocolError
    raised: Exception = kind(str(error))
    return raised


def seconds(timeout: float | None) -> float:
    """Return httpx's seconds as the engine's: above zero, and not infinite."""
    return FOREVER if timeout is None else max(timeout, 0.001)
