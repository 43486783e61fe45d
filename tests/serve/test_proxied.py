"""Connections that begin with a PROXY header: whose they are, and what becomes of those that do not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import uvicorn

from replicated.http.identity import Identity
from replicated.serve.proxied import ProxiedProtocol, proxied

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
V1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n"
V2 = bytes.fromhex("0d0a0d0a000d0a515549540a 21 21 0024") + bytes(15) + b"\x07" + bytes(16) + b"\1\2\0P"
LOCAL = bytes.fromhex("0d0a0d0a000d0a515549540a 20 00 0000")


async def whose(scope: Any, receive: Any, send: Any) -> None:
    address, port = scope["client"]
    body = f"{address} {port}".encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(protocol: type[ProxiedProtocol]) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(whose, http=protocol, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


async def ask(port: int, *pieces: bytes) -> bytes:
    """Send pieces one by one, then close that half; return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 10))


def test_a_trusted_balancer_names_the_client() -> None:
    """Either version names the client for all requests of the connection, in whatever pieces it comes."""

    async def story() -> None:
        async with serving(proxied(Identity(["127.0.0.1"]))) as port:
            for pieces in ([V1], [V1 + GET], [V1[:9], V1[9:]]):
                answers = await ask(port, *pieces)
                assert answers.endswith(b"203.0.113.9 4711")
                assert answers.count(b"203.0.113.9 4711") == 1 + (GET in pieces[0])
            assert (await ask(port, V2)).endswith(b"::7 258")
            assert b"\r\n\r\n127.0.0.1 " in await ask(port, LOCAL)

    run(story)


def test_a_trusted_balancer_must_say_for_whom() -> None:
    """Without a header nothing is answered: the connection ends."""

    async def story() -> None:
        async with serving(proxied(Identity(["127.0.0.1"]))) as port:
            assert await ask(port) == b""
            assert await ask(port, b"PROXY TCP4 x\r\n") == b""

    run(story)


def test_who_is_not_trusted_is_nobodys_balancer() -> None:
    """Others are served as themselves, and a PROXY header from them is a bad request."""

    async def story() -> None:
        async with serving(proxied(Identity(["192.0.2.0/24"]))) as port:
            assert b"\r\n\r\n127.0.0.1 " in await ask(port)
            assert (await ask(port, V1)).startswith(b"HTTP/1.1 400")

    run(story)


def test_a_balancer_that_says_nothing_is_not_waited_for() -> None:
    """A connection on which no header comes is closed."""

    async def story() -> None:
        protocol = proxied(Identity(["127.0.0.1"]))
        protocol.patience = 0.01
        async with serving(protocol) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(story)
