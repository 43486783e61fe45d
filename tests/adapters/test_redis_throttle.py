"""The shared throttle against a real server: its arithmetic, blocks, quotas, keys, nonsense, clients."""

from __future__ import annotations

import asyncio
import math
import struct
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicated.adapters.redis_limit import RedisLimit
from replicated.adapters.redis_line import pool_of
from replicated.adapters.redis_throttle import AsyncRedisThrottle, RedisThrottle
from replicated.testing import ManualClock
from replicated.throttle import Throttle

redis = pytest.importorskip("redis", reason="the client is an extra")
pytest.importorskip("redis.asyncio")


@pytest.fixture
def client(shared_redis: Any) -> Iterator[Any]:
    with shared_redis.client() as client:
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


def at_times(client: Any, limit: RedisLimit) -> Any:
    """Return the script on a clock that is handed in, in seconds and microseconds."""
    times = limit.script.replace("redis.call('TIME')", "{ARGV[3], ARGV[4]}")
    # Keys expire by the real clock, so they are given a minute more.
    assert times.count("/ 1000) + 1)") == 1
    return client.register_script(times.replace("/ 1000) + 1)", "/ 1000) + 60000)"))


def steps(least: float, *calls: str) -> st.SearchStrategy[list[tuple[str, int, float]]]:
    return st.lists(st.tuples(st.sampled_from(calls), st.integers(1, 5), st.floats(least, 2)), max_size=25)


