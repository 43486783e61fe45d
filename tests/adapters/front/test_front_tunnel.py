"""Tunnels: what is passed on once a protocol is switched, and what becomes of a request that asks in vain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from replicated.http.message import Request, Response

ASKS = b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
GET = b"GET /get HTTP/1.1\r\nHost: h\r\n\r\n"


async def echoing(request: Request) -> Response:
    """Send back in upper case what comes through a tunnel."""
    if request.upgrade is None:
        return Response(200, [], b"plain " + request.target)
    upgrade = request.upgrade

    async def back() -> AsyncIterator[bytes]:
        yield b"hello "
        async for piece in upgrade:
            if piece.endswith(b"bye"):
                return
            yield piece.upper()

    return Response(101, [(b"sec-websocket-accept", b"x"), (b"upgrade", b"websocket")], back())


def test_bytes_pass_both_ways(fronting: Any, run: Any) -> None:
    """The head says that the protocol is switched; then what either side sends arrives, early or not."""

    async def story() -> None:
        async with fronting(echoing) as world, world.client() as client:
            client.send(ASKS + b"early")
            status, fields, _ = await client.answer()
            assert (status, fields[b"connection"], fields[b"upgrade"]) == (101, b"upgrade", b"websocket")
            assert fields[b"sec-websocket-accept"] == b"x"
            assert await client.reader.readexactly(11) == b"hello EARLY"
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            assert await client.reader.readexactly(18) == b"GET / HTTP/1.1\r\n\r\n"
            client.send(b"bye")
            assert await client.closed()

    run(story)


def test_a_client_that_ends_ends_the_tunnel(fronting: Any, run: Any) -> None:
    """Its end is the end of what it sends; what still comes back reaches it."""

    async def story() -> None:
        async with fronting(echoing) as world, world.client() as client:
            client.send(ASKS)
            await client.answer()
            client.send(b"last")
            client.half_close()
            assert await client.rest() == b"hello LAST"

    run(story)


@pytest.mark.parametrize(
    "head",
    [
        ASKS.replace(b"WebSocket", b"h2c"),
        ASKS.replace(b"keep-alive, Upgrade", b"keep-alive"),
        ASKS.replace(b"1.1", b"1.0"),
        ASKS.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\nx"),
        ASKS.replace(b"GET", b"OPTIONS"),
    ],
)
def test_nothing_else_is_switched(fronting: Any, run: Any, head: bytes) -> None:
    """Another protocol, a list without it, HTTP/1.0 or a body: it is a request like any other."""

    async def story() -> None:
        async with fronting(echoing) as world, world.client() as client:
            client.send(head)
            assert (await client.answer())[2] == b"plain /ws"

    run(story)


def test_a_refusal_leaves_the_connection_as_it_was(fronting: Any, run: Any) -> None:
    """Where a handler answers otherwise, what came behind the request is the next request."""

    async def story() -> None:
        async def refusing(request: Request) -> Response:
            await asyncio.sleep(0.01)
            return Response(403, [], b"no")

        async with fronting(refusing) as world, world.client() as client:
            client.send(ASKS)
            await asyncio.sleep(0.005)
            client.send(GET)
            assert (await client.answer())[0] == 403
            assert (await client.answer())[0] == 403
            client.send(GET)
            assert (await client.answer())[0] == 403

    run(story)


def test_a_tunnel_waits_for_its_readers(fronting: Any, run: Any) -> None:
    """What the handler does not read waits with the client, and the other way round."""

    async def story() -> None:
        gate = asyncio.Event()
        made = 0

        async def handler(request: Request) -> Response:
            async def back() -> AsyncIterator[bytes]:
                nonlocal made
                while not gate.is_set():
                    made += 1
                    yield b"x" * 65536

            return Response(101, [], back())

        async with fronting(handler) as world, world.client(limit=1000) as client:
            client.send(ASKS + b"y" * 9_000_000)
            await asyncio.sleep(0.05)
            (connection,) = world.front.connections
            assert made < 300
            assert connection.arriving.paused
            assert connection.arriving.unread < 1_500_000
            gate.set()
            client.reset()
            await world.quiet()

    run(story)


def test_a_silent_tunnel_stays(fronting: Any, run: Any) -> None:
    """No limit of time is for a tunnel that is silent, and a stop gives it its grace."""

    async def story() -> None:
        limits = dict.fromkeys(("header_time", "body_time", "keep_alive", "half_closed", "linger"), 0.01)
        async with fronting(echoing, **limits) as world, world.client() as client:
            client.send(ASKS)
            await client.answer()
            await asyncio.sleep(0.08)
            client.send(b"still")
            assert await client.reader.readexactly(11) == b"hello STILL"
            stop = asyncio.ensure_future(world.front.stop(0.1))
            await asyncio.sleep(0.03)
            client.send(b"here")
            assert await client.reader.readexactly(4) == b"HERE"
            await stop
            assert await client.closed()

    run(story)
