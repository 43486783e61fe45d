"""The cache against cachetools, cachebox, theine and functools.lru_cache, in one process.

What a hit, a write to a full store and a decorated call cost; the same under four threads; how long the
longest call is after a million entries have expired at once; and what an entry weighs beyond key and value.

Beside them stand sketches: the least Python that does a part of the same. ``get``: a dict, a clock and a
comparison, which knows nothing of recency and counts nothing. ``set``: an OrderedDict of pairs and a deque of
expiries, under a lock and without one; they keep no books of weights, tags and counts, have one ttl, and let
what was removed lie in the deque. A write five times as fast as TTLCache's was wished for: in CPython 3.11
not even these reach it.

    python benchmarks/bench_cache.py [--json FILE]
    python benchmarks/bench_cache.py --write FILE...

The second puts the figures of several runs into the page on the cache.
"""

from __future__ import annotations

import functools
import gc
import itertools
import json
import random
import sys
import threading
import time
import tracemalloc
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import cachebox
import cachetools
import theine
from measure import emit, interleaved, per_call, put, table

from replicated.cache import Cache, cached

SIZE = 10_000
CALLS = 50_000
TTL = 600
TTLCACHE = "cachetools.TTLCache"
PAGE = Path(__file__).parents[1] / "docs" / "cache.md"


class ReadSketch:
    """A dict of pairs, and a clock."""

    def __init__(self) -> None:
        self.data: dict[str, tuple[object, float]] = {}
        self.clock = time.monotonic

    def get(self, key: str) -> object:
        try:
            value, expires = self.data[key]
        except KeyError:
            return None
        return value if self.clock() < expires else None

    def __setitem__(self, key: str, value: object) -> None:
        self.data[key] = value, self.clock() + TTL


class WriteSketch:
    """An OrderedDict of pairs, a deque of expiries, one ttl, no lock: two threads at once would break it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lock = threading.RLock()
        self.data: OrderedDict[str, tuple[object, float]] = OrderedDict()
        self.line: deque[tuple[object, float]] = deque()
        self.clock = time.monotonic

    def __setitem__(self, key: str, value: object) -> None:
        data, line = self.data, self.line
        now = self.clock()
        assert not line or now < line[0][1]  # it clears nothing
        entry = value, now + TTL
        if key not in data and len(data) >= self.size:
            _, gone = data.popitem(False)
            if line[0] is gone:
                line.popleft()
        data[key] = entry
        line.append(entry)


class LockedWriteSketch(WriteSketch):
    """The same under a lock."""

    def __setitem__(self, key: str, value: object) -> None:
        with self.lock:
            data, line = self.data, self.line
            now = self.clock()
            assert not line or now < line[0][1]
            entry = value, now + TTL
            if key not in data and len(data) >= self.size:
                _, gone = data.popitem(False)
                if line[0] is gone:
                    line.popleft()
            data[key] = entry
            line.append(entry)


class Theine:
    """theine's cache with the two operations that are measured."""

    def __init__(self, size: int) -> None:
        self.cache: Any = theine.Cache(size)
        self.get = self.cache.get
        self.ttl = timedelta(seconds=TTL)

    def __setitem__(self, key: str, value: object) -> None:
        self.cache.set(key, value, self.ttl)


def stores(size: int) -> dict[str, Any]:
    return {
        "Cache, LRU + TTL": Cache(size, TTL),
        "Cache, SIEVE + TTL": Cache(size, TTL, policy="sieve"),
        "Cache, LRU": Cache(size),
        "cachetools.TTLCache": cachetools.TTLCache(size, TTL),
        "cachetools.LRUCache": cachetools.LRUCache(size),
        "cachebox.TTLCache (FIFO)": cachebox.TTLCache(size, TTL),
        "cachebox.LRUCache": cachebox.LRUCache(size),
        "theine": Theine(size),
    }


def zipf(number: int, calls: int) -> list[str]:
    weights = list(itertools.accumulate(1 / (rank + 1) ** 0.99 for rank in range(number)))
    return [f"k{n}" for n in random.Random(1).choices(range(number), cum_weights=weights, k=calls)]


def hits() -> tuple[dict[str, float], dict[str, float]]:
    asked = zipf(SIZE, CALLS)
    filled = stores(SIZE) | {"a sketch of a read": ReadSketch()}
    for store in filled.values():
        for key in asked:
            store[key] = key
    got = interleaved({name: per_call(store.get, asked) for name, store in filled.items()}, floor=TTLCACHE)
    calls = {n: per_call(s.__getitem__, asked) for n, s in filled.items() if hasattr(s, "__getitem__")}
    return got, interleaved(calls, floor=TTLCACHE)


