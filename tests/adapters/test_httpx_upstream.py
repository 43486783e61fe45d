"""httpx and httpx2 over our own engine: what a client knows stays as it is, and nothing leaks."""

from __future__ import annotations

import asyncio
import errno
import importlib
import itertools
import pickle
import random
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any

import anyio
import pytest
import trustme

from replicated import NoReplica, Refused, Replica, Throttle, Tier
from replicated.adapters.httpx_transport import AsyncReplicatedTransport, NoReplicaError, ReplicatedTransport
from replicated.outcome import Verdict
from replicated.testing import ManualClock, RecordingStrategy

OURS = ("tls", "max_idle", "max_connections", "throttle_key")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture(params=["httpx", "httpx2"])
def http(request: pytest.FixtureRequest) -> Any:
    """The client's module."""
    return importlib.import_module(request.param)


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await main()

    return asyncio.run(bounded())


def tier_of(*urls: str) -> Tier:
    """Replicas a, b, c ..., picked in this order."""
    return Tier(
        [Replica(name, url) for name, url in zip("abc", urls, strict=False)], strategy=RecordingStrategy()
    )


def verdicts(tier: Tier) -> list[tuple[str, Verdict]]:
    strategy = tier.strategy
    assert isinstance(strategy, RecordingStrategy)
    assert tier.in_flight == 0
    return [(name, outcome.verdict) for name, outcome in strategy.ends]


def client_of(http: Any, tier: Tier, **options: Any) -> Any:
    arguments = {name: options.pop(name) for name in OURS if name in options}
    transport = AsyncReplicatedTransport(tier, **arguments)
    return http.AsyncClient(transport=transport, **{"base_url": "http://service", **options})


async def pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def test_what_a_replica_sees_and_a_client_gets(http: Any, scripted: Any) -> None:
    """The request arrives as the user chose it; the response is one of the client's module, in full."""
    seen: list[bytes] = []

    async def play(peer: Any) -> None:
        while request := await peer.request():
            seen.append(request)
            await peer.send(b"HTTP/1.1 404 Not Found\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n")
            await peer.send(b"content-type: text/plain; charset=latin-1\r\ncontent-length: 1\r\n\r\n\xe4")

    async def main() -> None:
        async with scripted(play) as replica:
            tier = tier_of(replica.url)
            async with client_of(http, tier) as client:
                response = await client.post("/a%2Fb?c=%20d", content=b"body", headers={"X-Case": "1"})
                assert type(response) is http.Response
                assert (response.status_code, response.reason_phrase) == (404, "Not Found")
                assert (response.text, response.http_version) == ("ä", "HTTP/1.1")
                assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
                assert dict(client.cookies) == {"a": "1", "b": "2"}
                assert response.elapsed.total_seconds() > 0
                assert str(response.url) == "http://service/a%2Fb?c=%20d"
                await client.get("/", extensions={"target": b"/as-it-is"})
            await replica.quiet()
            assert replica.accepted == 1
            assert verdicts(tier) == [("a", Verdict.OK)] * 2

    run(main)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /a%2Fb?c=%20d HTTP/1.1"
    assert {b"host: service", b"x-case: 1", b"content-length: 4"} < set(lines)
    assert body == b"body"
    assert seen[1].startswith(b"GET /as-it-is HTTP/1.1\r\n")
    assert b"content-length" not in seen[1]


