"""Waiting for the throttle: in order, up to a number, until a time, and without losing a unit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from typing import Any

import anyio
import pytest

from replicated.adapters.redis_throttle import AsyncRedisThrottle
from replicated.adapters.throttle_wait import AsyncWaiter, Waiter
from replicated.errors import Refused
from replicated.testing import ManualClock
from replicated.throttle import Limit, Limits, Number, Throttle, TokenBucket

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Slept:
    """Sleeps by moving the clock on, and remembers for how long."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.naps: list[float] = []

    def __call__(self, event: threading.Event, seconds: float | None) -> None:
        assert seconds is not None
        self.naps.append(seconds)
        self.clock.advance(seconds)

    async def awaited(self, seconds: float) -> None:
        self.naps.append(seconds)
        await anyio.lowlevel.checkpoint()
        self.clock.advance(seconds)


def limiters(clock: ManualClock) -> list[Throttle | Limits | TokenBucket]:
    return [
        Throttle(2, 1, clock=clock),
        Limits(Limit("a", 2, 1), Limit("b", 100, 100), clock=clock),
        TokenBucket(2, 1, clock=clock),
    ]


@pytest.mark.parametrize("which", range(3))
def test_thread_waits(which: int) -> None:
    """A thread sleeps as it is told, and no more, whatever limits it."""
    clock = ManualClock()
    sleep = Slept(clock)
    waiter = Waiter(limiters(clock)[which], clock=clock, sleep=sleep)
    for _ in range(3):
        waiter.take("k")
    assert sleep.naps == [0.5, 0.5]
    assert waiter.waiting("k") == 0


@pytest.mark.parametrize("which", range(3))
async def test_task_waits(which: int) -> None:
    """A coroutine sleeps as it is told, and no more, whatever limits it."""
    clock = ManualClock()
    sleep = Slept(clock)
    waiter = AsyncWaiter(limiters(clock)[which], clock=clock, sleep=sleep.awaited)
    for _ in range(3):
        await waiter.take("k")
    assert sleep.naps == [0.5, 0.5]
    assert waiter.waiting("k") == 0


def started(count: int, run: Callable[[int], None], waiter: Waiter) -> list[threading.Thread]:
    """Start threads one after the other, each once the one before stands in line."""
    threads = []
    for index in range(count):
        thread = threading.Thread(target=run, args=(index,))
        thread.start()
        threads.append(thread)
        while waiter.waiting() <= index:
            pass
    return threads


