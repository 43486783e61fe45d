"""A task cancelled at each of its suspension points in turn: nothing stays open, nothing leaks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from replicated import Hedging, Replica, RetryBudget, RoundRobin, Tier
from replicated.adapters.engine.upstream import Timeouts, Upstream
from replicated.adapters.proxy.exchange import Exchange
from replicated.http.message import Request
from replicated.testing import RecordingStrategy

HOST = (b"host", b"example.com")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def run_cancelled(cancelled_at: Any) -> Callable[..., Coroutine[Any, Any, bool]]:
    """``await run_cancelled(coroutine, at, late)``: whether it got as far as its ``at``-th suspension."""

    async def run_cancelled(coroutine: Coroutine[Any, Any, Any], at: int, late: bool) -> bool:
        harness = cancelled_at(coroutine, at, late=late)

        async def task() -> None:
            await harness

        await asyncio.gather(asyncio.ensure_future(task()), return_exceptions=True)
        return bool(harness.hit)

    return run_cancelled


async def chunks(*pieces: bytes) -> Any:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


class Replicas:
    """What the replicas do, request by request, so that kept connections follow too."""

    answer: tuple[bytes, ...] = ()

    async def small(self, peer: Any) -> None:
        while await peer.request():
            await peer.send(OK[:30], OK[30:])

    async def play(self, peer: Any) -> None:
        while head := await peer.head():
            if self.answer is not EARLY:
                await peer.body(head)
            await peer.send(*self.answer)
            if self.answer is BROKEN:
                return
            if self.answer is EARLY:
                await peer.body(head)


SMALL = (OK[:30], OK[30:])
STREAM = (CHUNKED, b"2\r\nab\r\n", b"1\r\nc\r\n", b"0\r\n\r\n")
BUSY = (b"HTTP/1.1 503 Busy\r\n", b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n", b"0\r\n\r\n")
BROKEN = (b"HTTP/1.1 200 OK\r\n", b"content-length: 9\r\n\r\nx")
EARLY = (CHUNKED, b"2\r\nab\r\n", b"0\r\n\r\n")
ANSWERS = {"small": SMALL, "stream": STREAM, "busy": BUSY, "broken": BROKEN, "early": EARLY}


async def as_a_front(exchange: Exchange, request: Request) -> None:
    """Do what every front does: ask, read to the end, close."""
    response = await exchange(request)
    try:
        if not isinstance(response.body, bytes):
            async for _ in response.body:
                pass
    finally:
        await response.close()


@pytest.mark.parametrize("late", [False, True], ids=["while waiting", "as it comes"])
@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "kept alive"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_cancelled_at_each_point(
    run_cancelled: Any, scripted: Any, answer: str, method: str, warm: bool, late: bool
) -> None:
    """Wherever it strikes, each Forward is finished once, nothing is left behind, the next is served."""

    async def main() -> None:
        replicas = Replicas()
        async with asyncio.timeout(20), scripted(replicas.play) as first, scripted(replicas.small) as second:
            for at in range(1, 100):
                strategy = RecordingStrategy(RoundRobin())
                tier = Tier([Replica("a", first.url), Replica("b", second.url)], strategy=strategy)
                upstream = Upstream(timeouts=Timeouts(connect=5, first_byte=5, read=5))
                exchange = Exchange(tier, upstream)
                replicas.answer = SMALL
                if warm:
                    for _ in range(2):
                        await as_a_front(exchange, Request("GET", b"/", [HOST]))
                replicas.answer = ANSWERS[answer]
                body = chunks(b"ab", b"c", b"d") if method == "POST" else None
                request = Request(method, b"/", [HOST], body=body)
                hit = await run_cancelled(as_a_front(exchange, request), at, late)
                assert tier.in_flight == 0
                assert strategy.in_flight == {}
                assert len(strategy.starts) == len(strategy.ends)

                replicas.answer = SMALL
                for _ in range(2):
                    await as_a_front(exchange, Request("GET", b"/", [HOST]))
                assert [outcome.ok for _, outcome in strategy.ends[-2:]] == [True, True]
                await upstream.aclose()
                await first.quiet()
                await second.quiet()
                if not hit:
                    break
            assert not hit
            assert at > 1
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize("late", [False, True], ids=["while waiting", "as it comes"])
@pytest.mark.parametrize("winner", ["first", "second", "neither"])
def test_cancelled_in_a_race(run_cancelled: Any, scripted: Any, winner: str, late: bool) -> None:
    """With two attempts under way as well, both are finished once and neither leaves anything behind."""

    async def main() -> None:
        faulty = True

        def replica(delay: float, broken: bool) -> Any:
            async def play(peer: Any) -> None:
                while await peer.request():
                    if faulty:
                        await asyncio.sleep(delay)
                        if broken:
                            return
                    await peer.send(*SMALL)

            return play

        first = replica(0.012 if winner == "first" else 0.03, winner == "neither")
        second = replica(0.03 if winner == "first" else 0.005, winner == "neither")
        async with asyncio.timeout(20), scripted(first) as a, scripted(second) as b:
            for at in range(1, 100):
                strategy = RecordingStrategy(RoundRobin())
                tier = Tier([Replica("a", a.url), Replica("b", b.url)], strategy=strategy)
                upstream = Upstream(timeouts=Timeouts(connect=5, first_byte=5, read=5))
                exchange = Exchange(tier, upstream, hedging=Hedging(unknown=0.004, least=0.004))
                faulty = True
                hit = await run_cancelled(as_a_front(exchange, Request("GET", b"/", [HOST])), at, late)
                await asyncio.sleep(0)
                assert tier.in_flight == 0
                assert strategy.in_flight == {}
                assert len(strategy.starts) == len(strategy.ends)
                assert exchange.racing is not None
                assert not exchange.racing.waiting
                assert sum(pool.busy for pool in upstream.pools.values()) == 0
                faulty = False
                await as_a_front(exchange, Request("POST", b"/", [HOST]))
                assert strategy.ends[-1][1].ok
                await upstream.aclose()
                await a.quiet()
                await b.quiet()
                if not hit:
                    break
            assert not hit
            assert at > 1
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize("late", [False, True], ids=["while waiting", "as it comes"])
def test_cancelled_in_a_tunnel(run_cancelled: Any, scripted: Any, late: bool) -> None:
    """While the protocol is switched, and after that, neither end is left alone."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 101 X\r\nupgrade: websocket\r\n", b"connection: upgrade\r\n\r\n", b"a")
            while await peer.reader.read(100):
                await peer.send(b"b", b"c")

        asks = [HOST, (b"connection", b"upgrade"), (b"upgrade", b"websocket")]
        async with asyncio.timeout(20), scripted(play) as replica:
            for at in range(1, 100):
                strategy = RecordingStrategy(RoundRobin())
                tier = Tier([replica.replica()], strategy=strategy)
                upstream = Upstream()
                exchange = Exchange(tier, upstream)
                request = Request("GET", b"/", asks, upgrade=chunks(b"x", b"y", b"z"))
                hit = await run_cancelled(as_a_front(exchange, request), at, late)
                await asyncio.sleep(0)
                assert strategy.in_flight == {}
                assert len(strategy.starts) == len(strategy.ends)
                assert sum(pool.busy for pool in upstream.pools.values()) == 0
                await upstream.aclose()
                await replica.quiet()
                if not hit:
                    break
            assert not hit
            assert at > 2
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize("hedging", [False, True], ids=["alone", "in races"])
def test_a_storm_of_cancellations(scripted: Any, hedging: bool) -> None:
    """After hundreds of requests cancelled at random points the pool serves as before, five of five."""

    async def main() -> None:

        rng = random.Random(7)
        replicas = Replicas()
        replicas.answer = STREAM
        often = Hedging(unknown=1e-4, least=1e-4, ratio=1, reserve=1000)
        async with asyncio.timeout(20), scripted(replicas.play) as a, scripted(replicas.play) as b:
            tier = Tier([a.replica("a"), b.replica("b")], retries=RetryBudget(1, reserve=1000))
            upstream = Upstream(max_idle=10)
            exchange = Exchange(tier, upstream, hedging=hedging and often)

            async def one() -> None:
                task = asyncio.ensure_future(as_a_front(exchange, Request("GET", b"/", [HOST])))
                for _ in range(rng.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            for _ in range(8):
                await asyncio.gather(*(one() for _ in range(20)))
            await asyncio.sleep(0.001)
            assert tier.in_flight == 0
            assert sum(pool.busy for pool in upstream.pools.values()) == 0
            for _ in range(5):
                await as_a_front(exchange, Request("GET", b"/", [HOST]))
            await upstream.aclose()
            await a.quiet()
            await b.quiet()

    asyncio.run(main())


def test_a_cancelled_upload_takes_its_body_along(scripted: Any) -> None:
    """Whoever provides a request's body is told that it is no longer wanted, and no task reads on."""

    async def main() -> None:
        told = asyncio.Event()
        begun = asyncio.Event()

        async def body() -> Any:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                told.set()
            yield b""

        async def silent(peer: Any) -> None:
            await peer.gone()

        async with asyncio.timeout(5), scripted(silent) as replica:
            tier = Tier([replica.replica()])
            exchange = Exchange(tier, Upstream())
            task = asyncio.ensure_future(exchange(Request("POST", b"/", [HOST], body=body())))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await told.wait()
            await replica.quiet()
            assert tier.in_flight == 0

    asyncio.run(main())


def test_the_harness_finds_a_leak(run_cancelled: Any) -> None:
    """A coroutine that gives back only when nothing happens is caught by both ways to cancel."""
    for late in (False, True):
        out: list[str] = []

        async def leaky(out: list[str] = out) -> None:
            out.append("taken")
            await asyncio.sleep(0)
            out.remove("taken")

        assert asyncio.run(run_cancelled(leaky(), 1, late)) is True
        assert out == ["taken"]
        assert asyncio.run(run_cancelled(leaky(), 2, late)) is False