def test_bodies_of_every_kind(http: Any, scripted: Any) -> None:
    """Bytes, large bytes, forms, files and generators arrive whole; a generator is sent in chunks."""
    seen: list[bytes] = []

    async def play(peer: Any) -> None:
        while request := await peer.request():
            seen.append(request)
            await peer.send(OK)

    large = b"x" * 100_000

    async def main() -> None:
        async with scripted(play) as replica, client_of(http, tier_of(replica.url)) as client:
            await client.post("/", content=large)
            await client.post("/", data={"a": "1"})
            await client.post("/", files={"f": b"file"})
            await client.post("/", content=pieces(b"one", b"", b"two"))
            await client.post("/", content=pieces(b"three"), headers={"content-length": "5"})
            await client.post("/", content=b"", headers={"transfer-encoding": "chunked"})
            await client.post("/")
            await client.send(
                http.Request("PUT", "http://x/", headers={"host": "x"}, stream=unannounced(http))
            )
            assert replica.accepted == 1

    run(main)
    bodies = [request.partition(b"\r\n\r\n")[2] for request in seen]
    assert bodies[:2] == [large, b"a=1"]
    assert b"\r\n\r\nfile\r\n" in bodies[2]
    assert bodies[3:] == [b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n", b"three", b"0\r\n\r\n", b"", b""]


def unannounced(http: Any, *sent: bytes) -> Any:
    class Stream(http.AsyncByteStream):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in sent:
                yield piece

    return Stream()


def test_both_ways_at_once(http: Any, scripted: Any) -> None:
    """The response can begin before the request is over, and each piece passes as it comes."""

    async def play(peer: Any) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            await peer.reader.readuntil(b"\r\n")
            piece = (await peer.reader.readuntil(b"\r\n"))[:-2]
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await peer.reader.readuntil(b"0\r\n\r\n")
        await peer.send(b"0\r\n\r\n")

    async def main() -> None:
        said: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def body() -> AsyncIterator[bytes]:
            while piece := await said.get():
                yield piece

        async with scripted(play) as replica:
            tier = tier_of(replica.url)
            async with client_of(http, tier) as client:
                said.put_nowait(b"first")
                async with client.stream("POST", "/", content=body()) as response:
                    heard = response.aiter_raw()
                    assert await anext(heard) == b"first"
                    said.put_nowait(b"second")
                    assert await anext(heard) == b"second"
                    assert tier.in_flight == 1
                    said.put_nowait(b"third")
                    said.put_nowait(None)
                    assert [piece async for piece in heard] == [b"third"]
            assert verdicts(tier) == [("a", Verdict.OK)]

    run(main)


def test_a_whole_answer_gives_its_connection_back(http: Any, scripted: Any, answers: Any) -> None:
    """What has come as a whole is done with, read or not; HEAD, 204 and compressed ones too."""
    import gzip

    packed = gzip.compress(b"unpacked")
    answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)
    script = answers(
        OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
        answer + packed,
    )

    async def main() -> None:
        async with scripted(script) as replica:
            tier = tier_of(replica.url)
            async with client_of(http, tier) as client:
                async with client.stream("GET", "/") as response:
                    assert response.status_code == 200
                assert (await client.get("/")).status_code == 204
                assert (await client.head("/")).headers["content-length"] == "9"
                assert (await client.get("/")).text == "unpacked"
            assert replica.accepted == 1
            assert verdicts(tier) == [("a", Verdict.OK)] * 4
            await replica.quiet()

    run(main)


def test_a_body_left_early_ends_its_connection(http: Any, scripted: Any) -> None:
    """Leaving before the end closes the connection at once; the replica is not blamed."""

    async def play(peer: Any) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab")
        await peer.gone()

    async def main() -> None:
        async with scripted(play) as replica:
            tier = tier_of(replica.url)
            async with client_of(http, tier) as client:
                async with client.stream("GET", "/") as response:
                    assert await anext(response.aiter_raw()) == b"ab"
                await replica.quiet()
                assert verdicts(tier) == [("a", Verdict.CANCELLED)]

    run(main)


GARBAGE = b"SMTP ready\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", "RemoteProtocolError"),
        (GARBAGE, "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "RemoteProtocolError"),
    ],
)
def test_what_a_replica_gets_wrong(http: Any, scripted: Any, said: bytes, error: str) -> None:
    """A replica that breaks off or speaks no HTTP is an error of httpx's, its request attached."""

    async def play(peer: Any) -> None:
        await peer.request()
        await peer.send(said)

    async def main() -> None:
        async with scripted(play) as replica:
            tier = tier_of(replica.url)
            async with client_of(http, tier) as client:
                with pytest.raises(getattr(http, error)) as caught:
                    await client.post("/")
                assert caught.value.request.method == "POST"
            await replica.quiet()
            assert verdicts(tier) == [("a", Verdict.FAILED)]

    run(main)


