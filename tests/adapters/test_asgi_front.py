"""Between ASGI and handlers: every message once, to whom it belongs, and an end for everything that began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from replicated.adapters.asgi_app import AppHandler
from replicated.adapters.asgi_front import Arrivals, HandlerApp, Message, request_of
from replicated.adapters.proxy.gatekeeper import ClientGone
from replicated.http.fields import find
from replicated.http.message import Request, Response

Headers = list[tuple[bytes, bytes]]


class Client:
    """The server's end of one request to an application, driven by hand."""

    def __init__(self, app: Any, *pieces: bytes, **scope: Any) -> None:
        headers: Headers = scope.pop("headers", [(b"host", b"h")])
        self.scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "scheme": "http",
            "client": ("10.0.0.1", 5),
            "headers": headers,
            **scope,
        }
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        for n, piece in enumerate(pieces or (b"",)):
            more = n < len(pieces) - 1
            self.inbox.put_nowait({"type": "http.request", "body": piece, "more_body": more})
        self.sent: list[Message] = []
        self.receiving = 0
        self.most_receiving = 0
        self.task = asyncio.ensure_future(app(self.scope, self.receive, self.send))

    async def receive(self) -> Message:
        self.receiving += 1
        self.most_receiving = max(self.most_receiving, self.receiving)
        try:
            return await self.inbox.get()
        finally:
            self.receiving -= 1

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        self.sent.append(message)

    def leave(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> Headers:
        return list(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def ended(self) -> bool:
        return bool(self.sent) and not self.sent[-1].get("more_body", False) and len(self.sent) > 1


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 5))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def handler(response: Response) -> HandlerApp:
    async def handle(request: Request) -> Response:
        return response

    return HandlerApp(handle)


