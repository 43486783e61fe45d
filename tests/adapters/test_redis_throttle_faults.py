"""The shared throttle without its server: killed, stopped in the middle of load, slow, cancelled."""

from __future__ import annotations

import asyncio
import threading
from fractions import Fraction
from typing import Any

import pytest

from replicated.adapters.redis_throttle import AsyncRedisThrottle, RedisThrottle
from replicated.testing import ManualClock
from replicated.throttle import Throttle

pytest.importorskip("redis.asyncio", reason="the client is an extra")

SLOW = Fraction(1, 3600)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_without_the_server(own_redis: Any, end: str) -> None:
    """A server that dies or hangs costs one deadline; then the policy decides until it is back."""
    clock = ManualClock()
    local = Throttle(1, 2, max_keys=10, clock=clock)
    throttles = [
        RedisThrottle(own_redis.client(timeout=0.5), SLOW, 20, down=down, clock=clock)
        for down in ("open", "closed", local)
    ]
    for throttle in throttles:
        assert throttle.take("k") == 0.0
    if end == "kill":
        own_redis.kill()
    else:
        own_redis.stop()
    opened, closed, locally = throttles
    assert [opened.take("k") for _ in range(20)] == [0.0] * 20
    assert [closed.take("k") for _ in range(20)] == [1.0] * 20
    assert closed.peek("k") == 1.0
    assert [locally.take("k") for _ in range(3)] == [0.0, 0.0, 1.0]
    locally.refund("k")
    assert locally.take("k") == 0.0
    assert locally.take("k", 5) == 1.0
    assert len(local) == 1
    assert [throttle.stats().failures for throttle in throttles] == [1, 1, 1]
    if end == "kill":
        own_redis.start()
    else:
        own_redis.go_on()
    clock.advance(1)
    for throttle in throttles:
        # A take that timed out may be counted once the server goes on.
        assert throttle.take("k") == 0.0
        assert throttle.stats().failures == 1
    own_redis.client().flushall()


class Load:
    """What callers are told, the server ending in the middle of it."""

    def __init__(self, server: Any, end: str) -> None:
        self.server, self.end = server, end
        self.waits: list[float] = []
        self.lock = threading.Lock()  # while the server is being ended nobody asks a second time
        self.clock = ManualClock()
        self.local = Throttle(SLOW, 7, clock=self.clock)
        self.options: Any = {"down": self.local, "clock": self.clock}

    def told(self, wait: float) -> None:
        with self.lock:
            self.waits.append(wait)
            if len(self.waits) == 100:
                self.server.kill() if self.end == "kill" else self.server.stop()

    def judge(self, throttle: RedisThrottle | AsyncRedisThrottle, callers: int) -> None:
        assert len(self.waits) == callers * 40
        assert sum(wait == 0.0 for wait in self.waits) <= 150 + 7
        assert self.local.peek("k") > 0.0
        assert 1 <= throttle.stats().failures <= callers
        assert throttle.stats().fallbacks >= callers * 40 - 100 - callers
        self.server.start() if self.end == "kill" else self.server.go_on()
        self.clock.advance(1)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_threads_under_load(own_redis: Any, end: str) -> None:
    """A server that ends in the middle of load fails those who ask just then, and nobody gets too much."""
    load = Load(own_redis, end)
    throttle = RedisThrottle(own_redis.client(timeout=0.3), SLOW, 150, **load.options)

    def run() -> None:
        for _ in range(40):
            load.told(throttle.take("k"))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.judge(throttle, 8)
    failures = throttle.stats().failures
    assert throttle.take("new") == 0.0
    assert throttle.stats().failures == failures


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_coroutines_under_load(own_redis: Any, end: str) -> None:
    """So it is with coroutines."""

    async def story() -> None:
        load = Load(own_redis, end)
        async with own_redis.client(later=True, timeout=None) as client:
            throttle = AsyncRedisThrottle(client, SLOW, 150, deadline=0.3, **load.options)

            async def run() -> None:
                for _ in range(40):
                    load.told(await throttle.take("k"))

            await asyncio.gather(*(run() for _ in range(8)))
            load.judge(throttle, 8)
            failures = throttle.stats().failures
            assert await throttle.take("new") == 0.0
            assert throttle.stats().failures == failures

    asyncio.run(story())


def test_async(own_redis: Any) -> None:
    """Coroutines get what threads get, and with a server that hangs the policy, after the deadline."""

    async def run() -> None:
        async with own_redis.client(later=True, timeout=None) as client:
            clock = ManualClock()
            throttle = AsyncRedisThrottle(client, SLOW, 5, deadline=1.0, down="closed", clock=clock)
            waits = await asyncio.gather(*(throttle.take("k") for _ in range(8)))
            assert sorted(wait > 0 for wait in waits) == [False] * 5 + [True] * 3
            assert await throttle.peek("k") > 0
            assert (await throttle.quotas("k"))[0].remaining == 0
            await throttle.refund("k", 2)
            assert await throttle.take("k", 2) == 0.0
            own_redis.stop()
            assert await throttle.take("k") == 1.0
            assert await throttle.take("k") == 1.0
            assert (throttle.stats().failures, throttle.stats().fallbacks) == (1, 2)
            own_redis.go_on()
            clock.advance(1)
            assert await throttle.take("k") > 1.0
            assert throttle.stats().failures == 1
            await client.script_flush()
            assert await throttle.peek("new") == 0.0
            task = asyncio.create_task(throttle.take("new"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await throttle.peek("new", 4) == 0.0
            assert throttle.stats().failures == 1

    asyncio.run(run())


def test_one_finds_out() -> None:
    """Of many who come when the server may be asked again, one asks; all do once it has answered."""
    clock = ManualClock()
    asked: list[asyncio.Future[int]] = []

    class Slow:
        async def execute_command(self, *_: object) -> int:
            asked.append(asyncio.get_running_loop().create_future())
            return await asked[-1]

    async def come(throttle: AsyncRedisThrottle, questions: int, error: Exception | None) -> None:
        tasks = [asyncio.ensure_future(throttle.take("k")) for _ in range(5)]
        await asyncio.sleep(0)
        assert len(asked) == questions
        for future in asked:
            if error is None:
                future.set_result(0)
            else:
                future.set_exception(error)
        assert await asyncio.gather(*tasks) == [0.0] * 5
        asked.clear()

    async def run() -> None:
        throttle = AsyncRedisThrottle(Slow(), 1, 1, deadline=60, clock=clock)
        await come(throttle, 5, OSError())
        await come(throttle, 0, None)
        clock.advance(1)
        await come(throttle, 1, OSError())
        clock.advance(1)
        await come(throttle, 1, None)
        await come(throttle, 5, None)
        assert throttle.stats().failures == 6

    asyncio.run(run())


class Swallowing:
    """A client that takes a cancellation for a timeout."""

    async def execute_command(self, *_: object) -> object:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise TimeoutError from None
        return 0


def test_a_cancellation_is_never_lost() -> None:
    """Who is cancelled while the server is asked is cancelled, whatever the client makes of it."""

    async def run() -> None:
        throttle = AsyncRedisThrottle(Swallowing(), 1, 1, deadline=60)
        task = asyncio.create_task(throttle.take("k"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
