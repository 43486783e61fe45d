"""Many clients with bad manners, over a front, before three replicas that do all that replicas do: whatever
happens, each answer is the one to its own request, and nothing is left when it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from replicated import Hedging, PowerOfTwo, Replica, RetryBudget, Tier
from replicated.adapters.engine.upstream import Timeouts, Upstream
from replicated.adapters.front.access_log import Access
from replicated.adapters.proxy.exchange import Exchange
from replicated.testing import RecordingStrategy

LATE = 0.01
BIG = 300_000
SEED = 7
CLIENTS = 12
ROUNDS = 8


class Actor:
    """A replica: says on each answer, in a field and in its body, which request that is the answer to."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.done: dict[str, int] = {}

    async def play(self, peer: Any) -> None:
        while True:
            if self.rng.random() < 0.02:
                return  # an idle connection closes
            request = await peer.request()
            if not request:
                return
            method, path, _ = request.split(b" ", 2)
            behaviour = self.behaviour()
            self.done[behaviour] = self.done.get(behaviour, 0) + 1
            if not await getattr(self, behaviour)(peer, method, path):
                return

    def behaviour(self) -> str:
        names = ("whole", "split", "late", "hinted", "chunked", "big", "empty", "endless", "last")
        rare = ("busy", "cut", "reset", "surplus", "garbage", "silent", "flood")
        return self.rng.choice(names if self.rng.random() < 0.85 else rare)

    def answer(self, method: bytes, path: bytes, *, status: bytes = b"200 OK", size: int = 0) -> list[bytes]:
        body = path + b"x" * size
        head = b"HTTP/1.1 %b\r\nx-id: %b\r\ncontent-length: %d\r\n" % (status, path, len(body))
        extra = self.rng.choice(
            (b"", b"", b"date: then\r\n", b"connection: keep-alive\r\n", b"set-cookie: a\r\n")
        )
        return [head, extra, b"\r\n", b"" if method == b"HEAD" else body]

    async def whole(self, peer: Any, method: bytes, path: bytes, **options: Any) -> bool:
        await peer.send(b"".join(self.answer(method, path, **options)))
        return True

    async def split(self, peer: Any, method: bytes, path: bytes) -> bool:
        data = b"".join(self.answer(method, path))
        at = self.rng.randrange(len(data))
        await peer.send(data[:at])
        await asyncio.sleep(self.rng.choice((0, 0.001, LATE)))
        await peer.send(data[at:])
        return True

    async def late(self, peer: Any, method: bytes, path: bytes) -> bool:
        await asyncio.sleep(self.rng.uniform(0.5, 2.5) * LATE)
        return await self.whole(peer, method, path)

    async def hinted(self, peer: Any, method: bytes, path: bytes) -> bool:
        hint = b"HTTP/1.1 103 Early Hints\r\nx-id: %b\r\n\r\n" % path
        data = [b"HTTP/1.1 100 Continue\r\n\r\n", hint, hint, *self.answer(method, path)]
        await peer.send(*(data if self.rng.random() < 0.5 else [b"".join(data)]))
        return True

    async def chunked(self, peer: Any, method: bytes, path: bytes) -> bool:
        head = b"HTTP/1.1 200 OK\r\nx-id: %b\r\ntransfer-encoding: chunked\r\n\r\n" % path
        pieces = [b"%x\r\n%b\r\n" % (len(path), path), b"1\r\nx\r\n", b"0\r\n\r\n"]
        pieces = [head] if method == b"HEAD" else [head, *pieces]
        await peer.send(*(pieces if self.rng.random() < 0.5 else [b"".join(pieces)]))
        return True

    async def big(self, peer: Any, method: bytes, path: bytes) -> bool:
        return await self.whole(peer, method, path, size=self.rng.choice((BIG // 2, BIG)))

    async def empty(self, peer: Any, method: bytes, path: bytes) -> bool:
        status = self.rng.choice((b"204 None", b"304 Same"))
        await peer.send(b"HTTP/1.1 %b\r\nx-id: %b\r\n\r\n" % (status, path))
        return True

    async def endless(self, peer: Any, method: bytes, path: bytes) -> bool:
        head = b"HTTP/1.%d 200 OK\r\nx-id: %b\r\n\r\n" % (self.rng.randrange(2), path)
        await peer.send(head if method == b"HEAD" else head + path)
        return False

    async def last(self, peer: Any, method: bytes, path: bytes) -> bool:
        head, extra, end, body = self.answer(method, path)
        said = b"connection: close\r\n" if self.rng.random() < 0.5 else b""
        await peer.send(b"".join((head, extra.replace(b"connection: keep-alive\r\n", b""), said, end, body)))
        return False

    async def busy(self, peer: Any, method: bytes, path: bytes) -> bool:
        return await self.whole(peer, method, path, status=b"503 Busy")

    async def cut(self, peer: Any, method: bytes, path: bytes) -> bool:
        data = b"".join(self.answer(method, path, size=self.rng.choice((10, BIG))))
        await peer.send(data[: self.rng.randrange(len(data))])
        return False

    async def reset(self, peer: Any, method: bytes, path: bytes) -> bool:
        await asyncio.sleep(self.rng.choice((0, LATE)))
        peer.reset()
        return False

    async def surplus(self, peer: Any, method: bytes, path: bytes) -> bool:
        strange = b"HTTP/1.1 200 OK\r\nx-id: /strange\r\ncontent-length: 8\r\n\r\n/strange"
        await peer.send(b"".join(self.answer(method, path)) + strange)
        return True

    async def garbage(self, peer: Any, method: bytes, path: bytes) -> bool:
        await peer.send(self.rng.choice((b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\na b: c\r\n\r\n")))
        return True

    async def silent(self, peer: Any, method: bytes, path: bytes) -> bool:
        await peer.gone()
        return False

    async def flood(self, peer: Any, method: bytes, path: bytes) -> bool:
        hint = b"HTTP/1.1 103 Early Hints\r\nx-id: %b\r\n\r\n" % path
        await peer.send(*[hint * 200] * 20)
        await peer.gone()
        return False


class Visitor:
    """A client: every answer must be the one to the request that it is read for."""

    def __init__(self, world: Any, rng: random.Random, name: int) -> None:
        self.world = world
        self.rng = rng
        self.name = name
        self.count = 0
        self.statuses: dict[int, int] = {}

    async def live(self) -> None:
        """Connect again and again, each time with other manners."""
        for _ in range(ROUNDS):
            manner = self.rng.choice((self.polite, self.polite, self.pipelines, self.leaves, self.slow))
            limit = {"limit": 1 << 12} if manner == self.slow else {}
            async with self.world.client(**limit) as client:
                # Replicas break off what streams, and that ends the connection: the next one goes on.
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await manner(client)

    def request(self) -> tuple[bytes, bytes, bytes]:
        self.count += 1
        path = b"/%d-%d" % (self.name, self.count)
        method = self.rng.choice((b"GET", b"GET", b"GET", b"GET", b"HEAD", b"POST", b"DELETE"))
        first = b"%b %b HTTP/1.1\r\nHost: h\r\n" % (method, path)
        kind = self.rng.randrange(3) if method == b"POST" else 0
        rest = (
            b"\r\n",
            b"Content-Length: 14\r\n\r\nGET /body HTTP",
            b"Transfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\n\r\n",
        )[kind]
        return method, path, first + rest

    async def read(self, client: Any, method: bytes, path: bytes) -> bool:
        """Read one answer; return whether another may follow it."""
        while True:
            status, fields, body = await client.answer(method=method.decode())
            assert fields.get(b"x-id", path) == path, fields
            if status >= 200:
                break
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200:
            assert fields[b"x-id"] == path
            assert method == b"HEAD" or body.rstrip(b"x") == path
        else:
            assert status in (204, 304, 502, 503, 504)
        return fields.get(b"connection") != b"close"

    async def polite(self, client: Any) -> None:
        for _ in range(8):
            method, path, data = self.request()
            close = self.rng.random() < 0.1
            if close:
                data = data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            client.send(data)
            half = self.rng.random() < 0.05
            if half:
                client.half_close()
            if not await self.read(client, method, path):
                assert close or half
                assert await client.rest() == b""
                return

    async def pipelines(self, client: Any) -> None:
        asked = [self.request() for _ in range(self.rng.randrange(2, 12))]
        data = b"".join(data for _, _, data in asked)
        at = self.rng.randrange(len(data))
        client.send(data[:at])
        await asyncio.sleep(0)
        client.send(data[at:])
        if half := self.rng.random() < 0.3:
            client.half_close()
        for method, path, _ in asked:
            assert await self.read(client, method, path) or (half and path == asked[-1][1])

    async def leaves(self, client: Any) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            client.send(self.request()[2])
        await asyncio.sleep(self.rng.choice((0, 0, 0.001, LATE, 2 * LATE)))
        if self.rng.random() < 0.7 and not client.writer.is_closing():
            client.reset()

    async def slow(self, client: Any) -> None:
        asked = [self.request() for _ in range(6)]
        for _, _, data in asked:
            client.send(data)
            await asyncio.sleep(0.001)
        await asyncio.sleep(LATE)
        for method, path, _ in asked:
            assert await self.read(client, method, path)


async def storm(seed: int, fronting: Any, scripted: Any, *, hedged: bool = True) -> dict[str, Any]:
    """Let it happen; return what did."""
    rng = random.Random(seed)
    logged: list[Access] = []
    ours = len(asyncio.all_tasks())
    async with contextlib.AsyncExitStack() as stack:
        actors = [Actor(rng) for _ in range(3)]
        played = [await stack.enter_async_context(scripted(actor.play)) for actor in actors]
        replicas: list[Replica] = [one.replica(str(number)) for number, one in enumerate(played)]
        strategy = RecordingStrategy(PowerOfTwo(rng=rng))
        tier = Tier(replicas, strategy=strategy, retries=RetryBudget(reserve=10_000))
        hedging = Hedging(unknown=LATE, least=LATE, factor=1, ratio=0.5) if hedged else False
        upstream = Upstream(timeouts=Timeouts(connect=5, first_byte=0.2, read=0.5), max_idle=8)
        exchange = Exchange(tier, upstream, hedging=hedging, hold=BIG // 2)
        async with fronting(exchange, log=logged.append, complaints=None) as world:
            visitors = [Visitor(world, rng, number) for number in range(CLIENTS)]
            async with asyncio.TaskGroup() as group:
                for visitor in visitors:
                    group.create_task(visitor.live())
            async with asyncio.timeout(2):
                await world.quiet()
            for complaint in world.complaints:
                assert complaint["message"] == "a response was cut off", complaint
            async with asyncio.timeout(1):
                while len(asyncio.all_tasks()) > ours + sum(len(one.running) for one in played):
                    await asyncio.sleep(0.001)  # the losers of races
        assert tier.in_flight == 0
        assert strategy.in_flight == {}
        assert not any(pool.busy for pool in upstream.pools.values())
        assert exchange.racing is None or not exchange.racing.waiting
        assert exchange.room == 64 * 1024 * 1024
        assert sum(len(pool.connections) for pool in upstream.pools.values()) <= 24
        await upstream.aclose()
        for one in played:
            await one.quiet()
    statuses: dict[int, int] = {}
    for visitor in visitors:
        for status, count in visitor.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return {"statuses": statuses, "log": logged, "done": [actor.done for actor in actors]}


@pytest.mark.parametrize("hedged", [True, False], ids=["hedged", "not hedged"])
def test_a_storm(fronting: Any, scripted: Any, run: Callable[[Any], None], hedged: bool) -> None:
    """Each answer is the one to its own request; afterwards nothing is open, lent, counted or running."""
    found: dict[str, Any] = {}

    async def story() -> None:
        found.update(await storm(SEED, fronting, scripted, hedged=hedged))

    run(story)
    assert found["statuses"][200] > 200
