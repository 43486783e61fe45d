"""One connection: when a response is whole, and when the connection may serve again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from replicated.adapters.engine.connection import HIGH_WATER, MOST_HEADER_BYTES, Connection
from replicated.errors import UpstreamBroken, UpstreamTimeout


class Wire:
    """A transport that remembers."""

    def __init__(self, connection: Connection) -> None:
        self.sent = b""
        self.reading = True
        self.aborted = False
        self.unsent = 0
        connection.connection_made(self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self.sent += data

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


def opened(method: str = "GET", timeout: float = 60.0) -> tuple[Connection, Wire]:
    connection = Connection()
    wire = Wire(connection)
    connection.send(method, b"/", [(b"host", b"x")], timeout)
    return connection, wire


async def whole(connection: Connection) -> tuple[int, bytes]:
    await connection.head()
    pieces = []
    while piece := await connection.read(60.0):
        pieces.append(piece)
    return connection.status, b"".join(pieces)


def exchange(data: bytes, method: str = "GET", *, split: int = 0, eof: bool = False) -> Any:
    """Return (status, body, reusable), or the error, of an exchange that ``data`` is the answer of."""

    async def main() -> Any:
        connection, _ = opened(method)
        for piece in [data[:split], data[split:]] if split else [data]:
            connection.data_received(piece)
        if eof:
            connection.eof_received()
            connection.connection_lost(None)
        try:
            async with asyncio.timeout(1):
                status, body = await whole(connection)
        except (UpstreamBroken, TimeoutError) as error:
            connection.abort()
            return error
        reusable = connection.reusable
        connection.abort()
        return status, body, reusable

    return asyncio.run(main())


H = b"HTTP/1.1 200 OK\r\n"
CHUNKED = H + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "method", "expected"),
    [
        (H + b"content-length: 2\r\n\r\nok", "GET", (200, b"ok", True)),
        (H + b"Content-Length: 0\r\n\r\n", "GET", (200, b"", True)),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", "GET", (200, b"ok", True)),
        (CHUNKED + b"2;a=b\r\nok\r\n0\r\ntrailer: x\r\n\r\n", "GET", (200, b"ok", True)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", (204, b"", True)),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", "GET", (304, b"", True)),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "GET", (404, b"", True)),
        (H + b"content-length: 99\r\n\r\n", "HEAD", (200, b"", True)),
        (H + b"\r\n", "HEAD", (200, b"", True)),
        (H + b"transfer-encoding: chunked\r\n\r\n", "HEAD", (200, b"", False)),
        (H + b"connection: x, Close\r\ncontent-length: 9\r\n\r\n", "HEAD", (200, b"", False)),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 9\r\n\r\n", "HEAD", (200, b"", False)),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + H + b"content-length: 2\r\n\r\nok", "GET", (200, b"ok", True)),
        (
            b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + H + b"content-length: 2\r\n\r\nok",
            "GET",
            (200, b"ok", True),
        ),
        (H + b"connection: close\r\ncontent-length: 2\r\n\r\nok", "GET", (200, b"ok", False)),
        (H + b"connection: foo, close\r\ncontent-length: 2\r\n\r\nok", "GET", (200, b"ok", False)),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "GET", (200, b"ok", False)),
        (
            b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
            "GET",
            (200, b"ok", True),
        ),
    ],
)
def test_where_a_response_ends(data: bytes, method: str, expected: object) -> None:
    """Each way to say where a response ends is read alike, in one piece and cut anywhere."""
    assert exchange(data, method) == expected
    for split in range(1, len(data)):
        assert exchange(data, method, split=split) == expected


def test_a_response_can_end_with_its_connection() -> None:
    """Without a length the end of the connection is the end of the body, and only then."""
    assert exchange(H + b"\r\nok", eof=True) == (200, b"ok", False)
    assert exchange(b"HTTP/1.1 205 Reset Content\r\n\r\n", eof=True) == (205, b"", False)


@pytest.mark.parametrize(
    "data",
    [
        H + b"content-length: 3\r\n\r\nok",
        CHUNKED + b"2\r\nok\r\n",
        CHUNKED + b"2\r\nok\r\n0\r\n",
        CHUNKED + b"2\r\nok\r\n0\r\ntrailer: x\r\n",
        CHUNKED + b"5\r\nok",
        H + b"content-le",
        b"",
    ],
)
def test_a_response_cut_short_is_never_whole(data: bytes) -> None:
    """A connection that ends before the announced end is an error, however near it came."""
    assert isinstance(exchange(data, eof=True), UpstreamBroken)


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 2\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 2\r\n",
        b"content-length: 2\r\ncontent-length: 2\r\n",
        b"content-length: 2\r\ncontent-length: 3\r\n",
        b"content-length: 2, 2\r\n",
        b"content-length: +2\r\n",
        b"content-length: 0x2\r\n",
        b"content-length: \r\n",
        b"content-length: 99999999999999999999999\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: gzip, chunked\r\n",
        b"transfer-encoding: chunked, gzip\r\n",
        b"transfer-encoding: identity\r\n",
        b"a: b\r\n c\r\n",
        b"a: b\n",
        b"a: b\x00c\r\n",
        b"a: b\rc\r\n",
        b"a : b\r\n",
        b": b\r\n",
        b"a\r\n",
    ],
)
def test_framing_in_doubt_is_an_error(head: bytes) -> None:
    """Where two readers could disagree on where a response ends, there is no response."""
    assert isinstance(exchange(H + head + b"\r\n0\r\n\r\n", eof=True), UpstreamBroken)


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 Low\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 600 High\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nfoo",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 150 Odd\r\ncontent-length: 2\r\n\r\nok" + H + b"content-length: 0\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46",
        b"HTTP/1.1 200 OK\n",
        CHUNKED + b"garbage",
        CHUNKED + b"2\r\nokX",
        CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"2\r\nokXX0\r\n\r\n",
        CHUNKED + b"2\nok\n0\n\n",
        CHUNKED + b"fffffffffffffffff\r\n",
    ],
)
def test_what_is_not_http_is_an_error(data: bytes) -> None:
    """Garbage, statuses that do not exist, switched protocols and odd chunks end the connection, at once."""
    error = exchange(data)
    assert isinstance(error, UpstreamBroken)
    assert error.kind == "http_protocol_error"


@pytest.mark.parametrize(
    ("data", "method"),
    [
        (H + b"content-length: 2\r\n\r\nokX", "GET"),
        (H + b"content-length: 2\r\n\r\nokH", "GET"),
        (H + b"content-length: 2\r\n\r\nok" + H + b"content-length: 2\r\n\r\nno", "GET"),
        (H + b"content-length: 2\r\n\r\nok" + H + b"x: y", "GET"),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok", "GET"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\nok", "GET"),
        (H + b"content-length: 2\r\n\r\nok", "HEAD"),
        (H + b"\r\nok", "HEAD"),
        (H + b"content-length: 0\r\n\r\nH", "HEAD"),
        (CHUNKED + b"0\r\n\r\nH", "GET"),
    ],
)
def test_surplus_bytes_end_the_connection(data: bytes, method: str) -> None:
    """Bytes behind the answer, a single one of a second answer too, are never kept for the next request."""
    status, body, reusable = exchange(data, method)
    assert (status, body) == (
        200 if b" 200 " in data else status,
        b"ok" if method == "GET" and b" 200 OK\r\nc" in data else b"",
    )
    assert not reusable


def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    """What comes while the connection is idle could only be taken for the next answer."""

    async def main() -> None:
        connection, wire = opened()
        connection.data_received(H + b"content-length: 0\r\n\r\n")
        assert connection.reusable
        connection.data_received(b"H")
        assert wire.aborted
        assert not connection.reusable

    asyncio.run(main())


def test_one_exchange_after_another() -> None:
    """A connection carries the next exchange as it did the first, also after HEAD with a length."""

    async def main() -> None:
        connection, wire = opened("HEAD")
        connection.data_received(H + b"content-length: 9\r\n\r\n")
        assert await whole(connection) == (200, b"")
        for body in (b"a", b"bc"):
            assert connection.reusable
            connection.send("GET", b"/x", [], 60.0)
            connection.data_received(H + b"content-length: %d\r\n\r\n" % len(body) + body)
            assert await whole(connection) == (200, body)
        assert wire.sent == b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n" + 2 * b"GET /x HTTP/1.1\r\n\r\n"
        connection.abort()

    asyncio.run(main())


def test_a_connection_with_leftovers_is_not_reused() -> None:
    """An unread body, a reader still waiting, or a request not all sent keep a connection out of the pool."""

    async def main() -> None:
        connection, wire = opened()
        connection.data_received(H + b"content-length: 2\r\n\r\nok")
        assert not connection.reusable
        assert await connection.read(60.0) == b"ok"
        assert connection.reusable
        wire.unsent = 1
        assert not connection.reusable
        wire.unsent = 0
        connection.waiter = connection.loop.create_future()
        assert not connection.reusable
        connection.abort()

    asyncio.run(main())


@pytest.mark.parametrize(
    "data",
    [
        H + b"a: " + b"b" * MOST_HEADER_BYTES,
        H + b"a: " + b"b" * MOST_HEADER_BYTES + b"\r\n\r\n",
        H + b"a: b\r\n" * (MOST_HEADER_BYTES // 4),
        b"HTTP/1.1 103 Early\r\n\r\n" * (MOST_HEADER_BYTES // 20),
        CHUNKED + b"2;" + b"a" * MOST_HEADER_BYTES,
        CHUNKED + b"0\r\na: " + b"b" * MOST_HEADER_BYTES,
        CHUNKED + b"0\r\n" + b"a: b\r\n" * (MOST_HEADER_BYTES // 4),
    ],
)
def test_what_belongs_to_no_body_is_bounded(data: bytes) -> None:
    """Endless headers, interim responses, chunk extensions and trailers end the connection."""
    assert isinstance(exchange(data), UpstreamBroken)
    assert isinstance(exchange(data, split=100), UpstreamBroken)


def test_white_space_behind_a_value_is_no_part_of_it() -> None:
    """A length with a space behind it is that length to whoever comes next as well."""

    async def main() -> None:
        connection, _ = opened()
        connection.data_received(H + b"content-length: 2 \t\r\nx-a:\t b c \r\n\r\nok")
        assert connection.headers == [(b"content-length", b"2"), (b"x-a", b"b c")]
        assert connection.complete

    asyncio.run(main())


def test_a_large_body_in_one_piece_with_its_header_is_no_large_header() -> None:
    """Only what is header counts as such."""
    body = b"x" * HIGH_WATER * 2
    status, received, reusable = exchange(H + b"content-length: %d\r\n\r\n" % len(body) + body)
    assert (status, len(received), reusable) == (200, len(body), True)


def test_a_slow_reader_stops_the_replica() -> None:
    """Above the high-water mark nothing more is read, until the reader has taken what there is."""

    async def main() -> None:
        connection, wire = opened()
        connection.data_received(H + b"content-length: %d\r\n\r\n" % (10 * HIGH_WATER))
        connection.data_received(b"x" * HIGH_WATER)
        assert not wire.reading
        assert len(await connection.read(60.0)) == HIGH_WATER
        assert wire.reading
        connection.data_received(b"x" * HIGH_WATER)
        connection.data_received(b"x" * HIGH_WATER)
        assert not wire.reading
        connection.connection_lost(None)
        assert len(await connection.read(60.0)) == 2 * HIGH_WATER
        with pytest.raises(UpstreamBroken, match="lost within the response: closed"):
            await connection.read(60.0)

    asyncio.run(main())


def test_tiny_chunks_count_as_what_they_take() -> None:
    """A body in chunks of two bytes does not pile up beyond the mark by what its chunks cost."""

    async def main() -> None:
        connection, wire = opened()
        connection.data_received(CHUNKED)
        pieces = 0
        while wire.reading:
            connection.data_received(b"2\r\nok\r\n" * 1000)
            pieces += 1000
        assert pieces * 7 < HIGH_WATER + 10_000
        connection.abort()

    asyncio.run(main())


def test_an_answer_has_its_time_and_the_reader_its_own() -> None:
    """The deadline runs while someone waits for the replica, and at no other time."""

    async def main() -> None:
        connection, wire = opened(timeout=0.02)
        with pytest.raises(UpstreamTimeout, match=r"no sign of an answer for 0\.02 s"):
            await connection.head()
        assert wire.aborted

        connection, wire = opened(timeout=60.0)
        connection.data_received(H + b"content-length: 4\r\n\r\nok")
        await connection.head()
        assert await connection.read(0.02) == b"ok"
        reading = asyncio.ensure_future(connection.read(0.02))
        await asyncio.sleep(0)
        connection.data_received(b"x")
        assert await reading == b"x"
        await asyncio.sleep(0.05)  # the reader is busy elsewhere
        assert not wire.aborted
        with pytest.raises(UpstreamTimeout, match=r"no sign of the rest of the body for 0\.02 s"):
            await connection.read(0.02)

    asyncio.run(main())


def test_a_request_that_its_client_sends_slowly_is_not_the_replicas_fault() -> None:
    """While the request's own next piece is awaited no deadline runs; it runs from the last piece."""

    async def main() -> None:
        more = asyncio.Event()

        async def body() -> Any:
            yield b""
            yield b"ab"
            await more.wait()
            yield b"cde"

        connection, wire = opened("POST", timeout=0.02)
        upload = asyncio.ensure_future(connection.upload(body(), chunked=True))
        head = asyncio.ensure_future(connection.head())
        await asyncio.sleep(0.06)
        assert not head.done()
        more.set()
        with pytest.raises(UpstreamTimeout):
            await head
        await upload
        assert wire.sent.endswith(b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")

    asyncio.run(main())


def test_an_upload_is_no_faster_than_its_reader() -> None:
    """A replica that does not read stops the upload, and is given the time of an answer for it."""

    async def main() -> None:
        taken = []

        async def body() -> Any:
            for piece in (b"a", b"b", b"c"):
                taken.append(piece)
                yield piece

        connection, wire = opened("POST", timeout=60.0)
        connection.pause_writing()
        upload = asyncio.ensure_future(connection.upload(body(), chunked=False))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert taken == [b"a"]
        connection.resume_writing()
        await upload
        assert wire.sent.endswith(b"\r\n\r\nabc")

        connection, wire = opened("POST", timeout=0.02)
        connection.pause_writing()
        upload = asyncio.ensure_future(connection.upload(body(), chunked=False))
        with pytest.raises(UpstreamTimeout):
            await connection.head()
        await upload

    asyncio.run(main())


def test_an_upload_ends_with_its_answer() -> None:
    """What is left of a request that was answered already is not sent."""

    async def main() -> None:
        connection, wire = opened("POST")
        go_on = asyncio.Event()

        async def body() -> Any:
            yield b"a"
            await go_on.wait()
            yield b"b"

        upload = asyncio.ensure_future(connection.upload(body(), chunked=True))
        await asyncio.sleep(0)
        connection.data_received(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        go_on.set()
        await upload
        assert wire.sent.endswith(b"1\r\na\r\n")
        assert await whole(connection) == (413, b"")
        assert not connection.reusable
        connection.abort()

    asyncio.run(main())


def test_what_breaks_the_request_off_is_told_to_the_reader() -> None:
    """An error of the request's own body is what `head` and `read` raise: the replica is not to blame."""

    class Gone(Exception):
        pass

    async def main() -> None:
        async def body() -> Any:
            yield b"a"
            raise Gone

        connection, wire = opened("POST")
        await connection.upload(body(), chunked=True)
        assert wire.aborted
        assert not wire.sent.endswith(b"0\r\n\r\n")
        with pytest.raises(Gone):
            await connection.head()

        connection, wire = opened("POST")
        connection.data_received(H + b"content-length: 3\r\n\r\nok")
        await connection.upload(body(), chunked=True)
        assert await connection.read(60.0) == b"ok"
        with pytest.raises(Gone):
            await connection.read(60.0)

    asyncio.run(main())


def test_a_closed_connection_stays_closed() -> None:
    """After an abort nothing that still arrives counts, and the reason given first stays."""

    async def main() -> None:
        connection, _ = opened()
        connection.abort()
        connection.data_received(H + b"content-length: 0\r\n\r\n")
        connection.eof_received()
        connection.connection_lost(ConnectionResetError())
        with pytest.raises(UpstreamBroken, match="broken off"):
            await connection.head()

    asyncio.run(main())


@pytest.mark.parametrize("half", [True, False])
def test_a_tunnel_whose_client_is_done(half: bool) -> None:
    """The replica is told so where one direction can be closed alone, as TLS cannot; else the tunnel ends."""

    async def said() -> Any:
        yield b"bye"

    async def main() -> None:
        connection = Connection()
        wire = Wire(connection)
        ends = []
        wire.can_write_eof = lambda: half  # type: ignore[attr-defined]
        wire.write_eof = lambda: ends.append("eof")  # type: ignore[attr-defined]
        connection.send("GET", b"/", [(b"host", b"x")], 60.0, may_switch=True)
        connection.data_received(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        await connection.head()
        await connection.upload(said(), chunked=False)
        assert wire.sent.endswith(b"bye")
        assert ends == (["eof"] if half else [])
        assert wire.aborted is not half
        connection.abort()

    asyncio.run(main())


class Listener:
    """Remembers what it was told, and what there was to see."""

    def __init__(self, connection: Connection) -> None:
        self.heard: list[tuple[int, bool, bytes, bool]] = []
        connection.told = self

    def __call__(self, connection: Connection) -> None:
        assert connection.told is None
        status = connection.response.status if connection.response is not None else 0
        reusable_after = connection.take(), connection.reusable
        self.heard.append((status, connection.complete, *reusable_after))


def test_who_is_told_need_not_wait() -> None:
    """A whole response is told once, however its head is cut; by then the connection may serve again."""

    async def main() -> None:
        connection = Connection()
        Wire(connection)
        answer = b"HTTP/1.1 103 Early\r\n\r\n" + H + b"content-length: 2\r\n\r\nok"
        listener = Listener(connection)
        for split in range(len(answer) - 3):  # behind it, the head would be there without all of the body
            connection.told, listener.heard = listener, []
            connection.send_bytes("GET", b"GET / HTTP/1.1\r\n\r\n", 60.0)
            connection.data_received(answer[:split])
            assert listener.heard == []
            connection.data_received(answer[split:])
            assert listener.heard == [(200, True, b"ok", True)]
        connection.abort()
        assert len(listener.heard) == 1

    asyncio.run(main())


def test_who_is_told_may_send_at_once() -> None:
    """The next request may go out from within the call; a second answer in the same breath forbids it."""

    async def main() -> None:
        connection = Connection()
        wire = Wire(connection)
        listener = Listener(connection)
        answer = H + b"content-length: 2\r\n\r\nok"

        def again(connection: Connection) -> None:
            connection.take()
            connection.told = listener
            connection.send_bytes("GET", b"two", 60.0)

        connection.told = again
        connection.send_bytes("GET", b"one", 60.0)
        connection.data_received(answer)
        assert wire.sent == b"onetwo"
        assert not connection.complete
        connection.data_received(answer + b"H")
        assert listener.heard == [(200, True, b"ok", False)]
        assert wire.aborted

    asyncio.run(main())


@pytest.mark.parametrize(
    ("data", "heard"),
    [
        (H + b"content-length: 3\r\n\r\nok", (200, False, b"ok", False)),
        (H + b"content-length: 3\r\n\r\n", (200, False, b"", False)),
        (H + b"\r\nok", (200, False, b"ok", False)),
        (CHUNKED, (200, False, b"", False)),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", (200, True, b"ok", True)),
        (H + b"content-length: 0\r\n\r\n", (200, True, b"", True)),
        (b"garbage", (0, False, b"", False)),
        (CHUNKED + b"garbage", (200, False, b"", False)),
    ],
)
def test_what_is_told(data: bytes, heard: object) -> None:
    """A head without all of its body is told as well, and a failure; what follows is told to nobody."""

    async def main() -> None:
        connection, _ = opened()
        listener = Listener(connection)
        connection.data_received(data)
        assert listener.heard == [heard]
        assert (connection.error is not None) == (b"garbage" in data)
        connection.connection_lost(None)
        assert len(listener.heard) == 1

    asyncio.run(main())


def test_a_failure_is_told() -> None:
    """A deadline, a connection lost and an exchange broken off each end the wait, with the reason."""

    async def main() -> None:
        connection, wire = opened(timeout=0.02)
        listener = Listener(connection)
        await asyncio.sleep(0.05)
        assert wire.aborted
        assert listener.heard == [(0, False, b"", False)]
        assert isinstance(connection.error, UpstreamTimeout)

        connection, _ = opened()
        listener = Listener(connection)
        connection.connection_lost(ConnectionResetError("reset"))
        assert len(listener.heard) == 1
        assert "before the response: reset" in str(connection.error)

        connection, _ = opened()
        listener = Listener(connection)
        connection.abort()
        assert len(listener.heard) == 1
        assert isinstance(connection.error, UpstreamBroken)

    asyncio.run(main())


def test_a_header_is_there_with_its_head() -> None:
    """Before the final head there is no header, not that of an interim one either."""

    async def main() -> None:
        connection, _ = opened()
        connection.data_received(b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n")
        assert (connection.response, connection.status, connection.headers) == (None, 0, [])
        connection.data_received(H + b"content-length: 0\r\n\r\n")
        assert connection.headers == [(b"content-length", b"0")]
        connection.abort()

    asyncio.run(main())
