"""httpx clients, balanced: each Forward finished once, blame where it belongs, the request as it was.

Told twice, of httpx and of httpx2: in turn ``httpx`` stands for each of them here.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import httpx2
import pytest

from replicated import NoReplica, Refused, Replica, Throttle, Tier, affinity
from replicated.adapters.httpx_transport import (
    AsyncReplicatedTransport,
    NoReplicaError,
    RefusedError,
    ReplicatedTransport,
)
from replicated.outcome import Verdict
from replicated.testing import ManualClock, RecordingStrategy

Script = Callable[[httpx.Request], httpx.Response]


def tier(n: int = 3, scheme: str = "http", **arguments: Any) -> Tier:
    """Replicas a, b, c ..., picked in this order: the first that is in the ready set."""
    replicas = [Replica(name, f"{scheme}://{name}.test:900{i}") for i, name in enumerate("abc"[:n])]
    return Tier(replicas, strategy=RecordingStrategy(), clock=ManualClock(), **arguments)


def verdicts(tier: Tier) -> list[tuple[str, Verdict]]:
    strategy = tier.strategy
    assert isinstance(strategy, RecordingStrategy)
    assert tier.in_flight == 0
    return [(name, outcome.verdict) for name, outcome in strategy.ends]


@pytest.fixture(autouse=True, params=[httpx, httpx2], ids=["httpx", "httpx2"])
def module(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let ``httpx`` stand for one of the two."""
    global httpx
    before, httpx = httpx, request.param
    yield
    httpx = before


def made(error: str | int) -> Any:
    """Return an error of the module by its name, or of Python's; a status as it is."""
    if isinstance(error, int):
        return error
    return getattr(httpx, error, KeyError)("x")


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream, httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A response's body that counts how often it is closed, and may break off."""

    def __init__(self, *pieces: bytes, error: BaseException | None = None) -> None:
        self.pieces = pieces
        self.error = error
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.error is not None:
            raise self.error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.close()


class Both:
    """The same story told to a client that waits and to one that awaits."""

    def __init__(self, kind: str, tier: Tier, script: Script, **arguments: Any) -> None:
        self.kind = kind
        self.tier = tier
        self.seen: list[httpx.Request] = []
        self.script = script
        self.arguments = arguments

    def play(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        return self.script(request)

    def transport(self) -> Any:
        kind = ReplicatedTransport if self.kind == "sync" else AsyncReplicatedTransport
        return kind(self.tier, inner=httpx.MockTransport(self.play), **self.arguments)

    def send(self, method: str = "GET", url: str = "http://service/path?q=1", **named: Any) -> httpx.Response:
        options = {key: named.pop(key) for key in ("follow_redirects", "base_url") if key in named}
        if self.kind == "sync":
            with httpx.Client(transport=self.transport(), **options) as client:
                return client.request(method, url, **named)

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport(), **options) as client:
                return await client.request(method, url, **named)

        return asyncio.run(send())

    def stream(self, read: int, **named: Any) -> None:
        """Open a response, read so many pieces of it, and leave."""
        if self.kind == "sync":
            with (
                httpx.Client(transport=self.transport()) as client,
                client.stream("GET", "http://service/") as response,
            ):
                pieces = response.iter_raw()
                for _ in range(read):
                    next(pieces)
            return

        async def stream() -> None:
            async with (
                httpx.AsyncClient(transport=self.transport()) as client,
                client.stream("GET", "http://service/") as response,
            ):
                pieces = response.aiter_raw()
                for _ in range(read):
                    await anext(pieces)
                await pieces.aclose()  # type: ignore[attr-defined]

        asyncio.run(stream())


@pytest.fixture(params=["sync", "async"])
def both(request: pytest.FixtureRequest) -> Callable[..., Both]:
    return lambda *arguments, **named: Both(request.param, *arguments, **named)


def ok(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, stream=Stream(request.url.host.encode()))


