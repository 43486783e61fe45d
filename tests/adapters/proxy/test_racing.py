"""Races: a late attempt gets company, the first good answer wins, the other is stopped and told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from replicated import Hedging, Replica, RetryBudget, RoundRobin, Tier
from replicated.adapters.engine.upstream import Timeouts, Upstream
from replicated.adapters.proxy.exchange import Exchange
from replicated.affinity import Facts
from replicated.http.fields import find
from replicated.http.message import Request, Response
from replicated.testing import RecordingStrategy

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"
ERROR = b"HTTP/1.1 500 Error\r\ncontent-length: 2\r\n\r\nno"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
STREAMED_ERROR = b"HTTP/1.1 500 Error\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n"
HOST = (b"host", b"example.com")


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            result = await main()
            for _ in range(3):
                await asyncio.sleep(0)
            return result

    return asyncio.run(bounded())


class Late:
    """A replica that answers when it is told to."""

    def __init__(self, answer: bytes = OK) -> None:
        self.answer = answer
        self.go = asyncio.Event()
        self.asked = asyncio.Event()

    async def __call__(self, peer: Any) -> None:
        if await peer.request():
            self.asked.set()
            gone = asyncio.ensure_future(peer.gone())
            go = asyncio.ensure_future(self.go.wait())
            await asyncio.wait([gone, go], return_when=asyncio.FIRST_COMPLETED)
            if go.done():
                await peer.send(self.answer)
            await gone
            go.cancel()


class Ends:
    """The exchange in front of scripted replicas, which hedges after two hundredths of a second."""

    def __init__(self, *replicas: Replica, **options: Any) -> None:
        self.strategy = RecordingStrategy(RoundRobin())
        self.hedging = options.pop("hedging", Hedging(unknown=0.02, least=0.02))
        tier = {name: options.pop(name) for name in ("retries", "max_attempts") if name in options}
        self.tier = Tier(replicas, strategy=self.strategy, **tier)
        timeouts = options.pop("timeouts", Timeouts(connect=5, first_byte=5, read=5))
        self.upstream = Upstream(timeouts=timeouts)
        self.exchange = Exchange(self.tier, self.upstream, hedging=self.hedging, **options)

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        return [(name, outcome.verdict.value) for name, outcome in self.strategy.ends]

    async def ask(self, method: str = "GET", **options: Any) -> tuple[int, bytes]:
        response = await self.exchange(Request(method, b"/", [HOST], **options))
        return await read(response)

    async def over(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        assert self.tier.in_flight == 0
        assert self.strategy.in_flight == {}
        assert len(self.strategy.starts) == len(self.strategy.ends)
        assert not self.exchange.racing or not self.exchange.racing.waiting
        await self.upstream.aclose()


async def read(response: Response) -> tuple[int, bytes]:
    try:
        if isinstance(response.body, bytes):
            return response.status, response.body
        return response.status, b"".join([piece async for piece in response.body])
    finally:
        await response.close()


@pytest.mark.parametrize("answer", [OK, CHUNKED])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_the_second_replica_wins(scripted: Any, answers: Any, method: str, answer: bytes) -> None:
    """Who is late is stopped and blamed, when the other one takes less time than it had had already."""

    async def main() -> None:
        late = Late()
        bodiless = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else answer
        async with scripted(late) as a, scripted(answers(bodiless)) as b:
            ends = Ends(a.replica("late"), b.replica("fast"), hedging=Hedging(unknown=0.2, least=0.2))
            status, body = await ends.ask(method)
            assert (status, body) == (200, b"" if method == "HEAD" else b"ok")
            assert sorted(ends.verdicts) == [("fast", "ok"), ("late", "failed")]
            assert "long before" in dict(ends.strategy.ends)["late"].reason
            await ends.over()
            await a.quiet()
            await b.quiet()

    run(main)


def test_the_first_replica_wins_after_all(scripted: Any) -> None:
    """Then the second one is stopped and blamed for nothing."""

    async def main() -> None:
        first, second = Late(), Late()
        async with scripted(first) as a, scripted(second) as b:
            ends = Ends(a.replica("first"), b.replica("second"))
            asking = asyncio.ensure_future(ends.ask())
            await second.asked.wait()
            first.go.set()
            assert await asking == (200, b"ok")
            await asyncio.sleep(0)
            assert ends.verdicts == [("first", "ok"), ("second", "cancelled")]
            await ends.over()
            await b.quiet()

    run(main)


def test_where_every_replica_is_slow_nobody_is_blamed(scripted: Any) -> None:
    """A second replica that takes longer than the first had had proves nothing."""

    async def main() -> None:
        first, second = Late(), Late()
        async with scripted(first) as a, scripted(second) as b:
            ends = Ends(a.replica("first"), b.replica("second"))
            asking = asyncio.ensure_future(ends.ask())
            await second.asked.wait()
            await asyncio.sleep(0.1)
            second.go.set()
            assert await asking == (200, b"ok")
            assert sorted(ends.verdicts) == [("first", "cancelled"), ("second", "ok")]
            await ends.over()
            await a.quiet()

    run(main)


@pytest.mark.parametrize("bad", [BUSY, ERROR, STREAMED_ERROR, b""])
def test_a_bad_second_answer_wins_nothing(scripted: Any, bad: bytes) -> None:
    """The first one is waited for, whatever became of the second; what that one held is given back."""

    async def main() -> None:
        first, second = Late(), Late(bad)
        second.go.set()
        async with scripted(first) as a, scripted(second) as b:
            ends = Ends(a.replica("first"), b.replica("second"))
            asking = asyncio.ensure_future(ends.ask())
            await second.asked.wait()
            await asyncio.sleep(0.05)
            assert not asking.done()
            first.go.set()
            assert await asking == (200, b"ok")
            await ends.over()
            assert ("first", "ok") in ends.verdicts
            await b.quiet()

    run(main)


@pytest.mark.parametrize("bad", [BUSY, b"garbage\r\n\r\n"])
def test_a_bad_first_answer_waits_for_the_second(scripted: Any, bad: bytes) -> None:
    """A request that is on its way to another replica already is not sent to a third one."""

    async def main() -> None:
        replicas = {name: Late(bad if name == "a" else OK) for name in "abc"}
        async with scripted(replicas["a"]) as a, scripted(replicas["b"]) as b, scripted(replicas["c"]) as c:
            ends = Ends(a.replica("a"), b.replica("b"), c.replica("c"))
            asking = asyncio.ensure_future(ends.ask())
            second, third = await two_asked(replicas)
            replicas["a"].go.set()
            await asyncio.sleep(0.05)
            assert not replicas[third].asked.is_set()
            replicas[second].go.set()
            assert await asking == (200, b"ok")
            assert ends.verdicts == [("a", "failed"), (second, "ok")]
            await ends.over()

    run(main)


async def two_asked(replicas: dict[str, Late]) -> tuple[str, str]:
    """Return the ones asked beside ``a``, and not."""
    while not (replicas["b"].asked.is_set() or replicas["c"].asked.is_set()):
        await asyncio.sleep(0.005)
    return ("b", "c") if replicas["b"].asked.is_set() else ("c", "b")


def test_where_both_fail_a_third_is_asked(scripted: Any) -> None:
    """A retry comes after both, and goes to neither of them."""

    async def main() -> None:
        replicas = {name: Late(BUSY) for name in "abc"}
        async with scripted(replicas["a"]) as a, scripted(replicas["b"]) as b, scripted(replicas["c"]) as c:
            ends = Ends(a.replica("a"), b.replica("b"), c.replica("c"))
            asking = asyncio.ensure_future(ends.ask())
            second, third = await two_asked(replicas)
            replicas[third].answer = OK
            for late in replicas.values():
                late.go.set()
            assert await asking == (200, b"ok")
            assert sorted(ends.verdicts) == sorted([("a", "failed"), (second, "failed"), (third, "ok")])
            await ends.over()

    run(main)


def test_a_hanging_connect_is_late_as_well(scripted: Any, answers: Any, monkeypatch: Any) -> None:
    """Late is counted from the first attempt, not from its connection."""

    async def main() -> None:
        async with scripted(answers(OK)) as b:
            ends = Ends(Replica("a", "http://127.0.0.1:9"), b.replica("b"))
            connect = ends.upstream.connect

            async def hanging(origin: Any, *arguments: Any) -> Any:
                if origin.port == 9:
                    await asyncio.Event().wait()
                return await connect(origin, *arguments)

            monkeypatch.setattr(ends.upstream, "connect", hanging)
            assert await ends.ask() == (200, b"ok")
            assert [pool.busy for pool in ends.upstream.pools.values()] == [0, 0]
            await ends.over()

    run(main)


async def nothing() -> Any:
    for piece in ():
        yield piece


@pytest.mark.parametrize(
    ("method", "options", "settings"),
    [
        ("POST", {}, {}),
        ("DELETE", {}, {}),
        ("PUT", {}, {}),
        ("GET", {"body": nothing()}, {}),
        ("GET", {"upgrade": nothing()}, {}),
        ("GET", {}, {"affinity": lambda facts: facts.path}),
        ("GET", {}, {"hedging": False}),
        ("GET", {}, {"hedging": Hedging(unknown=0.02, ratio=0, per_second=0, reserve=1)}),
        ("GET", {}, {"retries": RetryBudget(0, 0, 1)}),
        ("GET", {}, {"max_attempts": 1}),
    ],
)
def test_what_is_not_sent_twice(
    scripted: Any, method: str, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Neither what is unsafe or has a body, nor what is kept on one replica, nor beyond any budget."""

    async def main() -> None:
        late, other = Late(), Late()
        async with scripted(late) as a, scripted(other) as b:
            ends = Ends(a.replica("a"), b.replica("b"), **settings)
            if isinstance(ends.hedging, Hedging):
                ends.hedging.budget.withdraw(0.0)
                for _ in range(9 if "hedging" in settings else 0):
                    ends.hedging.budget.withdraw(0.0)
            if "retries" in settings:
                ends.tier.retries.withdraw(ends.tier.now())
            asking = asyncio.ensure_future(ends.ask(method, **options))
            await asyncio.sleep(0.08)
            assert late.asked.is_set() is not other.asked.is_set()
            late.go.set()
            other.go.set()
            assert await asking == (200, b"ok")
            await ends.over()

    run(main)


