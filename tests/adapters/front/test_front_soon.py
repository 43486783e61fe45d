"""Requests that take no task: answered as with one, and whatever goes wrong takes one after all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from replicated import Hedging, RandomChoice, Replica, RoundRobin, Tier
from replicated.adapters.engine.connection import Connection
from replicated.adapters.engine.upstream import Timeouts, Upstream
from replicated.adapters.front.access_log import Access
from replicated.adapters.front.answer import Contradiction
from replicated.adapters.proxy.exchange import Exchange
from replicated.adapters.proxy.gatekeeper import ClientGone
from replicated.http.message import Request, Response
from replicated.testing import RecordingStrategy

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok"
DATE = b"Mon, 23 Nov 2026 19:00:00 GMT"
DATED = b"HTTP/1.1 200 Fine\r\nDate: %b\r\nContent-Length: 2\r\nSet-Cookie: a\r\n\r\nok" % DATE
LONG = b"HTTP/1.1 200 OK\r\ncontent-length: 600000\r\n\r\n" + b"x" * 600_000
GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"


class Behind:
    """A tier of scripted replicas behind a front, whose pools are warm after one request to each replica."""

    def __init__(self, *replicas: Replica, strategy: Any = None, **options: Any) -> None:
        self.strategy = RecordingStrategy(strategy or RoundRobin())
        self.tier = Tier(replicas, strategy=self.strategy)
        self.upstream = Upstream(timeouts=Timeouts(connect=5, first_byte=5, read=5))
        self.exchange = Exchange(self.tier, self.upstream, **options)
        self.warmed = 0
        self.carried = 0  # requests that took a task
        carry = self.exchange.carry

        def counted(*arguments: Any) -> Any:
            self.carried += 1
            return carry(*arguments)

        self.exchange.carry = counted  # type: ignore[method-assign]

    @property
    def verdicts(self) -> list[str]:
        return [outcome.verdict.value for _, outcome in self.strategy.ends[self.warmed :]]

    async def warm(self, client: Any) -> None:
        """Have a connection to each replica in its pool."""
        for _ in self.tier.replicas:
            client.send(GET % b"warm")
            assert (await client.answer())[0] == 200
        self.carried = 0
        self.warmed = len(self.strategy.ends)

    async def over(self) -> None:
        """Nothing is in flight, nothing waits, no connection is counted as busy."""
        for _ in range(5):
            await asyncio.sleep(0)
        assert self.tier.in_flight == 0
        assert self.strategy.in_flight == {}
        assert self.exchange.racing is None or not self.exchange.racing.waiting
        assert not any(pool.busy for pool in self.upstream.pools.values())
        await self.upstream.aclose()


def stuck(asked: asyncio.Event) -> Any:
    """Return a script that answers once, and says that it is asked again, but not what."""

    async def play(peer: Any) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        asked.set()
        await peer.gone()

    return play


def spent(late: float) -> Hedging:
    """Late after so many seconds, and nothing left for a second attempt."""
    hedging = Hedging(unknown=late, least=late, ratio=0, per_second=0, reserve=1)
    while hedging.withdraw():
        pass
    return hedging


@pytest.fixture(name="behind")
def behind_fixture(fronting: Any, scripted: Any) -> Any:
    """``async with behind(play) as (world, tier)``: a front before one replica that plays a script."""

    @contextlib.asynccontextmanager
    async def behind(*plays: Any, front: Any = None, **options: Any) -> AsyncIterator[tuple[Any, Behind]]:
        async with contextlib.AsyncExitStack() as stack:
            replicas = [await stack.enter_async_context(scripted(play)) for play in plays]
            named = [replica.replica(str(number)) for number, replica in enumerate(replicas)]
            tier = Behind(*named, **options)
            async with fronting(tier.exchange, **(front or {})) as world:
                yield world, tier
            await tier.over()

    return behind


def test_an_answer_in_one_piece_takes_no_task(behind: Any, answers: Any, run: Any) -> None:
    """Nor does the next one; and each is what the replica said, less what belongs to its connection."""

    async def story() -> None:
        async with behind(answers(OK, OK, DATED)) as (world, tier), world.client() as client:
            await tier.warm(client)
            client.send(GET % b"one")
            status, fields, body = await client.answer()
            assert (status, body) == (200, b"ok")
            assert fields.keys() == {b"content-length", b"date"}
            client.send(GET % b"two")
            assert await client.head() == (
                b"HTTP/1.1 200 OK\r\ndate: %b\r\ncontent-length: 2\r\nset-cookie: a\r\n\r\n" % DATE
            )
            assert tier.carried == 0
            assert tier.verdicts == ["ok", "ok"]

    run(story)


def test_what_is_pipelined_is_answered_in_order(behind: Any, run: Any) -> None:
    """However much of it there is, and each by what its own request asked."""

    async def play(peer: Any) -> None:
        while head := await peer.head():
            path = head.split(b" ", 2)[1]
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(path), path))

    async def story() -> None:
        async with behind(play) as (world, tier), world.client() as client:
            await tier.warm(client)
            client.send(*(GET % (b"%d" % number) for number in range(300)))
            for number in range(300):
                assert (await client.answer())[2] == b"/%d" % number
            assert tier.carried == 0

    run(story)


def test_pipelined_answers_that_are_there_at_once(fronting: Any, run: Any) -> None:
    """A thousand of them are no recursion, and a body among them is read as one."""

    def handler(request: Request) -> Any:
        if request.body is not None:
            return late(request)
        return Response(200, [(b"content-length", b"%d" % len(request.target))], request.target)

    async def late(request: Request) -> Response:
        assert request.body is not None
        body = b"".join([piece async for piece in request.body])
        return Response(200, [(b"content-length", b"%d" % len(body))], body)

    async def story() -> None:
        post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nGET "
        async with fronting(handler, pipelined=1 << 20) as world, world.client() as client:
            client.send(*(GET % (b"%d" % number) for number in range(1500)), post, GET % b"last")
            for number in range(1500):
                assert (await client.answer())[2] == b"/%d" % number
            assert (await client.answer())[2] == b"GET "
            assert (await client.answer())[2] == b"/last"

    run(story)


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\ncont", OK[:-1], OK[:-2]])
def test_an_answer_in_two_pieces(behind: Any, run: Any, first: bytes) -> None:
    """Wherever it is cut, it arrives whole, and its connection serves again."""

    async def play(peer: Any) -> None:
        turn = 0
        while await peer.request():
            if turn:
                await peer.send(first)
                await asyncio.sleep(0.01)
                await peer.send(OK[len(first) :])
            else:
                await peer.send(OK)
            turn += 1

    async def story() -> None:
        async with behind(play) as (world, tier), world.client() as client:
            await tier.warm(client)
            for _ in range(3):
                client.send(GET % b"")
                assert (await client.answer())[2] == b"ok"
            assert tier.verdicts == ["ok", "ok", "ok"]
            assert sum(len(pool.connections) for pool in tier.upstream.pools.values()) == 1

    run(story)


def test_an_answer_by_which_another_replica_is_asked(behind: Any, answers: Any, run: Any) -> None:
    """A 503 takes a task, and the client never sees it."""
    busy = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"

    async def story() -> None:
        async with behind(answers(OK, busy), answers(OK)) as (world, tier), world.client() as client:
            await tier.warm(client)
            client.send(GET % b"")
            assert (await client.answer())[0] == 200
            assert tier.carried == 1
            assert tier.verdicts == ["failed", "ok"]

    run(story)


def test_a_connection_that_its_other_end_has_closed(behind: Any, run: Any) -> None:
    """The request goes over a fresh one: nobody is to blame."""

    async def play(peer: Any) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()

    async def story() -> None:
        async with behind(play) as (world, tier), world.client() as client:
            await tier.warm(client)
            client.send(GET % b"")
            assert (await client.answer())[0] == 200
            assert tier.verdicts == ["ok"]

    run(story)


@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
def test_what_may_not_be_sent_twice(behind: Any, run: Any, method: bytes) -> None:
    """Without a body too it is sent once, and what became of it the client learns."""
    seen = []

    async def play(peer: Any) -> None:
        seen.append(await peer.request())
        await peer.send(OK)
        seen.append(await peer.request())

    async def story() -> None:
        async with behind(play) as (world, tier), world.client() as client:
            await tier.warm(client)
            client.send((GET % b"once").replace(b"GET", method))
            assert (await client.answer())[0] == 502
            assert [b"/once" in head for head in seen] == [False, True]
            assert tier.verdicts == ["failed"]

    run(story)


def test_a_late_answer_gets_company(behind: Any, answers: Any, run: Any) -> None:
    """What began without a task is raced as what began with one."""

    async def story() -> None:
        hedging = Hedging(unknown=0.05, least=0.05)
        async with (
            behind(stuck(asyncio.Event()), answers(OK), hedging=hedging) as (world, tier),
            world.client() as client,
        ):
            await tier.warm(client)
            client.send(GET % b"")
            assert (await client.answer())[2] == b"ok"
            assert tier.carried == 1
            assert sorted(tier.verdicts) == ["failed", "ok"]

    run(story)


def test_without_a_budget_the_late_one_is_waited_for(behind: Any, answers: Any, run: Any) -> None:
    """It comes in its own time, and only it."""

    async def slow(peer: Any) -> None:
        while await peer.request():
            await asyncio.sleep(0.06)
            await peer.send(OK)

    async def story() -> None:
        hedging = spent(0.02)
        async with behind(slow, hedging=hedging) as (world, tier), world.client() as client:
            await tier.warm(client)
            client.send(GET % b"")
            assert (await client.answer())[2] == b"ok"
            assert tier.verdicts == ["ok"]

    run(story)


@pytest.mark.parametrize("late", [False, True], ids=["under way", "raced"])
def test_a_client_that_leaves(behind: Any, run: Any, late: bool) -> None:
    """Its request is given up, the replica is not blamed, and nothing stays open."""
    asked = asyncio.Event()

    async def story() -> None:
        hedging = spent(0.01) if late else False
        async with behind(stuck(asked), hedging=hedging) as (world, tier):
            async with world.client() as client:
                await tier.warm(client)
                client.send(GET % b"")
                await asked.wait()
                await asyncio.sleep(0.03 if late else 0)
                client.reset()
            await world.quiet()
            await asyncio.sleep(0.001)
            assert tier.verdicts == ["cancelled"]
            assert tier.carried == int(late)

    run(story)


def test_a_front_that_ends_at_once(behind: Any, run: Any) -> None:
    """What is under way without a task ends with it."""
    asked = asyncio.Event()

    async def story() -> None:
        async with behind(stuck(asked)) as (world, tier), world.client() as client:
            await tier.warm(client)
            client.send(GET % b"")
            await asked.wait()
            await world.front.abort()
            await asyncio.sleep(0.001)
            assert tier.verdicts == ["cancelled"]

    run(story)


def test_a_stop_waits_for_what_is_under_way(behind: Any, run: Any) -> None:
    """Its answer arrives, says that the connection closes, and the stop is over."""
    asked = asyncio.Event()

    async def slow(peer: Any) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        asked.set()
        await asyncio.sleep(0.02)
        await peer.send(OK)

    async def story() -> None:
        async with behind(slow, hedging=False) as (world, tier), world.client() as client:
            await tier.warm(client)
            client.send(GET % b"")
            await asked.wait()
            stopping = asyncio.ensure_future(world.front.stop(5))
            _, fields, body = await client.answer()
            assert (fields[b"connection"], body) == (b"close", b"ok")
            await stopping
            assert tier.carried == 0

    run(story)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ],
)
def test_a_last_request(behind: Any, run: Any, head: bytes) -> None:
    """Its answer says so, and the connection closes behind it."""

    async def play(peer: Any) -> None:
        while request := await peer.head():
            await peer.send(OK[:-2] if request.startswith(b"HEAD") else OK)

    async def story() -> None:
        async with behind(play) as (world, tier):
            async with world.client() as client:
                await tier.warm(client)
            async with world.client() as client:
                client.send(head)
                status, fields, _ = await client.answer(method=head[:4].strip().decode())
                assert (status, fields[b"connection"]) == (200, b"close")
                assert await client.closed()

    run(story)


def test_a_client_that_does_not_read(behind: Any, run: Any) -> None:
    """Its next request waits until it has read, and nothing is answered into memory meanwhile."""
    seen = []

    async def play(peer: Any) -> None:
        while head := await peer.head():
            seen.append(head)
            await peer.send(OK if b"warm" in head else LONG)

    async def story() -> None:
        async with behind(play) as (world, tier), world.client(limit=1 << 16) as client:
            await tier.warm(client)
            count = 40
            client.send(*[GET % b"long"] * count)
            for _ in range(20):
                await asyncio.sleep(0.005)
            assert len(seen) < count  # by far: what the kernel holds is a few megabytes
            for _ in range(count):
                assert len((await client.answer())[2]) == 600_000

    run(story)


def test_a_handler_that_answers_at_once_to_a_client_that_does_not_read(fronting: Any, run: Any) -> None:
    """It is asked again only when its last answer is on its way."""
    calls = 0

    def handler(request: Request) -> Response:
        nonlocal calls
        calls += 1
        return Response(200, [(b"content-length", b"600000")], b"x" * 600_000)

    async def story() -> None:
        async with fronting(handler) as world, world.client() as client:
            client.send(*[GET % b""] * 40)
            await asyncio.sleep(0.02)
            assert calls < 40
            for _ in range(40):
                assert len((await client.answer())[2]) == 600_000

    run(story)


def test_a_handler_that_raises_before_it_awaits(fronting: Any, run: Any) -> None:
    """It is a 500, as where it raises later, and the connection goes on."""

    def handler(request: Request) -> Any:
        if request.target == b"/bad":
            raise RuntimeError("no")
        return Response(200, [(b"content-length", b"0")])

    async def story() -> None:
        async with fronting(handler, complaints=1) as world, world.client() as client:
            client.send(GET % b"bad", GET % b"good")
            assert (await client.answer())[0] == 500
            assert (await client.answer())[0] == 200

    run(story)


def test_an_answer_at_once_that_must_be_closed(fronting: Any, run: Any) -> None:
    """It is, whether it went out or its client left first."""
    closed = 0

    async def close() -> None:
        nonlocal closed
        closed += 1

    def handler(request: Request) -> Response:
        return Response(200, [(b"content-length", b"2")], b"ok", close)

    async def story() -> None:
        async with fronting(handler) as world:
            async with world.client() as client:
                client.send(GET % b"")
                assert (await client.answer())[0] == 200
                client.send(GET % b"")
                client.reset()
            await world.quiet()
            for _ in range(3):
                await asyncio.sleep(0)
            assert closed in (1, 2)  # the reset may overtake the second request

    run(story)


def test_nobody_ready_takes_a_task(behind: Any, answers: Any, run: Any) -> None:
    """And the client is told so."""

    async def story() -> None:
        async with behind(answers(OK)) as (world, tier), world.client() as client:
            await tier.warm(client)
            tier.tier.readiness.drain("0")
            client.send(GET % b"")
            assert (await client.answer())[0] == 503
            assert tier.carried == 1

    run(story)


def test_a_strategy_that_raises(behind: Any, answers: Any, run: Any) -> None:
    """Where it picks, the request is a 500; where it hears of the end, the answer is there all the same."""

    class Raises(RandomChoice):
        where = ""

        def pick(self, ready: Any, key: Any = None) -> Any:
            if self.where == "pick":
                raise RuntimeError("no pick")
            return super().pick(ready, key)

        def finished(self, replica: Any, outcome: Any) -> None:
            if self.where == "finished":
                raise RuntimeError("no end")

    async def story() -> None:
        strategy = Raises()
        async with (
            behind(answers(OK), strategy=strategy, front={"complaints": 2}) as (world, tier),
            world.client() as client,
        ):
            await tier.warm(client)
            strategy.where = "pick"
            client.send(GET % b"")
            assert (await client.answer())[0] == 500
            strategy.where = "finished"
            client.send(GET % b"")
            assert (await client.answer())[0] == 200
            strategy.where = ""

    run(story)


def test_the_log_hears_of_each(behind: Any, answers: Any, run: Any) -> None:
    """As of those that took a task."""
    told: list[Access] = []

    async def story() -> None:
        async with (
            behind(answers(OK), front={"log": told.append}) as (world, tier),
            world.client() as client,
        ):
            await tier.warm(client)
            client.send(GET % b"x?y=z")
            head = await client.head()
            assert tier.carried == 0
            event = told[-1]
            assert event[:5] == ("127.0.0.1", "127.0.0.1", "GET", "/x?y=z", 200)
            assert event.sent == len(head) + 2
            assert 0 <= event.seconds < 5
            assert (event.replica, event.whole) == ("0", True)

    run(story)


HINT = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nconnection: close\r\ncontent-length: 7\r\n\r\n"


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize("together", [False, True], ids=["apart", "together"])
def test_interim_answers_pass(behind: Any, run: Any, method: bytes, together: bool) -> None:
    """In order, without what belongs to the replica's connection; 100 Continue does not."""

    async def play(peer: Any) -> None:
        turn = 0
        while await peer.request():
            pieces = [b"HTTP/1.1 100 Continue\r\n\r\n", HINT, b"HTTP/1.1 102 \r\n\r\n", OK] if turn else [OK]
            await peer.send(*([b"".join(pieces)] if together else pieces))
            turn += 1

    async def story() -> None:
        async with behind(play) as (world, tier), world.client() as client:
            await tier.warm(client)
            body = b"Content-Length: 2\r\n\r\nhi" if method == b"POST" else b"\r\n"
            client.send(method + b" / HTTP/1.1\r\nHost: h\r\n" + body)
            assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"
            assert await client.head() == b"HTTP/1.1 102 Processing\r\n\r\n"
            assert (await client.answer())[2] == b"ok"

    run(story)