class Tracked:
    """A body of pieces, released one by one, that knows whether it was closed."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self.pieces = list(pieces)
        self.error = error
        self.ready = asyncio.Semaphore(0)
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await self.ready.acquire()
        if self.pieces:
            return self.pieces.pop(0)
        if self.error is not None:
            raise self.error
        raise StopAsyncIteration

    async def close(self) -> None:
        self.closed += 1

    def response(self, **headers: str) -> Response:
        lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return Response(200, lines, self, self.close)


# -- from ASGI to a handler -----------------------------------------------------------------------------


def test_a_request_is_what_came() -> None:
    """Target, header lines, peer and scheme reach the handler as they were sent."""

    async def story() -> None:
        seen: list[Request] = []

        async def handle(request: Request) -> Response:
            seen.append(request)
            return Response(200, [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")], b"ok")

        lines = [(b"host", b"h"), (b"x", b"1"), (b"x", b"2")]
        client = Client(
            HandlerApp(handle),
            raw_path=b"/a%2Fb",
            path="/a/b",
            query_string=b"c=%20",
            headers=lines,
            scheme="https",
        )
        await client.task
        [request] = seen
        assert (request.target, request.headers, request.peer) == (b"/a%2Fb?c=%20", lines, "10.0.0.1")
        assert (request.scheme, request.body, request.path) == ("https", None, "/a%2Fb")
        assert [line for line in client.headers if line[0] == b"set-cookie"] == [
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
        ]
        assert len([line for line in client.headers if line[0] == b"date"]) == 1

    run(story)


@pytest.mark.parametrize(
    ("version", "method", "headers", "has_body"),
    [
        ("1.1", "GET", [], False),
        ("1.1", "POST", [], False),
        ("1.1", "POST", [(b"content-length", b"0")], False),
        ("1.1", "POST", [(b"content-length", b"3")], True),
        ("1.1", "POST", [(b"transfer-encoding", b"chunked")], True),
        ("2", "POST", [], True),
        ("2", "GET", [], False),
        ("2", "POST", [(b"content-length", b"0")], False),
    ],
)
def test_who_has_a_body(version: str, method: str, headers: Headers, has_body: bool) -> None:
    """HTTP/1.1 announces a body; HTTP/2 need not."""

    async def story() -> None:
        scope = {"http_version": version, "method": method, "headers": headers, "path": "/", "client": None}
        arrivals = Arrivals(scope, Client.receive)  # type: ignore[arg-type]
        request = request_of(scope, arrivals)
        assert (request.body is not None) == has_body
        assert (request.target, request.peer) == (b"/", "")

    run(story)


def test_a_body_is_read_whole() -> None:
    """The handler gets every piece of the body, in order, and no empty one."""

    async def story() -> None:
        async def handle(request: Request) -> Response:
            assert request.body is not None
            return Response(200, [(b"date", b"x")], b"|".join([piece async for piece in request.body]))

        client = Client(HandlerApp(handle), b"a", b"", b"b", b"c", headers=[(b"content-length", b"3")])
        await client.task
        assert client.body == b"a|b|c"
        assert client.headers == [(b"date", b"x")]

    run(story)


def test_the_wait_for_the_end_steals_nothing_from_the_body() -> None:
    """A response that begins while the body still comes does not lose a piece of it."""

    async def story() -> None:
        async def echo(request: Request) -> Response:
            assert request.body is not None
            return Response(200, [], request.body)

        headers = [(b"transfer-encoding", b"chunked")]
        client = Client(HandlerApp(echo), headers=headers)
        client.inbox = asyncio.Queue()
        expected = b""
        for n in range(50):
            piece = b"%d," % n
            expected += piece
            client.inbox.put_nowait({"type": "http.request", "body": piece, "more_body": n < 49})
            await settle()
        await client.task
        assert client.body == expected
        assert client.most_receiving == 1

    run(story)


def test_a_client_that_leaves_while_it_sends() -> None:
    """A disconnect within the body ends the request without an answer."""

    async def story() -> None:
        async def handle(request: Request) -> Response:
            assert request.body is not None
            return Response(200, [], b"".join([piece async for piece in request.body]))

        client = Client(HandlerApp(handle), b"a", b"b", headers=[(b"content-length", b"9")])
        client.inbox.get_nowait()
        client.inbox.get_nowait()
        client.leave()
        await client.task
        assert client.sent == []

    run(story)


def test_a_client_that_leaves_within_a_silent_stream() -> None:
    """A stream ends when its client goes away, though it has nothing to send, and is closed once."""

    async def story() -> None:
        body = Tracked(b"a")
        client = Client(handler(body.response()))
        body.ready.release()
        await settle()
        assert client.body == b"a"
        client.leave()
        await client.task
        assert (body.closed, client.ended) == (1, False)

    run(story)


def test_a_client_that_leaves_while_it_sends_and_is_answered() -> None:
    """A disconnect that the body's reader meets ends a response that streams meanwhile."""

    async def story() -> None:
        body = Tracked(b"a")

        async def handle(request: Request) -> Response:
            async def read() -> None:
                assert request.body is not None
                with pytest.raises(ClientGone):
                    async for _ in request.body:
                        pass

            reading.append(asyncio.ensure_future(read()))
            return body.response()

        reading: list[asyncio.Future[None]] = []
        client = Client(HandlerApp(handle), b"a", b"b", headers=[(b"content-length", b"9")])
        client.inbox = asyncio.Queue()
        client.inbox.put_nowait({"type": "http.request", "body": b"a", "more_body": True})
        await settle()
        client.leave()
        client.leave()
        await client.task
        await reading[0]
        assert body.closed == 1

    run(story)


def test_a_source_that_breaks_off() -> None:
    """A stream that fails fails the request, so that the server breaks off, and is closed."""

    async def story() -> None:
        body = Tracked(b"a", error=RuntimeError("broken"))
        client = Client(handler(body.response()))
        body.ready.release()
        body.ready.release()
        with pytest.raises(RuntimeError, match="broken"):
            await client.task
        assert (body.closed, client.ended) == (1, False)

    run(story)


def test_a_server_that_stops_within_a_stream() -> None:
    """A request that is cancelled closes its response and leaves no task behind."""

    async def story() -> None:
        before = len(asyncio.all_tasks())
        body = Tracked(b"a", b"b")
        client = Client(handler(body.response()))
        body.ready.release()
        await settle()
        client.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client.task
        assert body.closed == 1
        await settle()
        assert len(asyncio.all_tasks()) == before

    run(story)


def test_events_pass_one_by_one() -> None:
    """Each piece of an event stream is sent when it comes."""

    async def story() -> None:
        body = Tracked(b"a", b"b", b"c")
        client = Client(handler(body.response(content_type="text/event-stream")))
        for sent in (b"a", b"ab", b"abc"):
            body.ready.release()
            await settle()
            assert client.body == sent
        body.ready.release()
        await client.task
        assert client.ended

    run(story)


