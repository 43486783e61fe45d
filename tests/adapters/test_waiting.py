"""A queue before full replicas: in order, bounded, and nobody is lost in it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from replicated import Cache, Forward, Hit, Outcome, Refuse, Replica, Throttle, Tier, Unavailable
from replicated.adapters.engine.upstream import Upstream
from replicated.adapters.proxy.exchange import Exchange
from replicated.adapters.waiting import WaitingRoom
from replicated.balance import Capped
from replicated.http.message import Request
from replicated.testing import ManualClock

FINE = Outcome.success(0.1)


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await main()

    return asyncio.run(bounded())


def room(
    count: int = 1, *, cap: int = 1, limit: int = 100, timeout: float = 5.0, **options: Any
) -> WaitingRoom:
    replicas = [Replica(f"r{i}") for i in range(count)]
    return WaitingRoom(Tier(replicas, strategy=Capped(cap), **options), limit=limit, timeout=timeout)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_first_come_first_served() -> None:
    """Who waits is served in the order of coming, and who comes meanwhile goes to the end."""

    async def main() -> None:
        queue, served = room(), list[int]()
        first = await queue.decide()
        assert isinstance(first, Forward)

        async def ask(number: int) -> None:
            forward = await queue.decide()
            assert isinstance(forward, Forward)
            served.append(number)
            await asyncio.sleep(0)
            queue.finish(forward, FINE)

        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(ask(number))
            await until(lambda: queue.waiting == 10)
            queue.finish(first, FINE)
            await asyncio.sleep(0)
            group.create_task(ask(10))
        assert served == list(range(11))
        assert (queue.waiting, queue.tier.in_flight) == (0, 0)

    run(main)


def test_who_is_cancelled_gives_up_its_place_and_its_turn() -> None:
    """Also at the very moment when it has been called: the turn goes to the next."""

    async def main() -> None:
        queue = room()
        first = await queue.decide()
        assert isinstance(first, Forward)
        called, middle, last = [asyncio.create_task(queue.decide()) for _ in range(3)]
        await until(lambda: queue.waiting == 3)
        middle.cancel()
        await until(lambda: queue.waiting == 2)
        queue.finish(first, FINE)
        called.cancel()
        forward = await last
        assert isinstance(forward, Forward)
        assert called.cancelled()
        assert (queue.waiting, queue.tier.in_flight) == (0, 1)

    run(main)


def test_the_line_has_an_end_and_a_deadline() -> None:
    """Beyond the limit one is told at once, and after the timeout as well."""

    async def main() -> None:
        queue = room(limit=1, timeout=0.01)
        await queue.decide()
        waits = asyncio.create_task(queue.decide())
        await until(lambda: queue.waiting == 1)
        refused = await queue.decide()
        assert isinstance(refused, Unavailable)
        assert refused.reason == "1 are waiting already"
        late = await waits
        assert isinstance(late, Unavailable)
        assert late.reason == "nobody had room for 0.01 s"
        assert queue.waiting == 0
        assert isinstance(await room(limit=0).decide(), Forward)

    run(main)


def test_nobody_waits_where_nobody_is_ready() -> None:
    """Room is what is waited for, not health."""

    async def main() -> None:
        queue = room()
        queue.tier.readiness.maintain("r0")
        assert isinstance(await queue.decide(), Unavailable)

    run(main)


def test_new_room_is_for_who_waits() -> None:
    """A replica that joined serves the first in line once that is called."""

    async def main() -> None:
        queue = room()
        await queue.decide()
        waits = asyncio.create_task(queue.decide())
        await until(lambda: queue.waiting == 1)
        queue.tier.readiness.add(Replica("new"))
        queue.call_next()
        forward = await waits
        assert isinstance(forward, Forward)
        assert forward.replica.id == "new"

    run(main)


def test_a_request_is_counted_once_and_the_cache_is_asked_first() -> None:
    """The throttle is asked on arrival alone, and a value that came meanwhile is a hit."""

    async def main() -> None:
        throttle = Throttle(1, 2, clock=ManualClock())
        queue = room(throttle=throttle, cache=Cache(10))
        first = await queue.decide(throttle_key="k", cache_key="page")
        assert isinstance(first, Forward)
        waits = asyncio.create_task(queue.decide(throttle_key="k", cache_key="page"))
        await until(lambda: queue.waiting == 1)
        assert isinstance(await queue.decide(throttle_key="k"), Refuse)
        queue.finish(first, Outcome.success(value="body"))
        assert await waits == Hit("body", "page")

    run(main)


def test_whatever_happens_the_cap_holds_and_nobody_is_lost() -> None:
    """Hundreds that come, go away and finish in any order: never too many at once, and all end."""

    async def main() -> None:
        rng, queue, busy, most = random.Random(1), room(3, cap=2, limit=50), 0, 0

        async def ask() -> None:
            nonlocal busy, most
            forward = await queue.decide()
            if not isinstance(forward, Forward):
                return
            busy += 1
            most = max(most, busy)
            try:
                for _ in range(rng.randrange(5)):
                    await asyncio.sleep(0)
            finally:
                busy -= 1
                queue.finish(forward, FINE)

        tasks = []
        for _ in range(400):
            tasks.append(asyncio.create_task(ask()))
            if rng.random() < 0.2:
                rng.choice(tasks).cancel()
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        await asyncio.wait(tasks)
        assert most == 6
        assert (busy, queue.waiting, queue.tier.in_flight) == (0, 0, 0)
        assert not [task for task in tasks if not task.cancelled() and task.exception()]

    run(main)


@pytest.mark.parametrize(
    "options", [{"limit": -1}, {"limit": True}, {"timeout": 0}, {"timeout": float("nan")}, {"timeout": True}]
)
def test_bad_arguments_are_refused(options: dict[str, Any]) -> None:
    """A line that could not work is not made."""
    with pytest.raises(ValueError, match="must be"):
        room(**options)


def test_an_exchange_waits_for_room(scripted: Any) -> None:
    """Requests beyond what a full replica may have wait for their turn, and are answered."""

    async def main() -> None:
        at_once = [0, 0]

        async def play(peer: Any) -> None:
            while await peer.request():
                at_once[0] += 1
                at_once[1] = max(at_once)
                await asyncio.sleep(0)
                at_once[0] -= 1
                await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        async with scripted(play) as replica:
            capped = Capped(2)
            tier = Tier([replica.replica()], strategy=capped)
            queue = WaitingRoom(tier, limit=20, timeout=5.0)
            capped.on_room = queue.call_next
            upstream = Upstream()
            exchange = Exchange(tier, upstream, waiting=queue)
            asked = [exchange(Request("GET", b"/", [(b"host", b"x")])) for _ in range(20)]
            answers = await asyncio.gather(*asked)
            assert [answer.status for answer in answers] == [200] * 20
            assert at_once[1] <= 2
            assert tier.in_flight == queue.waiting == 0
            await upstream.aclose()

    run(main)
