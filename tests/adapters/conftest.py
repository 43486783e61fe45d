"""Replicas on loopback that play a script, byte by byte; and a task cancelled where one wants it to be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any

import pytest

from replicated import Replica

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Peer:
    """The replica's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """Return the head of the next request; b"" at the end."""
        try:
            return await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    async def body(self, head: bytes) -> bytes:
        """Return the body behind a head, as it is on the wire, or what came of it."""
        lines = head.lower().split(b"\r\n")
        try:
            for line in lines:
                if line.startswith(b"content-length: "):
                    return await self.reader.readexactly(int(line[16:]))
            if b"transfer-encoding: chunked" in lines:
                return await self.reader.readuntil(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        return b""

    async def request(self) -> bytes:
        """Return the next request, its head and its body as on the wire; b"" at the end."""
        head = await self.head()
        return head + await self.body(head)

    async def send(self, *pieces: bytes) -> None:
        """Send each piece by itself, so that they arrive as several."""
        with contextlib.suppress(ConnectionError, RuntimeError):  # uvloop's, where the other end has left
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
                await asyncio.sleep(0)

    async def gone(self) -> bytes:
        """Wait until the other end has closed; return what it still sent."""
        try:
            return await self.reader.read(-1)
        except ConnectionError:
            return b""

    def reset(self) -> None:
        """End with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Play = Callable[[Peer], Awaitable[None]]


class Scripted:
    """A replica that plays a script on each of its connections, and closes it at the script's end."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.url = ""
        self.accepted = 0
        self.running: set[asyncio.Task[None]] = set()

    def replica(self, name: str = "a") -> Replica:
        return Replica(name, self.url)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.running.add(task)
        self.accepted += 1
        try:
            await self.play(Peer(reader, writer))
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self.running.discard(task)

    async def quiet(self) -> None:
        """Wait until no connection is left; the connections of a client that leaks one stay for ever."""
        async with asyncio.timeout(2):
            while self.running:
                await asyncio.wait(list(self.running))


@contextlib.asynccontextmanager
async def scripted(play: Play, **options: object) -> AsyncIterator[Scripted]:
    replica = Scripted(play)
    server = await asyncio.start_server(replica.serve, "127.0.0.1", 0, **options)  # type: ignore[arg-type]
    port = server.sockets[0].getsockname()[1]
    replica.url = f"{'https' if options.get('ssl') else 'http'}://127.0.0.1:{port}"
    try:
        yield replica
    finally:
        server.close()
        for task in list(replica.running):
            task.cancel()
        if replica.running:
            await asyncio.wait(list(replica.running))
        await asyncio.sleep(0)


def answers(*answers: bytes) -> Play:
    """Return a script that answers each request on a connection with the next answer, the last for ever."""

    async def play(peer: Peer) -> None:
        turn = 0
        while await peer.request():
            await peer.send(answers[min(turn, len(answers) - 1)])
            turn += 1

    return play


@pytest.fixture(name="scripted")
def scripted_fixture() -> Callable[..., contextlib.AbstractAsyncContextManager[Scripted]]:
    """``async with scripted(play) as replica``: a replica that plays a script on each connection."""
    return scripted


@pytest.fixture(name="answers")
def answers_fixture() -> Callable[..., Play]:
    """``answers(first, second)``: a script that answers request by request."""
    return answers


@pytest.fixture
def nowhere() -> str:
    """Return a URL where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


class CancelledAt:
    """Runs a coroutine and cancels its task at its n-th suspension, or just as that one is over.

    While it is suspended, what it awaits is cancelled with it. As the suspension ends, what it awaited has
    come, and is lost unless someone takes care of it: where most leaks of connections hide.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, *, late: bool) -> None:
        self.coroutine = coroutine
        self.at = at
        self.late = late
        self.hit = False

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        step = self.coroutine.send
        argument: Any = None
        count = 0
        while True:
            try:
                awaited = step(argument)
            except StopIteration as stop:
                return stop.value
            step, argument = self.coroutine.send, None
            count += 1
            if count == self.at:
                self.hit = True
                if not self.late:
                    asyncio.get_running_loop().call_soon(task.cancel)
            try:
                yield awaited
            except BaseException as error:
                step, argument = self.coroutine.throw, error
            else:
                if count == self.at and self.late:
                    step, argument = self.coroutine.throw, asyncio.CancelledError()


@pytest.fixture
def cancelled_at() -> type[CancelledAt]:
    """``await cancelled_at(coroutine, 3, late=False)``: run, and cancelled at the third suspension."""
    return CancelledAt
