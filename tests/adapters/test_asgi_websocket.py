"""WebSockets through the ASGI proxy: each message once and whole, and each end told of the other's."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from replicated import Replica, RoundRobin, Throttle, Tier
from replicated.adapters import asgi_websocket
from replicated.adapters.asgi import CacheMiddleware, ReadinessEndpoint, ReverseProxy, ThrottleMiddleware
from replicated.adapters.engine.upstream import Timeouts, Upstream
from replicated.errors import UpstreamBroken
from replicated.http.message import Request, Response
from replicated.testing import ManualClock, RecordingStrategy

Message = dict[str, Any]
SERVERS = ["websockets-sansio", "wsproto"]
BIG = 1 << 20


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def proxy(*replicas: Replica, **arguments: Any) -> tuple[ReverseProxy, Tier, RecordingStrategy]:
    strategy = RecordingStrategy(RoundRobin())
    tier = Tier(replicas, strategy=strategy)
    return ReverseProxy(tier, **arguments), tier, strategy


# -- over real servers ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def uvicorn_server(app: Any, ws: Any) -> AsyncIterator[str]:
    """Serve an application with uvicorn on a free port of loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            ws=ws,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            lifespan="on",
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        task = asyncio.ensure_future(server.serve([listener]))
        await until(lambda: server.started)
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