@given(
    rate=st.sampled_from([1, 3, 0.3, 7.5, 1 / 3, 1000, 3e5]),
    burst=st.integers(1, 5),
    block=st.just(0) | st.sampled_from([0.001, 1, 2.5, 7]),
    # The server keeps no key for a bucket that a refund has filled, so a clock set back then finds another.
    steps=steps(0, "take", "take", "peek", "refund") | steps(-0.5, "take", "peek"),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_one_arithmetic(
    client: Any, rate: float, burst: int, block: float, steps: list[tuple[Any, int, float]]
) -> None:
    """At the same times, a clock set back among them, the script answers as the local throttle does."""
    client.flushall()
    throttle = RedisThrottle(client, rate, burst, block=block)
    script = at_times(client, throttle._limit)
    clock = ManualClock()
    locally = Throttle(rate, burst, block=Fraction(throttle._limit.block, 10**6), clock=clock)
    at = 1_800_000_000 * 10**6
    blocks = 0
    for what, cost, gap in steps:
        at += round(gap / rate * 10**6)
        # Microseconds from the start: as seconds since 1970 they would not fit a float to the nanosecond.
        clock.set((at - 1_800_000_000 * 10**6) / 10**6)
        cost = min(cost, burst)
        ticks = throttle._limit.ticks(cost)
        told = throttle._limit.told(script(keys=["k"], args=[ticks, what, *divmod(at, 10**6)]), ticks)
        local = getattr(locally, what)("k", cost) or 0.0
        if what == "refund":  # which does not tell of a block
            assert told == local
            answer = script(keys=["k"], args=[ticks, "peek", *divmod(at, 10**6)])
            told, local = throttle._limit.told(answer, ticks), locally.peek("k", cost)
        blocks += told.begins
        assert local <= told + 1e-12
        assert told < local + 1e-6
        [theirs], [ours] = told.quotas, locally.quotas("k")
        assert theirs.burst == ours.burst
        assert theirs.remaining == ours.remaining or told > 0.0
        assert 0 <= ours.remaining - theirs.remaining <= 1
        for theirs_lasts, ours_lasts in ((theirs.window, ours.window), (theirs.reset, ours.reset)):
            assert -1e-9 <= theirs_lasts - ours_lasts <= 2e-6
        if theirs.remaining == ours.remaining:
            assert -1e-9 <= theirs.more - ours.more <= 2e-6
        assert blocks == locally.stats().blocked


@pytest.mark.parametrize("rate", [2**0.5, 1e6 / 3.1415926535, Fraction(123456789, 987654321)])
def test_odd_rates(client: Any, rate: float) -> None:
    """A rate of many digits is taken at most a millionth lower, so that the script's numbers stay whole."""
    throttle = RedisThrottle(client, rate, 1000)
    assert throttle._limit.tolerance <= 2**51
    served = Fraction(throttle._limit.scale * 10**6, throttle._limit.unit)
    assert Fraction(rate) * (1 - Fraction(1, 10**6)) <= served <= Fraction(rate) * (1 + Fraction(1, 10**12))
    assert throttle.take("k", 1000) == 0.0


def test_every_key_expires(client: Any) -> None:
    """Each key outlives its debt, by as much again and ten seconds at most; a full bucket has no key."""
    throttle = RedisThrottle(client, 10, 1000)
    lives = 0
    for _ in range(10):
        throttle.take("k", 100)
        lives, owed = client.pttl("throttle:k"), 1000 * throttle.quotas("k")[0].reset
        assert owed < lives <= 2 * owed + 10_500
    assert lives > 150_000
    throttle.refund("k", 500)
    assert 45_000 < client.pttl("throttle:k") <= lives
    throttle.refund("k", 1000)
    throttle.peek("unknown")
    throttle.quotas("unknown")
    throttle.refund("unknown")
    assert client.dbsize() == 0


def test_a_long_life_is_not_believed(client: Any) -> None:
    """A state that claims to live for ever is given a time to live, whatever it says."""
    throttle = RedisThrottle(client, 10, 10)
    throttle.take("k")
    limit = client.get("throttle:k")[24:]
    seconds, micros = client.time()
    now = seconds * 10**6 + micros
    for dies in (1e300, float("inf"), float("nan"), now + 10.0**8, -1.0):
        client.set("throttle:k", struct.pack(">ddd", now + 1, 0, dies) + limit)
        assert throttle.take("k") == 0.0
        assert 0 < client.pttl("throttle:k") <= 10_202


@given(
    limits=st.lists(st.tuples(st.sampled_from([0.3, 1, 3, 7.5, 1000]), st.integers(1, 9)), min_size=2),
    steps=st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from(["take", "peek", "refund"]), st.floats(0, 0.3)),
        max_size=25,
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_limits_that_change(client: Any, limits: Any, steps: list[tuple[int, Any, float]]) -> None:
    """Whoever asks by which limit in turn, what is left is carried over in units, and never grows by that."""
    client.flushall()
    made = [RedisLimit(rate, burst, ManualClock()) for rate, burst in limits]
    scripts = [at_times(client, limit) for limit in made]
    at, held, left = 1_800_000_000 * 10**6, 0, Fraction(0)
    for step, (which, what, gap) in enumerate([(0, "take", 0.0), *steps]):
        now, limit = which % len(made), made[which % len(made)]
        before, gained = made[held], round(gap * 10**6)
        at += gained
        if step:
            left = min(left + Fraction(gained * before.scale, before.unit), before.gcra.burst)
        # One who owes nothing cannot be told from one who has never come.
        here = limit.gcra.burst if not step or left == before.gcra.burst else min(left, limit.gcra.burst)
        told = limit.told(scripts[now](keys=["k"], args=[limit.unit, what, *divmod(at, 10**6)]))
        if what == "refund":
            here = min(here + 1, limit.gcra.burst)
        else:
            assert (told == 0.0) == (here >= 1)
        if what == "take":
            here -= told == 0.0
        if what != "peek":
            held, left = now, here
        assert told.quotas[0].remaining <= here < told.quotas[0].remaining + 1 + 1e-6


def test_reconfigure(client: Any) -> None:
    """A limit changes from one question to the next, and whoever has used it up gains nothing."""
    throttle, other = RedisThrottle(client, SLOW, 5), RedisThrottle(client, SLOW, 5)
    assert throttle.take("k", 3) == 0.0
    throttle.reconfigure(SLOW / 2, 100)
    assert repr(throttle) == "<RedisThrottle 0.000138889/s, burst 100>"
    assert throttle.quotas("k")[0].remaining == 2
    assert [throttle.take("k"), other.take("k")] == [0.0, 0.0]
    for each in (throttle, other, throttle):
        assert each.take("k") > 3590
    assert throttle.take("new", 100) == 0.0
    assert 2 * 3590 < throttle.take("k") <= 2 * 3600
    throttle.reconfigure(1000, 1)
    for bad in (0, math.nan):
        with pytest.raises(ValueError, match="rate"):
            throttle.reconfigure(bad, 1)
    assert throttle.take("k") <= 0.001
    assert throttle.stats().failures == 0


def test_block(client: Any) -> None:
    """A refusal blocks its key for all who share, nothing prolongs that, and the key outlives it."""
    throttle, other = (RedisThrottle(client, 10, 2, block=3600) for _ in "ab")
    assert [throttle.take("k", 2), other.peek("k", 2) < 1] == [0.0, True]
    waits = [each.take("k", 2) for each in (other, throttle, other)]
    assert sorted(waits, reverse=True) == waits
    assert 3590 < other.peek("k") <= waits[-1] <= 3600
    for _ in range(2):
        other.refund("k", 2)
        [left] = throttle.quotas("k")
        assert left.remaining == 0
        assert 3590 < left.reset <= 3600
    assert throttle.take("k").quotas[0].remaining == 0
    assert 3_600_000 < client.pttl("throttle:k") <= 2 * 3_600_000 + 10_001
    assert (throttle.stats().refused, throttle.stats().blocked) == (2, 0)
    assert (other.stats().refused, other.stats().blocked) == (2, 1)


def test_block_at_times(client: Any) -> None:
    """It ends to the microsecond; the next refusal begins another, and only that one is counted."""
    limit = RedisLimit(1, 2, ManualClock(), block=10)
    script = at_times(client, limit)
    begin = 1_800_000_000 * 10**6

    def take(at: int) -> Any:
        return limit.told(script(keys=["k"], args=[limit.unit, "take", *divmod(begin + at, 10**6)]))

    assert [take(0), take(0), take(0), take(1)] == [0.0, 0.0, 10.0, 9.999999]
    assert client.strlen("k") == 56
    assert take(10**7 - 1) == pytest.approx(1e-6)
    assert take(10**7) == 0.0
    assert client.strlen("k") == 48
    told = [take(10**7), take(10**7)]
    assert told == [0.0, 10.0]
    assert [each.begins for each in told] == [False, True]


def test_blocks_that_differ(client: Any) -> None:
    """A block is believed for as long as one's own lasts, at most; a limit that changes leaves it."""
    long, short, none = (RedisThrottle(client, SLOW, 9, block=block) for block in (3600, 60, 0))
    assert [long.take("k", 9), long.take("k") > 3590] == [0.0, True]
    long.reconfigure(1000, 9)
    assert 3590 < long.take("k") <= 3600
    short.reconfigure(1000, 9)
    assert short.peek("k") <= 60
    assert 3500 < long.peek("k") <= 3600
    assert 59 < short.take("k") <= 60
    assert long.peek("k") <= 60
    none.reconfigure(1000, 9)
    assert none.take("k") <= 3600  # it owes no more than the burst, and nobody blocks it
    assert none.take("new") == 0.0
    assert long.stats().failures + short.stats().failures + none.stats().failures == 0


def test_shadow(client: Any) -> None:
    """In shadow mode nobody is refused, whoever decides; what would have been is counted, and told."""
    clock = ManualClock()
    throttle = RedisThrottle(client, SLOW, 1, block=7200, shadow=True)
    told = [throttle.take("k") for _ in range(3)]
    assert told == [0.0] * 3
    assert 7190 < throttle.peek("k") <= 7200
    assert [each.quotas[0].remaining for each in told] == [0, 0, 0]
    assert told[1].quotas[0].reset > 7190
    assert 7190 < told[2].quotas[0].reset <= 7200
    seen = throttle.stats()
    assert (seen.refused, seen.blocked, seen.fallbacks) == (2, 1, 0)
    local = Throttle(1, 1, block=60, clock=clock)
    policies: list[tuple[Any, int]] = [("open", 0), ("closed", 3), (local, 2)]
    broken: Any = None
    for down, refused in policies:
        broken = RedisThrottle(Nonsense(OSError()), 1, 1, shadow=True, down=down, clock=clock)
        assert [broken.take("k") for _ in range(3)] == [0.0] * 3
        seen = broken.stats()
        assert (seen.refused, seen.blocked, seen.fallbacks) == (refused, 0, 3)
    assert broken.take("k").quotas[0].reset == broken.peek("k") == 60.0


def test_what_is_left_comes_with_the_answer(client: Any) -> None:
    """A take tells what is left, in its one round trip; where the policy has decided, what that knows."""
    throttle = RedisThrottle(client, SLOW, 5)
    told = throttle.take("k", 2)
    assert told.quotas[0][:4] == ("default", 5, 5 * 3600.0, 3)
    assert 7190 < told.quotas[0].reset <= 7200
    assert throttle.quotas("k")[0][:4] == told.quotas[0][:4]
    assert throttle.take("k", 4).quotas[0].remaining == 3
    assert throttle.quotas("new") == ((("default", 5, 5 * 3600.0, 5, 0.0, 0.0)),)
    local = Throttle(1, 2, clock=ManualClock())
    policies: list[tuple[Any, Any]] = [
        ("open", ()),
        ("closed", ()),
        (local, (("default", 2, 2.0, 1, 1.0, 1.0),)),
    ]
    for down, left in policies:
        broken: Any = RedisThrottle(Nonsense(OSError()), 1, 1, down=down, clock=ManualClock())
        assert broken.take("k").quotas == left


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
    throttle.take("k")
    ours = client.get("throttle:k")
    odd = (math.nan, math.inf, -math.inf, 0.0, -1.0)
    states = [b"", b"x", b"1", b"\xff" * 8, b"9" * 24, bytes(48), b"9" * 48, ours[:-1], ours + b"x"]
    states += [struct.pack(">ddd", full, rest, math.inf) + ours[24:] for full in odd for rest in odd]
    at = client.time()[0] * 1e6
    states += [struct.pack(">dd", at, rest) + ours[16:] for rest in (math.nan, math.inf, -math.inf, -1.0)]
    another = (at + 5e6, 0.0, at, 1e7, 1e5, 1.0)  # what another limit has written is believed, if it can be
    for where in range(1, 6):
        for number in odd if where > 2 else (math.nan, math.inf, -1.0) if where == 1 else ():
            states.append(struct.pack(">dddddd", *another[:where], number, *another[where + 1 :]))
    for state in states:
        client.set("throttle:k", state, px=1000)
        assert 0.0 < throttle.take("k") <= 0.1, state
        assert 0 < client.pttl("throttle:k") <= 10_202
    client.delete("throttle:k")
    client.lpush("throttle:k", "x")
    assert throttle.take("k") == 0.0
    assert throttle.stats().failures == 1


def test_nonsense_blocks(client: Any) -> None:
    """A block that is not ours keeps nobody out for longer than ours would, and that once."""
    throttle = RedisThrottle(client, 10, 2, block=60)
    throttle.take("k")
    ours = client.get("throttle:k")
    for until in (math.nan, math.inf, 1e300, client.time()[0] * 1e6 + 1e12):
        client.set("throttle:k", ours + struct.pack(">d", until), px=1000)
        for _ in range(2):
            assert 59 < throttle.take("k") <= 60, until
        assert 59_000 < client.pttl("throttle:k") <= 130_001
    for until in (-math.inf, -1.0, 0.0, 1.0):
        client.set("throttle:k", ours + struct.pack(">d", until), px=1000)
        assert throttle.take("k") == 0.0, until
        assert client.strlen("throttle:k") == 48
    assert throttle.stats().failures == 0


class Nonsense:
    """A client of a server that answers what it likes."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def execute_command(self, *_: object) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [5, [1], [1, 2, 3, 4], [0, 0, 0], [0, 0, 1], [2**60, 1, 1], [0, 10**6 + 1, 1]]
    + [[-1, 1, 1], [0, -1, 1], [0, "1", 1], [0.5, 1, 1], [None] * 3],
)
def test_nonsense_answers_about_blocks(answer: object) -> None:
    """Where keys are blocked, an answer that cannot be is none either."""
    throttle = RedisThrottle(
        Nonsense(answer), 1, 1, block=1, down="closed", retry_every=2, clock=ManualClock()
    )
    assert throttle.take("k") == 2.0
    assert (throttle.stats().failures, throttle.stats().refused) == (1, 1)


@pytest.mark.parametrize(
    "answer",
    [None, b"OK", b"0", "", -(10**6) - 1, 1.5, float("nan"), True, 10**6 + 1, 10**400, []]
    + [RuntimeError("?"), OSError("gone"), RecursionError()],
)
def test_nonsense_answers(answer: object) -> None:
    """Whatever the server or client come up with, a take is answered, by the policy."""
    clock = ManualClock()
    throttle = RedisThrottle(Nonsense(answer), 1, 1, down="closed", retry_every=2, clock=clock)
    assert throttle.take("k") == 2.0
    assert (throttle.stats().failures, throttle.stats().fallbacks) == (1, 1)


def test_a_cluster(redis_cluster: Any) -> None:
    """A cluster's clients find the node by the one key that a question names, and may not retry either."""
    with pytest.raises(ValueError, match="retry"):
        RedisThrottle(redis_cluster.cluster(retries=1), SLOW, 5)
    with redis_cluster.cluster() as client:
        throttle = RedisThrottle(client, SLOW, 2)
        assert [throttle.take(key) > 0.0 for key in "abcaabc"] == [False] * 4 + [True, False, False]
        assert throttle.stats().failures == 0

    async def later() -> None:
        async with redis_cluster.cluster(later=True) as client:
            throttle = AsyncRedisThrottle(client, SLOW, 2, block=7200, deadline=5)
            waits = [await throttle.take(key) for key in "abcd"]
            assert [wait > 7190 for wait in waits] == [True, True, True, False]
            assert throttle.stats().failures == 0

    asyncio.run(later())


def test_threads_share_exactly(shared_redis: Any, client: Any) -> None:
    """Threads with connections of their own get the burst together, to the unit."""
    throttle = RedisThrottle(shared_redis.client(timeout=5), SLOW, 100)
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


def test_which_clients_are_passed_by(shared_redis: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a plain client's pool is used directly; any other is asked itself, and answers the same."""

    class Derived(redis.Redis):
        pass

    made_with: Any = {
        "unix_socket_path": shared_redis.socket,
        "socket_timeout": 5,
        "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
    }
    old = redis.Redis(**made_with)
    monkeypatch.setattr(old.connection_pool, "get_connection", lambda command_name, *keys, **options: None)
    others = [Derived(**made_with), redis.Redis(single_connection_client=True, **made_with)]
    for other in others:
        client.script_flush()
        assert pool_of(other) is None
        throttle = RedisThrottle(other, SLOW, 2)
        client.delete("throttle:k")
        assert [throttle.take("k") > 0.0 for _ in range(3)] == [False, False, True]
        assert throttle.stats().failures == 0
        other.close()
    assert pool_of(old) is pool_of(None) is None
    assert pool_of(client) is (client.connection_pool if redis.VERSION >= (5, 3) else None)
    with monkeypatch.context() as patch:
        patch.setattr(redis.Redis, "execute_command", Mock())
        assert pool_of(client) is None

    async def later() -> None:
        async with shared_redis.client(later=True) as plain:
            assert pool_of(plain) is (plain.connection_pool if redis.VERSION >= (5, 3) else None)
            plain.single_connection_client = True
            throttle = AsyncRedisThrottle(plain, SLOW, 2, deadline=5)
            client.delete("throttle:k")
            assert [await throttle.take("k") > 0.0 for _ in range(3)] == [False, False, True]
            assert throttle.stats().failures == 0

    asyncio.run(later())


def test_retries_of_every_client() -> None:
    """Clients that retry are refused also where the number is not public, as in redis-py 5 and valkey-py."""
    for retries in (0, 1):
        client = Mock(
            connection_pool=Mock(connection_kwargs={"retry": Mock(spec=["_retries"], _retries=retries)})
        )
        with pytest.raises(ValueError, match="retry") if retries else nullcontext():
            RedisThrottle(client, 1, 1)


def test_bad_input(shared_redis: Any, client: Any) -> None:
    """What cannot be is refused by name, a client that waits for ever or retries among it."""
    for bad in (-1, math.nan, 3e9):
        with pytest.raises(ValueError, match="block"):
            RedisThrottle(client, 1, 1, block=bad)
    for throttle_class in (RedisThrottle, AsyncRedisThrottle):
        with pytest.raises(ValueError, match="retry"):
            throttle_class(shared_redis.client(retries=1), 1, 1)
        with pytest.raises(ValueError, match="rate"):
            throttle_class(client, 0, 1)
        with pytest.raises(ValueError, match="down"):
            throttle_class(client, 1, 1, down="maybe")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="retry_every"):
            throttle_class(client, 1, 1, retry_every=0)
    with pytest.raises(ValueError, match="socket_timeout"):
        RedisThrottle(shared_redis.client(timeout=None), 1, 1)
    with pytest.raises(ValueError, match="deadline"):
        AsyncRedisThrottle(client, 1, 1, deadline=0)
    with pytest.raises(ValueError, match="70 years"):
        RedisThrottle(client, 1e-9, 1000)
    throttle = RedisThrottle(client, 1, 2)
    for cost in (0, 3, float("nan")):
        with pytest.raises(ValueError, match="cost"):
            throttle.take("k", cost)
    with pytest.raises(TypeError):
        throttle.take([])  # type: ignore[arg-type]
    assert throttle.take("k", 1.5) == 0.0
    assert throttle.stats().failures == 0
    assert repr(throttle) == "<RedisThrottle 1/s, burst 2>"