class Gate:
    """The first in line sleeps until the gate is opened; the others sleep on their events."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.opened = threading.Event()

    def __call__(self, event: threading.Event, seconds: float | None) -> None:
        if seconds is None:
            event.wait(10)
        elif seconds:
            self.opened.wait(10)
            self.clock.advance(seconds)


class Recorder:
    """A throttle that remembers the costs it admitted, in order."""

    def __init__(self, clock: ManualClock) -> None:
        self.bucket = TokenBucket(1, 9, clock=clock)
        self.admitted: list[Number] = []

    def take(self, key: Hashable, cost: Number = 1) -> float:
        wait = self.bucket.take(cost)
        if not wait:
            self.admitted.append(cost)
        return wait

    def peek(self, key: Hashable, cost: Number = 1) -> float:
        return self.bucket.peek(cost)


def test_threads_in_order() -> None:
    """Threads are served in the order in which they came, however much each asks for."""
    clock = ManualClock()
    gate = Gate(clock)
    throttle = Recorder(clock)
    waiter = Waiter(throttle, clock=clock, sleep=gate)
    costs = [9, 5, 1, 4, 2]
    throttle.take(None, 9)
    threads = started(5, lambda index: waiter.take(cost=costs[index]), waiter)
    gate.opened.set()
    for thread in threads:
        thread.join()
    assert throttle.admitted == [9, *costs]
    assert clock.now == sum(costs)
    assert waiter.waiting() == 0


def test_close() -> None:
    """Closing refuses all who wait and all who come, and nothing is taken."""
    clock = ManualClock()
    bucket = TokenBucket(1, 1, clock=clock)
    waiter = Waiter(bucket, clock=clock, sleep=lambda event, seconds: event.wait(10))
    bucket.take()
    refused: list[float] = []

    def run(index: int) -> None:
        with pytest.raises(Refused, match="closed") as caught:
            waiter.take()
        refused.append(caught.value.retry_after)

    threads = started(3, run, waiter)
    waiter.close()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    clock.advance(10)
    with pytest.raises(Refused, match="closed"):
        waiter.take()
    assert bucket.peek() == 0.0


def test_thread_limits() -> None:
    """A full line, a known wait beyond the timeout and a line that takes longer are refused, with a time."""
    clock = ManualClock()
    gate = Gate(clock)
    throttle = Throttle(1, 1, clock=clock)
    waiter = Waiter(throttle, max_waiting=2, clock=clock, sleep=gate)
    throttle.take(None)
    with pytest.raises(Refused, match="wait is longer") as caught:
        waiter.take(timeout=0.5)
    assert caught.value.retry_after == 1.0
    threads = started(1, lambda index: waiter.take(), waiter)
    with pytest.raises(Refused, match="line is longer"):
        waiter.take(timeout=0)
    threads += [threading.Thread(target=waiter.take)]
    threads[-1].start()
    while waiter.waiting() < 2:
        pass
    with pytest.raises(Refused, match="too many") as caught:
        waiter.take()
    assert caught.value.retry_after == 1.0
    gate.opened.set()
    for thread in threads:
        thread.join()
    assert waiter.waiting() == 0


async def test_tasks_in_order() -> None:
    """Coroutines are served in the order in which they came, however much each asks for."""
    clock = ManualClock()
    throttle = Recorder(clock)
    opened = anyio.Event()

    async def sleep(seconds: float) -> None:
        await opened.wait()
        clock.advance(seconds)

    waiter = AsyncWaiter(throttle, clock=clock, sleep=sleep)
    costs = [9, 5, 1, 4, 2]
    await waiter.take(cost=9)
    async with anyio.create_task_group() as group:
        for cost in costs:
            group.start_soon(waiter.take, None, cost)
            await anyio.wait_all_tasks_blocked()
        opened.set()
    assert throttle.admitted == [9, *costs]
    assert waiter.waiting() == 0


async def test_keys_wait_beside_each_other() -> None:
    """A line of one key holds up no other key."""
    clock = ManualClock()
    never = anyio.Event()

    async def sleep(seconds: float) -> None:
        await never.wait()

    waiter = AsyncWaiter(Throttle(1, 1, clock=clock), clock=clock, sleep=sleep)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(waiter.take, "a")
        await anyio.wait_all_tasks_blocked()
        await waiter.take("b")
        assert (waiter.waiting("a"), waiter.waiting("b")) == (2, 0)
        group.cancel_scope.cancel()
    assert waiter.waiting("a") == 0


async def test_cancelled() -> None:
    """Who is cancelled in line leaves it and has taken nothing; the others move up in order."""
    clock = ManualClock()
    bucket = TokenBucket(1, 1, clock=clock)
    opened = anyio.Event()
    served: list[int] = []

    async def sleep(seconds: float) -> None:
        await opened.wait()
        clock.advance(seconds)

    waiter = AsyncWaiter(bucket, clock=clock, sleep=sleep)
    bucket.take()
    scopes = [anyio.CancelScope() for _ in range(4)]

    async def run(index: int) -> None:
        with scopes[index]:
            await waiter.take()
            served.append(index)

    async with anyio.create_task_group() as group:
        for index in range(4):
            group.start_soon(run, index)
            await anyio.wait_all_tasks_blocked()
        assert waiter.waiting() == 4
        scopes[0].cancel()
        scopes[2].cancel()
        await anyio.wait_all_tasks_blocked()
        assert waiter.waiting() == 2
        opened.set()
    assert served == [1, 3]
    assert clock.now == 2.0
    assert bucket.peek() == 1.0


async def test_task_limits() -> None:
    """A full line, a known wait beyond the timeout and a line that takes longer are refused, with a time."""
    clock = ManualClock()
    bucket = TokenBucket(1, 1, clock=clock)
    opened = anyio.Event()

    async def sleep(seconds: float) -> None:
        await opened.wait()
        clock.advance(seconds)

    waiter = AsyncWaiter(bucket, max_waiting=2, clock=clock, sleep=sleep)
    await waiter.take()
    with pytest.raises(Refused, match="wait is longer") as caught:
        await waiter.take(timeout=0.5)
    assert caught.value.retry_after == 1.0
    async with anyio.create_task_group() as group:
        group.start_soon(waiter.take)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Refused, match="line is longer"):
            await waiter.take(timeout=0)
        group.start_soon(waiter.take)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Refused, match="too many"):
            await waiter.take()
        opened.set()
    assert waiter.waiting() == 0


class FarAway:
    """A bucket that answers by coroutines, in three steps, and remembers what it has given, in order."""

    def __init__(
        self, clock: ManualClock, burst: int = 1, on_step: Callable[[int], None] | None = None
    ) -> None:
        self.bucket = TokenBucket(1, burst, clock=clock)
        self.on_step = on_step or (lambda step: None)
        self.steps = self.asking = self.given = 0

    async def step(self) -> None:
        self.on_step(self.steps)
        self.steps += 1
        await anyio.lowlevel.checkpoint()

    async def take(self, key: Hashable, cost: Number = 1) -> float:
        self.asking += 1
        assert self.asking == 1, "two questions at a time may be answered in any order"
        try:
            await self.step()
            wait = self.bucket.take(cost)
            self.given += not wait
            await self.step()
        finally:
            self.asking -= 1
        return wait

    async def refund(self, key: Hashable, cost: Number = 1) -> None:
        await self.step()
        self.bucket.refund(cost)
        self.given -= 1


async def test_far_away_in_order() -> None:
    """A throttle that answers by coroutines serves in the order in which they came, and sleeps as it says."""
    clock = ManualClock()
    sleep = Slept(clock)
    far = FarAway(clock, 9)
    waiter = AsyncWaiter(far, clock=clock, sleep=sleep.awaited)
    served: list[int] = []

    async def run(cost: int) -> None:
        await waiter.take("k", cost)
        served.append(cost)

    costs = [9, 5, 1, 4, 2]
    async with anyio.create_task_group() as group:
        for cost in costs:
            group.start_soon(run, cost)
            while waiter.waiting("k") + len(served) < costs.index(cost) + 1:
                await anyio.lowlevel.checkpoint()
    assert served == costs
    assert sleep.naps == [5.0, 1.0, 4.0, 2.0]
    assert waiter.waiting("k") == 0


async def all_in_line(waiter: AsyncWaiter, scopes: list[anyio.CancelScope]) -> tuple[list[int], list[int]]:
    """Return who came and who was served, each in order."""
    came: list[int] = []
    served: list[int] = []

    async def run(index: int) -> None:
        came.append(index)  # a trio starts its tasks in any order
        with scopes[index]:
            await waiter.take("k")
            served.append(index)

    async with anyio.create_task_group() as group:
        for index in range(len(scopes)):
            group.start_soon(run, index)
    return came, served


@pytest.mark.parametrize("victim", range(4))
async def test_far_away_cancelled_anywhere(victim: int) -> None:
    """Wherever one of the line is cancelled, it has taken nothing and the others are served, in order."""
    at, reached = 0, True
    while reached:
        clock = ManualClock()
        scopes = [anyio.CancelScope() for _ in range(4)]
        reached = False

        def on_step(step: int, at: int = at, scopes: list[anyio.CancelScope] = scopes) -> None:
            nonlocal reached
            if step == at:
                reached = True
                scopes[victim].cancel()

        far = FarAway(clock, 2, on_step)
        waiter = AsyncWaiter(far, clock=clock, sleep=Slept(clock).awaited)
        came, served = await all_in_line(waiter, scopes)
        assert served in (came, [index for index in came if index != victim])
        assert far.given == len(served)
        assert waiter.waiting("k") == 0
        at += 1
    assert at >= 12


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("late", [False, True])
async def test_far_away_task_cancelled_anywhere(late: bool, cancelled_at: Any) -> None:
    """A task of asyncio that is cancelled at any of its suspensions, or as one is over, has taken nothing."""
    at, hit = 1, True
    while hit:
        clock = ManualClock()
        far = FarAway(clock)
        waiter = AsyncWaiter(far, clock=clock, sleep=Slept(clock).awaited)
        served: list[str] = []

        async def story(waiter: AsyncWaiter = waiter, served: list[str] = served) -> None:
            await waiter.take("k")
            served.append("first")
            await waiter.take("k")
            served.append("second")

        async def other(waiter: AsyncWaiter = waiter, served: list[str] = served) -> None:
            await waiter.take("k")
            served.append("other")

        probe = cancelled_at(story(), at, late=late)
        first = asyncio.ensure_future(_awaited(probe))
        second = asyncio.ensure_future(other())
        await asyncio.wait([first, second])
        hit = probe.hit
        assert first.cancelled() == hit
        assert not second.cancelled()
        assert second.exception() is None
        assert far.given == len(served)
        assert waiter.waiting("k") == 0
        at += 1
    assert at >= 6


async def _awaited(awaitable: Any) -> None:
    await awaitable


class Fails(FarAway):
    """A throttle that fails at a cost of 5, and at each refund."""

    async def take(self, key: Hashable, cost: Number = 1) -> float:
        if cost == 5:
            raise ValueError("cost")
        return await super().take(key, cost)

    async def refund(self, key: Hashable, cost: Number = 1) -> None:
        raise OSError("gone")


async def test_far_away_that_fails() -> None:
    """What a throttle raises comes out as it is, and leaves no line behind."""
    waiter = AsyncWaiter(Fails(ManualClock()))
    with pytest.raises(ValueError, match="cost"):
        await waiter.take("k", 5)
    assert waiter.waiting("k") == 0
    await waiter.take("k")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # under trio a question that is over is not cancelled
async def test_far_away_that_takes_nothing_back() -> None:
    """A refund that fails undoes no cancellation."""
    scope = anyio.CancelScope()
    waiter = AsyncWaiter(Fails(ManualClock(), 3, lambda step: scope.cancel() if step == 2 else None))
    with scope:
        await waiter.take("k")
        await waiter.take("k")
        raise AssertionError("it goes on although it is cancelled")
    assert scope.cancelled_caught
    assert waiter.waiting("k") == 0


async def test_far_away_limits() -> None:
    """A full line, a known wait beyond the timeout and a line that takes longer are refused, with a time."""
    clock = ManualClock()
    opened = anyio.Event()

    async def sleep(seconds: float) -> None:
        await opened.wait()
        clock.advance(seconds)

    far = FarAway(clock)
    waiter = AsyncWaiter(far, max_waiting=2, clock=clock, sleep=sleep)
    with pytest.raises(Refused, match="line is longer"):
        await waiter.take(timeout=0)
    assert far.given == 0
    await waiter.take()
    with pytest.raises(Refused, match="wait is longer") as caught:
        await waiter.take(timeout=0.5)
    assert caught.value.retry_after == 1.0
    async with anyio.create_task_group() as group:
        for count in (1, 2):
            group.start_soon(waiter.take)
            while waiter.waiting() < count:
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
        with pytest.raises(Refused, match="too many") as caught:
            await waiter.take()
        assert caught.value.retry_after == 1.0
        opened.set()
    assert waiter.waiting() == 0
    assert far.given == 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_shared_by_all(shared_redis: Any) -> None:
    """Coroutines wait for a throttle that replicas share, in order, and none asks in vain."""
    pytest.importorskip("redis.asyncio", reason="the client is an extra")
    async with shared_redis.client(later=True) as client:
        throttle = AsyncRedisThrottle(client, 1000, 1, prefix="waited:", deadline=5)
        waiter = AsyncWaiter(throttle)
        served: list[int] = []

        async def run(index: int) -> None:
            await waiter.take("k")
            served.append(index)

        async with anyio.create_task_group() as group:
            for index in range(20):
                group.start_soon(run, index)
        assert served == list(range(20))
        assert throttle.stats().failures == 0


@pytest.mark.parametrize("make", [Waiter, AsyncWaiter])
def test_bad_arguments(make: type[Waiter] | type[AsyncWaiter]) -> None:
    """Arguments that cannot be are refused by name."""
    with pytest.raises(ValueError, match="max_waiting"):
        make(TokenBucket(1, 1), max_waiting=0)
    with pytest.raises(TypeError, match="max_waiting"):
        make(TokenBucket(1, 1), max_waiting=True)


def test_bad_timeout() -> None:
    """A timeout is no negative number and not NaN."""
    for timeout in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            Waiter(TokenBucket(1, 1)).take(timeout=timeout)
