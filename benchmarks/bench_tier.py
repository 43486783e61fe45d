"""What a way through a tier costs, against the pick that it is made of.

Run it with ``python benchmarks/bench_tier.py [--json FILE]``. A figure is the least CPU time of its thread
that a round took, among rounds in which all contenders ran: other work on the machine only ever adds to it.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable

from measure import emit, table

from replicated import Cache, Forward, Outcome, Replica, Throttle, Tier

CALLS = 500
ROUNDS = 200
KEYS = [f"user:{i}" for i in range(CALLS)]
FINE = Outcome.success(0.001)
LIMITS = {"lease": 3.5, "decide: throttle, cache miss, pick": 6.0}

Round = Callable[[], float]


def pick(tier: Tier) -> Round:
    # The tier's own: in a strategy that never heard of a replica, looking up its count costs a frame more.
    call, ready = tier.strategy.pick, tier.readiness.ready

    def run() -> float:
        start = time.thread_time()
        for _ in KEYS:
            call(ready)
        return time.thread_time() - start

    return run


def lease(tier: Tier) -> Round:
    call = tier.lease

    def run() -> float:
        start = time.thread_time()
        for _ in KEYS:
            with call():
                pass
        return time.thread_time() - start

    return run


def there_and_back(tier: Tier) -> Round:
    decide, finish = tier.decide, tier.finish

    def run() -> float:
        start = time.thread_time()
        for key in KEYS:
            decision = decide(key)
            if type(decision) is Forward:
                finish(decision, FINE)
        return time.thread_time() - start

    return run


def decide(tier: Tier, *, keyed: bool) -> Round:
    """Only the way in is measured; the Forwards are finished behind the clock's back."""
    call, finish = tier.decide, tier.finish

    def guarded() -> list[object]:
        return [call(key, throttle_key=key, cache_key=key) for key in KEYS]

    def plain() -> list[object]:
        return [call(key) for key in KEYS]

    ask = guarded if keyed else plain

    def run() -> float:
        start = time.thread_time()
        forwards = ask()
        taken = time.thread_time() - start
        for forward in forwards:
            finish(forward, FINE)
        return taken

    return run


def main() -> None:
    replicas = [Replica(f"replica-{i}") for i in range(10)]
    tier = Tier(replicas)
    guarded = Tier(replicas, throttle=Throttle(rate=1e6, burst=1e6), cache=Cache(1000))
    contenders = {
        "pick, power of two": pick(tier),
        "lease": lease(tier),
        "decide": decide(tier, keyed=False),
        "decide and finish": there_and_back(tier),
        "decide: throttle, cache miss, pick": decide(guarded, keyed=True),
    }
    least = dict.fromkeys(contenders, float("inf"))
    order = list(contenders)
    contenders["decide and finish"]()  # counts every replica once
    gc.disable()
    for _ in range(ROUNDS):
        random.shuffle(order)
        for name in order:
            least[name] = min(least[name], contenders[name]())
        gc.collect()
    floor = "pick, power of two"
    text = table("The way through a tier of 10", least, floor=floor, calls=CALLS)
    for name, limit in LIMITS.items():
        ratio = least[name] / least[floor]
        text += f"\n{name}: {ratio:.2f} x a pick, aimed at {limit}: {'met' if ratio <= limit else 'missed'}"
    emit("tier", text, {"seconds": least, "calls": CALLS, "limits": LIMITS})


if __name__ == "__main__":
    main()
