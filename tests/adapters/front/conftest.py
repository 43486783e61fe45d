"""A front on loopback in the test's own loop, and clients that speak to it byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from replicated.adapters.front.front import Front
from replicated.adapters.front.limits import FrontLimits
from replicated.http.message import Request, Response


class Client:
    """A client's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *pieces: bytes) -> None:
        """Send, as to a socket: whether the other end has just left makes no difference."""
        if not self.writer.is_closing():  # where uvloop raises and asyncio does not
            self.writer.write(b"".join(pieces))

    async def slowly(self, data: bytes) -> None:
        """Send byte by byte."""
        for byte in data:
            self.send(bytes([byte]))
            await asyncio.sleep(0)

    async def head(self) -> bytes:
        """Return the next head."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self, *, method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes]:
        """Return the next answer: status, header, body."""
        status, fields = parsed(await self.head())
        if method == "HEAD" or status < 200 or status in (204, 304):
            return status, fields, b""
        if b"content-length" in fields:
            return status, fields, await self.reader.readexactly(int(fields[b"content-length"]))
        if fields.get(b"transfer-encoding") == b"chunked":
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
            return status, fields, body
        return status, fields, await self.reader.read()

    async def rest(self) -> bytes:
        """Return all that still comes; a reset raises."""
        return await self.reader.read()

    async def closed(self) -> bool:
        """Wait until the other end closes, without another word."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Leave at once, by a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def parsed(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head[:-4].split(b"\r\n")
    assert first.startswith(b"HTTP/1.1 ")
    pairs = [line.split(b": ", 1) for line in lines]
    fields = {name.lower(): value for name, value in pairs}
    assert len(fields) == len(pairs)
    return int(first[9:12]), fields


class World:
    """A front, and where it is."""

    def __init__(self, front: Front, port: int) -> None:
        self.front = front
        self.port = port
        self.complaints: list[dict[str, Any]] = []

    @contextlib.asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        """Connect."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def quiet(self) -> None:
        """Wait until no connection is open."""
        while self.front.connections:
            await asyncio.sleep(0.001)


async def echo(request: Request) -> Response:
    """Say back what was asked: method, target, body."""
    body = b""
    if request.body is not None:
        async for piece in request.body:
            body += piece
    text = b"%b %b %b" % (request.method.encode(), request.target, body)
    return Response(200, [(b"content-type", b"text/plain")], text)


@contextlib.asynccontextmanager
async def fronting(
    handler: Callable[[Request], Awaitable[Response]] = echo,
    *,
    sizes: dict[str, int] | None = None,
    complaints: int | None = 0,
    tls: Any = None,
    balancers: Any = None,
    log: Any = None,
    identity: Any = None,
    **limits: Any,
) -> AsyncIterator[World]:
    """Serve ``handler`` with limits that are small where a test says so."""
    if sizes:
        from replicated.http.framing import Limits

        limits["request"] = Limits(**sizes)
    front = Front(
        handler, limits=FrontLimits(**limits), tls=tls, balancers=balancers, log=log, identity=identity
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    world = World(front, listener.getsockname()[1])
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: world.complaints.append(context))
    front.start(listener)
    try:
        yield world
        await asyncio.sleep(0)
    finally:
        await front.abort()
        loop.set_exception_handler(None)
    assert not front.connections
    assert complaints is None or len(world.complaints) == complaints, world.complaints


@pytest.fixture(name="fronting")
def fronting_fixture() -> Callable[..., contextlib.AbstractAsyncContextManager[World]]:
    """``async with fronting(handler, header_time=0.05) as world``: a front on loopback."""
    return fronting


def run(factory: Any, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a story to its end within ten seconds, and leave no task behind."""

    async def main() -> None:
        async with asyncio.timeout(10):
            await story()
        for _ in range(3):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@pytest.fixture(name="run", params=["asyncio", "uvloop"])
def run_fixture(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    """Run a story, on either event loop."""
    if request.param == "asyncio":
        return functools.partial(run, None)
    return functools.partial(run, pytest.importorskip("uvloop").new_event_loop)