class Site:
    """A replica that echoes, and remembers who came and how they left."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.subprotocols: list[str | None] = []
        self.ended: list[tuple[int | None, str | None]] = []
        self.close: tuple[int, str] | None = None

    async def __call__(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.requests.append(connection.request)
        self.subprotocols.append(connection.subprotocol)
        with contextlib.suppress(ConnectionClosed):
            if self.close is not None:
                await connection.close(*self.close)
            async for message in connection:
                await connection.send(message)
        await connection.wait_closed()
        self.ended.append((connection.close_code, connection.close_reason))


@contextlib.asynccontextmanager
async def proxied(site: Site, ws: str, **arguments: Any) -> AsyncIterator[tuple[str, RecordingStrategy]]:
    options = arguments.pop("options", {})
    async with serve(site, "127.0.0.1", 0, max_size=None, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        app, tier, strategy = proxy(Replica("a", f"http://127.0.0.1:{port}"), **arguments)
        async with uvicorn_server(app, ws) as url:
            yield url, strategy
        await until(lambda: not tier.in_flight)


@pytest.mark.parametrize("ws", SERVERS)
def test_messages_go_both_ways(ws: str) -> None:
    """Text stays text and bytes stay bytes, empty or large, in order; in the end the replica did well."""

    async def story() -> None:
        site = Site()
        async with proxied(site, ws) as (url, strategy), connect(url, max_size=None) as client:
            for message in ("hello", "", b"", b"\x00\xff", "\u20ac" * 1000, bytes(BIG), "x" * BIG):
                await client.send(message)
                assert await client.recv() == message
            await client.send(["in ", "pieces"])
            assert await client.recv() == "in pieces"
            for n in range(100):
                await client.send(str(n))
            assert [await client.recv() for _ in range(100)] == [str(n) for n in range(100)]
            await client.close()
            await until(lambda: bool(strategy.ends and site.ended))
        assert [outcome.verdict.value for _, outcome in strategy.ends] == ["ok"]
        assert site.ended == [(1000, "")]

    run(story)


@pytest.mark.parametrize("ws", SERVERS)
def test_the_header_is_forwarded_as_any_other(ws: str) -> None:
    """Target, cookies and origin arrive, forwarding fields are written anew, and the handshake is our own."""

    async def story() -> None:
        site = Site()

        def cookie(connection: Any, request: Any, response: Any) -> None:
            response.headers["set-cookie"] = "a=1"
            response.headers["set-cookie"] = "b=2"

        async with proxied(site, ws, options={"process_response": cookie}) as (url, _):
            headers = {"cookie": "c=3", "x-forwarded-for": "6.6.6.6", "x-real-ip": "6.6.6.6"}
            async with connect(f"{url}/a%2Fb?c=%20", origin="http://o", additional_headers=headers) as client:  # type: ignore[arg-type]
                assert client.response is not None
                assert client.response.headers.get_all("set-cookie") == ["a=1", "b=2"]
                assert client.request is not None
                theirs = client.request.headers["sec-websocket-key"]
        [request] = site.requests
        found = request.headers
        assert request.path == "/a%2Fb?c=%20"
        assert (found["cookie"], found["origin"]) == ("c=3", "http://o")
        assert found["host"] == url.removeprefix("ws://")
        assert found["x-forwarded-for"] == "127.0.0.1"
        assert found["x-forwarded-proto"] == "http"
        assert found["via"] == "1.1 replicated"
        assert "x-real-ip" not in found
        assert "sec-websocket-extensions" not in found
        assert found["sec-websocket-key"] != theirs
        for name in ("connection", "upgrade", "host", "sec-websocket-key", "sec-websocket-version"):
            assert len(found.get_all(name)) == 1

    run(story)


@pytest.mark.parametrize("ws", SERVERS)
@pytest.mark.parametrize(
    ("asked", "offered", "chosen"),
    [(None, None, None), (["a", "b"], ["b"], "b"), (["a", "b"], None, None), (["b"], ["a", "b"], "b")],
)
def test_the_replica_chooses_the_subprotocol(
    ws: str, asked: Any, offered: list[str] | None, chosen: str | None
) -> None:
    """What the client offers the replica sees, and what it chooses of that the client is told."""

    async def story() -> None:
        site = Site()
        async with (
            proxied(site, ws, options={"subprotocols": offered}) as (url, _),
            connect(url, subprotocols=asked) as client,
        ):
            assert client.subprotocol == chosen
        assert site.subprotocols == [chosen]
        assert site.requests[0].headers.get("sec-websocket-protocol") == (asked and ", ".join(asked))

    run(story)


@pytest.mark.parametrize("ws", SERVERS)
@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "gone"), (1012, ""), (4321, "caf\u00e9")])
def test_a_close_is_told_to_the_other_end(ws: str, code: int, reason: str) -> None:
    """Code and reason arrive as they were said, whichever end says them."""

    async def story() -> None:
        site = Site()
        async with proxied(site, ws) as (url, strategy):
            client = await connect(url)
            await client.close(code, reason)
            await until(lambda: bool(site.ended))
            assert site.ended == [(code, reason)]
            site.close = code, reason
            client = await connect(url)
            await client.wait_closed()
            assert (client.close_code, client.close_reason) == (code, reason)
            await until(lambda: len(strategy.ends) == 2)
        assert [outcome.verdict.value for _, outcome in strategy.ends] == ["ok", "ok"]

    run(story)


@pytest.mark.parametrize("ws", SERVERS)
def test_a_client_that_vanishes(ws: str) -> None:
    """Its replica is told at once, and no Forward stays open."""

    async def story() -> None:
        site = Site()
        async with proxied(site, ws) as (url, strategy):
            client = await connect(url)
            await client.send("x")
            await client.recv()
            client.transport.abort()
            await until(lambda: bool(strategy.ends and site.ended))
        assert not any(outcome.verdict.value == "failed" for _, outcome in strategy.ends)

    run(story)


@pytest.mark.parametrize("ws", SERVERS)
def test_a_server_that_stops(ws: str) -> None:
    """Both ends are told that the service restarts."""

    async def story() -> None:
        site = Site()
        async with proxied(site, ws) as (url, _):
            client = await connect(url)
            await client.send("x")
            await client.recv()
        await client.wait_closed()
        assert client.close_code == 1012
        await until(lambda: bool(site.ended))
        assert site.ended[0][0] in (1006, 1012)

    run(story)


@pytest.mark.parametrize("ws", SERVERS)
def test_who_may_not_is_refused_before_it_opens(ws: str) -> None:
    """The throttle says 429; the cache and readiness let WebSockets pass."""

    async def story() -> None:
        site = Site()
        async with serve(site, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            app, tier, _ = proxy(Replica("a", f"http://127.0.0.1:{port}"))
            throttle = Throttle(rate=0.1, burst=2, clock=ManualClock())
            outer = ThrottleMiddleware(ReadinessEndpoint(CacheMiddleware(app)), throttle)
            async with uvicorn_server(outer, ws) as url:
                for _ in range(2):
                    async with connect(url) as client:
                        await client.send("hello")
                        assert await client.recv() == "hello"
                with pytest.raises(InvalidStatus) as refused:
                    await connect(url)
                assert refused.value.response.status_code == 429
                assert refused.value.response.headers["retry-after"] == "10"
                await until(lambda: not tier.in_flight)
        assert len(site.requests) == 2

    run(story)


@pytest.mark.parametrize("ws", SERVERS)
def test_what_a_replica_refuses(ws: str) -> None:
    """Its own answer reaches the client, status, header and body."""

    async def story() -> None:
        def deny(connection: ServerConnection, request: Any) -> Any:
            answer = connection.respond(401, "who are you?")
            answer.headers["www-authenticate"] = "Basic"
            return answer

        async with proxied(Site(), ws, options={"process_request": deny}) as (url, strategy):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url)
            answer = refused.value.response
            assert (answer.status_code, answer.body) == (401, b"who are you?")
            assert answer.headers["www-authenticate"] == "Basic"
        assert [outcome.verdict.value for _, outcome in strategy.ends] == ["ok"]

    run(story)


# -- a server driven by hand, and replicas that play a script -------------------------------------------

HEADERS = [(b"host", b"h"), (b"sec-websocket-key", b"theirs"), (b"sec-websocket-version", b"13")]
ABLE = {"websocket.http.response": {}}


class Client:
    """The server's end of one WebSocket to an application."""

    def __init__(self, app: Any, **scope: Any) -> None:
        self.scope = {
            "type": "websocket",
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "client": ("10.0.0.1", 5),
            "headers": HEADERS,
            "subprotocols": [],
            "extensions": ABLE,
            **scope,
        }
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.inbox.put_nowait({"type": "websocket.connect"})
        self.sent: list[Message] = []
        self.news = asyncio.Event()
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.error: Exception | None = None
        self.failed = asyncio.Event()
        self.app = app

    def start(self) -> Client:
        self.task = asyncio.ensure_future(self.app(self.scope, self.receive, self.send))
        return self

    async def receive(self) -> Message:
        return await self.inbox.get()

    async def send(self, message: Message) -> None:
        await self.may_send.wait()
        if self.error is not None:
            self.failed.set()
            raise self.error
        self.sent.append(message)
        self.news.set()

    def say(self, data: str | bytes) -> None:
        kind = "text" if isinstance(data, str) else "bytes"
        self.inbox.put_nowait({"type": "websocket.receive", kind: data})

    def leave(self, code: int = 1006, **more: Any) -> None:
        self.inbox.put_nowait({"type": "websocket.disconnect", "code": code, **more})

    async def has(self, count: int) -> list[Message]:
        """Wait until it was told so much."""
        while len(self.sent) < count:
            self.news.clear()
            await self.news.wait()
        return self.sent

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


