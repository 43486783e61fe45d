"""Hit ratios of LRU and SIEVE: zipf 0.99 over 100,000 keys, with and without scans, at 1 % and 10 % capacity.

LRU is held against a reference LRU, and must be equal to the hit.

    python benchmarks/sim_hit_ratio.py [--json FILE] [--write]

With ``--write`` the table is put into the page on the cache. The same seed gives the same on any machine.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from measure import emit, put

from replicated.cache import Cache

PAGE = Path(__file__).parents[1] / "docs" / "cache.md"
KEYS = 100_000
REQUESTS = 1_000_000


def plain(seed: int) -> list[int]:
    weights = list(itertools.accumulate(1 / (rank + 1) ** 0.99 for rank in range(KEYS)))
    return random.Random(seed).choices(range(KEYS), cum_weights=weights, k=REQUESTS)


def with_scans(requests: list[int]) -> list[int]:
    """Every 10,000 requests someone reads 2,500 keys that nobody asks for again: a fifth of the traffic."""
    fresh = itertools.count(KEYS)
    mixed: list[int] = []
    for start in range(0, REQUESTS, 10_000):
        mixed += requests[start : start + 10_000]
        mixed += itertools.islice(fresh, 2_500)
    return mixed


def ratio(cache: Cache[int, bool], requests: Iterable[int]) -> float:
    for key in requests:
        if cache.get(key) is None:
            cache[key] = True
    return cache.stats().hit_ratio


def reference(size: int, requests: list[int]) -> float:
    order: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in requests:
        if key in order:
            order.move_to_end(key)
            hits += 1
        else:
            order[key] = None
            if len(order) > size:
                order.popitem(last=False)
    return hits / len(requests)


def main() -> None:
    seeds = range(1, 4)
    figures: dict[str, list[float]] = {}
    for seed in seeds:
        quiet = plain(seed)
        traffic = {"plain": quiet, "with scans": with_scans(quiet)}
        for share in (0.01, 0.1):
            size = int(KEYS * share)
            for name, requests in traffic.items():
                lru = ratio(Cache(size), requests)
                known = reference(size, requests)
                assert lru == known, (lru, known)
                sieve = ratio(Cache(size, policy="sieve"), requests)
                figures.setdefault(f"{share:.0%} | {name} | LRU", []).append(lru)
                figures.setdefault(f"{share:.0%} | {name} | SIEVE", []).append(sieve)
    heads = " | ".join(f"seed {seed}" for seed in seeds)
    lines = [f"| capacity | traffic | policy | {heads} |", "|---|---|---|" + "---:|" * len(seeds)]
    lines += [f"| {name} | {' | '.join(f'{r:.3f}' for r in ratios)} |" for name, ratios in figures.items()]
    text = "\n".join(lines)
    emit("hit ratio", text, figures)
    if "--write" in sys.argv:
        put(PAGE, {"hit_ratio": text})


if __name__ == "__main__":
    main()
