"""The limits of a front, each with its answer, and that the answer arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from replicated.adapters.front.body import HIGH_WATER
from replicated.adapters.front.limits import FrontLimits
from replicated.http.framing import Limits
from replicated.http.message import Request, Response

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\n"


async def refuse(request: Request) -> Response:
    """Answer without reading a byte of the body."""
    return Response(429, [], b"no")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * 200 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (b"GET /" + b"x" * 400, 414),
        (b"GET / HTTP/1.1\r\nHost: h\r\nx: " + b"y" * 600 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nx: " + b"y" * 700, 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"x: y\r\n" * 6 + b"\r\n", 431),
        (POST + b"Content-Length: 1001\r\n\r\n", 413),
        (POST + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n", 413),
        (
            POST
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"1f4\r\n"
            + b"x" * 500
            + b"\r\n1f5\r\n"
            + b"x" * 501,
            413,
        ),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400),
        (POST + b"Expect: wonders\r\nContent-Length: 1\r\n\r\n", 417),
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),
    ],
)
def test_what_is_too_much_or_wrong_is_answered(fronting: Any, run: Any, sent: bytes, status: int) -> None:
    """The answer says which limit it was, and arrives although the client goes on sending."""

    async def story() -> None:
        sizes = {"target": 128, "header_bytes": 512, "header_count": 5, "body": 1000}
        async with fronting(sizes=sizes, linger=0.2) as world, world.client() as client:
            client.send(sent)
            answered, fields, _ = await client.answer()
            assert (answered, fields[b"connection"]) == (status, b"close")
            client.send(b"z" * 100_000)
            assert await client.rest() == b""

    run(story)


def test_a_slow_head_is_408(fronting: Any, run: Any) -> None:
    """The time of a head is for all of it, however steadily it trickles; a silent connection is closed."""

    async def story() -> None:
        async with fronting(header_time=0.04) as world:
            async with world.client() as client:
                for byte in GET * 40:
                    client.send(bytes([byte]))
                    await asyncio.sleep(0.003)
                    if world.front.connections and next(iter(world.front.connections)).lingering:
                        break
                assert (await client.answer())[0] == 408
            async with world.client() as client:
                assert await client.closed()
            async with world.client() as client:
                for _ in range(60):
                    client.send(b"\r\n")
                    await asyncio.sleep(0.002)
                    if client.reader.at_eof():
                        break
                assert await client.closed()

    run(story)


def test_an_idle_connection_is_closed(fronting: Any, run: Any) -> None:
    """After its time without a request; one that goes on asking stays."""

    async def story() -> None:
        async with fronting(keep_alive=0.03) as world, world.client() as client:
            for _ in range(5):
                client.send(GET)
                assert (await client.answer())[0] == 200
                await asyncio.sleep(0.01)
            assert await client.closed()

    run(story)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("trickles", [False, True])
def test_a_slow_body_is_408(fronting: Any, run: Any, chunked: bool, trickles: bool) -> None:
    """A body that stops, or comes too slowly, is not waited for any longer."""

    async def story() -> None:
        async with fronting(body_time=0.04, least_rate=1e6) as world, world.client() as client:
            length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 100"
            client.send(POST + length + b"\r\n\r\n")
            for _ in range(60 if trickles else 0):
                client.send(b"1\r\nx\r\n" if chunked else b"x")
                await asyncio.sleep(0.002)
            assert (await client.answer())[0] == 408
            assert await client.rest() == b""

    run(story)


def test_time_runs_only_while_the_body_is_waited_for(fronting: Any, run: Any) -> None:
    """A handler that takes its time costs the client nothing."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            await asyncio.sleep(0.1)
            assert request.body is not None
            return Response(200, [], b"".join([piece async for piece in request.body]))

        async with fronting(handler, body_time=0.03) as world, world.client() as client:
            client.send(POST + b"Content-Length: 2\r\n\r\na")
            await asyncio.sleep(0.11)
            client.send(b"b")
            assert (await client.answer())[2] == b"ab"

    run(story)


def test_100_is_said_when_the_body_is_asked_for(fronting: Any, run: Any) -> None:
    """Not before a handler reads, not where the body has begun, and never by HTTP/1.0."""

    async def story() -> None:
        head = POST + b"Content-Length: 2\r\nExpect: 100-Continue\r\n\r\n"
        async with fronting() as world:
            async with world.client() as client:
                client.send(head)
                assert (await client.answer())[0] == 100
                client.send(b"ab")
                assert (await client.answer())[2] == b"POST / ab"
                client.send(head + b"cd")
                assert (await client.answer())[2] == b"POST / cd"
            async with world.client() as client:
                client.send(head.replace(b"1.1", b"1.0"))
                await asyncio.sleep(0.005)
                client.send(b"ab")
                assert (await client.answer())[2] == b"POST / ab"
        async with fronting(refuse) as world, world.client() as client:
            client.send(head)
            status, fields, _ = await client.answer()
            assert (status, fields[b"connection"]) == (429, b"close")
            assert await client.closed()

    run(story)


def test_an_early_answer_reads_no_body(fronting: Any, run: Any) -> None:
    """A small rest is read for nothing; for a large one the connection ends, and the answer arrives."""

    async def story() -> None:
        async with fronting(refuse) as world:
            async with world.client() as client:
                for _ in range(2):
                    client.send(POST + b"Content-Length: 1000\r\n\r\n")
                    status, fields, _ = await client.answer()
                    assert (status, b"connection" in fields) == (429, False)
                    client.send(b"x" * 1000)
            async with world.client() as client:
                client.send(POST + b"Content-Length: 9000000\r\n\r\n")
                client.send(b"x" * 9_000_000)
                status, fields, _ = await client.answer()
                assert (status, fields[b"connection"]) == (429, b"close")
                assert await client.rest() == b""

    run(story)


