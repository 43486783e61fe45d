"""The throttle against token-bucket, limits, aiolimiter, throttled-py and pyrate-limiter.

What a take costs, what a key costs, how long the longest call is while a million idle keys are swept, and how
exact everybody is in virtual time: by how much the worst window exceeds rate * w + burst, and what share is
delivered of what an exact bucket would have let through on the same arrivals.

    python benchmarks/bench_throttle.py [--json FILE] [--write]

With ``--write`` the tables are put into the page on the throttle.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from unittest import mock

import limits
import token_bucket
from aiolimiter import AsyncLimiter
from measure import by_itself, emit, interleaved, put, table
from pyrate_limiter import AbstractClock, InMemoryBucket, Limiter, Rate, SingleBucketFactory
from throttled import RateLimiterType, Throttled, rate_limiter, store

from replicated.throttle import Number, Throttle, TokenBucket

Admit = Callable[[str], bool]
PAGE = Path(__file__).parents[1] / "docs" / "throttle.md"
VAST = 10**9
CALLS = 2000  # enough to warm the caches, few enough to be seldom interrupted


def ours(rate: Number, burst: int) -> Admit:
    take = Throttle(rate, burst, max_keys=2_000_000).take
    return lambda key: take(key) == 0.0


def by_token_bucket(rate: int, burst: int) -> Admit:
    return token_bucket.Limiter(rate, burst, token_bucket.MemoryStorage()).consume


def by_limits(strategy: type[limits.strategies.RateLimiter]) -> Callable[[int, int], Admit]:
    def make(rate: int, burst: int) -> Admit:
        limiter, item = strategy(limits.storage.MemoryStorage()), limits.RateLimitItemPerSecond(rate)
        return lambda key: limiter.hit(item, key)

    return make


def by_throttled(kind: RateLimiterType) -> Callable[[int, int], Admit]:
    def make(rate: int, burst: int) -> Admit:
        kept = store.MemoryStore(options={"MAX_SIZE": 2_000_000})  # by default it forgets all but 1,024 keys
        limiter = Throttled(using=kind.value, quota=rate_limiter.per_sec(rate, burst=burst), store=kept)
        return lambda key: not limiter.limit(key).limited

    return make


def by_aiolimiter(rate: int, burst: int) -> Admit:
    """One a key; it is asked for room and then acquires without a wait, so no loop needs to run."""
    loop = mock.Mock(time=lambda: time.monotonic(), is_closed=lambda: False)
    limiters: dict[str, AsyncLimiter] = {}

    def admit(key: str) -> bool:
        limiter = limiters.get(key)
        if limiter is None:
            limiter = limiters[key] = AsyncLimiter(burst, burst / rate)
            limiter._event_loop = loop
        if not limiter.has_capacity():
            return False
        try:
            limiter.acquire().send(None)
        except StopIteration:
            return True
        raise AssertionError("it waited although it had room")

    return admit


class PatchedClock(AbstractClock):
    """Reads whatever ``time.monotonic`` is, which the accuracy runs replace."""

    def now(self) -> int:
        return int(time.monotonic() * 1000)


def by_pyrate(rate: int, burst: int) -> Admit:
    bucket = InMemoryBucket([Rate(burst, max(1, burst * 1000 // rate))])
    bucket._clock = PatchedClock()
    limiter = Limiter(SingleBucketFactory(bucket, schedule_leak=False))
    count = 0

    def admit(key: str) -> bool:
        nonlocal count
        count += 1
        if count % 100 == 0:
            bucket.leak(bucket.now())  # its background thread does this
        return bool(limiter.try_acquire(key, blocking=False))

    return admit


MAKERS: dict[str, Callable[[int, int], Admit]] = {
    "replicated Throttle": ours,
    "token-bucket": by_token_bucket,
    "aiolimiter": by_aiolimiter,
    "limits, fixed window": by_limits(limits.strategies.FixedWindowRateLimiter),
    "limits, moving window": by_limits(limits.strategies.MovingWindowRateLimiter),
    "throttled-py, gcra": by_throttled(RateLimiterType.GCRA),
    "throttled-py, token bucket": by_throttled(RateLimiterType.TOKEN_BUCKET),
    "pyrate-limiter": by_pyrate,
}


def aiolimiter_on_a_loop() -> Callable[[], None]:
    """Its acquire as its users call it, awaited on a running loop."""
    loop = asyncio.new_event_loop()
    limiter = AsyncLimiter(VAST, 1)

    async def acquire() -> None:
        for _ in range(CALLS):
            await limiter.acquire()

    return lambda: loop.run_until_complete(acquire())


def speed(count: int) -> dict[str, float]:
    """Seconds for ``CALLS`` admitted takes of ``count`` keys in turn; the calls are the libraries' own."""
    chunks = [
        [f"client-{(start + step) % count}" for step in range(CALLS)] for start in range(0, count, CALLS)
    ]

    def each(call: Callable[[str], object]) -> Callable[[], None]:
        for chunk in chunks:
            for key in chunk:
                call(key)
        turns = itertools.cycle(chunks)

        def run() -> None:
            for key in next(turns):
                call(key)

        return by_itself(run)

    kinds = {"gcra": RateLimiterType.GCRA, "token bucket": RateLimiterType.TOKEN_BUCKET}
    windows = {
        "fixed": limits.strategies.FixedWindowRateLimiter,
        "moving": limits.strategies.MovingWindowRateLimiter,
    }
    quota = rate_limiter.per_sec(VAST, burst=VAST)
    item = limits.RateLimitItemPerSecond(VAST)
    contenders: dict[str, Callable[[], object]] = {
        "time.monotonic": per_loop(time.monotonic),
        "replicated Throttle.take": each(Throttle(1000, VAST).take),
        "token-bucket": each(by_token_bucket(VAST, VAST)),
    }
    for name, kind in kinds.items():
        kept = store.MemoryStore(options={"MAX_SIZE": 2_000_000})
        limiter = Throttled(using=kind.value, quota=quota, store=kept)
        contenders[f"throttled-py, {name}"] = each(limiter.limit)
    for name, strategy in windows.items():
        hit = strategy(limits.storage.MemoryStorage()).hit
        contenders[f"limits, {name} window"] = each(lambda key, hit=hit: hit(item, key))
    if count == 1:
        contenders["replicated TokenBucket.take"] = per_loop(TokenBucket(1000, VAST).take)
        contenders["aiolimiter"] = aiolimiter_on_a_loop()
        contenders["pyrate-limiter"] = each(by_pyrate(10**6, 10**6))
    return interleaved(contenders, rounds=31, floor="replicated Throttle.take")