class Service(HandlerApp):
    def __init__(self, *, fails: bool = False) -> None:
        super().__init__(lambda request: None)  # type: ignore[arg-type, return-value]
        self.fails = fails
        self.events: list[str] = []

    async def startup(self) -> None:
        self.events.append("start")
        if self.fails:
            raise OSError("no port")

    async def shutdown(self) -> None:
        self.events.append("stop")


def lifespan(app: Any, *kinds: str) -> list[Message]:
    async def story() -> None:
        inbox = [{"type": kind} for kind in kinds]

        async def receive() -> Message:
            return inbox.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        await app({"type": "lifespan"}, receive, send)

    sent: list[Message] = []
    run(story)
    return sent


def test_lifespan() -> None:
    """Start and stop are done and confirmed."""
    service = Service()
    sent = lifespan(service, "lifespan.startup", "lifespan.shutdown")
    assert sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]
    assert service.events == ["start", "stop"]
    lifespan(handler(Response(200)), "lifespan.startup", "lifespan.shutdown")


def test_a_start_that_fails_is_said() -> None:
    """A start that fails is told to the server, which else would serve without it."""
    sent = lifespan(Service(fails=True), "lifespan.startup")
    assert sent == [{"type": "lifespan.startup.failed", "message": "OSError: no port"}]


def test_websockets_are_refused_and_others_ignored() -> None:
    """A handler has no answer to a WebSocket; unknown scopes are none of its business."""

    async def story() -> None:
        client = Client(handler(Response(200)), type="websocket")
        await client.task
        assert client.sent == [{"type": "websocket.close", "code": 1011}]
        client = Client(handler(Response(200)), type="unheard-of")
        await client.task
        assert client.sent == []

    run(story)


# -- from a handler to an application -------------------------------------------------------------------


async def ask(app: Any, *pieces: bytes, headers: Headers | None = None, method: str = "GET") -> Response:
    scope = {
        "method": method,
        "path": "/",
        "headers": headers or [],
        "extensions": {"x": {}},
        "state": {"s": 1},
    }
    request = request_of(scope)
    if pieces:

        async def body() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        request.body = body()
    return await AppHandler(app)(request)


