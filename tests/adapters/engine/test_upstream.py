"""The pool: which connection carries a request, and when a stale one is replaced."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trustme

from replicated.adapters.engine.connection import Connection
from replicated.adapters.engine.pool import Pool
from replicated.adapters.engine.upstream import Origin, Timeouts, Upstream
from replicated.errors import UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnreachable

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEADERS = [(b"host", b"x")]


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await main()

    return asyncio.run(bounded())


async def get(upstream: Upstream, url: str, method: str = "GET", **options: Any) -> tuple[int, bytes]:
    response = await upstream.send(Origin.parse(url), method, b"/", HEADERS, **options)
    try:
        return response.status, await response.read_all()
    finally:
        await response.aclose()


async def pieces(*pieces: bytes) -> Any:
    for piece in pieces:
        yield piece


def test_a_connection_is_used_again(scripted: Any, answers: Any) -> None:
    """Requests one after another share a connection; at once, each has its own."""

    async def main() -> None:
        upstream = Upstream()
        async with scripted(answers(OK)) as replica:
            for _ in range(5):
                assert await get(upstream, replica.url) == (200, b"ok")
            assert replica.accepted == 1
            await asyncio.gather(*(get(upstream, replica.url) for _ in range(4)))
            assert replica.accepted == 4
            await upstream.aclose()
            await replica.quiet()

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"H",
        OK + OK,
    ],
)
def test_a_connection_in_doubt_is_not_used_again(scripted: Any, answers: Any, answer: bytes) -> None:
    """Where the replica says so, or says more than it was asked, the next request has a new connection."""

    async def main() -> None:
        upstream = Upstream()
        async with scripted(answers(answer)) as replica:
            for _ in range(2):
                assert await get(upstream, replica.url) == (200, b"ok")
            assert replica.accepted == 2
            await upstream.aclose()
            await replica.quiet()

    run(main)


def stale(first: bytes = OK) -> Any:
    """Return a script whose first connection answers once, and breaks off at the second request."""
    turns = []

    async def play(peer: Any) -> None:
        turns.append(peer)
        if len(turns) == 1:
            await peer.request()
            await peer.send(OK)
            await peer.request()
            await peer.send(first)
            peer.reset()
        else:
            while await peer.request():
                await peer.send(OK)

    return play


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_a_stale_connection_is_replaced_once(scripted: Any, method: str) -> None:
    """A repeatable request that a kept connection lost before an answer goes out again on a fresh one."""

    async def main() -> None:
        upstream = Upstream()
        async with scripted(stale(b"")) as replica:
            await get(upstream, replica.url)
            status, _ = await get(upstream, replica.url, method)
            assert status == 200
            assert replica.accepted == 2
            await upstream.aclose()

    run(main)


@pytest.mark.parametrize(
    ("method", "body", "began"),
    [("POST", None, b""), ("PATCH", None, b""), ("PUT", b"x", b""), ("GET", None, b"HTTP/1.1 1")],
)
def test_what_could_be_done_twice_is_not_sent_twice(
    scripted: Any, method: str, body: bytes | None, began: bytes
) -> None:
    """A POST, any body, and an answer that had begun are never repeated behind the caller's back."""

    async def main() -> None:
        upstream = Upstream()
        async with scripted(stale(began)) as replica:
            await get(upstream, replica.url)
            with pytest.raises(UpstreamBroken):
                await get(upstream, replica.url, method, body=None if body is None else pieces(body))
            assert replica.accepted == 1
            await upstream.aclose()

    run(main)


def test_a_fresh_connection_that_breaks_is_not_replaced(scripted: Any) -> None:
    """A replica that answers nobody is asked once."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.request()

        upstream = Upstream()
        async with scripted(play) as replica:
            with pytest.raises(UpstreamBroken, match="lost before the response"):
                await get(upstream, replica.url)
            assert replica.accepted == 1
            await replica.quiet()

    run(main)


def test_a_connection_closed_while_idle_is_not_tried(scripted: Any, answers: Any) -> None:
    """A POST goes over a fresh connection when the kept one is known to be gone."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.request()
            await peer.send(OK)

        upstream = Upstream()
        async with scripted(play) as replica:
            await get(upstream, replica.url)
            [pool] = upstream.pools.values()
            async with asyncio.timeout(2):
                while not pool.connections[0].closed:
                    await asyncio.sleep(0)
            assert await get(upstream, replica.url, "POST") == (200, b"ok")
            await upstream.aclose()

    run(main)