def writes() -> dict[str, float]:
    fresh: Iterator[int] = itertools.count()

    def writer(store: Any) -> Callable[[], None]:
        def run() -> None:
            for key in keys.pop():
                store[key] = None

        return run

    filled = stores(SIZE) | {
        "a sketch of a write, with a lock": LockedWriteSketch(SIZE),
        "a sketch of a write, without": WriteSketch(SIZE),
    }
    for store in filled.values():
        for n in range(SIZE):
            store[f"old{n}"] = None
    keys = [[f"k{next(fresh)}" for _ in range(CALLS)] for _ in range(5 * len(filled))]
    return interleaved({name: writer(store) for name, store in filled.items()}, 5, floor=TTLCACHE)


def decorated() -> dict[str, float]:
    def function(key: str) -> str:
        return key

    contenders = {
        "@cached": cached(Cache(SIZE, TTL))(function),
        "@cached, no ttl": cached(Cache(SIZE))(function),
        "@cachetools.cached, TTLCache": cachetools.cached(cachetools.TTLCache(SIZE, TTL))(function),
        "@cachetools.cached, LRUCache": cachetools.cached(cachetools.LRUCache(SIZE))(function),
        "@cachetools.cached, TTLCache, lock": cachetools.cached(
            cachetools.TTLCache(SIZE, TTL), lock=threading.RLock()
        )(function),
        "@cachebox.cached, TTLCache": cachebox.cached(cachebox.TTLCache(SIZE, TTL))(function),
        "functools.lru_cache": functools.lru_cache(SIZE)(function),
    }
    asked = zipf(SIZE, CALLS)
    for contender in contenders.values():
        for key in asked:
            contender(key)
    floor = "@cachetools.cached, TTLCache"
    return interleaved({name: per_call(c, asked) for name, c in contenders.items()}, floor=floor)