def per_loop(call: Callable[[], object]) -> Callable[[], None]:
    """A contender that makes ``CALLS`` calls without an argument."""

    def run() -> None:
        for _ in range(CALLS):
            call()

    return by_itself(run)


def bytes_a_key(make: Callable[[int, int], Admit], count: int) -> float:
    keys = [f"client-{index}" for index in range(count)]
    tracemalloc.start()
    admit = make(1, 100)
    admit("client")
    admit("client")
    before = tracemalloc.get_traced_memory()[0]
    for key in keys:
        admit(key)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / count


def swept(count: int) -> dict[str, list[float]]:
    """Seconds of each call while ``count`` idle keys are swept by new ones, and of an empty function."""
    now = 0.0
    throttle = Throttle(10, 10, max_keys=2 * count, clock=lambda: now)
    for index in range(count):
        throttle.take(index)
    now = 100.0
    taken: dict[str, list[float]] = {}
    for name, call in {"empty function": lambda key: 0.0, "take of a new key": throttle.take}.items():
        taken[name] = []
        for index in range(count, count + count // 4 + 1000):
            start = time.thread_time()
            call(index)
            taken[name].append(time.thread_time() - start)
    assert len(throttle) <= count // 4 + 1000, "the sweep is behind"
    return taken


def sweep(count: int, runs: int = 4) -> dict[str, float]:
    """The longest calls of a sweep, in seconds of this thread's own processor time.

    Each call is the shortest of ``runs`` that did the very same: what the call itself does is done each time,
    what the machine does meanwhile is not.
    """
    shortest = swept(count)
    for _ in range(runs - 1):
        shortest = {name: list(map(min, shortest[name], taken)) for name, taken in swept(count).items()}
    return {f"{name}, longest": max(taken) for name, taken in shortest.items()}


RATE, BURST = 10, 10


def arrivals() -> Iterator[tuple[str, list[int]]]:
    """The patterns: times in nanoseconds, from a thousand seconds on as clocks do not start at nought."""
    start, rng = 1000 * 10**9, random.Random(7)
    yield "saturating", [start + step * 1_000_000 for step in range(60_000)]
    bursts = []  # one opens a window of a second, twenty come just before its end and twenty just after it
    for begin in range(start, start + 120 * 10**9, 4 * 10**9):
        bursts.append(begin)
        bursts += [begin + 980_000_000 + step * 1000 for step in range(20)]
        bursts += [begin + 1_020_000_000 + step * 1000 for step in range(20)]
    yield "bursts at the boundary", bursts
    for load in (0.8, 5):
        times, at = [], start
        for _ in range(int(200 * RATE * load)):
            at += round(rng.expovariate(RATE * load) * 10**9)
            times.append(at)
        yield f"Poisson at {load} x", times


@contextmanager
def clock_at(box: list[int]) -> Iterator[None]:
    def read() -> float:
        return box[0] / 10**9

    with mock.patch("time.time", read), mock.patch("time.monotonic", read):
        yield


def run(admit: Admit, box: list[int], times: list[int]) -> list[int]:
    admitted = []
    for at in times:
        box[0] = at
        if admit("client"):
            admitted.append(at)
    return admitted


def excess(admitted: list[int]) -> float:
    """How far the worst window goes above rate * w + burst; one pass, exact in units of a billionth."""
    worst = lowest = None
    for index, at in enumerate(admitted):
        level = index * 10**9 - RATE * at
        lowest = level if lowest is None else min(lowest, level)
        worst = level - lowest if worst is None else max(worst, level - lowest)
    return max(0, (worst or 0) + 10**9 - BURST * 10**9) / 10**9


def exact(times: list[int]) -> int:
    """How many an exact bucket admits, in integers of a billionth of a unit."""
    tokens, last, admitted = BURST * 10**9, times[0], 0
    for at in times:
        tokens, last = min(BURST * 10**9, tokens + (at - last) * RATE), at
        if tokens >= 10**9:
            tokens -= 10**9
            admitted += 1
    return admitted


def accuracy() -> tuple[str, dict[str, dict[str, tuple[float, float]]]]:
    makers = dict(MAKERS)
    figures: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in makers}
    patterns = list(arrivals())
    for pattern, times in patterns:
        reference = exact(times)
        for name, make in makers.items():
            box = [times[0]]
            with clock_at(box):
                if make is ours:
                    take = Throttle(RATE, BURST, clock=lambda box=box: box[0] / 10**9).take
                    admitted = run(lambda key, take=take: take(key) == 0.0, box, times)
                else:
                    admitted = run(make(RATE, BURST), box, times)
            figures[name][pattern] = (excess(admitted), len(admitted) / reference)
    rows = [
        "| | " + " | ".join(pattern for pattern, _ in patterns) + " |",
        "|---" + "|---:" * len(patterns) + "|",
    ]
    for name, row in figures.items():
        cells = [f"{above:.3g} / {share:.2%}" for above, share in row.values()]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    title = f"### At {RATE}/s, burst {BURST}: worst window above rate * w + burst / share of an exact bucket"
    return "\n".join([title, "", *rows, ""]), figures