def test_where_the_budget_is_dry_the_hedge_comes_later(scripted: Any, answers: Any) -> None:
    """A request that could not be sent twice when it was late is when there is room again."""

    async def main() -> None:
        late = Late()
        async with scripted(late) as a, scripted(answers(OK)) as b:
            hedging = Hedging(unknown=0.01, least=0.01, ratio=1, per_second=0, reserve=1)
            hedging.withdraw()
            ends = Ends(a.replica("late"), b.replica("fast"), hedging=hedging)
            asking = asyncio.ensure_future(ends.ask())
            hedging.budget.withdraw(0.0)
            await late.asked.wait()
            await asyncio.sleep(0.03)
            hedging.deposit()
            hedging.deposit()
            assert await asking == (200, b"ok")
            await ends.over()

    run(main)


def test_latencies_are_learnt_of_what_may_be_hedged(scripted: Any, answers: Any) -> None:
    """Of safe requests that were answered, streams at their head; of nothing else."""

    async def main() -> None:
        async with scripted(answers(OK, CHUNKED, ERROR, OK)) as a:
            ends = Ends(a.replica("a"))
            for method, total in (("GET", 1), ("GET", 2), ("GET", 2), ("POST", 2)):
                await ends.ask(method)
                assert len(ends.hedging._latencies) == total
            await ends.over()

    run(main)