def test_who_cannot_be_reached(http: Any, scripted: Any, answers: Any, nowhere: str) -> None:
    """What never reached a replica goes to another, a POST's streamed body too; else it is a ConnectError."""

    async def main() -> None:
        async with scripted(answers(OK)) as replica:
            tier = tier_of(nowhere, replica.url)
            async with client_of(http, tier) as client:
                assert (await client.post("/", content=pieces(b"once"))).text == "ok"
            assert verdicts(tier) == [("a", Verdict.FAILED), ("b", Verdict.OK)]
        tier = tier_of(nowhere)
        async with client_of(http, tier) as client:
            with pytest.raises(http.ConnectError):
                await client.get("/")
        assert verdicts(tier) == [("a", Verdict.FAILED)]

    run(main)


def test_no_post_is_sent_twice(http: Any, scripted: Any, answers: Any) -> None:
    """A POST whose replica breaks off is the caller's to repeat; a GET goes to another one."""
    taken = []

    async def play(peer: Any) -> None:
        taken.append(await peer.request())

    async def main() -> None:
        async with scripted(play) as broken, scripted(answers(OK)) as replica:
            tier = tier_of(broken.url, replica.url)
            async with client_of(http, tier) as client:
                with pytest.raises(http.RemoteProtocolError):
                    await client.post("/", content=b"x")
                assert len(taken) == 1
                assert (await client.get("/")).text == "ok"
            assert verdicts(tier) == [("a", Verdict.FAILED), ("a", Verdict.FAILED), ("b", Verdict.OK)]

    run(main)


def test_answers_that_send_on(http: Any, scripted: Any, answers: Any) -> None:
    """A 503 sends a GET on, and its body, half there, takes its connection with it."""
    busy = answers(b"HTTP/1.1 503 Busy\r\ncontent-length: 9\r\n\r\nhalf")

    async def main() -> None:
        async with scripted(busy) as full, scripted(answers(OK)) as replica:
            tier = tier_of(full.url, replica.url)
            async with client_of(http, tier) as client:
                assert (await client.get("/")).text == "ok"
                await full.quiet()
            assert verdicts(tier) == [("a", Verdict.FAILED), ("b", Verdict.OK)]

    run(main)


async def silent(peer: Any) -> None:
    await peer.request()
    await peer.gone()


async def half(peer: Any) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
    await peer.gone()


async def deaf(peer: Any) -> None:
    peer.writer.transport.pause_reading()
    await asyncio.sleep(30)


@pytest.mark.parametrize(
    ("play", "timeout", "body", "error"),
    [
        (silent, {"read": 0.05}, None, "ReadTimeout"),
        (half, {"read": 0.05}, None, "ReadTimeout"),
        (silent, {"read": 0.05}, "small", "ReadTimeout"),
        (silent, {"read": 0.05, "write": 0.01}, "stream", "ReadTimeout"),
        (half, {"read": 0.05}, "stream", "ReadTimeout"),
        (deaf, {"write": 0.05, "read": 9}, "stream", "WriteTimeout"),
        (deaf, {"write": 0.05, "read": 0.01}, "large", "WriteTimeout"),
        (silent, {"read": 0}, None, "ReadTimeout"),
    ],
)
def test_timeouts(http: Any, scripted: Any, play: Any, timeout: Any, body: str | None, error: str) -> None:
    """Each of httpx's timeouts is kept, and called as httpx calls it."""

    async def main() -> None:
        async with scripted(play) as replica:
            tier = tier_of(replica.url)
            limits = http.Timeout(**{"connect": 5, "read": None, "write": None, "pool": None, **timeout})
            content: Any = {
                None: None,
                "small": b"x",
                "large": b"x" * 20_000_000,
                "stream": pieces(*[b"x" * 500_000] * 20) if play is deaf else pieces(b"x"),
            }[body]
            async with client_of(http, tier, timeout=limits) as client:
                with pytest.raises(getattr(http, error)):
                    await client.post("/", content=content)
            assert verdicts(tier) == [("a", Verdict.FAILED)]

    run(main)