def test_the_request_stays_the_users(both: Callable[..., Both]) -> None:
    """Only the address changes: Host, path, query, headers, body and extensions go on as the user chose."""
    story = both(tier(), ok)
    response = story.send(
        "POST", "http://service/a%2Fb?c=%20", content=b"body", headers={"x": "1"}, extensions={"trace-id": 7}
    )
    [seen] = story.seen
    assert (seen.url.host, seen.url.port, seen.url.raw_path) == ("a.test", 9000, b"/a%2Fb?c=%20")
    assert (seen.headers["host"], seen.headers["x"]) == ("service", "1")
    assert (seen.method, seen.extensions["trace-id"]) == ("POST", 7)
    assert str(response.request.url) == "http://service/a%2Fb?c=%20"
    assert response.text == "a.test"
    assert verdicts(story.tier) == [("a", Verdict.OK)]


def test_sni_is_the_users(both: Callable[..., Both]) -> None:
    """Over TLS the certificate is the service's, unless the user names another."""
    story = both(tier(scheme="https"), ok)
    story.send(url="https://service/")
    story.send(url="https://service/", extensions={"sni_hostname": "mine"})
    assert [seen.extensions["sni_hostname"] for seen in story.seen] == ["service", "mine"]
    plain = both(tier(), ok)
    plain.send()
    assert "sni_hostname" not in plain.seen[0].extensions


def test_base_url_and_redirects(both: Callable[..., Both]) -> None:
    """A base URL names the service, and a redirect within it is a request of its own."""

    def move(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/old":
            return httpx.Response(302, headers={"location": "/new"})
        return ok(request)

    story = both(tier(), move)
    response = story.send(url="/old", base_url="http://service", follow_redirects=True)
    assert str(response.url) == "http://service/new"
    assert [len(response.history), len(verdicts(story.tier))] == [1, 2]


def test_affinity_and_throttle(both: Callable[..., Both]) -> None:
    """The affinity key is the path as sent; whom a request counts against may be refused."""
    throttled = tier(throttle=Throttle(rate=1, burst=1, clock=ManualClock()))
    story = both(throttled, ok, affinity=affinity.path, throttle_key=lambda request: request.url.host)
    story.send(url="http://service/a%2Fb?q")
    assert throttled.strategy.picks == [("/a%2Fb", "a")]  # type: ignore[attr-defined]
    with pytest.raises(RefusedError) as caught:
        story.send()
    assert caught.value.retry_after == 1
    assert caught.value.request.url.host == "service"
    assert isinstance(caught.value, Refused)
    assert isinstance(caught.value, httpx.TransportError)
    assert len(verdicts(throttled)) == 1


def test_nobody_can_serve(both: Callable[..., Both]) -> None:
    """Without a replica the error is a ConnectError that says when to come back and which request it was."""
    story = both(Tier(), ok)
    with pytest.raises(httpx.ConnectError) as caught:
        story.send()
    assert isinstance(caught.value, NoReplicaError)
    assert isinstance(caught.value, NoReplica)
    assert caught.value.retry_after > 0
    assert str(caught.value.request.url) == "http://service/path?q=1"
    assert "no replica can serve" in str(caught.value)


@pytest.mark.parametrize("kind", [NoReplicaError, RefusedError])
def test_errors_travel(kind: type[NoReplicaError | RefusedError]) -> None:
    """The errors survive pickling, as what crosses processes must."""
    error = kind("why", 2.5)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.retry_after) == (kind, "why", 2.5)
    with pytest.raises(RuntimeError, match="request"):
        _ = error.request


def failing(*errors: Exception | int | None) -> Script:
    queue = list(errors)

    def script(request: httpx.Request) -> httpx.Response:
        error = queue.pop(0) if queue else None
        if isinstance(error, Exception):
            raise error
        return ok(request) if error is None else httpx.Response(error, text=f"from {request.url.host}")

    return script


