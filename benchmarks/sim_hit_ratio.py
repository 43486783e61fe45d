"""Hit ratios of LRU and SIEVE: zipf 0.99 over 100,000 keys, with and without scans, at 1 % and 10 % capacity.

LRU is held against a reference LRU, and must be equal to the hit.

    python benchmarks/sim_hit_ratio.py [--json FILE]
"""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict
from collections.abc import Iterable

from measure import emit

from replicated.cache import Cache

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
    quiet = plain(1)
    traffic = {"plain": quiet, "with scans": with_scans(quiet)}
    figures: dict[str, float] = {}
    lines = ["| capacity | traffic | LRU | a reference LRU | SIEVE |", "|---|---|---:|---:|---:|"]
    for share in (0.01, 0.1):
        size = int(KEYS * share)
        for name, requests in traffic.items():
            lru = ratio(Cache(size), requests)
            known = reference(size, requests)
            sieve = ratio(Cache(size, policy="sieve"), requests)
            assert lru == known, (lru, known)
            lines.append(f"| {share:.0%} | {name} | {lru:.4f} | {known:.4f} | {sieve:.4f} |")
            figures |= {f"{name} {share} lru": lru, f"{name} {share} sieve": sieve}
    emit("hit ratio", "\n".join(lines), figures)


if __name__ == "__main__":
    main()