def test_a_slow_user_meets_no_deadline(http: Any, scripted: Any, answers: Any) -> None:
    """While the user thinks about the next piece of a body, no clock runs."""

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(0.05)
        yield b"b"

    async def main() -> None:
        async with scripted(answers(OK)) as replica:
            limits = http.Timeout(0.02, read=5)
            async with client_of(http, tier_of(replica.url), timeout=limits) as client:
                assert (await client.post("/", content=slow())).text == "ok"

    run(main)


def test_a_connection_that_does_not_come(http: Any) -> None:
    """A replica whose backlog is full is a ConnectTimeout, and blamed."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        tier = tier_of(f"http://127.0.0.1:{listener.getsockname()[1]}")

        async def main() -> None:
            async with client_of(http, tier, timeout=http.Timeout(5, connect=0.05)) as client:
                with pytest.raises(http.ConnectTimeout):
                    await client.get("/")

        run(main)
    assert verdicts(tier) == [("a", Verdict.FAILED)]


def test_what_is_used_up_here_is_nobodys_fault(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor left for a connection there is a PoolTimeout, and no replica is blamed."""

    async def main() -> None:
        async def full(*_: Any, **__: Any) -> Any:
            raise OSError(errno.EMFILE, "too many open files")

        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", full)
        tier = tier_of("http://a.test")
        async with client_of(http, tier) as client:
            with pytest.raises(http.PoolTimeout, match="too many open files"):
                await client.get("/")
        assert verdicts(tier) == [("a", Verdict.CANCELLED)]

    run(main)


def test_what_a_body_raises_is_the_users(http: Any, scripted: Any, answers: Any) -> None:
    """An error out of a request's body comes through as it is, a TimeoutError too, and blames nobody."""

    async def main() -> None:
        for error in (KeyError("mine"), TimeoutError("mine")):

            async def body(error: Exception = error) -> AsyncIterator[bytes]:
                yield b"a"
                raise error

            async with scripted(answers(OK)) as replica:
                tier = tier_of(replica.url)
                async with client_of(http, tier) as client:
                    with pytest.raises(type(error), match="mine"):
                        await client.post("/", content=body())
                assert verdicts(tier) == [("a", Verdict.CANCELLED)]

    run(main)


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"abc", {"content-length": "2"}),
        (b"abc", {"content-length": "4"}),
        ([b"ab", b"c"], {"content-length": "2"}),
        ([b"ab", b"c"], {"content-length": "4"}),
        (b"abc", {"content-length": "3", "transfer-encoding": "chunked"}),
        (b"abc", {"content-length": "+3"}),
        (b"abc", {"transfer-encoding": "gzip, chunked"}),
        (b"", {"x": "a\r\nhost: other"}),
        (b"", {"x": "a\x00"}),
        (b"", {"a b": "c"}),
        (b"", {"host": "a b"}),
    ],
)
def test_what_could_be_two_requests_is_not_sent(
    http: Any, scripted: Any, answers: Any, content: Any, headers: dict[str, str]
) -> None:
    """A request whose end is in doubt, or that could end a line too early, is the user's own error."""

    async def main() -> None:
        async with scripted(answers(OK)) as replica:
            tier = tier_of(replica.url)
            async with client_of(http, tier) as client:
                body = pieces(*content) if isinstance(content, list) else content
                with pytest.raises(http.LocalProtocolError):
                    await client.post("/", content=body, headers=headers)
            assert verdicts(tier) == [("a", Verdict.CANCELLED)]

    run(main)