def test_an_interim_answer_that_comes_late(fronting: Any, run: Any) -> None:
    """It is dropped once the answer has begun, be it that of the next request."""
    tell: list[Any] = []

    async def handler(request: Request) -> Response:
        tell.append(request.interim)
        if len(tell) == 2:
            tell[0](103, [(b"link", b"old")])
            tell[1](103, [(b"link", b"new")])
        return Response(200, [(b"content-length", b"2")], b"ok")

    async def story() -> None:
        async with fronting(handler) as world, world.client() as client:
            client.send(GET % b"one")
            assert (await client.answer())[2] == b"ok"
            tell[0](103, [])
            client.send(GET % b"two")
            assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nlink: new\r\n\r\n"
            assert (await client.answer())[2] == b"ok"
            tell[1](103, [])
            client.half_close()
            assert await client.rest() == b""

    run(story)


def test_a_client_of_http_1_0_is_told_nothing_before_its_answer(behind: Any, run: Any) -> None:
    """It would take the interim answer for its own."""

    async def play(peer: Any) -> None:
        while await peer.request():
            await peer.send(HINT, OK)

    async def story() -> None:
        async with behind(play) as (world, _), world.client() as client:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await client.answer())[0] == 200

    run(story)


def test_an_interim_answer_that_is_none(fronting: Any, run: Any) -> None:
    """A handler cannot write another answer by one, nor another line by a line of it."""

    async def handler(request: Request) -> Response:
        assert request.interim is not None
        for status, headers in ((103, [(b"a", b"b\r\nc: d")]), (200, []), (101, []), (100, [])):
            with pytest.raises(Contradiction):
                request.interim(status, headers)
        return Response(200, [(b"content-length", b"2")], b"ok")

    async def story() -> None:
        async with fronting(handler) as world, world.client() as client:
            client.send(GET % b"")
            assert (await client.answer())[0] == 200

    run(story)


