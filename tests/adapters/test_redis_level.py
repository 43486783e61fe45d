"""The shared level for threads against a real server that is started, stopped and killed."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from replicated.adapters.redis_cache import AsyncRedisLevel, RedisLevel
from replicated.adapters.redis_level import MOST_WRITES
from replicated.adapters.redis_level_threads import MOST_HELPERS, MOST_WAITING, Helpers
from replicated.cache import Cache, Loader
from replicated.testing import ManualClock

redis = pytest.importorskip("redis", reason="the client is an extra")


class Source:
    """Loads, and counts."""

    def __init__(self, version: str = "1") -> None:
        self.asked: list[str] = []
        self.version = version

    def __call__(self, key: str) -> dict[str, str]:
        self.asked.append(key)
        return {"of": key, "version": self.version}


def level(client: Any, source: Any, **options: Any) -> RedisLevel[Any]:
    options.setdefault("deadline", 5.0)  # where the server is well, the machine may still be busy
    return RedisLevel(client, source, **{"ttl": 60, **options})


def await_(condition: Any) -> None:
    """Return when it holds, without a bound of its own: the suite has one."""
    while not condition():
        threading.Event().wait(0.001)


def test_replicas_share(shared_redis: Any) -> None:
    """What one process has loaded, another finds, until the ttl; another prefix is another matter."""
    with shared_redis.client() as client:
        client.flushall()
        first, second, third = Source(), Source(), Source()
        ours = level(client, first)
        assert ours("ä\ud800") == {"of": "ä\ud800", "version": "1"}
        ours.close()
        theirs = level(client, second)
        loader = Loader(Cache(10, ttl=60), theirs)
        for _ in range(2):
            assert loader.get("ä\ud800") == {"of": "ä\ud800", "version": "1"}
        assert (second.asked, theirs.stats().hits) == ([], 1)
        level(client, third, prefix="other:")("ä\ud800")
        assert len(third.asked) == 1
        [name] = client.keys("cache:*")
        assert 50_000 < client.pttl(name) <= 60_000


def test_coroutines_and_threads_share(shared_redis: Any) -> None:
    """What a level for threads has stored, one for coroutines finds under the same prefix."""
    with shared_redis.client() as client:
        ours = level(client, Source("threads"), prefix="both:")
        ours("k")
        ours.close()

    async def never(key: str) -> Any:
        raise AssertionError(key)

    async def story() -> None:
        async with shared_redis.client(later=True) as client:
            theirs: AsyncRedisLevel[Any] = AsyncRedisLevel(client, never, ttl=60, prefix="both:", deadline=5)
            assert (await theirs("k"))["version"] == "threads"

    asyncio.run(story())


def test_what_is_forgotten_is_loaded_again(shared_redis: Any) -> None:
    """After ``forget`` the next load asks the source, also where a write or a load was on its way."""
    with shared_redis.client() as client:
        source = Source()
        ours = level(client, source)
        ours("f")
        assert ours.forget("f")  # at once: the write may still be on its way
        source.version = "2"
        assert ours("f")["version"] == "2"
        ours.close()
        assert client.get("cache:f") is not None

        go, began = threading.Event(), threading.Event()

        def slow(key: str) -> str:
            began.set()
            go.wait(5)
            return "old"

        late = level(client, slow, prefix="late:")
        with ThreadPoolExecutor() as threads:
            loading = threads.submit(late, "f")
            began.wait(5)
            assert late.forget("f")
            go.set()
            assert loading.result() == "old"
        late.close()
        assert client.get("late:f") is None
        assert not late._loading


def test_a_write_that_hangs_is_not_confirmed_as_forgotten() -> None:
    """Where a write is still on its way after a deadline, it may come after the deletion."""

    class Slow:
        def __init__(self) -> None:
            self.open = threading.Event()

        def get(self, name: bytes) -> None:
            return None

        def delete(self, name: bytes) -> int:
            return 1

        def set(self, *arguments: Any, **options: Any) -> None:
            self.open.wait(5)

    client = Slow()
    ours = level(client, Source(), deadline=0.05)
    ours("f")
    assert not ours.forget("f")
    client.open.set()
    await_(lambda: not ours._writes)
    assert ours.forget("f")


def test_what_is_no_value_is_loaded(shared_redis: Any) -> None:
    """Garbage, an answer to another question and a key of another type are loaded anew and written over."""
    with shared_redis.client() as client:
        source = Source()
        ours = level(client, source, prefix="g:")
        for garbage in (b"", b"garbage", b"3:g:k{", b'3:g:x{"of": "x"}', b'{"of": "x"}'):
            client.set("g:k", garbage)
            for _ in range(2):
                assert ours("k")["of"] == "k"
                ours.close()
        assert (len(source.asked), ours.stats().failures, ours.stats().hits) == (5, 5, 5)
        client.delete("g:k")
        client.lpush("g:k", "a list")
        for _ in range(2):
            assert ours("k")["of"] == "k"
            ours.close()
        assert (len(source.asked), ours.stats().failures, ours.stats().hits) == (6, 6, 6)


def test_errors_of_the_source_are_the_callers(shared_redis: Any) -> None:
    """What ``load`` and ``dumps`` raise comes out, and nothing is written."""

    def missing(key: str) -> object:
        raise LookupError(key)

    with shared_redis.client() as client:
        with pytest.raises(LookupError):
            level(client, missing)("e")
        with pytest.raises(TypeError, match="JSON"):
            level(client, lambda key: object())("e")
        ours = level(client, Source())
        with pytest.raises(TypeError, match="key must be a str, not 1"):
            ours(1)  # type: ignore[arg-type]
        assert client.get("cache:e") is None
        assert not ours._loading


def test_a_stopped_server_costs_one_deadline(own_redis: Any) -> None:
    """While the server stands still keys are loaded, and only the first waits; then one asks it again."""
    clock, source = ManualClock(), Source()
    with own_redis.client(timeout=5.0) as client:  # the client's own patience is of no account
        ours = level(client, source, clock=clock, deadline=0.05, retry_every=10)
        client.ping()
        own_redis.stop()
        for key in ("a", "b", "c"):
            assert ours(key)["of"] == key
        assert (source.asked, ours.stats().failures, ours.stats().dropped) == (["a", "b", "c"], 1, 3)
        clock.advance(10)
        asking = [ours._link.admitted() for _ in range(3)]
        assert asking == [True, False, False]
        assert not ours.forget("a")  # it is tried, and not confirmed
        own_redis.go_on()
        await_(lambda: client.ping())
        clock.advance(10)
        patient = level(client, source, clock=clock)
        for key in ("a", "b", "c", "a", "b", "c"):
            assert patient(key)["of"] == key
            patient.close()
        assert (patient.stats().failures, patient.stats().hits) == (0, 3)


def test_a_server_that_trickles_is_a_slow_one() -> None:
    """A client that never comes to an end costs a deadline, though none of its own timeouts ends it."""
    go = threading.Event()

    class Trickling:
        asked = 0

        def get(self, name: bytes) -> None:
            self.asked += 1
            go.wait(5)

    client, source = Trickling(), Source()
    ours = level(client, source, deadline=0.02, clock=ManualClock())
    assert ours("a")["of"] == ours("a")["of"] == "a"
    assert (client.asked, ours.stats().failures) == (1, 1)
    go.set()
    assert not ours._link.up  # an answer that comes too late does not speak for it


def test_a_dead_server_is_no_error(own_redis: Any) -> None:
    """After the server is killed values are loaded, and ``forget`` says that it was not confirmed."""
    source = Source()
    with own_redis.client() as client:
        ours = level(client, source)
        ours("a")
        ours.close()
        own_redis.kill()
        assert ours("a")["of"] == "a"
        assert not ours.forget("a")
        assert len(source.asked) == 2
        assert repr(ours.stats()).startswith("RedisLevelStats(hits=0, misses=2, failures=2, dropped=1")


def test_many_threads_at_once(own_redis: Any) -> None:
    """Threads that load while the server stops and goes on get the value of their own key, each time."""
    with own_redis.client() as client:
        ours = level(client, Source(), deadline=0.02, retry_every=1e-6)
        keys = [f"k{number}" for number in range(40)]
        with ThreadPoolExecutor(20) as threads:
            for _ in range(3):
                own_redis.stop()
                asked = [threads.submit(ours, key) for key in keys]
                own_redis.go_on()
                assert [answer.result()["of"] for answer in asked] == keys
        await_(lambda: not ours._writes)
        assert not ours._loading
        stats = ours.stats()
        assert stats.hits + stats.misses == 120


def test_a_write_that_fails_is_no_error() -> None:
    """A server that fails at the write is left alone for a while; one that answers with an error is not."""

    class ResponseError(Exception):
        pass

    class Failing:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def get(self, name: bytes) -> None:
            return None

        def set(self, *arguments: Any, **options: Any) -> None:
            raise self.error

    for error, up in ((OSError("gone"), False), (ResponseError("full"), True)):
        ours = level(Failing(error), Source(), clock=ManualClock())
        ours("a")
        await_(lambda ours=ours: not ours._writes)
        assert (ours.stats().failures, ours._link.up) == (1, up)


def test_writes_do_not_pile_up() -> None:
    """A slow server holds so many writes and no more, one a key, and no load waits for them."""

    class Slow:
        def __init__(self) -> None:
            self.open = threading.Event()

        def set(self, *arguments: Any, **options: Any) -> None:
            self.open.wait(5)

    client = Slow()
    ours = level(client, Source(), clock=ManualClock(), retry_every=10)
    token = object()
    for name in [*(b"%d" % number for number in range(MOST_WRITES + 5)), b"0"]:
        ours._loading[name] = token
        ours._write(name, token, b"")
    assert (ours.stats().dropped, len(ours._writes)) == (6, MOST_WRITES)
    client.open.set()
    ours.close()
    await_(lambda: not ours._writes)


def test_helpers_are_few_and_end() -> None:
    """So many threads help and no more; what waits beyond a bound is refused; nothing is left at the end."""
    go, done = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        go.wait(5)
        done.release()

    helpers = Helpers(2)
    assert all(helpers.do(wait) for _ in range(MOST_WAITING + 2))
    assert not helpers.do(wait)
    threads = [thread for thread in threading.enumerate() if thread.name == "redis-level"]
    assert len(threads) >= 2
    helpers.end()
    go.set()
    for _ in range(MOST_WAITING + 2):
        assert done.acquire(timeout=5)
    assert helpers.do(wait)
    assert done.acquire(timeout=5)
    assert helpers.threads == 1
    await_(lambda: helpers.free == 1)
    assert helpers.do(wait)
    assert done.acquire(timeout=5)
    assert helpers.threads == 1
    helpers.end()


def test_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be begun a load goes on without the server."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ours = level(None, Source())
    ours._link.client = redis.Redis(port=1)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert ours("a")["of"] == "a"
    assert (ours.stats().failures, ours.stats().dropped) == (1, 1)


def test_a_level_that_is_gone_leaves_no_threads(shared_redis: Any) -> None:
    """A level that nobody holds any more ends its threads."""
    with shared_redis.client() as client:
        ours = level(client, Source())
        ours("gone")
        helpers = ours._link.helpers
        assert 1 <= helpers.threads <= MOST_HELPERS
        await_(lambda: helpers.free == helpers.threads)
        del ours
        gc.collect()
        assert helpers.threads == 0


def test_a_forked_process_has_helpers_of_its_own(shared_redis: Any) -> None:
    """A level that was used before a fork works in the child, which has none of the parent's threads."""
    with shared_redis.client() as client:
        ours = level(client, Source())
        ours("a")
        await_(lambda: not ours._writes)
        ours._link.helpers.process -= 1  # as it is in a child
        assert ours("a")["of"] == "a"
        assert ours._link.helpers.threads == 1
        assert ours.stats().failures == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": 0}, ValueError),
        ({"deadline": float("nan")}, ValueError),
        ({"retry_every": -1}, ValueError),
        ({"deadline": "1"}, TypeError),
        ({"dumps": 1}, TypeError),
    ],
)
def test_what_cannot_be(options: dict[str, Any], error: type[Exception]) -> None:
    """Numbers that are no seconds and functions that are none are refused by name."""
    with pytest.raises(error, match=next(iter(options))):
        level(None, Source(), **options)


def test_a_client_must_answer_bytes() -> None:
    """A client that decodes is refused: its answers would be no bytes."""
    with pytest.raises(ValueError, match="decode_responses"):
        level(redis.Redis(decode_responses=True), Source())
