"""Tunnels: a WebSocket is opened through the exchange, and carries bytes both ways until an end closes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from replicated import Replica, RoundRobin, Tier
from replicated.adapters.engine.connection import HIGH_WATER
from replicated.adapters.engine.upstream import Timeouts, Upstream
from replicated.adapters.proxy.exchange import Exchange
from replicated.adapters.proxy.gatekeeper import ClientGone
from replicated.errors import UpstreamBroken, UpstreamTimeout
from replicated.http.message import Request
from replicated.testing import RecordingStrategy

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-accept: x\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HOST = (b"host", b"example.com")
ASKS = [
    HOST,
    (b"connection", b"keep-alive, Upgrade"),
    (b"upgrade", b"WebSocket"),
    (b"sec-websocket-key", b"k"),
]


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await main()

    return asyncio.run(bounded())


class Client:
    """What a client sends once the protocol is switched."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.gone = False

    def say(self, *pieces: bytes | None) -> None:
        for piece in pieces:
            self.pieces.put_nowait(piece)

    def __aiter__(self) -> Client:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.pieces.get()
        if self.gone:
            raise ClientGone
        if piece is None:
            raise StopAsyncIteration
        return piece


class Ends:
    def __init__(self, *replicas: Replica, **options: Any) -> None:
        self.strategy = RecordingStrategy(RoundRobin())
        self.tier = Tier(replicas, strategy=self.strategy)
        self.upstream = Upstream(timeouts=options.pop("timeouts", Timeouts(connect=1, first_byte=1, read=1)))
        self.exchange = Exchange(self.tier, self.upstream, **options)

    @property
    def verdicts(self) -> list[str]:
        return [outcome.verdict.value for _, outcome in self.strategy.ends]


async def echo(peer: Any) -> None:
    """Switch, say hello in the same piece, and echo in capitals until the client is done; then say bye."""
    head = await peer.head()
    assert b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n" in head
    assert b"\r\nsec-websocket-key: k\r\n" in head
    await peer.send(SWITCH + b"hello")
    while piece := await peer.reader.read(100):
        await peer.send(piece.upper())
    await peer.send(b"bye")


def test_bytes_go_both_ways(scripted: Any) -> None:
    """In flight until the end, which is a success; what came behind the 101 belongs to the tunnel."""

    async def main() -> None:
        client = Client()
        async with scripted(echo) as replica:
            ends = Ends(replica.replica())
            response = await ends.exchange(Request("GET", b"/", ASKS, upgrade=client))
            assert response.status == 101
            assert response.headers == [
                (b"sec-websocket-accept", b"x"),
                (b"connection", b"upgrade"),
                (b"upgrade", b"websocket"),
            ]
            assert not isinstance(response.body, bytes)
            stream = aiter(response.body)
            assert await anext(stream) == b"hello"
            for word in (b"one", b"two\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"):
                client.say(word)
                assert await anext(stream) == word.upper()
            assert ends.tier.in_flight == 1
            client.say(None)
            assert [piece async for piece in stream] == [b"bye"]
            await response.close()
            assert ends.verdicts == ["ok"]
            await replica.quiet()
            assert not ends.upstream.pools[next(iter(ends.upstream.pools))].connections

    run(main)


def test_a_tunnel_can_be_closed_at_any_time(scripted: Any) -> None:
    """As a drain does it: the replica is told, and whoever reads the client stops."""

    async def main() -> None:
        client = Client()
        async with scripted(echo) as replica:
            ends = Ends(replica.replica())
            response = await ends.exchange(Request("GET", b"/", ASKS, upgrade=client))
            await response.close()
            await replica.quiet()
            assert ends.verdicts == ["cancelled"]
            assert len(asyncio.all_tasks()) == 1

    run(main)


def test_a_client_that_vanishes_is_nobodys_fault(scripted: Any) -> None:
    """The tunnel ends for the replica as well."""

    async def main() -> None:
        client = Client()
        async with scripted(echo) as replica:
            ends = Ends(replica.replica())
            response = await ends.exchange(Request("GET", b"/", ASKS, upgrade=client))
            assert not isinstance(response.body, bytes)
            stream = aiter(response.body)
            assert await anext(stream) == b"hello"
            client.gone = True
            client.say(b"")
            with pytest.raises(ClientGone):
                await anext(stream)
            await response.close()
            await replica.quiet()
            assert ends.verdicts == ["cancelled"]

    run(main)