def unmasked(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False, extensions=[])


class Frames:
    """The replica's end of a tunnel, whose handshake is over."""

    def __init__(self, peer: Any, head: bytes) -> None:
        self.peer = peer
        self.head = head
        self.protocol = Protocol(Side.SERVER, max_size=None)

    async def send(self, *frames: Any) -> None:
        await self.peer.send(*[one if isinstance(one, bytes) else unmasked(*one) for one in frames])

    async def next(self) -> tuple[Opcode, bytes] | None:
        """Return the next frame, or None at the end."""
        while not self.protocol.events:
            try:
                data = await self.peer.reader.read(65536)
            except ConnectionError:
                data = b""
            if not data:
                return None
            self.protocol.receive_data(data)
        frame = self.protocol.events.pop(0)
        assert isinstance(frame, Frame)
        return frame.opcode, bytes(frame.data)


def accepted(head: bytes, *lines: bytes) -> bytes:
    """The 101 that grants what was asked."""
    [key] = [line[19:] for line in head.split(b"\r\n") if line.startswith(b"sec-websocket-key: ")]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    first = [b"HTTP/1.1 101 Switching Protocols", b"upgrade: websocket", b"connection: upgrade"]
    return b"\r\n".join([*first, b"sec-websocket-accept: " + accept, *lines, b"", b""])


def opens(play: Callable[[Frames], Awaitable[None]], *lines: bytes) -> Callable[[Any], Awaitable[None]]:
    """A script that grants the WebSocket, and plays on with its frames."""

    async def script(peer: Any) -> None:
        head = await peer.head()
        if head:
            await peer.send(accepted(head, *lines))
            await play(Frames(peer, head))

    return script


async def silent(frames: Frames) -> None:
    while await frames.next() is not None:
        pass


CLOSE_1000 = (Opcode.CLOSE, b"\x03\xe8")


