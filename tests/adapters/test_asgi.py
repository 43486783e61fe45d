"""The ASGI face: a proxy, a throttle, a cache and a readiness endpoint, in process and under uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvicorn

from replicated import Replica, Throttle, Tier
from replicated.adapters.asgi import CacheMiddleware, ReadinessEndpoint, ReverseProxy, ThrottleMiddleware
from replicated.http.framing import Limits
from replicated.testing import ManualClock, RecordingStrategy

Message = dict[str, Any]
Headers = list[tuple[bytes, bytes]]


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 10))


async def call(app: Any, path: str = "/", *, kind: str = "http", **scope: Any) -> list[Message]:
    """Ask an application in process; return what it sent."""
    sent: list[Message] = []
    inbox: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
    whole = {
        "type": kind,
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "client": ("10.0.0.1", 5),
        "headers": [(b"host", b"h")],
        **scope,
    }

    async def receive() -> Message:
        if inbox:
            return inbox.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await app(whole, receive, send)
    return sent


def value(message: Message, name: bytes) -> bytes | None:
    return next((v for n, v in message["headers"] if n == name), None)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An application that counts its requests and passes on what else it is asked."""
    if scope["type"] != "http":
        await send({"type": scope["type"] + ".seen"})
        return
    counts.append(scope["path"])
    lines = [(b"cache-control", b"max-age=60"), (b"content-length", b"5"), (b"set-x", b"1"), (b"set-x", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": lines})
    await send({"type": "http.response.body", "body": b"hello"})


counts: list[str] = []


@pytest.fixture(autouse=True)
def from_zero() -> None:
    counts.clear()


# -- throttle -------------------------------------------------------------------------------------------


def test_the_throttle_refuses_who_has_had_enough() -> None:
    """Beyond its burst a client gets 429 with the right Retry-After; others are not touched."""

    async def story() -> None:
        app = ThrottleMiddleware(hello, Throttle(rate=0.5, burst=2, clock=ManualClock()))
        told = [(await call(app))[0] for _ in range(3)]
        assert [message["status"] for message in told] == [200, 200, 429]
        assert value(told[2], b"retry-after") == b"2"
        assert (await call(app, "/other"))[0]["status"] == 200
        assert (await call(app, client=("10.0.0.2", 5)))[0]["status"] == 200
        assert len(counts) == 4

    run(story)


def test_the_throttle_believes_only_whom_it_trusts() -> None:
    """A forwarded address counts from a trusted peer, and is ignored from anybody else."""

    async def story() -> None:
        def app(**arguments: Any) -> ThrottleMiddleware:
            return ThrottleMiddleware(hello, Throttle(rate=1, burst=1, clock=ManualClock()), **arguments)

        for trusted, last in (((), 429), (("10.0.0.0/8",), 200)):
            throttled = app(trusted=trusted)
            for name in (b"1.1.1.1", b"2.2.2.2"):
                [start, _] = await call(throttled, headers=[(b"host", b"h"), (b"x-forwarded-for", name)])
            assert start["status"] == last
        nobody = app(key=lambda client, request: None)
        assert [(await call(nobody))[0]["status"] for _ in range(3)] == [200, 200, 200]

    run(story)


def test_websockets_count_as_the_request_that_opens_them() -> None:
    """A WebSocket beyond the limit is refused with 429 where the server can say so, else closed."""

    async def story() -> None:
        app = ThrottleMiddleware(hello, Throttle(rate=1, burst=1, clock=ManualClock()))
        assert await call(app, kind="websocket", scheme="ws") == [{"type": "websocket.seen"}]
        assert await call(app, kind="websocket", scheme="ws") == [{"type": "websocket.close", "code": 1008}]
        able = {"extensions": {"websocket.http.response": {}}}
        [start, body] = await call(app, kind="websocket", scheme="ws", **able)
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
        assert body["type"] == "websocket.http.response.body"
        assert await call(app, kind="lifespan") == [{"type": "lifespan.seen"}]

    run(story)


# -- cache ----------------------------------------------------------------------------------------------


def test_the_cache_asks_an_application_once() -> None:
    """The second request is answered from the cache, line for line; what is not HTTP is passed on."""

    async def story() -> None:
        app = CacheMiddleware(hello, size=10_000)
        [first, body] = await call(app)
        [second, again] = await call(app)
        assert counts == ["/"]
        assert (body["body"], again["body"]) == (b"hello", b"hello")
        assert value(first, b"cache-status") == b"replicated; fwd=uri-miss; stored"
        assert value(second, b"cache-status") == b"replicated; hit"
        assert [line for line in second["headers"] if line[0] == b"set-x"] == [
            (b"set-x", b"1"),
            (b"set-x", b"2"),
        ]
        assert (await call(app, method="HEAD"))[1]["body"] == b""
        for kind in ("websocket", "lifespan"):
            assert await call(app, kind=kind) == [{"type": kind + ".seen"}]

    run(story)


def test_an_application_that_raises_is_no_page() -> None:
    """Its error reaches the server, nothing is stored, and within `keep` what was stored answers instead."""

    async def story() -> None:
        broken = False

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if broken:
                raise KeyError("mine")
            lines = [(b"cache-control", b"max-age=0, stale-if-error=60"), (b"etag", b'"a"')]
            await send({"type": "http.response.start", "status": 200, "headers": lines})
            await send({"type": "http.response.body", "body": b"page"})

        cached = CacheMiddleware(app, size=10_000)
        await call(cached)
        broken = True
        [start, body] = await call(cached)
        assert (start["status"], body["body"]) == (200, b"page")
        with pytest.raises(KeyError, match="mine"):
            await call(cached, "/other")

    run(story)


@pytest.mark.parametrize("arguments", [{"size": 0}, {"ttl": 0}, {"grace": -1.0}, {"keep": float("nan")}])
def test_the_cache_refuses_what_cannot_be(arguments: dict[str, Any]) -> None:
    """Numbers that cannot be are refused by name when the application is built."""
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        CacheMiddleware(hello, **arguments)


# -- readiness ------------------------------------------------------------------------------------------


def test_readiness() -> None:
    """Alive is not ready: one path answers for each, and the rest goes to the application."""

    async def story() -> None:
        ready = False
        app = ReadinessEndpoint(hello, ready=lambda: ready)
        assert (await call(app, "/livez"))[0]["status"] == 200
        [start, _] = await call(app, "/readyz")
        assert (start["status"], value(start, b"retry-after")) == (503, b"1")
        ready = True
        for method in ("GET", "HEAD"):
            [start, _] = await call(app, "/readyz", method=method)
            assert (start["status"], value(start, b"cache-control")) == (200, b"no-store")
        [start, _] = await call(app, "/readyz", method="POST")
        assert (start["status"], value(start, b"allow")) == (405, b"GET, HEAD")
        assert (await call(app, "/readyz/x"))[0]["status"] == 200
        assert counts == ["/readyz/x"]
        assert await call(app, kind="websocket") == [{"type": "websocket.seen"}]
        assert (await call(ReadinessEndpoint(hello), "/readyz"))[0]["status"] == 200
        assert (await call(ReadinessEndpoint(hello, ready_path=None), "/readyz"))[1]["body"] == b"hello"

    run(story)


def test_draining() -> None:
    """After `drain` readiness is off, requests are served, and HTTP/1 clients are asked to come back anew."""

    async def story() -> None:
        app = ReadinessEndpoint(hello)
        app.drain()
        assert (await call(app, "/readyz"))[0]["status"] == 503
        assert (await call(app, "/livez"))[0]["status"] == 200
        [start, body] = await call(app)
        assert (start["status"], value(start, b"connection"), body["body"]) == (200, b"close", b"hello")
        [start, _] = await call(app, http_version="2")
        assert value(start, b"connection") is None

    run(story)


# -- the proxy, over real sockets -----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def uvicorn_server(app: Any) -> AsyncIterator[int]:
    """Serve an application with uvicorn on a free port of loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            log_config=None,
            server_header=False,
            date_header=False,
            lifespan="on",
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        task = asyncio.ensure_future(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def exchange(port: int, request: bytes) -> bytes:
    """Send a request as bytes, and return what comes until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read(-1)
    finally:
        writer.close()
        await writer.wait_closed()


def ask(target: str = "/", *lines: str, method: str = "GET") -> bytes:
    head = [f"{method} {target} HTTP/1.1", "host: service", "connection: close", *lines]
    return ("\r\n".join(head) + "\r\n\r\n").encode()


class Site:
    """An application for the proxy to stand before."""

    def __init__(self) -> None:
        self.targets: list[bytes] = []
        self.gone = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{kind}"
                await send({"type": f"lifespan.{kind}.complete"})
            return
        self.targets.append(scope["raw_path"] + b"?" + scope["query_string"])
        page = getattr(self, scope["path"].strip("/").partition("/")[0] or "plain")
        await page(scope, receive, send)

    async def plain(self, scope: Any, receive: Any, send: Any, status: int = 200, *lines: Any) -> None:
        cookies = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        body = b"" if status in (204, 304) else b"plain"
        headers = [*cookies, *lines]
        if body:
            headers.append((b"content-length", b"5"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def unchanged(self, scope: Any, receive: Any, send: Any) -> None:
        await self.plain(scope, receive, send, 304, (b"etag", b'"a"'))

    async def empty(self, scope: Any, receive: Any, send: Any) -> None:
        await self.plain(scope, receive, send, 204)

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    async def events(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await self.go.wait()
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b"data: 2\n\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()


@contextlib.asynccontextmanager
async def proxied(site: Site, **arguments: Any) -> AsyncIterator[tuple[int, Tier, RecordingStrategy]]:
    async with uvicorn_server(site) as port:
        strategy = RecordingStrategy()
        tier = Tier([Replica("a", f"http://127.0.0.1:{port}")], strategy=strategy)
        async with uvicorn_server(ReverseProxy(tier, **arguments)) as front:
            yield front, tier, strategy


def test_the_proxy_passes_what_it_gets() -> None:
    """Targets, repeated lines, HEAD, 204 and 304 go through as they are, and every Forward is finished."""

    async def story() -> None:
        site = Site()
        async with proxied(site) as (port, tier, _):
            answer = await exchange(port, ask("/plain/a%2Fb//c?d=%20&d"))
            assert site.targets == [b"/plain/a%2Fb//c?d=%20&d"]
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.count(b"set-cookie: ") == 2
            assert answer.lower().count(b"\r\ndate: ") == 1
            assert answer.endswith(b"\r\n\r\nplain")
            answer = await exchange(port, ask("/plain", method="HEAD"))
            assert b"content-length: 5" in answer
            assert answer.endswith(b"\r\n\r\n")
            answer = await exchange(port, ask("/unchanged"))
            assert answer.startswith(b"HTTP/1.1 304")
            assert b'etag: "a"' in answer
            assert answer.endswith(b"\r\n\r\n")
            assert (await exchange(port, ask("/empty"))).startswith(b"HTTP/1.1 204")
            body = "content-length: 5\r\n\r\nhello"
            assert b"hello" in await exchange(port, ask("/echo", body, method="POST"))
            assert tier.in_flight == 0

    run(story)


def test_events_pass_through_the_proxy_at_once() -> None:
    """An event is there when it was sent; a client that goes away ends it down to the replica."""

    async def story() -> None:
        site = Site()
        async with proxied(site) as (port, tier, strategy):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ask("/events"))
            await reader.readuntil(b"data: 1\n\n")
            assert tier.in_flight == 1
            site.go.set()
            await reader.readuntil(b"data: 2\n\n")
            writer.close()
            await site.gone.wait()
            while tier.in_flight:
                await asyncio.sleep(0.001)
            [(_, outcome)] = strategy.ends
            assert outcome.verdict.value == "cancelled"

    run(story)


def test_the_proxy_says_what_is_wrong() -> None:
    """Without a replica 503 with a Retry-After, with a dead one as well, beyond the limits 413 and 431."""

    async def story() -> None:
        [start, _] = await call(ReverseProxy(Tier()))
        assert start["status"] == 503
        assert value(start, b"retry-after") is not None
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            dead = Tier([Replica("dead", f"http://127.0.0.1:{unused.getsockname()[1]}")])
            assert (await call(ReverseProxy(dead)))[0]["status"] == 503
            limits = Limits(body=3, header_bytes=100)
            proxy = ReverseProxy(dead, limits=limits)
            lines = [(b"host", b"h"), (b"content-length", b"4")]
            assert (await call(proxy, method="POST", headers=lines))[0]["status"] == 413
            assert (await call(proxy, headers=[(b"host", b"h"), (b"x", b"y" * 100)]))[0]["status"] == 431
            assert dead.in_flight == 0

    run(story)


def test_the_cache_before_the_proxy() -> None:
    """Middlewares compose: a cache in front of a proxy answers without the replica."""

    async def story() -> None:
        site = Site()
        async with uvicorn_server(hello_site(site)) as port:
            tier = Tier([Replica("a", f"http://127.0.0.1:{port}")])
            async with uvicorn_server(CacheMiddleware(ReverseProxy(tier))) as front:
                for _ in range(3):
                    assert (await exchange(front, ask("/"))).endswith(b"hello")
            assert counts == ["/"]

    run(story)


def hello_site(site: Site) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (site if scope["type"] == "lifespan" else hello)(scope, receive, send)

    return app