def test_a_body_is_sent_as_its_header_says(scripted: Any) -> None:
    """With a length the body goes out as it is, without one in chunks, and empty pieces are no end."""

    async def main() -> None:
        seen = []

        async def play(peer: Any) -> None:
            while request := await peer.request():
                seen.append(request.partition(b"\r\n\r\n")[2])
                await peer.send(OK)

        upstream = Upstream()
        async with scripted(play) as replica:
            origin = Origin.parse(replica.url)
            for headers in ([(b"content-length", b"5")], [(b"transfer-encoding", b"chunked")]):
                response = await upstream.send(origin, "POST", b"/", headers, pieces(b"abc", b"", b"de"))
                assert await response.read_all() == b"ok"
                response.close()
            assert seen == [b"abcde", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"]
            assert replica.accepted == 1
            await upstream.aclose()

    run(main)


def test_an_answer_before_the_end_of_its_request(scripted: Any) -> None:
    """An early answer is passed on while the body is still on its way, and its connection is not kept."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
            await peer.gone()

        async def endless() -> Any:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)

        upstream = Upstream()
        async with scripted(play) as replica:
            assert await get(upstream, replica.url, "POST", body=endless()) == (413, b"no")
            await replica.quiet()
            assert not any(pool.connections for pool in upstream.pools.values())
        # The upload went with it.
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_an_answer_while_the_client_still_thinks(scripted: Any) -> None:
    """With the answer read, an upload that waits for its client is given up, and so is the connection."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.head()
            await peer.send(OK)
            await peer.gone()

        async def thinking() -> Any:
            yield b"x"
            await asyncio.Event().wait()

        upstream = Upstream()
        async with scripted(play) as replica:
            assert await get(upstream, replica.url, "POST", body=thinking()) == (200, b"ok")
            await replica.quiet()
            assert not any(pool.connections for pool in upstream.pools.values())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_an_upload_that_breaks_off_is_its_senders_fault(scripted: Any) -> None:
    """What the body raises is what `send` raises, at the head and within the response, and nothing leaks."""

    class Gone(Exception):
        pass

    async def broken(after: asyncio.Event) -> Any:
        yield b"x"
        await after.wait()
        raise Gone

    async def main() -> None:
        answered = asyncio.Event()

        async def play(peer: Any) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
            await peer.gone()

        upstream = Upstream()
        async with scripted(play) as replica:
            origin = Origin.parse(replica.url)
            response = await upstream.send(origin, "POST", b"/", HEADERS, broken(answered))
            answered.set()
            with pytest.raises(Gone):
                await response.read()
            response.close()
            await replica.quiet()

        async def silent(peer: Any) -> None:
            await peer.gone()

        async with scripted(silent) as replica:
            with pytest.raises(Gone):
                await upstream.send(Origin.parse(replica.url), "POST", b"/", HEADERS, broken(answered))
            await replica.quiet()

    run(main)


def test_deadlines(scripted: Any, answers: Any) -> None:
    """No answer, and a body that stops, are timeouts; what else is idle to that replica is let go."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            request = await peer.request()
            if request.startswith(b"POST"):
                await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok")
            elif request.startswith(b"PUT"):
                await peer.send(OK)
            await peer.gone()

        upstream = Upstream(timeouts=Timeouts(first_byte=0.05, read=0.05))
        async with scripted(play) as replica:
            assert await get(upstream, replica.url, "PUT") == (200, b"ok")
            [pool] = upstream.pools.values()
            kept = pool.take()
            assert kept is not None
            with pytest.raises(UpstreamTimeout):
                await get(upstream, replica.url)
            pool.give(kept)
            with pytest.raises(UpstreamTimeout):
                await get(upstream, replica.url)
            assert not pool.connections
            with pytest.raises(UpstreamTimeout, match="the rest of the body"):
                await get(upstream, replica.url, "POST")
            await replica.quiet()

    run(main)


def test_no_connection_is_told_as_such(nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, too slow, or a name that DNS cannot have: the replica saw nothing."""

    async def main() -> None:
        upstream = Upstream(timeouts=Timeouts(connect=0.05))
        with pytest.raises(UpstreamUnreachable, match="no connection to 127"):
            await get(upstream, nowhere)
        with pytest.raises(UpstreamUnreachable, match=r"no connection to a\.\.b"):
            await get(upstream, "http://a..b")

        async def hang(*args: object, **options: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", hang)
        with pytest.raises(UpstreamUnreachable, match=r"within 0\.05 s"):
            await get(upstream, nowhere)

    run(main)


def test_a_body_beyond_what_may_be_held(scripted: Any, answers: Any) -> None:
    """A body longer than the limit given is an error, not memory."""

    async def main() -> None:
        upstream = Upstream()
        async with scripted(answers(OK)) as replica:
            response = await upstream.send(Origin.parse(replica.url), "GET", b"/", HEADERS)
            with pytest.raises(UpstreamBroken, match="longer than 1 bytes"):
                await response.read_all(1)
            response.close()
            await upstream.aclose()

    run(main)


def test_a_closed_response_reads_nothing(scripted: Any, answers: Any) -> None:
    """After `close` the connection may carry another's answer: it is out of reach, and given back once."""

    async def main() -> None:
        upstream = Upstream()
        async with scripted(answers(OK)) as replica:
            response = await upstream.send(Origin.parse(replica.url), "GET", b"/", HEADERS)
            await response.read_all()
            response.close()
            response.close()
            assert not response.whole
            [pool] = upstream.pools.values()
            assert len(pool.connections) == 1
            with pytest.raises(UpstreamBroken, match="was closed"):
                await response.read()
            await upstream.aclose()

    run(main)


def test_what_left_is_closed(scripted: Any, answers: Any) -> None:
    """Nothing idle is left to an origin that was forgotten, nor what was in use at that time."""

    async def main() -> None:
        upstream = Upstream()
        async with scripted(answers(OK)) as replica:
            origin = Origin.parse(replica.url)
            await get(upstream, replica.url)
            in_use = await upstream.send(origin, "GET", b"/", HEADERS)
            await get(upstream, replica.url)
            upstream.forget(origin)
            upstream.forget(origin)
            assert await in_use.read_all() == b"ok"
            in_use.close()
            await replica.quiet()
            assert upstream.pools == {}

    run(main)


class Idle(Connection):
    """A connection as far as a pool looks at one."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.closed = False

    def abort(self, error: Exception | None = None) -> None:
        self.closed = True


class Time:
    now = 0.0

    def time(self) -> float:
        return self.now


def test_the_pool_keeps_what_the_traffic_needs() -> None:
    """The connection used last goes first; those too old, too many or closed go for good."""
    loop = Time()
    pool = Pool(2, 4.0)
    a, b, c, d = (Idle(loop) for _ in range(4))
    pool.give(a)
    pool.give(b)
    pool.give(c)  # one too many: the one unused for longest goes
    assert (a.closed, b.closed, c.closed) == (True, False, False)
    assert pool.take() is c
    loop.now = 3.0
    pool.give(c)
    loop.now = 5.0
    pool.give(d)  # b has been idle for too long by now
    assert (b.closed, c.closed) == (True, False)
    d.closed = True
    assert pool.take() is c
    assert pool.take() is None
    a, b = Idle(loop), Idle(loop)
    pool.give(a)
    pool.give(b)
    loop.now = 9.5
    assert pool.take() is None
    assert a.closed
    assert b.closed


def test_a_pool_that_keeps_none() -> None:
    """With nothing to keep, and once it is closed, a pool closes what it is given."""
    for pool in (Pool(0, 4.0), Pool(2, 4.0)):
        pool.close()
        connection = Idle(Time())
        pool.give(connection)
        assert connection.closed


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://example.com", Origin("example.com", 80)),
        ("https://example.com/", Origin("example.com", 443, True)),
        ("http://127.0.0.1:8080", Origin("127.0.0.1", 8080)),
        ("http://[::1]:8080", Origin("::1", 8080)),
        ("http://app_1:80", Origin("app_1", 80)),
    ],
)
def test_where_a_replica_listens(url: str, origin: Origin) -> None:
    """A URL names host, port and whether it is TLS."""
    assert Origin.parse(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com",
        "http://",
        "http://a:0",
        "http://a:99999",
        "http://a:b",
        "http://[::1",
    ]
    + ["http://u@a", "http://a/b", "http://a?b", "http://a#b", "http://a b", "http://a,b"],
)
def test_what_is_no_origin_is_refused(url: str) -> None:
    """What is not an origin, or is more than one, is a ValueError that shows it."""
    with pytest.raises(ValueError, match=r"url must .*, not "):
        Origin.parse(url)


@pytest.mark.parametrize("name", ["connect", "first_byte", "read", "idle"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError)]
    + [(True, TypeError), ("1", TypeError), (None, TypeError)],
)
def test_a_timeout_is_seconds_above_zero(name: str, value: Any, error: type[Exception]) -> None:
    """A timeout that cannot be is an error naming it and its value."""
    with pytest.raises(error, match=f"{name} must be .*{value!r}"):
        Timeouts(**{name: value})


@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_a_pool_size_is_a_number_of_connections(value: Any) -> None:
    """A pool size that cannot be is a ValueError showing it."""
    with pytest.raises(ValueError, match=f"max_idle must be .*{value!r}"):
        Upstream(max_idle=value)


def test_replicas_behind_tls(scripted: Any, answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates are verified, for the URL's own host or for the service's name."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("service.example").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)

    async def main() -> None:
        async with scripted(answers(OK), ssl=server) as replica:
            upstream = Upstream(tls=client, server_name="service.example")
            assert await get(upstream, replica.url) == (200, b"ok")
            await upstream.aclose()
            for other in (Upstream(tls=client), Upstream()):
                with pytest.raises(UpstreamUnreachable, match="certificate verify failed"):
                    await get(other, replica.url)
            await replica.quiet()

    run(main)


def test_every_way_to_break_off_is_an_upstream_error(scripted: Any) -> None:
    """A reset, a close and garbage within a body are all told as the replica's failure."""

    async def main() -> None:
        kinds = iter(["reset", "close", "garbage"])

        async def play(peer: Any) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
            kind = next(kinds)
            if kind == "reset":
                peer.reset()
            elif kind == "garbage":
                await peer.send(b"garbage")
                await peer.gone()

        upstream = Upstream()
        async with scripted(play) as replica:
            for _ in range(3):
                with pytest.raises(UpstreamError):
                    await get(upstream, replica.url)
            await replica.quiet()
            assert not any(pool.connections for pool in upstream.pools.values())

    run(main)