def test_fragments_are_put_together(scripted: Any) -> None:
    """A message in many frames, with pings between them, is one message; and each ping has its pong."""
    heard: list[Any] = []

    async def play(frames: Frames) -> None:
        whole = b"\xe2\x82\xac"
        await frames.send(
            (Opcode.TEXT, whole[:1], False),
            (Opcode.PING, b"one"),
            (Opcode.CONT, b"", False),
            (Opcode.CONT, whole[1:2], False),
            (Opcode.PING, b"two"),
            (Opcode.CONT, whole[2:]),
            (Opcode.PONG, b"unasked"),
            (Opcode.BINARY, b"", False),
            (Opcode.CONT, b""),
            (Opcode.BINARY, b"x"),
            (Opcode.CLOSE, b""),
        )
        while (frame := await frames.next()) is not None:
            heard.append(frame)
            if frame[0] is Opcode.CLOSE:
                return

    async def story() -> None:
        async with scripted(opens(play)) as replica:
            app, tier, strategy = proxy(replica.replica())
            client = Client(app).start()
            await client.task
            assert [message["type"] for message in client.sent] == [
                "websocket.accept",
                *["websocket.send"] * 3,
                "websocket.close",
            ]
            assert [m.get("text", m.get("bytes")) for m in client.sent[1:-1]] == ["\u20ac", b"", b"x"]
            assert client.sent[-1]["code"] == 1000
            assert heard == [(Opcode.PONG, b"one"), (Opcode.PONG, b"two"), (Opcode.CLOSE, b"")]
            assert tier.in_flight == 0
            assert [outcome.verdict.value for _, outcome in strategy.ends] == ["ok"]
            await replica.quiet()
            assert len(asyncio.all_tasks()) == 2  # this one, and who waits for it

    run(story)


GARBAGE = {
    "a masked frame": [Frame(Opcode.TEXT, b"x").serialize(mask=True, extensions=[])],
    "an unknown frame": [b"\x83\x00"],
    "a reserved bit": [b"\xc1\x01x"],
    "a text that is not UTF-8": [(Opcode.TEXT, b"\xff")],
    "a fragment of nothing": [(Opcode.CONT, b"x")],
    "a message within a message": [(Opcode.TEXT, b"x", False), (Opcode.TEXT, b"y")],
    "a message that is too large": [(Opcode.BINARY, bytes(101))],
    "fragments that are too large": [(Opcode.BINARY, bytes(60), False), (Opcode.CONT, bytes(41))],
    "a length that is announced": [b"\x82\x7f\x00\x00\x00\x00\x7f\xff\xff\xff"],
    "a code that may not be sent": [(Opcode.CLOSE, b"\x03\xee")],
    "HTTP": [b"HTTP/1.1 200 OK\r\n\r\n" * 9],
}


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_websocket_is_the_replicas_failure(scripted: Any, sent: list[Any]) -> None:
    """Its client is closed with 1011, gets nothing of it, and passive health is told."""

    async def play(frames: Frames) -> None:
        await frames.send(*sent)
        await silent(frames)

    async def story() -> None:
        async with scripted(opens(play)) as replica:
            app, tier, strategy = proxy(replica.replica(), message_limit=100)
            client = Client(app).start()
            await client.task
            assert [message["type"] for message in client.sent] == ["websocket.accept", "websocket.close"]
            assert client.sent[-1]["code"] == 1011
            assert tier.in_flight == 0
            assert [outcome.verdict.value for _, outcome in strategy.ends] == ["failed"]
            await replica.quiet()

    run(story)