def main() -> None:
    one = speed(1)
    many = speed(10_000)
    memory = {name: bytes_a_key(make, 20_000) for name, make in MAKERS.items() if name != "pyrate-limiter"}
    memory["replicated Throttle, 1,000,000 keys"] = bytes_a_key(
        lambda *_: ours(Fraction(1, 3600), 10), 1_000_000
    )
    swept = sweep(1_000_000)
    exactness, exact_to = accuracy()
    lines = ["### Bytes a key beyond the key (20,000 keys)", "", "| | bytes |", "|---|---:|"]
    lines += [f"| {name} | {size:,.0f} |" for name, size in sorted(memory.items(), key=lambda item: item[1])]
    lines += ["", "### Longest call while a million idle keys are swept", "", "| | us |", "|---|---:|"]
    lines += [f"| {name} | {seconds * 1e6:,.1f} |" for name, seconds in swept.items()]
    tables = [
        table("One key, admitted", one, floor="replicated Throttle.take", calls=CALLS),
        table("10,000 keys in turn, admitted", many, floor="replicated Throttle.take", calls=CALLS),
    ]
    figures = {
        "one key": one,
        "10,000 keys": many,
        "bytes a key": memory,
        "sweep": swept,
        "accuracy": exact_to,
    }
    emit("throttle", "\n".join([*tables, *lines, "", exactness]), figures, sys.argv[1:])
    if "--write" in sys.argv[1:]:
        put(PAGE, {"speed": "\n".join(tables), "memory": "\n".join(lines), "accuracy": exactness})


if __name__ == "__main__":
    main()