async def read(response: Response) -> bytes:
    try:
        if isinstance(response.body, bytes):
            return response.body
        return b"".join([piece async for piece in response.body])
    finally:
        await response.close()


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def piece(body: bytes = b"", more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def sends(*messages: Message) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def test_an_application_answers() -> None:
    """A response with a length and one piece is whole at once; its lines stay lines, in lower case."""

    async def story() -> None:
        length = (b"Content-Length", b"2")
        response = await ask(sends(start(length, (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")), piece(b"ok")))
        assert response.headers == [(b"content-length", b"2"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
        assert response.body == b"ok"
        await response.close()
        response = await ask(sends(start(length), piece(b"o", True), piece(b"", True), piece(b"k")))
        assert not isinstance(response.body, bytes)
        assert await read(response) == b"ok"
        assert await read(await ask(sends(start(), piece(b"a", True), piece(b"", True), piece()))) == b"a"
        empty = {"type": "http.response.body"}
        assert await read(await ask(sends({"type": "http.response.start", "status": 204}, empty))) == b""

    run(story)


def test_an_event_stream_is_handed_on_at_its_head() -> None:
    """A response that does not say how long it is begins before its first piece is there."""

    async def story() -> None:
        never = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start((b"content-type", b"text/event-stream")))
            await never.wait()

        response = await asyncio.wait_for(ask(app), 1)
        assert find(response.headers, b"content-type") == b"text/event-stream"
        await response.close()

    run(story)


def test_what_an_application_sees() -> None:
    """It sees the request's own method and headers, the server's state, and no extensions."""

    async def story() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.update(scope)
            await send(start())
            await send(piece())

        seen: dict[str, Any] = {}
        await read(await ask(app, headers=[(b"x", b"1")], method="HEAD"))
        assert (seen["method"], seen["headers"], seen["extensions"]) == ("HEAD", [(b"x", b"1")], {})
        assert seen["state"] == {"s": 1}

    run(story)


@pytest.mark.parametrize("pieces", [(), (b"a", b"b")])
def test_an_application_reads_its_request(pieces: tuple[bytes, ...]) -> None:
    """It gets the body piece by piece, then its end, and the disconnect only when its response is whole."""

    async def story() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            while True:
                message = await receive()
                got.append(message["body"])
                if not message["more_body"]:
                    break
            waiting = asyncio.ensure_future(receive())
            await send(start())
            await send(piece(b"x", True))
            await asyncio.sleep(0)
            assert not waiting.done()
            await send(piece())
            got.append((await waiting)["type"])
            got.append((await receive())["type"])

        got: list[Any] = []
        assert await read(await ask(app, *pieces)) == b"x"
        assert got == [*pieces, b"", "http.disconnect", "http.disconnect"]

    run(story)


def test_a_client_gone_is_not_the_applications_failure() -> None:
    """An application that gives up because its client left does not count as one that failed."""

    async def story() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert (await receive())["type"] == "http.disconnect"

        async def body() -> AsyncIterator[bytes]:
            raise ClientGone
            yield b""

        request = request_of({"method": "POST", "path": "/", "headers": []})
        request.body = body()
        with pytest.raises(ClientGone):
            await AppHandler(app)(request)

    run(story)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_an_application_that_raises(before: int) -> None:
    """Its own error reaches the reader, before the head and within the body."""

    async def story() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            for message in [start(), piece(b"a", True)][:before]:
                await send(message)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await read(await ask(app))

    run(story)


@pytest.mark.parametrize("messages", [[], [start()], [start(), piece(b"a", True)]])
def test_an_application_that_returns_too_early(messages: list[Message]) -> None:
    """A response without its end is an error, not a shorter response."""

    async def story() -> None:
        with pytest.raises(RuntimeError, match="without having finished"):
            await read(await ask(sends(*messages)))

    run(story)


def test_an_application_that_cancels_itself() -> None:
    """An application that ends itself by cancellation does not cancel its reader."""

    async def story() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise asyncio.CancelledError

        with pytest.raises(RuntimeError, match="without having finished"):
            await ask(app)

    run(story)


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_a_reader_that_leaves(reads: int) -> None:
    """However much was read, and though another piece waits, a reader that leaves stops the application."""

    async def story() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await send(start())
                while True:
                    await send(piece(b"x", True))
            finally:
                ended.append(True)

        ended: list[bool] = []
        response = await ask(app)
        assert not isinstance(response.body, bytes)
        for _ in range(reads):
            await anext(response.body)
        await settle()
        await response.close()
        assert ended == [True]

    run(story)


def test_back_pressure() -> None:
    """An application is no more than one piece ahead of its reader."""

    async def story() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start())
            for _ in range(10):
                await send(piece(b"x", True))
                sent.append(1)
            await send(piece())

        sent: list[int] = []
        response = await ask(app)
        await settle()
        assert len(sent) <= 1
        assert await read(response) == b"x" * 10

    run(story)


def test_several_senders_wait_their_turn() -> None:
    """Pieces that an application's tasks send at once all arrive."""

    async def story() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start())
            await asyncio.gather(*(send(piece(b"%d" % n, True)) for n in range(9)))
            await send(piece())

        assert sorted(await read(await ask(app))) == sorted(b"012345678")

    run(story)


def test_work_after_the_response_delays_nothing() -> None:
    """The response is handed on before what the application does after it, which still comes to its end."""

    async def story() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start((b"content-length", b"2")))
            await send(piece(b"ok"))
            await send(piece(b"too late"))
            await gate.wait()
            done.append(True)

        gate, done = asyncio.Event(), list[bool]()
        response = await ask(app)
        assert (response.body, done) == (b"ok", [])
        gate.set()
        await response.close()
        assert done == [True]

    run(story)


def test_a_failure_after_the_response_is_reported() -> None:
    """What fails after the response is the application's affair: it is reported, and the response stands."""

    async def story() -> None:
        said: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start((b"content-length", b"2")))
            await send(piece(b"ok"))
            raise KeyError("mine")

        assert await read(await ask(app)) == b"ok"
        assert [str(context["exception"]) for context in said] == ["'mine'"]

    run(story)
