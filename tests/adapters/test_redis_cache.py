"""The shared level against a real server that is started, stopped and killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from replicated.adapters.async_loader import AsyncLoader
from replicated.adapters.redis_cache import AsyncRedisLevel
from replicated.adapters.redis_level import MOST_WRITES
from replicated.cache import Cache
from replicated.testing import ManualClock

redis = pytest.importorskip("redis.asyncio", reason="the client is an extra")


class Source:
    """Loads, and counts."""

    def __init__(self, version: str = "1") -> None:
        self.asked: list[str] = []
        self.version = version

    async def __call__(self, key: str) -> dict[str, str]:
        self.asked.append(key)
        return {"of": key, "version": self.version}


def run(server: Any, story: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        async with redis.Redis(unix_socket_path=server.socket) as client:
            await story(client)

    asyncio.run(asyncio.wait_for(told(), 20))


def level(client: Any, source: Any, **options: Any) -> AsyncRedisLevel[Any]:
    options.setdefault("deadline", 5.0)  # where the server is well, the machine may still be busy
    return AsyncRedisLevel(client, source, **{"ttl": 60, **options})


def test_replicas_share(shared_redis: Any) -> None:
    """What one process has loaded, another finds, until the ttl; another prefix is another matter."""

    async def story(client: Any) -> None:
        await client.flushall()
        first, second, third = Source(), Source(), Source()
        ours = level(client, first)
        assert await ours("ä\ud800") == {"of": "ä\ud800", "version": "1"}
        await ours.aclose()
        theirs = level(client, second)
        loader = AsyncLoader(Cache(10, ttl=60), theirs)
        for _ in range(2):
            assert await loader.get("ä\ud800") == {"of": "ä\ud800", "version": "1"}
        assert (second.asked, theirs.stats().hits) == ([], 1)
        await level(client, third, prefix="other:")("ä\ud800")
        assert len(third.asked) == 1
        [name] = await client.keys("cache:*")
        assert 50_000 < await client.pttl(name) <= 60_000

    run(shared_redis, story)


def test_what_is_forgotten_is_loaded_again(shared_redis: Any) -> None:
    """After ``forget`` the next load asks the source, also where a write or a load was on its way."""

    async def story(client: Any) -> None:
        source = Source()
        ours = level(client, source)
        await ours("f")
        assert await ours.forget("f")  # at once: the write is still on its way
        source.version = "2"
        assert (await ours("f"))["version"] == "2"
        await ours.aclose()

        go, began = asyncio.Event(), asyncio.Event()

        async def slow(key: str) -> str:
            began.set()
            await go.wait()
            return "old"

        late = level(client, slow, prefix="late:")
        loading = asyncio.ensure_future(late("f"))
        await began.wait()
        assert await late.forget("f")
        go.set()
        assert await loading == "old"
        await late.aclose()
        assert await client.get("late:f") is None

    run(shared_redis, story)


def test_what_is_no_value_is_loaded(shared_redis: Any) -> None:
    """Garbage, an answer to another question and a key of another type are loaded anew and written over."""

    async def story(client: Any) -> None:
        source = Source()
        ours = level(client, source, prefix="g:")
        for garbage in (b"", b"garbage", b"3:g:k{", b'3:g:x{"of": "x"}', b'{"of": "x"}'):
            await client.set("g:k", garbage)
            assert (await ours("k"))["of"] == "k"
            await ours.aclose()
            assert (await ours("k"))["of"] == "k"
        assert (len(source.asked), ours.stats().failures, ours.stats().hits) == (5, 5, 5)
        await client.delete("g:k")
        await client.lpush("g:k", "a list")
        assert (await ours("k"))["of"] == "k"
        await ours.aclose()
        assert (await ours("k"))["of"] == "k"
        assert (len(source.asked), ours.stats().failures, ours.stats().hits) == (6, 6, 6)

    run(shared_redis, story)


def test_errors_of_the_source_are_the_callers(shared_redis: Any) -> None:
    """What ``load`` and ``dumps`` raise comes out, and nothing is written."""

    async def story(client: Any) -> None:
        async def missing(key: str) -> object:
            raise LookupError(key)

        async def strange(key: str) -> object:
            return object()

        with pytest.raises(LookupError):
            await level(client, missing)("e")
        with pytest.raises(TypeError, match="JSON"):
            await level(client, strange)("e")
        ours = level(client, Source())
        with pytest.raises(TypeError, match="key must be a str, not 1"):
            await ours(1)  # type: ignore[arg-type]
        assert await client.get("cache:e") is None
        assert not ours._loading

    run(shared_redis, story)


def test_a_stopped_server_costs_one_deadline(own_redis: Any) -> None:
    """While the server stands still keys are loaded, and only the first waits; then it is asked again."""

    async def story(client: Any) -> None:
        clock, source = ManualClock(), Source()
        ours = level(client, source, clock=clock, deadline=0.05, retry_every=10)
        # Connections are made before, so that the commands are cancelled while their answers are awaited.
        await asyncio.gather(*(client.set(f"warm{n}", "x") for n in range(3)))
        own_redis.stop()
        for key in ("a", "b", "c"):
            assert (await ours(key))["of"] == key
        assert (source.asked, ours.stats().failures) == (["a", "b", "c"], 1)
        assert ours.stats().dropped == 3
        assert not await ours.forget("a")  # it is tried, and not confirmed
        own_redis.go_on()
        clock.advance(10)
        patient = level(client, source, clock=clock)
        for key in ("a", "b", "c", "a", "b", "c"):
            assert (await patient(key))["of"] == key
            await patient.aclose()
        assert patient.stats().failures == 0
        assert patient.stats().hits == 3

    run(own_redis, story)


def test_late_answers_reach_nobody_else(own_redis: Any) -> None:
    """Commands cancelled amid a stop and a go never hand their answers to those who ask next."""

    async def story(client: Any) -> None:
        keys = [f"k{n}" for n in range(20)]
        writer = level(client, Source())
        await asyncio.gather(*map(writer, keys))
        await writer.aclose()
        ours = level(client, Source("2"), deadline=0.02, clock=ManualClock(), retry_every=1e-9)
        for _ in range(3):
            own_redis.stop()
            asked = [asyncio.ensure_future(ours(key)) for key in keys]
            await asyncio.sleep(0)
            asked[0].cancel()
            own_redis.go_on()
            for key, value in zip(keys[1:], await asyncio.gather(*asked[1:]), strict=True):
                assert value["of"] == key
            with pytest.raises(asyncio.CancelledError):
                await asked[0]
            await ours.aclose()

    run(own_redis, story)


def test_a_dead_server_is_no_error(own_redis: Any) -> None:
    """After the server is killed values are loaded, and ``forget`` says that it was not confirmed."""

    async def story(client: Any) -> None:
        source = Source()
        ours = level(client, source, deadline=0.2)
        await ours("a")
        await ours.aclose()
        own_redis.kill()
        assert (await ours("a"))["of"] == "a"
        assert not await ours.forget("a")
        assert len(source.asked) == 2
        assert repr(ours.stats()).startswith("RedisLevelStats(hits=0, misses=2, failures=2, dropped=1")

    run(own_redis, story)


def test_writes_do_not_pile_up() -> None:
    """A slow server holds so many writes and no more, one a key, and no load waits for them."""

    class Slow:
        def __init__(self) -> None:
            self.open = asyncio.Event()

        async def get(self, name: bytes) -> None:
            return None

        async def set(self, *arguments: Any, **options: Any) -> None:
            await self.open.wait()

    async def story() -> None:
        client = Slow()
        ours = level(client, Source())
        for number in range(MOST_WRITES + 5):
            await ours(str(number))
        await ours("0")
        assert ours.stats().dropped == 6
        assert len(ours._writes) == MOST_WRITES
        client.open.set()
        await ours.aclose()
        await asyncio.sleep(0)
        assert not ours._writes

    asyncio.run(asyncio.wait_for(story(), 20))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": 0}, ValueError),
        ({"ttl": float("inf")}, ValueError),
        ({"deadline": float("nan")}, ValueError),
        ({"retry_every": -1}, ValueError),
        ({"ttl": True}, TypeError),
        ({"deadline": "1"}, TypeError),
        ({"dumps": 1}, TypeError),
    ],
)
def test_what_cannot_be(options: dict[str, Any], error: type[Exception]) -> None:
    """Numbers that are no seconds and functions that are none are refused by name."""
    with pytest.raises(error, match=next(iter(options))):
        level(None, json.dumps, **options)


def test_a_client_must_answer_bytes() -> None:
    """A client that decodes is refused: its answers would be no bytes."""
    with pytest.raises(ValueError, match="decode_responses"):
        level(redis.Redis(decode_responses=True), Source())