def test_a_replica_that_asks_for_pongs_and_takes_none() -> None:
    """What it asks for is kept up to 64 KiB; then its client is closed, and the tunnel told why."""

    async def story() -> None:
        told: list[Exception] = []
        count = 0

        async def handler(request: Request) -> Response:
            key = next(value for name, value in request.headers if name == b"sec-websocket-key")
            head, _, _ = accepted(b"sec-websocket-key: " + key).partition(b"\r\n\r\n")
            lines = [line.split(b": ") for line in head.split(b"\r\n")[1:]]
            assert request.upgrade is not None
            return Response(101, [(name, value) for name, value in lines], pings(request.upgrade))

        async def pings(upgrade: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            nonlocal count
            while count < 10_000 and not relays[0].error:
                count += 1
                yield unmasked(Opcode.PING, bytes(100))
            try:
                while await anext(upgrade):
                    pass
            except UpstreamBroken as error:
                told.append(error)
                raise

        relays: list[asgi_websocket.Relay] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            relays.append(asgi_websocket.Relay(handler, scope, receive, send, BIG))
            await relays[0].run()

        client = Client(app).start()
        await client.task
        assert [message.get("code") for message in client.sent] == [None, 1011]
        assert len(told) == 1
        assert count * 100 < 65536 + 1000

    run(story)


@pytest.mark.parametrize(("reset", "verdict"), [(True, "failed"), (False, "ok")])
def test_a_replica_that_vanishes(scripted: Any, reset: bool, verdict: str) -> None:
    """Without a close from it the client is closed with 1011, after what had come whole."""

    async def play(frames: Frames) -> None:
        await frames.send((Opcode.TEXT, b"whole"), (Opcode.TEXT, b"half", False))
        await frames.next()
        if reset:
            frames.peer.reset()

    async def story() -> None:
        async with scripted(opens(play)) as replica:
            app, tier, strategy = proxy(replica.replica(), replica.replica("b"))
            client = Client(app).start()
            await client.has(2)
            client.say(b"go on")
            await client.task
            assert client.sent[1:] == [
                {"type": "websocket.send", "text": "whole"},
                {"type": "websocket.close", "code": 1011, "reason": client.sent[-1]["reason"]},
            ]
            assert tier.in_flight == 0
            assert [outcome.verdict.value for _, outcome in strategy.ends] == [verdict]
            assert replica.accepted == 1  # it is never opened a second time

    run(story)


@pytest.mark.parametrize("code", [1006, 1015, 999])
def test_a_client_that_was_lost(scripted: Any, code: int) -> None:
    """The replica loses its connection too, without a close frame that nobody sent."""
    heard: list[Any] = []

    async def play(frames: Frames) -> None:
        heard.append(await frames.next())

    async def story() -> None:
        async with scripted(opens(play)) as replica:
            app, tier, strategy = proxy(replica.replica())
            client = Client(app).start()
            await client.has(1)
            client.leave(code)
            await client.task
            await replica.quiet()
            assert heard == [None]
            assert tier.in_flight == 0
            assert [outcome.verdict.value for _, outcome in strategy.ends] == ["cancelled"]

    run(story)


def test_a_client_that_closes_first(scripted: Any) -> None:
    """Its code reaches the replica; what that still says is for nobody, and its own close ends it."""
    heard: list[Any] = []

    async def play(frames: Frames) -> None:
        heard.append(await frames.next())
        await frames.send((Opcode.TEXT, b"too late"), CLOSE_1000)

    async def story() -> None:
        async with scripted(opens(play)) as replica:
            app, _, strategy = proxy(replica.replica())
            for code, sent in ((1005, b""), (1001, b"\x03\xe9bye")):
                client = Client(app).start()
                await client.has(1)
                client.leave(code, reason="bye" if code == 1001 else None)
                await client.task
                assert heard.pop() == (Opcode.CLOSE, sent)
                assert len(client.sent) == 1
            assert [outcome.verdict.value for _, outcome in strategy.ends] == ["ok", "ok"]

    run(story)


@pytest.mark.parametrize("first", ["client", "replica"])
def test_a_close_that_nobody_answers(scripted: Any, monkeypatch: Any, first: str) -> None:
    """A replica that neither answers a close nor ends its connection is waited for only for so long."""
    monkeypatch.setattr(asgi_websocket, "CLOSE_TIME", 0.05)

    async def play(frames: Frames) -> None:
        if first == "replica":
            await frames.send(CLOSE_1000)
        await frames.peer.gone()

    async def story() -> None:
        async with scripted(opens(play)) as replica:
            app, tier, _ = proxy(replica.replica())
            client = Client(app).start()
            await client.has(1 if first == "client" else 2)
            if first == "client":
                client.leave(1000)
            await client.task
            assert tier.in_flight == 0
            await replica.quiet()

    run(story)


def test_a_client_that_leaves_before_it_opens(scripted: Any) -> None:
    """While the replica takes its time the request is broken off, and the client is told nothing."""

    async def story() -> None:
        asked = asyncio.Event()

        async def play(peer: Any) -> None:
            await peer.head()
            asked.set()
            await peer.gone()

        async with scripted(play) as replica:
            app, tier, strategy = proxy(replica.replica())
            client = Client(app).start()
            await asked.wait()
            client.leave()
            await client.task
            await replica.quiet()
            assert client.sent == []
            assert tier.in_flight == 0
            assert [outcome.verdict.value for _, outcome in strategy.ends] == ["cancelled"]
        gone = Client(app)
        gone.inbox.get_nowait()
        gone.leave()
        await gone.start().task
        assert gone.sent == []
        assert len(strategy.ends) == 1

    run(story)


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("closed")])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_server_that_no_longer_sends(scripted: Any, error: Exception, after: int) -> None:
    """An error of ``send`` says that the client has left: nothing more is sent, and nothing is raised."""

    async def play(frames: Frames) -> None:
        while await frames.next() is not None:
            await frames.send((Opcode.TEXT, b"hello"))

    async def story() -> None:
        async with scripted(opens(play)) as replica:
            app, _, strategy = proxy(replica.replica())
            client = Client(app)
            if not after:
                client.error = error
            client.start()
            for n in range(after):
                await client.has(n + 1)
                client.error = error if n + 1 == after else None
                client.say("go on")
            await client.failed.wait()
            client.leave()
            await client.task
            assert len(client.sent) == after
            assert [outcome.verdict.value for _, outcome in strategy.ends] == ["cancelled"]
            await replica.quiet()

    run(story)