def test_lingering_has_an_end(fronting: Any, run: Any) -> None:
    """A client that never stops sending is cut after a while."""

    async def story() -> None:
        async with fronting(refuse, linger=0.03) as world, world.client() as client:
            client.send(POST + b"Content-Length: 9000000\r\n\r\n")
            assert (await client.answer())[0] == 429
            while world.front.connections:
                client.send(b"x")
                await asyncio.sleep(0.001)

    run(story)


def test_a_body_waits_for_its_reader(fronting: Any, run: Any) -> None:
    """Of a body that nobody reads, no more than a bound is taken in; then it comes whole."""

    async def story() -> None:
        gate = asyncio.Event()

        async def handler(request: Request) -> Response:
            await gate.wait()
            assert request.body is not None
            return Response(200, [], b"%d" % sum([len(piece) async for piece in request.body]))

        async with fronting(handler) as world, world.client() as client:
            client.send(POST + b"Content-Length: 9000000\r\n\r\n" + b"x" * 9_000_000)
            for _ in range(30):
                await asyncio.sleep(0.001)
            (connection,) = world.front.connections
            assert HIGH_WATER < connection.arriving.unread < 4 * HIGH_WATER
            gate.set()
            assert (await client.answer())[2] == b"9000000"

    run(story)


def test_a_stream_waits_for_its_reader(fronting: Any, run: Any) -> None:
    """No more is asked of a stream than its client reads; one that does not read is cut after its time."""

    async def story() -> None:
        made = 0

        async def stream() -> AsyncIterator[bytes]:
            nonlocal made
            while True:
                made += 1
                yield b"x" * 65536

        async def handler(request: Request) -> Response:
            return Response(200, [], stream())

        async with fronting(handler, write_time=0.08) as world:
            async with world.client(limit=1000) as client:
                client.send(GET)
                await world.quiet()
                assert made < 200  # what the kernel's buffers hold
            made = 0
            async with world.client(limit=1000) as client:
                client.send(GET)
                for _ in range(40):
                    await client.reader.read(60_000)
                    await asyncio.sleep(0.004)  # slow, but it reads
                assert world.front.connections

    run(story)


def test_as_many_connections_as_allowed(fronting: Any, run: Any) -> None:
    """For one too many an idle one goes; where none is idle, it waits in the kernel for its turn."""

    async def story() -> None:
        gate = asyncio.Event()

        async def handler(request: Request) -> Response:
            if request.target == b"/wait":
                await gate.wait()
            return Response(200, [], b"ok")

        async with (
            fronting(handler, connections=2) as world,
            world.client() as idle,
            world.client() as busy,
            world.client() as third,
        ):
            idle.send(GET)
            assert (await idle.answer())[0] == 200
            busy.send(GET.replace(b"/ ", b"/wait "))
            third.send(GET.replace(b"/ ", b"/wait "))
            assert await idle.closed()
            while sum(connection.handling for connection in world.front.connections) < 2:
                await asyncio.sleep(0.001)
            async with world.client() as fourth:
                fourth.send(GET)
                await asyncio.sleep(0.02)
                assert len(world.front.connections) == 2
                gate.set()
                assert (await busy.answer())[1][b"connection"] == b"close"
                assert (await fourth.answer())[0] == 200

    run(story)


def test_as_many_requests_a_connection_as_allowed(fronting: Any, run: Any) -> None:
    """The last one says so."""

    async def story() -> None:
        async with fronting(requests=2) as world, world.client() as client:
            client.send(GET, GET, GET)
            assert b"connection" not in (await client.answer())[1]
            assert (await client.answer())[1][b"connection"] == b"close"
            assert await client.closed()

    run(story)


def test_a_slow_reader_of_the_last_answer_gets_all_of_it(fronting: Any, run: Any) -> None:
    """A connection that is being closed stays for as long as its client reads."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            return Response(200, [], b"x" * 8_000_000)

        async with (
            fronting(handler, linger=0.02, write_time=0.3) as world,
            world.client(limit=1000) as client,
        ):
            client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            size = 0
            while piece := await client.reader.read(200_000):
                size += len(piece)
                await asyncio.sleep(0.001)
            assert size > 8_000_000

    run(story)


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"header_time": 0}, ValueError),
        ({"keep_alive": float("inf")}, ValueError),
        ({"connections": 0}, ValueError),
        ({"connections": 1.5}, TypeError),
        ({"requests": True}, TypeError),
        ({"linger": "1"}, TypeError),
        ({"request": None}, TypeError),
    ],
)
def test_limits_that_cannot_be(limits: dict[str, Any], error: type[Exception]) -> None:
    """A limit out of its range is refused by name."""
    with pytest.raises(error, match=next(iter(limits))):
        FrontLimits(**limits)
    assert FrontLimits(Limits(body=1)).request.body == 1


def test_a_client_that_resets_while_it_is_written_to(fronting: Any, run: Any) -> None:
    """Is no fault of anybody, whatever was being written."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            return Response(200, [], b"x" * 5_000_000)

        async with fronting(handler) as world:
            async with world.client(limit=1000) as client:
                client.send(GET)
                await client.head()
                client.reset()
            await world.quiet()

    run(story)