def test_a_replica_that_vanishes(scripted: Any) -> None:
    """A tunnel that is reset is the replica's failure, and is never opened anew elsewhere."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.head()
            await peer.send(SWITCH)
            await peer.reader.read(1)
            peer.reset()

        client = Client()
        async with scripted(play) as replica:
            ends = Ends(replica.replica(), replica.replica("b"))
            response = await ends.exchange(Request("GET", b"/", ASKS, upgrade=client))
            assert not isinstance(response.body, bytes)
            client.say(b"x")
            with pytest.raises(UpstreamBroken):
                await anext(aiter(response.body))
            await response.close()
            assert ends.verdicts == ["failed"]
            assert replica.accepted == 1

    run(main)


def test_a_silent_tunnel_ends(scripted: Any) -> None:
    """Where nothing goes either way for long, nobody may be there any more; what goes either way counts."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.head()
            await peer.send(SWITCH)
            await peer.gone()

        client = Client()
        async with scripted(play) as replica:
            ends = Ends(replica.replica(), timeouts=Timeouts(first_byte=1, read=0.01, tunnel=0.2))
            response = await ends.exchange(Request("GET", b"/", ASKS, upgrade=client))
            assert not isinstance(response.body, bytes)
            reading = asyncio.ensure_future(anext(aiter(response.body)))
            for _ in range(3):
                await asyncio.sleep(0.1)
                client.say(b"ping")
            assert not reading.done()
            with pytest.raises(UpstreamTimeout):
                await reading
            await response.close()
            await replica.quiet()

    run(main)


def test_what_nobody_reads_is_not_read(scripted: Any) -> None:
    """A client that does not read holds the replica up, and memory is bounded."""

    async def main() -> None:
        sent = 0

        async def play(peer: Any) -> None:
            nonlocal sent
            await peer.head()
            await peer.send(SWITCH)
            for _ in range(400):
                peer.writer.write(bytes(65536))
                await peer.writer.drain()
                sent += 65536

        async with scripted(play) as replica:
            ends = Ends(replica.replica())
            response = await ends.exchange(Request("GET", b"/", ASKS, upgrade=Client()))
            await asyncio.sleep(0.2)
            assert sent < 400 * 65536
            assert not isinstance(response.body, bytes)
            total = 0
            async for piece in response.body:
                assert len(piece) <= 2 * HIGH_WATER + 65536
                total += len(piece)
            assert total == 400 * 65536
            await response.close()
            await replica.quiet()

    run(main)


@pytest.mark.parametrize(
    ("headers", "upgrade", "method"),
    [
        (ASKS, False, "GET"),
        (ASKS, True, "POST"),
        ([HOST, (b"upgrade", b"websocket")], True, "GET"),
        ([HOST, (b"connection", b"upgrade"), (b"upgrade", b"h2c")], True, "GET"),
    ],
)
def test_what_is_not_switched(scripted: Any, headers: Any, upgrade: bool, method: str) -> None:
    """Only a GET for a WebSocket over a front that can; else the replica hears nothing of it."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            head = await peer.head()
            assert b"upgrade" not in head.replace(b"no-upgrade", b"")
            await peer.send(SWITCH + b"hello")
            await peer.gone()

        async with scripted(play) as replica:
            ends = Ends(replica.replica())
            request = Request(method, b"/", headers, upgrade=Client() if upgrade else None)
            response = await ends.exchange(request)
            assert response.status == 502
            assert ends.verdicts == ["failed"]
            await replica.quiet()

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n",
    ],
)
def test_a_switch_to_what_was_not_asked_for(scripted: Any, answers: Any, answer: bytes) -> None:
    """A 101 that does not say websocket is no answer."""

    async def main() -> None:
        async with scripted(answers(answer)) as replica:
            ends = Ends(replica.replica())
            response = await ends.exchange(Request("GET", b"/", ASKS, upgrade=Client()))
            assert response.status == 502
            assert ends.verdicts == ["failed"]

    run(main)


def test_any_other_answer_passes_on(scripted: Any, answers: Any) -> None:
    """A replica that does not switch answers as ever, and the connection is used again."""

    async def main() -> None:
        client = Client()
        async with scripted(answers(OK)) as replica:
            ends = Ends(replica.replica())
            for _ in range(2):
                response = await ends.exchange(Request("GET", b"/", ASKS, upgrade=client))
                assert (response.status, response.body) == (200, b"ok")
            assert replica.accepted == 1
            assert ends.verdicts == ["ok", "ok"]
            await ends.upstream.aclose()

    run(main)
