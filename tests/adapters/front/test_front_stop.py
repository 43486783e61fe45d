"""A stop: what was accepted is served, what is idle closed, what is in flight ends, or is cut in the end."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from replicated.http.message import Request, Response

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def gated() -> tuple[asyncio.Event, Any]:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        if request.target == b"/wait":
            await gate.wait()
        return Response(200, [], request.target)

    return gate, handler


def test_draining_asks_for_connections_to_be_closed(fronting: Any, run: Any) -> None:
    """Requests are served as before, also on new connections, and each answer says that it is the last."""

    async def story() -> None:
        async with fronting() as world, world.client() as old:
            old.send(GET)
            assert b"connection" not in (await old.answer())[1]
            world.front.drain()
            async with world.client() as new:
                for client in (old, new):
                    client.send(GET)
                    assert (await client.answer())[1][b"connection"] == b"close"
                    assert await client.closed()

    run(story)


def test_a_stop_loses_nothing(fronting: Any, run: Any) -> None:
    """Who is idle ends at once; who is busy, fresh, half-read or in the kernel's queue is served."""

    async def story() -> None:
        gate, handler = gated()
        async with (
            fronting(handler, fresh=0.2, linger=0.1) as world,
            world.client() as idle,
            world.client() as busy,
            world.client() as fresh,
            world.client() as begun,
        ):
            idle.send(GET)
            await idle.answer()
            busy.send(GET.replace(b"/ ", b"/wait "), GET)
            begun.send(GET[:10])
            await asyncio.sleep(0.01)
            queued = []
            for _ in range(20):  # connected by the kernel, and not accepted yet
                sock = socket.create_connection(("127.0.0.1", world.port))
                sock.sendall(GET)
                sock.setblocking(False)
                queued.append(sock)
            stop = asyncio.ensure_future(world.front.stop(5))
            loop = asyncio.get_running_loop()
            for sock in queued:
                assert b"200 OK" in await loop.sock_recv(sock, 1000)
                sock.close()
            assert await idle.closed()
            fresh.send(GET)
            begun.send(GET[10:])
            for client in (fresh, begun):
                status, fields, _ = await client.answer()
                assert (status, fields[b"connection"]) == (200, b"close")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", world.port))
            assert not stop.done()
            gate.set()
            assert (await busy.answer())[2] == b"/wait"
            await stop

    run(story)


def test_a_fresh_connection_that_asks_nothing_is_not_waited_for(fronting: Any, run: Any) -> None:
    """It has its time, and no more."""

    async def story() -> None:
        async with fronting(fresh=0.02) as world, world.client() as client:
            while not world.front.connections:
                await asyncio.sleep(0.001)
            await world.front.stop(5)
            assert await client.closed()

    run(story)


def test_what_does_not_end_is_cut(fronting: Any, run: Any) -> None:
    """After its grace nothing is waited for."""

    async def story() -> None:
        _, handler = gated()
        async with fronting(handler) as world, world.client() as client:
            client.send(GET.replace(b"/ ", b"/wait "))
            while not world.front.connections:
                await asyncio.sleep(0.001)
            await world.front.stop(0.03)
            assert await client.closed()

    run(story)


def test_a_stop_without_connections_is_at_once(fronting: Any, run: Any) -> None:
    """Nobody there, nobody waited for; and twice is once."""

    async def story() -> None:
        async with fronting() as world:
            await world.front.stop(5)
            await world.front.stop(5)

    run(story)