def four_threads() -> dict[str, float]:
    """Nine gets and one set of a zipf key, in each of four threads."""
    asked = zipf(2 * SIZE, CALLS // 2)
    ours = Cache[str, str](SIZE, TTL)
    theirs: Any = cachetools.TTLCache(SIZE, TTL)
    lock = threading.Lock()

    def our_get(key: str) -> None:
        ours.get(key)

    def our_set(key: str) -> None:
        ours[key] = key

    def their_get(key: str) -> None:
        with lock:
            theirs.get(key)

    def their_set(key: str) -> None:
        with lock:
            theirs[key] = key

    def crowd(get: Callable[[str], None], put: Callable[[str], None]) -> Callable[[], None]:
        errors: list[BaseException] = []

        def work(part: list[str]) -> None:
            try:
                for n, key in enumerate(part):
                    (get if n % 10 else put)(key)
            except BaseException as error:
                errors.append(error)

        def run() -> None:
            threads = [threading.Thread(target=work, args=(asked[n::4],)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not errors, errors[0]

        return run

    for key in asked:
        our_set(key)
        their_set(key)
    return interleaved(
        {"Cache": crowd(our_get, our_set), "TTLCache and its lock": crowd(their_get, their_set)},
        floor="TTLCache and its lock",
    )


def storm(make: Callable[[Callable[[], float]], Any], entries: int = 1_000_000) -> dict[str, float]:
    """Return the longest write and read, in ms, before and after everything expired at one instant."""
    now = 0.0
    store = make(lambda: now)
    for key in range(entries):
        store[key] = None
    gc.collect()
    gc.disable()

    def longest(first: int, calls: int) -> float:
        worst = 0
        clock = time.thread_time_ns  # of this thread: the machine is shared
        for key in range(first, first + calls):
            start = clock()
            store[key] = None
            store.get(key)
            worst = max(worst, clock() - start)
        return worst / 1e6

    before = longest(entries, 100_000)
    now = 10_000.0
    after = longest(2 * entries, 100_000)
    start = time.thread_time_ns()
    len(store)
    counted = (time.thread_time_ns() - start) / 1e6
    gc.enable()
    return {"before": before, "after": max(after, counted)}


def weights(entries: int = 200_000) -> dict[str, float]:
    keys = list(range(10**6, 10**6 + entries))
    makers: dict[str, Callable[[], Any]] = {
        "Cache, LRU + TTL": lambda: Cache(entries, TTL),
        "Cache, SIEVE + TTL": lambda: Cache(entries, TTL, policy="sieve"),
        "Cache, LRU": lambda: Cache(entries),
        "cachetools.TTLCache": lambda: cachetools.TTLCache(entries, TTL),
        "cachetools.LRUCache": lambda: cachetools.LRUCache(entries),
    }
    weighed = {}
    for name, make in makers.items():
        gc.collect()
        tracemalloc.start()
        store = make()
        for key in keys:
            store[key] = None
        gc.collect()
        weighed[name] = tracemalloc.get_traced_memory()[0] / entries
        tracemalloc.stop()
    return weighed


def summary(runs: list[dict[str, Any]]) -> str:
    """Return what several runs say of each promise, as a table."""
    rows: list[tuple[str, str, Callable[[dict[str, Any]], float]]] = []

    def faster(what: str, table: str, ours: str, theirs: str, wished: str) -> None:
        rows.append((what, wished, lambda run: run[table][theirs] / run[table][ours]))

    faster("a hit, against `TTLCache`", "get", "Cache, LRU + TTL", TTLCACHE, "5 x as fast")
    faster("the same under SIEVE", "get", "Cache, SIEVE + TTL", TTLCACHE, "5 x as fast")
    for policy in ("LRU", "SIEVE"):
        rows.append(
            (
                f"a hit under {policy}, in hits of cachebox's `TTLCache` (Rust, no recency)",
                "at most 3",
                lambda run, name=f"Cache, {policy} + TTL": (
                    run["get"][name]  # type: ignore[misc]
                    / run["get"]["cachebox.TTLCache (FIFO)"]
                ),
            )
        )
    rows.append(
        (
            "a sketch of a hit: a dict, a clock, a comparison",
            "",
            lambda run: run["get"]["a sketch of a read"] / run["get"]["cachebox.TTLCache (FIFO)"],
        )
    )
    faster("a write when full, against `TTLCache`", "set", "Cache, LRU + TTL", TTLCACHE, "5 x as fast")
    faster("the same under SIEVE, as with tags or `on_evict`", "set", "Cache, SIEVE + TTL", TTLCACHE, "")
    faster("a sketch of a write, under a lock", "set", "a sketch of a write, with a lock", TTLCACHE, "")
    faster("a sketch of a write, without", "set", "a sketch of a write, without", TTLCACHE, "")
    plain = "@cachetools.cached, TTLCache"
    faster("`@cached`, against `@cachetools.cached`", "decorated", "@cached", plain, "1.5 x as fast")
    locked = "TTLCache and its lock"
    faster("four threads, against `TTLCache` and its lock", "threads", "Cache", locked, "4 x as fast")
    rows.append(
        (
            "a million expire: ms by which the longest call grew",
            "at most 2",
            lambda run: max(0.0, run["storm_ms"]["Cache"]["after"] - run["storm_ms"]["Cache"]["before"]),
        )
    )
    rows.append(
        (
            "bytes an entry, of those of `TTLCache`",
            "at most 1.2",
            lambda run: run["bytes"]["Cache, LRU + TTL"] / run["bytes"][TTLCACHE],
        )
    )
    lines = [f"| | wished | {' | '.join(f'run {n}' for n in range(1, len(runs) + 1))} |"]
    lines.append("|---|---|" + "---:|" * len(runs))
    for what, wished, figure in rows:
        lines.append(f"| {what} | {wished} | {' | '.join(f'{figure(run):.2f}' for run in runs)} |")
    return "\n".join(lines)


def write(files: list[str]) -> None:
    """Put the summary of several runs into the page."""
    runs = [json.loads(Path(file).read_text())["figures"] for file in files]
    text = summary(runs)
    print(text)
    put(PAGE, {"bench_cache": text})


def main() -> None:
    got, subscribed = hits()
    written = writes()
    called = decorated()
    crowded = four_threads()
    storms = {
        "Cache": storm(lambda clock: Cache(1_000_000, TTL, clock=clock)),
        "cachetools.TTLCache": storm(lambda clock: cachetools.TTLCache(1_000_000, TTL, timer=clock)),
    }
    weighed = weights()
    lines = [
        table("`get`, a hit, zipf 0.99", got, floor="cachetools.TTLCache", calls=CALLS),
        table("`cache[key]`, a hit, zipf 0.99", subscribed, floor="cachetools.TTLCache", calls=CALLS),
        table("`cache[key] = value`, full", written, floor="cachetools.TTLCache", calls=CALLS),
        table("a decorated call, a hit", called, floor="@cachetools.cached, TTLCache", calls=CALLS),
        table("four threads, 9 gets to a set", crowded, floor="TTLCache and its lock", calls=CALLS // 2),
        "### a million entries expire at once: the longest call, ms\n\n| | before | after |\n|---|---:|---:|",
        *(f"| {name} | {row['before']:.2f} | {row['after']:.2f} |" for name, row in storms.items()),
        "\n### bytes an entry beyond key and value\n\n| | bytes |\n|---|---:|",
        *(f"| {name} | {weight:.0f} |" for name, weight in weighed.items()),
    ]
    figures = {
        "get": got,
        "getitem": subscribed,
        "set": written,
        "decorated": called,
        "threads": crowded,
        "storm_ms": storms,
        "bytes": weighed,
    }
    emit("cache", "\n".join(lines), figures)


if __name__ == "__main__":
    if "--write" in sys.argv:
        write(sys.argv[sys.argv.index("--write") + 1 :])
    else:
        main()