CHUNKED = b"HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n"
REFUSALS: dict[str, tuple[list[bytes], int]] = {
    "an answer": ([b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"], 403),
    "a stream": ([CHUNKED, b"2\r\nno\r\n", b"0\r\n\r\n"], 400),
    "a stream that breaks off": ([CHUNKED, b"2\r\nno\r\n"], 502),
    "a stream without an end": ([b"HTTP/1.1 200 OK\r\n\r\n", *[bytes(10_000)] * 20], 502),
    "garbage": ([b"what?\r\n\r\n"], 502),
    "nothing": ([], 502),
}


@pytest.mark.parametrize(("pieces", "status"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_whole(scripted: Any, pieces: list[bytes], status: int) -> None:
    """Any answer but 101 is the client's, in one piece; one that is not whole, or too long, is a 502."""

    async def play(peer: Any) -> None:
        await peer.head()
        for piece in pieces:
            await peer.send(piece)
            await asyncio.sleep(0.005)

    async def story() -> None:
        async with scripted(play) as replica:
            app, tier, _ = proxy(replica.replica())
            client = Client(app).start()
            await client.task
            [start, body] = client.sent
            assert start["type"] == "websocket.http.response.start"
            assert start["status"] == status
            assert body["type"] == "websocket.http.response.body"
            assert body["body"] == b"no" or status == json.loads(body["body"])["status"]
            blunt = Client(app, extensions=None).start()
            await blunt.task
            assert blunt.sent == [{"type": "websocket.close", "code": 1008 if status < 500 else 1011}]
            assert tier.in_flight == 0

    run(story)


@pytest.mark.parametrize(
    "lines",
    [
        [b"sec-websocket-protocol: c"],
        [b"sec-websocket-protocol: a", b"sec-websocket-protocol: b"],
        [b"sec-websocket-extensions: permessage-deflate"],
        [b"sec-websocket-accept: x"],
    ],
)
def test_a_grant_of_what_was_not_asked(scripted: Any, lines: list[bytes]) -> None:
    """A 101 with another subprotocol, an extension or a wrong accept is a 502, and opens nothing."""

    async def story() -> None:
        async with scripted(opens(silent, *lines)) as replica:
            app, tier, _ = proxy(replica.replica())
            client = Client(app, subprotocols=["a", "b", "caf\u00e9"]).start()
            await client.task
            assert client.status == 502
            assert tier.in_flight == 0
            await replica.quiet()

    run(story)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"content-length", b"5")], 400),
        ([(b"transfer-encoding", b"chunked")], 400),
        ([(b"via", b"1.1 replicated")], 508),
        ([(b"x", b"y" * 40_000)], 431),
        ([(b"x", b"a\nb")], 400),
        ([], 503),
    ],
)
def test_what_may_not_pass(headers: list[tuple[bytes, bytes]], status: int) -> None:
    """What is refused of any request is refused of this one, and a body, which nobody would read."""

    async def story() -> None:
        app, _, _ = proxy()
        client = Client(app, headers=HEADERS + headers).start()
        await client.task
        assert client.status == status
        gone = Client(app, headers=HEADERS + headers)
        gone.error = OSError("gone")
        await gone.start().task
        assert gone.sent == []

    run(story)