@pytest.mark.parametrize(
    "error",
    ["ConnectError", "ReadTimeout", "ReadError", "RemoteProtocolError", 502, 503, 504],
)
def test_repeatable_requests_go_on(both: Callable[..., Both], error: str | int) -> None:
    """What can be repeated is sent to another replica, body and all, and the first one is blamed."""
    story = both(tier(), failing(made(error)))
    assert story.send("PUT", content=b"body").text == "b.test"
    assert verdicts(story.tier) == [("a", Verdict.FAILED), ("b", Verdict.OK)]
    assert [seen.read() for seen in story.seen] == [b"body", b"body"]


@pytest.mark.parametrize("error", ["ReadTimeout", "ReadError", "RemoteProtocolError"])
def test_a_post_is_sent_once(both: Callable[..., Both], error: str) -> None:
    """What may have been carried out is not repeated; what never reached a replica is."""
    story = both(tier(), failing(made(error)))
    with pytest.raises(type(made(error))):
        story.send("POST", content=b"body")
    assert verdicts(story.tier) == [("a", Verdict.FAILED)]
    story = both(tier(), failing(503))
    assert story.send("POST", content=b"body").status_code == 503
    story = both(tier(), failing(httpx.ConnectError("x")))
    assert story.send("POST", content=b"body").text == "b.test"


def test_a_stream_is_sent_once(both: Callable[..., Both]) -> None:
    """A body that is a stream is never sent twice, not even where nothing was sent of it."""
    for error in (httpx.ConnectError("x"), 503):
        story = both(tier(), failing(error))
        content: Any = iter([b"a"])
        if story.kind == "async":

            async def pieces() -> AsyncIterator[bytes]:
                yield b"a"

            content = pieces()
        with contextlib.suppress(httpx.ConnectError):
            assert story.send("PUT", content=content).status_code == 503
        assert verdicts(story.tier) == [("a", Verdict.FAILED)]


@pytest.mark.parametrize("error", ["LocalProtocolError", "PoolTimeout", "KeyError"])
def test_faults_of_this_side_blame_nobody(both: Callable[..., Both], error: str) -> None:
    """A malformed request, a full pool and an error of the caller's own are neither blamed nor repeated."""
    story = both(tier(), failing(made(error)))
    with pytest.raises(type(made(error))):
        story.send()
    assert verdicts(story.tier) == [("a", Verdict.CANCELLED)]


def test_attempts_end(both: Callable[..., Both]) -> None:
    """When every attempt failed, the last answer or error is the client's, and all are finished."""
    story = both(tier(), failing(503, 503, 504))
    response = story.send()
    assert (response.status_code, response.text) == (504, "from c.test")
    assert verdicts(story.tier) == [(name, Verdict.FAILED) for name in "abc"]
    story = both(tier(1), failing(httpx.ReadError("x")))
    with pytest.raises(httpx.ReadError):
        story.send()
    assert verdicts(story.tier) == [("a", Verdict.FAILED)]


def test_statuses_are_judged(both: Callable[..., Both]) -> None:
    """A 4xx and a 501 are answers; a 500 is the replica's fault, and not worth another."""
    for status, verdict in ((404, Verdict.OK), (501, Verdict.OK), (500, Verdict.FAILED)):
        story = both(tier(), failing(status))
        assert story.send().status_code == status
        assert verdicts(story.tier) == [("a", verdict)]


def test_the_end_of_a_stream_is_the_end(both: Callable[..., Both]) -> None:
    """The Forward is open until the body is over, and closed once: read, left early or never read."""
    for read, verdict in ((2, Verdict.CANCELLED), (1, Verdict.CANCELLED), (0, Verdict.CANCELLED)):
        body = Stream(b"a", b"b")
        story = both(tier(), lambda request, body=body: httpx.Response(200, stream=body))
        story.stream(read)
        assert verdicts(story.tier) == [("a", verdict)]
        assert body.closed == 1
    failed = Stream(b"a")
    story = both(tier(), lambda request: httpx.Response(500, stream=failed))
    story.stream(0)
    assert verdicts(story.tier) == [("a", Verdict.FAILED)]


