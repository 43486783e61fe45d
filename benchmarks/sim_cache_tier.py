"""Where caches stand: beside every replica, in a tier of their own, or in a tier that is hashed by page.

All have the same memory together. ``python benchmarks/sim_cache_tier.py`` prints the table of
``docs/cache.md``; with ``--write`` it puts it there. The same seed gives the same table on any machine.
"""

from __future__ import annotations

import heapq
import random
from pathlib import Path

from measure import simulated

from replicated.balance import RandomChoice, RingHash, Strategy
from replicated.cache import Cache
from replicated.outcome import Outcome
from replicated.readiness import ReadySet
from replicated.replica import Replica
from replicated.simulate import zipf
from replicated.testing import ManualClock

PAGE = Path(__file__).parents[1] / "docs" / "cache.md"
PAGES, SKEW, TTL = 100_000, 0.99, 60.0
RATE = 4000.0  # requests a second
WORK = 0.0015  # seconds of a cache's one process for each request: a tier of 8 is busy 3/4 of the time
MISS = 0.05  # seconds on average that the origin takes
REPLICAS, TIER = 24, 8
DONE = Outcome.success()


class Layout:
    """So many caches, which share so many pages of memory, and who sends what to which."""

    def __init__(self, count: int, memory: int, strategy: Strategy) -> None:
        self.clock = ManualClock()
        self.strategy = strategy
        members = [Replica(f"cache-{number}") for number in range(count)]
        self.ready = ReadySet(members)
        self.caches = {m.id: Cache[str, bool](memory // count, ttl=TTL, clock=self.clock) for m in members}

    def run(self, requests: int, seed: int) -> list[str]:
        """Return what a row says: measured over the second half, when the caches are full."""
        rng = random.Random(seed)
        page_of = zipf(PAGES, SKEW)(rng)
        ends: list[tuple[float, int, Replica]] = []
        served = dict.fromkeys(self.caches, 0)
        free = dict.fromkeys(self.caches, 0.0)
        took: list[float] = []
        for number in range(requests):
            self.clock.advance(rng.expovariate(RATE))
            now = self.clock()
            while ends and ends[0][0] <= now:
                self.strategy.finished(heapq.heappop(ends)[2], DONE)
            page = page_of()
            assert page is not None
            member = self.strategy.pick(self.ready, page)
            assert member is not None
            self.strategy.started(member)
            cache = self.caches[member.id]
            hit = cache.get(page, False)
            if not hit:
                cache[page] = True  # at once: who asks for it meanwhile waits for the same fetch
            free[member.id] = done = max(now, free[member.id]) + WORK
            end = done if hit else done + rng.expovariate(1 / MISS)
            heapq.heappush(ends, (end, number, member))
            if number >= requests // 2:
                served[member.id] += 1
                if hit:
                    took.append(done - now)
        counted = requests - requests // 2
        held = [set(cache) for cache in self.caches.values()]
        once = len(set().union(*held)) / sum(map(len, held))
        busiest = max(served.values()) * len(served) / counted
        ratio = len(took) / counted
        slowest = sorted(took)[int(len(took) * 0.99)] * 1000
        figures = [f"{ratio:.1%}", f"{(1 - ratio) * RATE:,.0f}", f"{once:.0%}", f"{busiest:.2f}"]
        return [*figures, f"{slowest:,.0f}"]


def table(requests: int, seed: int) -> str:
    heads = ["memory, pages", "caches", "hit ratio", "origin requests/s", "distinct", "busiest / mean"]
    heads.append("hit, p99 ms")
    lines = [f"| {' | '.join(heads)} |", "|---:|---|" + "---:|" * 5]
    for memory in (2_400, 9_600, 38_400):
        layouts = {
            f"one beside each of {REPLICAS} replicas": (REPLICAS, RandomChoice(rng=random.Random(seed))),
            f"a tier of {TIER}": (TIER, RandomChoice(rng=random.Random(seed))),
            f"a tier of {TIER}, hashed": (TIER, RingHash(None)),
            f"a tier of {TIER}, hashed, bound 1.25, slack 4": (TIER, RingHash(1.25, slack=4)),
        }
        for name, (count, strategy) in layouts.items():
            row = Layout(count, memory, strategy).run(requests, seed)
            lines.append(f"| {' | '.join([f'{memory:,}', name, *row])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    simulated("sim_cache_tier.py", table, PAGE, "cache_tier", 400_000)