def test_a_scope_of_http2_is_opened_over_http1(scripted: Any) -> None:
    """Where the client's opening had no Upgrade, the replica's has; what Connection names does not go on."""
    heads: list[bytes] = []

    async def play(frames: Frames) -> None:
        heads.append(frames.head)
        await frames.send(CLOSE_1000)

    async def story() -> None:
        async with scripted(opens(play, b"content-length: 0", b"x: y")) as replica:
            app, _, _ = proxy(replica.replica())
            for headers in ([(b"host", b"h")], [*HEADERS, (b"connection", b"Upgrade, x"), (b"x", b"1")]):
                client = Client(app, http_version="2", scheme="wss", headers=headers).start()
                await client.task
                assert client.sent[0] == {
                    "type": "websocket.accept",
                    "subprotocol": None,
                    "headers": [(b"x", b"y")],
                }
        for head in heads:
            assert head.count(b"\r\nconnection: upgrade\r\n") == 1
            assert head.count(b"\r\nupgrade: websocket\r\n") == 1
            assert head.count(b"\r\nsec-websocket-key: ") == 1
            assert b"\r\nsec-websocket-version: 13\r\n" in head
            assert b"\r\nx-forwarded-proto: https\r\n" in head
            assert b"\r\nx: " not in head
            assert b"theirs" not in head

    run(story)


def test_a_client_that_does_not_read_holds_the_replica_up(scripted: Any) -> None:
    """Beyond what the connection holds nothing is taken from the replica; nothing is lost either."""
    count, sent = 200, 0

    async def play(frames: Frames) -> None:
        nonlocal sent
        for _ in range(count):
            await frames.send((Opcode.BINARY, bytes(100_000)))
            sent += 1
        await frames.send(CLOSE_1000)
        await frames.next()

    async def story() -> None:
        async with scripted(opens(play)) as replica:
            app, _, _ = proxy(replica.replica())
            client = Client(app).start()
            await client.has(1)
            client.may_send.clear()
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.05)
            assert sent < count
            client.may_send.set()
            await client.task
            assert sum(len(message.get("bytes", b"")) for message in client.sent) == count * 100_000

    run(story)


def test_a_replica_that_does_not_read_holds_the_client_up(scripted: Any) -> None:
    """Beyond what the connection holds no message is taken from the server; nothing is lost either."""

    async def story() -> None:
        go_on = asyncio.Event()
        heard = 0

        async def play(frames: Frames) -> None:
            nonlocal heard
            await go_on.wait()
            while (frame := await frames.next()) is not None and frame[0] is Opcode.BINARY:
                heard += len(frame[1])
            await frames.send(CLOSE_1000)

        async with scripted(opens(play)) as replica:
            app, _, _ = proxy(replica.replica())
            client = Client(app).start()
            await client.has(1)
            for _ in range(200):
                client.say(bytes(100_000))
            client.leave(1000)
            before = -1
            while before != client.inbox.qsize():
                before = client.inbox.qsize()
                await asyncio.sleep(0.05)
            assert before > 0
            go_on.set()
            await client.task
            assert heard == 200 * 100_000

    run(story)


def test_a_replica_that_reads_nothing_ends_with_its_client(scripted: Any) -> None:
    """A message that cannot be written does not keep the tunnel of a client that has left."""

    async def play(frames: Frames) -> None:
        await asyncio.Event().wait()

    async def story() -> None:
        async with scripted(opens(play)) as replica:
            app, tier, _ = proxy(replica.replica())
            client = Client(app).start()
            await client.has(1)
            client.say(bytes(20 * BIG))
            client.leave()
            await client.task
            assert tier.in_flight == 0

    run(story)


@pytest.mark.parametrize("late", [False, True], ids=["while waiting", "as it comes"])
@pytest.mark.parametrize("answer", ["opened", "refused", "broken"])
def test_cancelled_at_each_point(scripted: Any, cancelled_at: Any, answer: str, late: bool) -> None:
    """Wherever it strikes, the Forward is finished once, no task and no connection stays."""

    async def play(frames: Frames) -> None:
        await frames.send((Opcode.TEXT, b"hello"), (Opcode.PING, b"x"))
        while (frame := await frames.next()) is not None and frame[0] is not Opcode.CLOSE:
            if answer == "broken":
                return
            await frames.send((Opcode.TEXT, b"hello"))
        await frames.send(CLOSE_1000)

    async def refuse(peer: Any) -> None:
        await peer.head()
        await peer.send(CHUNKED, b"2\r\nno\r\n0\r\n\r\n")

    async def story() -> None:
        at, hit = 0, True
        async with scripted(refuse if answer == "refused" else opens(play)) as replica:
            while hit:
                at += 1
                app, tier, strategy = proxy(replica.replica())
                client = Client(app)
                client.say("x")
                client.say(b"y")
                if answer != "broken":
                    asyncio.get_running_loop().call_later(0.02, client.leave, 1000)
                run: Any = app
                harness: Any = cancelled_at(run(client.scope, client.receive, client.send), at, late=late)

                async def cancelled(harness: Any = harness) -> None:
                    await harness

                await asyncio.gather(asyncio.ensure_future(cancelled()), return_exceptions=True)
                await asyncio.sleep(0)
                assert strategy.in_flight == {}
                assert tier.in_flight == 0
                assert len(strategy.starts) == len(strategy.ends)
                assert sum(pool.busy for pool in app.upstream.pools.values()) == 0
                await app.shutdown()
                await replica.quiet()
                hit = harness.hit
            assert at > 1
            assert len(asyncio.all_tasks()) == 2

    run(story)


