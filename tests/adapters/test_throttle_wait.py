"""Waiting for the throttle: in order, up to a number, until a time, and without losing a unit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import anyio
import pytest

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