def test_a_client_that_leaves_stops_both(scripted: Any) -> None:
    """Cancelled while two attempts are under way, neither is left, and nobody is to blame."""

    async def main() -> None:
        first, second = Late(), Late()
        async with scripted(first) as a, scripted(second) as b:
            ends = Ends(a.replica("first"), b.replica("second"))
            asking = asyncio.ensure_future(ends.ask())
            await second.asked.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.sleep(0)
            assert ends.verdicts == [("first", "cancelled"), ("second", "cancelled")]
            await ends.over()
            await a.quiet()
            await b.quiet()

    run(main)


def test_a_client_that_leaves_after_the_first_has_failed(scripted: Any) -> None:
    """Cancelled while only the second attempt is left, that one is stopped as well."""

    async def main() -> None:
        first, second = Late(BUSY), Late()
        async with scripted(first) as a, scripted(second) as b:
            ends = Ends(a.replica("first"), b.replica("second"))
            asking = asyncio.ensure_future(ends.ask())
            await second.asked.wait()
            first.go.set()
            while not ends.verdicts:
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.sleep(0)
            assert ends.verdicts == [("first", "failed"), ("second", "cancelled")]
            await ends.over()
            await b.quiet()

    run(main)


def test_a_second_attempt_that_never_began(scripted: Any) -> None:
    """Stopped in the very turn of the loop in which it was made, it is finished as well."""

    async def main() -> None:
        late, other = Late(), Late()
        async with scripted(late) as a, scripted(other) as b:
            ends = Ends(a.replica("late"), b.replica("other"))
            racing = ends.exchange.racing
            assert racing
            join = racing.join

            def and_leave(race: Any, now: float) -> bool:
                joined = join(race, now)
                asking.cancel()
                race.rival.cancel()
                return joined

            racing.join = and_leave  # type: ignore[method-assign]
            asking = asyncio.ensure_future(ends.ask())
            with pytest.raises(asyncio.CancelledError):
                await asking
            await ends.over()
            assert sorted(ends.verdicts) == [("late", "cancelled"), ("other", "cancelled")]
            assert not other.asked.is_set()
            await a.quiet()

    run(main)


def test_a_timeout_of_the_caller_is_no_victory(scripted: Any, answers: Any) -> None:
    """Cancelled from outside in the instant in which the second one wins, the request is cancelled."""

    async def main() -> None:
        late, fast = Late(), Late(CHUNKED[:-5])
        async with scripted(late) as a, scripted(fast) as b:
            ends = Ends(a.replica("late"), b.replica("fast"))
            racing = ends.exchange.racing
            assert racing
            arrived = racing.arrived

            def at_once(race: Any, rival: Any) -> None:
                arrived(race, rival)
                asking.cancel()

            racing.arrived = at_once  # type: ignore[method-assign]
            asking = asyncio.ensure_future(ends.ask())
            await fast.asked.wait()
            fast.go.set()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await ends.over()
            await a.quiet()
            await b.quiet()

    run(main)


def test_a_key_is_what_it_is_kept_by(scripted: Any, answers: Any) -> None:
    """Where the affinity finds no key there is nothing to keep, and a late request is sent twice."""

    async def main() -> None:
        late = Late()

        def nobody(facts: Facts) -> None:
            return None

        async with scripted(late) as a, scripted(answers(OK)) as b:
            ends = Ends(a.replica("late"), b.replica("fast"), affinity=nobody)
            response = await ends.exchange(Request("GET", b"/", [HOST]))
            assert (response.status, find(response.headers, b"content-length")) == (200, b"2")
            await ends.over()

    run(main)