def test_cancelled_at_random(scripted: Any) -> None:
    """However far its parts have come, a relay that is cancelled leaves nothing behind."""

    async def play(frames: Frames) -> None:
        await frames.send((Opcode.TEXT, b"hello"))
        while (frame := await frames.next()) is not None and frame[0] is not Opcode.CLOSE:
            await frames.send((Opcode.TEXT, b"hello"))

    async def story() -> None:
        async with scripted(opens(play)) as replica:
            app, tier, strategy = proxy(replica.replica())

            async def one(turns: int) -> None:
                client = Client(app).start()
                for _ in range(10):
                    client.say("x")
                for _ in range(turns):
                    await asyncio.sleep(0)
                client.task.cancel()
                await asyncio.gather(client.task, return_exceptions=True)

            await asyncio.gather(*(one(turns) for turns in range(60)))
            await asyncio.sleep(0)
            assert tier.in_flight == 0
            assert len(strategy.starts) == len(strategy.ends)
            assert sum(pool.busy for pool in app.upstream.pools.values()) == 0
            await app.shutdown()
            await replica.quiet()
            assert len(asyncio.all_tasks()) == 2

    run(story)


def test_a_silent_tunnel_ends(scripted: Any) -> None:
    """Where nothing goes either way for the time of a tunnel, both ends are closed."""

    async def story() -> None:
        async with scripted(opens(silent)) as replica:
            app, tier, _ = proxy(replica.replica(), upstream=Upstream(timeouts=Timeouts(tunnel=0.05)))
            client = Client(app).start()
            await client.task
            assert client.sent[-1]["code"] == 1011
            assert tier.in_flight == 0
            await replica.quiet()

    run(story)


def test_what_a_server_gets_wrong_is_raised(scripted: Any) -> None:
    """A message that is none is the server's to hear of, and the tunnel ends."""

    async def story() -> None:
        async with scripted(opens(silent)) as replica:
            app, tier, _ = proxy(replica.replica())
            client = Client(app).start()
            await client.has(1)
            client.inbox.put_nowait({"type": "websocket.receive"})
            with pytest.raises(KeyError):
                await client.task
            assert tier.in_flight == 0
            await replica.quiet()

    run(story)


def test_a_handler_that_fails() -> None:
    """Its error reaches the server, as that of an application does."""

    async def story() -> None:
        async def fail(request: Request) -> Response:
            raise KeyError("mine")

        app, _, _ = proxy()
        app.handler = fail
        with pytest.raises(KeyError, match="mine"):
            await Client(app).start().task

    run(story)


def test_without_the_extra(monkeypatch: Any) -> None:
    """The client gets a 500, or is closed with 1011, and the log says what to install."""
    monkeypatch.delitem(sys.modules, "replicated.adapters.asgi_websocket")
    monkeypatch.setitem(sys.modules, "websockets.client", None)

    async def story() -> None:
        said: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context))
        app, _, _ = proxy()
        client = Client(app).start()
        await client.task
        assert client.status == 500
        blunt = Client(app, extensions={}).start()
        await blunt.task
        assert blunt.sent == [{"type": "websocket.close", "code": 1011}]
        assert "pip install 'replicated-tier[websocket]'" in str(said[0]["exception"])
        assert len(said) == 2

    run(story)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "1"])
def test_a_limit_that_cannot_be(limit: Any) -> None:
    """It is refused by name when the proxy is made."""
    with pytest.raises(ValueError, match="message_limit must be"):
        ReverseProxy(Tier(), message_limit=limit)