def test_a_body_that_nothing_announces(http: Any, scripted: Any, answers: Any) -> None:
    """A stream without a header that says so is none, or the user's own error where there is a byte of it."""

    async def main() -> None:
        async with scripted(answers(OK)) as replica:
            async with client_of(http, tier_of(replica.url)) as client:
                for body in (unannounced(http, b"x"), http.ByteStream(b"x")):
                    request = http.Request("POST", "http://x/", headers={"host": "x"}, stream=body)
                    with pytest.raises(http.LocalProtocolError):
                        await client.send(request)
            assert replica.accepted == 0

    run(main)


def test_what_is_not_offered_is_said(http: Any, nowhere: str) -> None:
    """WebSockets, other switches of protocol, CONNECT and trio are named, and what to do about them."""
    tier = tier_of(nowhere)

    async def main() -> None:
        async with client_of(http, tier) as client:
            for method, url, headers in (
                ("GET", "ws://service/", {}),
                ("GET", "/", {"connection": "upgrade", "upgrade": "websocket"}),
                ("CONNECT", "/", {}),
            ):
                with pytest.raises(http.UnsupportedProtocol, match="inner"):
                    await client.request(method, url, headers=headers)

    run(main)
    assert verdicts(tier) == [("a", Verdict.CANCELLED)] * 3

    async def on_trio() -> None:
        transport = AsyncReplicatedTransport(tier)
        with pytest.raises(http.UnsupportedProtocol, match="asyncio"):
            await transport.handle_async_request(http.Request("GET", "http://service/"))
        await transport.aclose()

    anyio.run(on_trio, backend="trio")


def test_tls_names_the_service(http: Any, scripted: Any, answers: Any) -> None:
    """The name asked for and verified is the URL's or the user's, and no connection serves two names."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("service.test", "other.test").configure_cert(server)
    names: list[str | None] = []
    server.sni_callback = lambda sock, name, context: names.append(name)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    async def main() -> None:
        async with scripted(answers(OK), ssl=server) as replica:
            tier = tier_of(replica.url)
            async with client_of(http, tier, tls=trust) as client:
                for _ in range(2):
                    assert (await client.get("https://service.test/")).text == "ok"
                assert (await client.get("http://other.test/")).text == "ok"
                await client.get("https://service.test/", extensions={"sni_hostname": "other.test"})
                with pytest.raises(http.ConnectError, match="certificate"):
                    await client.get("https://wrong.test/")
            assert replica.accepted == 2
            async with client_of(http, tier) as client:  # the system does not trust this authority
                with pytest.raises(http.ConnectError, match="certificate"):
                    await client.get("https://service.test/")

    run(main)
    assert names[:3] == ["service.test", "other.test", "wrong.test"]


def test_connections_of_those_who_left_are_closed(http: Any, scripted: Any, answers: Any) -> None:
    """When a replica leaves, or moves, what is idle to it is closed with the next request."""

    async def main() -> None:
        async with scripted(answers(OK)) as gone, scripted(answers(OK)) as stays:
            tier = tier_of(gone.url, stays.url)
            async with client_of(http, tier) as client:
                await client.get("/")
                tier.readiness.replace([Replica("new"), *tier.replicas])
                tier.readiness.replace([Replica("b", stays.url)])
                assert (await client.get("/")).text == "ok"
                await gone.quiet()
            assert (gone.accepted, stays.accepted) == (1, 1)

    run(main)


def test_one_loop_after_the_other(http: Any) -> None:
    """A transport outlives an event loop: in the next one it has connections of its own."""
    server = socket.create_server(("127.0.0.1", 0))
    tier = tier_of(f"http://127.0.0.1:{server.getsockname()[1]}")
    transport = AsyncReplicatedTransport(tier)

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await reader.read()
            writer.close()

        async with await asyncio.start_server(serve, sock=server.dup()):
            async with http.AsyncClient(transport=transport) as client:
                assert (await client.get("http://service/")).text == "ok"
            await asyncio.sleep(0.01)

    for _ in range(2):
        run(main)
    server.close()


def test_made_up_names_and_timeouts_are_not_kept_for_ever(http: Any, scripted: Any, answers: Any) -> None:
    """Who computes his timeouts shares connections all the same, and none is remembered for ever."""

    async def main() -> None:
        async with scripted(answers(OK)) as replica:
            transport = AsyncReplicatedTransport(tier_of(replica.url))
            async with http.AsyncClient(transport=transport) as client:
                for step in range(150):
                    await client.get("http://service/", timeout=5 + step / 1000)
            assert replica.accepted == 1

    run(main)


def test_made_up_server_names_are_not_kept_for_ever(scripted: Any, answers: Any) -> None:
    """Who makes up a server's name for each request finds that old ones were let go, idle connections too."""
    import httpx

    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("service.test").configure_cert(server)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

    async def main() -> None:
        async with scripted(answers(OK), ssl=server) as replica:
            async with client_of(httpx, tier_of(replica.url), tls=trusting) as client:
                for number in range(70):
                    await client.get("/", extensions={"sni_hostname": f"s{number}.test"})
                assert len(replica.running) < 70
            await replica.quiet()

    run(main)