def test_a_body_that_breaks_off_is_the_replicas_fault(both: Callable[..., Both]) -> None:
    """A response that ends too early fails the replica; an error from elsewhere does not."""
    for error, verdict in ((httpx.ReadError("x"), Verdict.FAILED), (KeyError("x"), Verdict.CANCELLED)):
        body = Stream(b"a", error=error)
        story = both(tier(), lambda request, body=body: httpx.Response(200, stream=body))
        with pytest.raises(type(error)):
            story.send()
        assert verdicts(story.tier) == [("a", verdict)]
        assert body.closed == 1


def test_an_answer_that_was_read_before(both: Callable[..., Both]) -> None:
    """A response that comes whole, as a mock's or a cache's does, finishes its Forward at once."""
    story = both(tier(), lambda request: httpx.Response(200, text="whole"))
    assert story.send().text == "whole"
    assert verdicts(story.tier) == [("a", Verdict.OK)]


def test_a_refused_answer_is_closed(both: Callable[..., Both]) -> None:
    """The answer that another replica is asked in place of is closed, and an error in that blames nobody."""

    class Broken(Stream):
        def close(self) -> None:
            super().close()
            raise httpx.ReadError("x")

    for body in (Stream(b"a"), Broken(b"a")):
        answers = [httpx.Response(503, stream=body), httpx.Response(200, text="ok")]
        story = both(tier(), lambda request, answers=answers: answers.pop(0))
        assert story.send().text == "ok"
        assert verdicts(story.tier) == [("a", Verdict.FAILED), ("b", Verdict.OK)]
        assert body.closed == 1


def test_a_body_that_cannot_be_closed(both: Callable[..., Both]) -> None:
    """The Forward is finished also where closing the body fails."""

    class Broken(Stream):
        def close(self) -> None:
            raise KeyError("x")

    story = both(tier(), lambda request: httpx.Response(200, stream=Broken(b"a")))
    with pytest.raises(KeyError):
        story.send()
    assert verdicts(story.tier) == [("a", Verdict.OK)]


def test_a_replica_without_an_address(both: Callable[..., Both]) -> None:
    """A replica whose URL says nothing of where it listens is refused by name, and nothing stays open."""
    for url in ("", "ftp://x", "http://x/path"):
        story = both(Tier([Replica("a", url)], strategy=RecordingStrategy()), ok)
        with pytest.raises(ValueError, match="url must"):
            story.send()
        assert verdicts(story.tier) == [("a", Verdict.CANCELLED)]


def test_cancelled_anywhere() -> None:
    """Wherever a request is cancelled, its Forward is finished as cancelled, once."""

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await asyncio.sleep(0)
            return httpx.Response(200, stream=SlowStream())

    class SlowStream(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(5):
                await asyncio.sleep(0)
                yield b"a"

        async def aclose(self) -> None:
            await asyncio.sleep(0)

    async def story(steps: int) -> Tier:
        balanced = tier()
        async with httpx.AsyncClient(transport=AsyncReplicatedTransport(balanced, inner=Slow())) as client:
            task = asyncio.ensure_future(client.get("http://service/"))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return balanced

    seen = set()
    for steps in range(1, 12):
        seen.update(verdict for _, verdict in verdicts(asyncio.run(story(steps))))
    assert seen == {Verdict.OK, Verdict.CANCELLED}


def test_own_transports_over_real_sockets() -> None:
    """Without another one, httpx's own transport carries the requests, and is closed with this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.headers["host"].encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    balanced = Tier([Replica("a", f"http://127.0.0.1:{server.server_port}")], strategy=RecordingStrategy())

    async def story() -> str:
        async with httpx.AsyncClient(transport=AsyncReplicatedTransport(balanced)) as client:
            return (await client.get("http://service/")).text

    try:
        assert asyncio.run(story()) == "service"
        with httpx.Client(transport=ReplicatedTransport(balanced)) as client:
            assert client.get("http://service:81/").text == "service:81"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert verdicts(balanced) == [("a", Verdict.OK)] * 2