def test_a_log_that_raises(behind: Any, answers: Any, run: Any) -> None:
    """The client has its answer all the same, and the next one."""

    def log(access: Access) -> None:
        raise OSError("the disk is full")

    async def story() -> None:
        options = {"log": log, "complaints": 4}
        async with behind(answers(OK), front=options) as (world, tier), world.client() as client:
            await tier.warm(client)
            client.send(GET % b"one", GET % b"two")
            assert (await client.answer())[2] == b"ok"
            assert (await client.answer())[2] == b"ok"
            assert tier.carried == 0
            client.send((GET % b"three").replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\n" + LENGTH))
            assert (await client.answer())[2] == b"ok"

    run(story)


LENGTH = b"Content-Length: 2\r\n\r\nhi"


def test_a_log_that_raises_of_what_is_refused(fronting: Any, run: Any) -> None:
    """A malformed head has its 400 all the same."""

    def log(access: Access) -> None:
        raise OSError("the disk is full")

    async def story() -> None:
        async with fronting(log=log, complaints=1) as world, world.client() as client:
            client.send(b"GET / HTTP/1.1\r\nbad\r\n\r\n")
            assert (await client.answer())[0] == 400

    run(story)


def test_the_log_hears_of_who_left(behind: Any, run: Any) -> None:
    """Of what was under way without a task too: nothing was answered."""
    told: list[Access] = []
    asked = asyncio.Event()

    async def story() -> None:
        options = {"log": told.append}
        async with behind(stuck(asked), hedging=False, front=options) as (world, tier):
            async with world.client() as client:
                await tier.warm(client)
                client.send(GET % b"left")
                await asked.wait()
                client.reset()
            await world.quiet()
            event = told[-1]
            assert (len(told), event.target, event.status, event.sent) == (2, "/left", 0, 0)
            assert not event.whole

    run(story)


def test_a_strategy_that_raises_as_a_client_leaves(behind: Any, run: Any) -> None:
    """Its connections end all the same."""
    asked = asyncio.Event()

    class Raises(RandomChoice):
        raises = False

        def finished(self, replica: Any, outcome: Any) -> None:
            if self.raises:
                raise RuntimeError("no end")

    async def story() -> None:
        strategy = Raises()
        options: dict[str, Any] = {"strategy": strategy, "hedging": False, "front": {"complaints": 1}}
        async with behind(stuck(asked), **options) as (world, tier), world.client() as client:
            await tier.warm(client)
            client.send(GET % b"")
            await asked.wait()
            strategy.raises = True
            await world.front.abort()
            assert await client.closed()

    run(story)


def test_a_handler_that_sees_before_it_awaits_that_nobody_is_there(fronting: Any, run: Any) -> None:
    """There is no answer, as where it sees that later."""

    def handler(request: Request) -> Any:
        raise ClientGone("the client went away")

    async def story() -> None:
        async with fronting(handler) as world, world.client() as client:
            client.send(GET % b"")
            assert await client.closed()

    run(story)


def test_a_future_that_nobody_will_await(fronting: Any, run: Any) -> None:
    """It is cancelled with its connection, as where it is awaited."""
    futures: list[asyncio.Future[Response]] = []

    async def story() -> None:
        def handler(request: Request) -> Any:
            loop = asyncio.get_running_loop()
            for connection in world.front.connections:
                loop.call_soon(connection.cut_off)  # before its task begins
            futures.append(loop.create_future())
            return futures[-1]

        async with fronting(handler) as world, world.client() as client:
            client.send(GET % b"")
            assert await client.closed()
            assert futures[0].cancelled()

    run(story)


def test_a_request_that_is_given_up_before_its_task_begins(fronting: Any, run: Any) -> None:
    """It is told to the log once, and is nothing to complain of."""
    told: list[Access] = []

    async def story() -> None:
        def handler(request: Request) -> Any:
            for connection in world.front.connections:
                asyncio.get_running_loop().call_soon(connection.cut_off)
            return never()

        async def never() -> Response:
            raise AssertionError("it was begun")

        async with fronting(handler, log=told.append) as world, world.client() as client:
            client.send(GET % b"")
            assert await client.closed()
            assert [event.status for event in told] == [0]

    run(story)


def test_an_answer_of_the_wrong_kind(fronting: Any, run: Any) -> None:
    """It ends its connection and is complained of, at once as later."""

    def handler(request: Request) -> Any:
        return Response(200, [(b"content-length", b"2"), (b"a", "b")], b"ok")  # type: ignore[list-item]

    async def story() -> None:
        async with fronting(handler, complaints=1) as world, world.client() as client:
            client.send(GET % b"")
            assert await client.closed()
            assert world.complaints[0]["message"] == "a response was cut off"

    run(story)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


def test_what_takes_a_task_after_all_earns_one_second_attempt(behind: Any, answers: Any, run: Any) -> None:
    """Not a second one for that: answers in chunks would double the load that hedging may cost."""

    async def story() -> None:
        hedging = Hedging()
        async with behind(answers(OK, CHUNKED), hedging=hedging) as (world, tier), world.client() as client:
            await tier.warm(client)
            before = hedging.budget.firsts
            for _ in range(5):
                client.send(GET % b"")
                assert (await client.answer())[2] == b"ok"
            assert tier.carried == 5
            assert hedging.budget.firsts - before == 5

    run(story)


def test_a_strategy_that_raises_where_a_second_replica_is_picked(behind: Any, run: Any) -> None:
    """The first one is waited for, with nothing lost."""

    class Raises(RoundRobin):
        raises = False

        def pick(self, ready: Any, key: Any = None) -> Any:
            if self.raises and len(ready) == 1:
                raise RuntimeError("no pick")
            return super().pick(ready, key)

    async def slow(peer: Any) -> None:
        turn = 0
        while await peer.request():
            await asyncio.sleep(0.06 if turn else 0)
            await peer.send(OK)
            turn += 1

    async def story() -> None:
        strategy = Raises()
        hedging = Hedging(unknown=0.02, least=0.02)
        options: dict[str, Any] = {"strategy": strategy, "hedging": hedging, "front": {"complaints": 1}}
        async with behind(slow, slow, **options) as (world, tier), world.client() as client:
            await tier.warm(client)
            strategy.raises = True
            client.send(GET % b"")
            assert (await client.answer())[2] == b"ok"
            assert tier.verdicts == ["ok"]

    run(story)


def test_what_fails_before_an_attempt_is_taken_over(behind: Any, answers: Any, run: Any) -> None:
    """The attempt is given up: neither its connection nor its Forward stays behind."""
    calls = 0

    def affinity(facts: Any) -> str:
        nonlocal calls
        calls += 1
        if calls == 4:  # two for the first request, that finds no connection
            raise RuntimeError("no key")
        return "key"

    async def story() -> None:
        options: dict[str, Any] = {"affinity": affinity, "front": {"complaints": 1}}
        async with behind(answers(OK, CHUNKED), **options) as (world, tier), world.client() as client:
            await tier.warm(client)
            client.send(GET % b"")
            assert (await client.answer())[0] == 500
            assert tier.verdicts == ["cancelled"]

    run(story)


def test_a_connection_that_ends_just_now(behind: Any, run: Any) -> None:
    """What may not be sent twice is not sent over it."""

    async def play(peer: Any) -> None:
        while await peer.request():
            await peer.send(OK)

    async def story() -> None:
        async with behind(play) as (world, tier), world.client() as client:
            await tier.warm(client)
            (pool,) = tier.upstream.pools.values()
            idle = pool.connections[-1]
            idle.eof_received()
            idle.transport.close()
            (connection,) = world.front.connections
            connection.data_received((GET % b"").replace(b"GET", b"POST"))  # in the same turn of the loop
            assert (await client.answer())[0] == 200
            assert tier.verdicts == ["ok"]

    run(story)


def test_a_connection_that_cannot_be_written_to(
    behind: Any, answers: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not counted as busy for ever."""

    def send_bytes(*arguments: Any) -> None:
        raise RuntimeError("the handler is closed")

    async def story() -> None:
        async with (
            behind(answers(OK), front={"complaints": 1}) as (world, tier),
            world.client() as client,
        ):
            await tier.warm(client)
            with monkeypatch.context() as patched:
                patched.setattr(Connection, "send_bytes", send_bytes)
                client.send(GET % b"")
                assert (await client.answer())[0] == 500

    run(story)
