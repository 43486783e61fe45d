"""The shared throttle against a real server that is started, flushed, stopped and killed."""

from __future__ import annotations

import asyncio
import shutil
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicated.adapters.redis_throttle import AsyncRedisThrottle, RedisThrottle
from replicated.testing import ManualClock
from replicated.throttle import Throttle, TokenBucket

redis = pytest.importorskip("redis", reason="the client is an extra")
pytest.importorskip("redis.asyncio")

PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="neither valkey-server nor redis-server is installed")


class Server:
    """A server on a socket in a directory."""

    def __init__(self, directory: Path) -> None:
        self.socket = str(directory / "s")
        self.start()

    def start(self) -> None:
        assert PROGRAM is not None
        options = [
            "--port",
            "0",
            "--unixsocket",
            self.socket,
            "--save",
            "",
            "--dir",
            str(Path(self.socket).parent),
        ]
        self.process = subprocess.Popen([PROGRAM, *options], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "ready to accept connections at" in line.lower():
                return
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def client(self, *, of: Any = redis, timeout: float | None = 5.0, retries: int = 0) -> Any:
        retry = (redis.asyncio.retry if of is redis.asyncio else redis.retry).Retry(
            redis.backoff.NoBackoff(), retries
        )
        return of.Redis(unix_socket_path=self.socket, socket_timeout=timeout, retry=retry)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for those who leave it as it was."""
    server = Server(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server for those who ill-treat it."""
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def client(shared: Server) -> Iterator[Any]:
    with shared.client() as client:
        client.flushall()
        yield client


SLOW = Fraction(1, 3600)


def test_take(client: Any) -> None:
    """Units are taken until the burst is used up, and then the wait is told, on the server's clock."""
    throttle = RedisThrottle(client, SLOW, 5)
    assert throttle.take("k", 3) == 0.0
    assert throttle.peek("k", 2) == 0.0
    assert 3590 < throttle.peek("k", 3) <= 3600
    assert [throttle.take("k") for _ in range(2)] == [0.0, 0.0]
    assert 3590 < throttle.take("k") <= 3600
    throttle.refund("k", 2)
    assert throttle.take("k", 2) == 0.0
    for _ in range(3):
        throttle.refund("k", 5)
    assert throttle.take("k", 5) == 0.0
    assert (
        throttle.take("other")
        == throttle.take(b"bytes")
        == throttle.take(("a", 1))
        == throttle.take("\ud800")
        == 0.0
    )
    assert throttle.stats().failures == 0


def test_ours_are_one(client: Any) -> None:
    """All throttles of one prefix share; those of another do not."""
    assert RedisThrottle(client, SLOW, 1).take("k") == 0.0
    assert RedisThrottle(client, SLOW, 1).take("k") > 0.0
    assert RedisThrottle(client, SLOW, 1, prefix="other:").take("k") == 0.0


def steps(least: float, *calls: str) -> st.SearchStrategy[list[tuple[str, int, float]]]:
    return st.lists(st.tuples(st.sampled_from(calls), st.integers(1, 5), st.floats(least, 2)), max_size=25)


@given(
    rate=st.sampled_from([1, 3, 0.3, 7.5, 1 / 3, 1000, 3e5]),
    burst=st.integers(1, 5),
    # The server keeps no key for a bucket that a refund has filled, so a clock set back then finds another.
    steps=steps(0, "take", "take", "peek", "refund") | steps(-0.5, "take", "peek"),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_one_arithmetic(client: Any, rate: float, burst: int, steps: list[tuple[Any, int, float]]) -> None:
    """At the same times, a clock set back among them, the script answers as the local bucket does."""
    client.flushall()
    throttle = RedisThrottle(client, rate, burst)
    times = throttle._script.replace("redis.call('TIME')", "{ARGV[3], ARGV[4]}")
    # Keys expire by the real clock, so they are given a minute more.
    assert times.count("/ 500) + 1)") == 1
    script = client.register_script(times.replace("/ 500) + 1)", "/ 500) + 60000)"))
    clock = ManualClock()
    bucket = TokenBucket(rate, burst, clock=clock)
    at = 1_800_000_000 * 10**6
    for what, cost, gap in steps:
        at += round(gap / rate * 10**6)
        # Microseconds from the start: as seconds since 1970 they would not fit a float to the nanosecond.
        clock.set((at - 1_800_000_000 * 10**6) / 10**6)
        name, ticks, *_ = throttle._question(what, "k", min(cost, burst))
        answer = script(keys=[name], args=[ticks, what, at // 10**6, at % 10**6])
        local = getattr(bucket, what)(min(cost, burst)) or 0.0
        assert local <= answer / 10**6 + 1e-12
        assert answer / 10**6 < local + 1e-6
        assert answer == 0 or what != "refund"


@pytest.mark.parametrize("rate", [2**0.5, 1e6 / 3.1415926535, Fraction(123456789, 987654321)])
def test_odd_rates(client: Any, rate: float) -> None:
    """A rate of many digits is taken at most a millionth lower, so that the script's numbers stay whole."""
    throttle = RedisThrottle(client, rate, 1000)
    assert throttle._tolerance <= 2**51
    served = Fraction(throttle._scale * 10**6, throttle._unit)
    assert Fraction(rate) * (1 - Fraction(1, 10**6)) <= served <= Fraction(rate) * (1 + Fraction(1, 10**12))
    assert throttle.take("k", 1000) == 0.0


def test_every_key_expires(client: Any) -> None:
    """Each key lives until its bucket is full and at most as long again; a full bucket has no key."""
    throttle = RedisThrottle(client, 10, 10)
    throttle.take("k")
    assert 100 < client.pttl("throttle:k") <= 202
    for owed in range(200, 1100, 100):
        throttle.take("k")
        assert owed * 0.9 < client.pttl("throttle:k") <= 2 * owed + 2
    throttle.take("k")
    assert 900 < client.pttl("throttle:k") <= 2002
    throttle.refund("k", 5)
    assert 450 < client.pttl("throttle:k") <= 2002
    throttle.refund("k", 10)
    throttle.peek("unknown")
    throttle.refund("unknown")
    assert client.dbsize() == 0


def test_a_long_life_is_not_believed(client: Any) -> None:
    """A state that claims to live for ever is given a time to live, whatever it says."""
    throttle = RedisThrottle(client, 10, 10)
    seconds, micros = client.time()
    now = seconds * 10**6 + micros
    for dies in (1e300, float("inf"), float("nan"), now + 10.0**8, -1.0):
        client.set("throttle:k", struct.pack(">ddd", now + 1, 0, dies))
        assert throttle.take("k") == 0.0
        assert 0 < client.pttl("throttle:k") <= 202


def test_one_round_trip(client: Any) -> None:
    """A decision is one command, once the server has the script; when it has lost it, two."""
    throttle = RedisThrottle(client, 1, 1000)
    client.script_flush()
    throttle.take("k")
    client.config_resetstat()
    for _ in range(10):
        throttle.take("k")
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 10
    assert (
        client.info("stats")["total_commands_processed"] <= 10 * 4 + 3
    )  # the script's own three are counted
    client.script_flush()
    assert throttle.take("k") == 0.0
    assert throttle.stats().failures == 0


def test_nonsense_state(client: Any) -> None:
    """A state that is not ours gives nothing and heals; a key of another kind is a failure."""
    throttle = RedisThrottle(client, 10, 1)
    nan, infinite = b"\x7f\xf8" + bytes(6), b"\x7f\xf0" + bytes(6)
    states = ["", "x", "1", "\xff" * 8, "9" * 24, bytes(24)]
    states += [a + bytes(8) + b for a in (nan, infinite) for b in (nan, infinite)]
    for state in states:
        client.set("throttle:k", state)
        assert 0.0 < throttle.take("k") <= 0.1
        assert 0 < client.pttl("throttle:k") <= 202
    client.delete("throttle:k")
    client.lpush("throttle:k", "x")
    assert throttle.take("k") == 0.0
    assert throttle.stats().failures == 1


class Nonsense:
    """A client of a server that answers what it likes."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def evalsha(self, *_: object) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [None, b"OK", b"0", "", -1, 1.5, float("nan"), True, 10**6 + 1, 10**400, []]
    + [RuntimeError("?"), OSError("gone"), RecursionError()],
)
def test_nonsense_answers(answer: object) -> None:
    """Whatever the server or client come up with, a take is answered, by the policy."""
    clock = ManualClock()
    throttle = RedisThrottle(Nonsense(answer), 1, 1, down="closed", retry_every=2, clock=clock)
    assert throttle.take("k") == 2.0
    assert (throttle.stats().failures, throttle.stats().fallbacks) == (1, 1)


def test_threads_share_exactly(shared: Server, client: Any) -> None:
    """Threads with connections of their own get the burst together, to the unit."""
    throttle = RedisThrottle(shared.client(timeout=5), SLOW, 100)
    admitted: list[bool] = []

    def run() -> None:
        for _ in range(40):
            admitted.append(throttle.take("k") == 0.0)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 100
    assert throttle.stats().failures == 0


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_without_the_server(server: Server, end: str) -> None:
    """A server that dies or hangs costs one deadline; then the policy decides until it is back."""
    clock = ManualClock()
    local = Throttle(1, 2, max_keys=10, clock=clock)
    throttles = [
        RedisThrottle(server.client(timeout=0.5), SLOW, 20, down=down, clock=clock)
        for down in ("open", "closed", local)
    ]
    for throttle in throttles:
        assert throttle.take("k") == 0.0
    if end == "kill":
        server.kill()
    else:
        server.process.send_signal(signal.SIGSTOP)
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
        server.start()
    else:
        server.process.send_signal(signal.SIGCONT)
    clock.advance(1)
    for throttle in throttles:
        # A take that timed out may be counted once the server goes on.
        assert throttle.take("k") == 0.0
        assert throttle.stats().failures == 1
    server.client().flushall()


def test_async(server: Server) -> None:
    """Coroutines get what threads get, and with a server that hangs the policy, after the deadline."""

    async def run() -> None:
        async with server.client(of=redis.asyncio, timeout=None) as client:
            clock = ManualClock()
            throttle = AsyncRedisThrottle(client, SLOW, 5, deadline=1.0, down="closed", clock=clock)
            waits = await asyncio.gather(*(throttle.take("k") for _ in range(8)))
            assert sorted(wait > 0 for wait in waits) == [False] * 5 + [True] * 3
            assert await throttle.peek("k") > 0
            await throttle.refund("k", 2)
            assert await throttle.take("k", 2) == 0.0
            server.process.send_signal(signal.SIGSTOP)
            assert await throttle.take("k") == 1.0
            assert await throttle.take("k") == 1.0
            assert (throttle.stats().failures, throttle.stats().fallbacks) == (1, 2)
            server.process.send_signal(signal.SIGCONT)
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


def test_bad_input(shared: Server, client: Any) -> None:
    """What cannot be is refused by name, a client that waits for ever or retries among it."""
    for throttle_class in (RedisThrottle, AsyncRedisThrottle):
        with pytest.raises(ValueError, match="retry"):
            throttle_class(shared.client(retries=1), 1, 1)
        with pytest.raises(ValueError, match="rate"):
            throttle_class(client, 0, 1)
        with pytest.raises(ValueError, match="down"):
            throttle_class(client, 1, 1, down="maybe")
        with pytest.raises(ValueError, match="retry_every"):
            throttle_class(client, 1, 1, retry_every=0)
    with pytest.raises(ValueError, match="socket_timeout"):
        RedisThrottle(shared.client(timeout=None), 1, 1)
    with pytest.raises(ValueError, match="deadline"):
        AsyncRedisThrottle(client, 1, 1, deadline=0)
    with pytest.raises(ValueError, match="70 years"):
        RedisThrottle(client, 1e-9, 1000)
    throttle = RedisThrottle(client, 1, 2)
    for cost in (0, 3, float("nan")):
        with pytest.raises(ValueError, match="cost"):
            throttle.take("k", cost)
    with pytest.raises(TypeError):
        throttle.take([])
    assert throttle.take("k", 1.5) == 0.0
    assert throttle.stats().failures == 0
    assert repr(throttle) == "<RedisThrottle 1/s, burst 2>"
