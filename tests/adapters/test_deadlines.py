"""Deadlines by one alarm: in order, told from cancellations, over one loop after another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from replicated.adapters.deadlines import Deadlines


class Time:
    """An event loop's clock, that only these tests set forward, and the alarms that are set by it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.alarms: list[tuple[float, Callable[[], object]]] = []
        patch.setattr(loop, "time", lambda: self.now)
        patch.setattr(loop, "call_at", self.call_at)

    def call_at(self, due: float, ring: Callable[[], object]) -> object:
        self.alarms.append((due, ring))
        return self

    async def go(self, seconds: float) -> None:
        self.now += seconds
        due = [alarm for alarm in self.alarms if alarm[0] <= self.now]
        for alarm in due:
            self.alarms.remove(alarm)
            alarm[1]()
        for _ in range(5):
            await asyncio.sleep(0)


def run(story: Callable[[Time], Coroutine[Any, Any, None]]) -> None:
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        time = Time(runner.get_loop(), patch)
        runner.run(story(time))


async def begun(awaited: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Return a task that has come to its first pause."""
    task = asyncio.ensure_future(awaited)
    await asyncio.sleep(0)
    return task


async def forever() -> None:
    await asyncio.Event().wait()


def test_in_order_by_one_alarm() -> None:
    """Each ends when its own time is over, and there is never more than one alarm."""

    async def story(time: Time) -> None:
        deadlines = Deadlines(2.0)
        tasks = []
        for _ in range(4):
            tasks.append(await begun(deadlines.wait(forever())))
            await time.go(0.5)
            assert len(time.alarms) == 1
        for ended in range(1, 5):
            assert [task.done() for task in tasks] == [True] * ended + [False] * (4 - ended)
            assert len(time.alarms) == (ended < 4)
            await time.go(0.5)
        for task in tasks:
            with pytest.raises(TimeoutError, match=r"2\.0 seconds"):
                await task
        assert not deadlines._due
        assert not deadlines._late

    run(story)


def test_who_answers_in_time() -> None:
    """An answer or an error in time is passed on, and an alarm that finds nobody is not set again."""

    async def story(time: Time) -> None:
        deadlines = Deadlines(1.0)

        async def answer(value: object) -> object:
            await asyncio.sleep(0)
            if isinstance(value, Exception):
                raise value
            return value

        assert await deadlines.wait(answer(7)) == 7
        with pytest.raises(KeyError):
            await deadlines.wait(answer(KeyError()))
        await time.go(5)
        assert not time.alarms
        task = await begun(deadlines.wait(forever()))
        await time.go(0.5)
        assert not task.done()
        await time.go(0.5)
        with pytest.raises(TimeoutError):
            await task

    run(story)


async def heedless(error: Exception | None) -> str:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if error is not None:
            raise error from None
    return "late"


@pytest.mark.parametrize("awaited", [forever, lambda: heedless(OSError())])
def test_a_cancellation_is_none_of_ours(awaited: Callable[[], Awaitable[Any]]) -> None:
    """Who is cancelled from outside is cancelled, before the deadline or together with it."""

    async def story(time: Time) -> None:
        deadlines = Deadlines(1.0)
        for together in (False, True):
            task = await begun(deadlines.wait(awaited()))
            task.cancel()
            if together:
                time.now += 1.0
                time.alarms.pop(0)[1]()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            await time.go(5)

    run(story)


@pytest.mark.parametrize("error", [None, OSError()])
def test_who_does_not_heed_it(error: Exception | None) -> None:
    """Who answers although cancelled has answered; an error is the deadline's; nobody stays cancelled."""

    async def story(time: Time) -> None:
        deadlines = Deadlines(1.0)

        async def wait() -> object:
            answer: object = "in time"
            with contextlib.suppress(TimeoutError):
                answer = await deadlines.wait(heedless(error))
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await asyncio.sleep(0)
            return answer

        task = await begun(wait())
        await time.go(1.0)
        assert await task == ("late" if error is None else "in time")

    run(story)


def test_one_loop_after_another() -> None:
    """An alarm of a loop that has ended keeps no deadline of the next from being kept."""
    deadlines = Deadlines(1.0)

    async def story(time: Time) -> None:
        task = await begun(deadlines.wait(forever()))
        await time.go(0.5)
        await time.go(0.5)
        with pytest.raises(TimeoutError):
            await task
        await begun(deadlines.wait(forever()))

    run(story)
    run(story)