def test_httpx2_alone() -> None:
    """Where only httpx2 is installed, everything is there under its names."""
    program = (
        "import sys, asyncio; sys.modules['httpx'] = None\n"
        "import httpx2\n"
        "from replicated import Tier\n"
        "from replicated.adapters.httpx_transport import *\n"
        "assert issubclass(NoReplicaError, httpx2.ConnectError)\n"
        "assert issubclass(ReplicatedTransport, httpx2.BaseTransport)\n"
        "try:\n    httpx2.Client(transport=ReplicatedTransport(Tier())).get('http://service/')\n"
        "except NoReplicaError as error:\n    print(error.retry_after)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "1.0\n"), done.stderr


def test_so_many_at_once(http: Any, scripted: Any) -> None:
    """Who finds all places taken waits in order; a place is free again however its request ended."""
    let_go = asyncio.Event()

    async def play(peer: Any) -> None:
        while await peer.request():
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
            await let_go.wait()
            await peer.send(b"ok")

    async def main() -> None:
        async with scripted(play) as replica:
            tier = tier_of(replica.url)
            async with client_of(http, tier, max_connections=2, timeout=http.Timeout(5, pool=0.05)) as client:
                async with client.stream("GET", "/") as first:
                    second = asyncio.ensure_future(client.get("/"))
                    await asyncio.sleep(0.01)
                    assert tier.in_flight == 2
                    with pytest.raises(http.PoolTimeout, match="all 2 places"):
                        await client.get("/")
                    third = asyncio.ensure_future(client.get("/"))
                    await asyncio.sleep(0.01)
                    assert tier.in_flight == 2
                    second.cancel()
                    await asyncio.sleep(0.01)
                    assert tier.in_flight == 2  # the third
                    let_go.set()
                    assert (await third).text == "ok"
                    assert first.status_code == 200
                assert [(await client.get("/")).text for _ in range(5)] == ["ok"] * 5
                many = await asyncio.gather(*(client.get("/") for _ in range(20)))
                assert {answer.text for answer in many} == {"ok"}
            assert tier.in_flight == 0
            assert replica.accepted <= 6

    run(main)


def test_a_place_is_free_after_errors(http: Any, scripted: Any, answers: Any, nowhere: str) -> None:
    """Neither an error of any kind nor a refusal keeps a place."""
    clock = ManualClock()
    throttle = Throttle(rate=1, burst=1, clock=clock)

    async def main() -> None:
        broken = answers(b"garbage\r\n\r\n")
        async with scripted(broken) as replica:
            for url in (nowhere, replica.url, "ftp://x"):
                async with client_of(http, tier_of(url), max_connections=1) as client:
                    for _ in range(3):
                        with pytest.raises((http.TransportError, ValueError)):
                            await client.get("/")
        async with scripted(answers(OK)) as replica:
            tier = Tier([replica.replica()], throttle=throttle)
            options = {"throttle_key": lambda request: request.url.host, "max_connections": 1}
            async with client_of(http, tier, **options) as client:
                assert (await client.get("/")).text == "ok"
                for _ in range(3):
                    with pytest.raises(Refused):
                        await client.get("/")
                clock.advance(1)
                assert (await client.get("/")).text == "ok"
            async with client_of(http, tier_of(replica.url), max_connections=None) as client:
                await asyncio.gather(*(client.get("/") for _ in range(5)))
            assert replica.accepted > 2

    run(main)


def test_cancelled_anywhere(http: Any, scripted: Any) -> None:
    """Wherever a request is cancelled, its Forward is finished once, and its connection not left behind."""

    async def play(peer: Any) -> None:
        while await peer.request():
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n")
            await peer.send(b"1\r\nb\r\n", b"0\r\n\r\n")

    async def main() -> None:
        seen = set()
        async with scripted(play) as replica:
            for steps in range(1, 40):
                tier = tier_of(replica.url)
                async with client_of(http, tier, max_connections=1) as client:
                    task = asyncio.ensure_future(client.post("/", content=pieces(b"x" * 40_000)))
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    assert (await client.get("/", timeout=2)).text == "ab"  # its place is free
                seen.update(verdict for _, verdict in verdicts(tier))
                await replica.quiet()
        assert seen >= {Verdict.CANCELLED}

    run(main)


class ThrownAt:
    """Runs a coroutine, and throws CancelledError into it as its n-th suspension ends: what it awaited has
    come, and is lost unless someone takes care of it.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int) -> None:
        self.coroutine = coroutine
        self.at = at
        self.hit = False

    def __await__(self) -> Generator[Any, Any, Any]:
        count, error = 0, None
        while True:
            try:
                awaited = self.coroutine.send(None) if error is None else self.coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            count, error = count + 1, None
            try:
                yield awaited
            except BaseException as thrown:
                error = thrown
            else:
                if count == self.at:
                    self.hit, error = True, asyncio.CancelledError()


@pytest.mark.parametrize("body", [None, b"small", [b"x" * 10_000, b"y" * 10_000]])
def test_cancelled_at_every_suspension(scripted: Any, body: Any) -> None:
    """Cancelled as any of its suspensions ends, a request leaves no Forward, no place and no connection."""
    import httpx

    async def play(peer: Any) -> None:
        while await peer.request():
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n")
            await peer.send(b"1\r\nb\r\n", b"0\r\n\r\n")

    async def main() -> None:
        hits = 0
        async with scripted(play) as replica:
            for at, warm in itertools.product(range(1, 40), (False, True)):
                tier = tier_of(replica.url)
                async with client_of(httpx, tier, max_connections=1) as client:
                    if warm:
                        await client.get("/")
                    content = pieces(*body) if isinstance(body, list) else body
                    harness = ThrownAt(client.post("/", content=content), at)

                    async def task(harness: ThrownAt = harness) -> None:
                        await harness

                    [ended] = await asyncio.gather(asyncio.ensure_future(task()), return_exceptions=True)
                    assert ended is None or isinstance(ended, asyncio.CancelledError)
                    assert tier.in_flight == 0
                    assert (await client.get("/", timeout=2)).text == "ab"
                    hits += harness.hit
                verdicts(tier)
                await replica.quiet()
                if warm and not harness.hit:
                    break
            else:
                raise AssertionError("more suspensions than were looked at")
        assert hits > 2

    run(main)


def test_a_storm_of_cancellations(http: Any, scripted: Any, answers: Any) -> None:
    """After requests by the hundred were cancelled at random, every further one is served."""
    rng = random.Random(1)

    async def main() -> None:
        async with scripted(answers(OK)) as replica:
            tier = tier_of(replica.url)
            async with client_of(http, tier, max_connections=10) as client:

                async def user() -> None:
                    for _ in range(15):
                        task = asyncio.ensure_future(client.get("/"))
                        for _ in range(rng.randrange(12)):
                            await asyncio.sleep(0)
                        task.cancel()
                        await asyncio.gather(task, return_exceptions=True)

                await asyncio.gather(*(user() for _ in range(20)))
                assert [(await client.get("/")).text for _ in range(5)] == ["ok"] * 5
            assert set(verdicts(tier)) <= {("a", Verdict.OK), ("a", Verdict.CANCELLED)}
            await replica.quiet()

    run(main)


def test_errors_are_the_clients_own(http: Any) -> None:
    """Nobody there, and the throttle's no, are errors of the client's module and ours, and can be pickled."""
    clock = ManualClock()

    async def main() -> None:
        async with client_of(http, Tier()) as client:
            with pytest.raises(http.ConnectError) as caught:
                await client.get("/")
        assert isinstance(caught.value, NoReplica)
        assert isinstance(caught.value, NoReplicaError)
        throttle = Throttle(rate=1, burst=1, clock=clock)
        throttle.take("me")
        async with client_of(http, Tier(throttle=throttle), throttle_key=lambda request: "me") as client:
            with pytest.raises(http.TransportError) as refused:
                await client.get("/")
        assert isinstance(refused.value, Refused)
        for error in (caught.value, refused.value):
            copy = pickle.loads(pickle.dumps(error))
            assert type(copy) is type(error)
            assert (str(copy), copy.retry_after) == (str(error), error.retry_after)
            with pytest.raises(RuntimeError, match="request"):
                _ = copy.request

    run(main)


def test_a_transport_of_the_users(http: Any) -> None:
    """Whatever module a client is of, an inner transport of that module carries its requests."""
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return http.Response(200, text="inner")

    async def main() -> None:
        tier = tier_of("http://a.test:81")
        inner = http.MockTransport(answer)
        async with http.AsyncClient(transport=AsyncReplicatedTransport(tier, inner=inner)) as client:
            assert (await client.get("http://service/x?y")).text == "inner"
        with http.Client(transport=ReplicatedTransport(tier, inner=inner)) as client:
            assert client.get("http://service/x?y").text == "inner"
        assert verdicts(tier) == [("a", Verdict.OK)] * 2

    run(main)
    assert [str(request.url) for request in seen] == ["http://a.test:81/x?y"] * 2
    assert {type(request) for request in seen} == {http.Request}
    assert {request.headers["host"] for request in seen} == {"service"}


def test_a_request_derived_by_a_user(http: Any, scripted: Any, answers: Any) -> None:
    """A user's own class of requests is known by what it is derived from; a stranger's is refused by name."""

    class Mine(http.Request):  # type: ignore[misc]
        pass

    async def main() -> None:
        async with scripted(answers(OK)) as replica:
            transport = AsyncReplicatedTransport(tier_of(replica.url))
            for _ in range(2):
                response = await transport.handle_async_request(Mine("GET", "http://service/"))
                await response.aclose()
            await transport.aclose()
            with pytest.raises(TypeError, match="httpx"):
                await transport.handle_async_request("GET")

    run(main)


def test_arguments_that_cannot_be() -> None:
    """What makes no sense is refused by name."""
    for wrong in (-1, True, 1.5):
        with pytest.raises(ValueError, match="max_idle"):
            AsyncReplicatedTransport(Tier(), max_idle=wrong)  # type: ignore[arg-type]
    for wrong in (0, True, 1.5):
        with pytest.raises(ValueError, match="max_connections"):
            AsyncReplicatedTransport(Tier(), max_connections=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tls"):
        AsyncReplicatedTransport(Tier(), inner=object(), tls=ssl.create_default_context())  # type: ignore[arg-type]
