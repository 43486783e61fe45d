"""What a way through a tier costs against the pick in it, and what picks cost against what they are made of.

Run it with ``python benchmarks/bench_tier.py [--json FILE]``. A figure is the least CPU time of its thread
that a round took, among rounds in which all contenders ran: other work on the machine only ever adds to it.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable

from measure import emit, table

from replicated import (
    Cache,
    Forward,
    HashRing,
    Outcome,
    PowerOfTwo,
    ProbePolicy,
    ReadinessTracker,
    ReadySet,
    Replica,
    RingHash,
    RoundRobin,
    Strategy,
    Throttle,
    Tier,
)

CALLS = 500
ROUNDS = 200
KEYS = [f"user:{i}" for i in range(CALLS)]
FINE = Outcome.success(0.001)
PICK = "pick, power of two of 10"
LIMITS = {
    (PICK, "rng.random()"): 14.0,
    ("pick, power of two of 1,000", PICK): 1.2,
    ("round robin", "an attribute increment by a method"): 8.0,
    ("ring hash", "ring.owner"): 2.0,
    ("lease", PICK): 3.5,
    ("decide: throttle, cache miss, pick", PICK): 6.0,
    ("flip, and a pick by ring hash", "tuple of 1,000"): 20.0,
}

Round = Callable[[], float]


def repeat(call: Callable[..., object], *arguments: object) -> Round:
    def none() -> float:
        start = time.thread_time()
        for _ in KEYS:
            call()
        return time.thread_time() - start

    def one() -> float:
        (argument,) = arguments
        start = time.thread_time()
        for _ in KEYS:
            call(argument)
        return time.thread_time() - start

    return one if arguments else none


def keyed(call: Callable[[str], object]) -> Round:
    def run() -> float:
        start = time.thread_time()
        for key in KEYS:
            call(key)
        return time.thread_time() - start

    return run


def heard_of(strategy: Strategy, count: int) -> ReadySet:
    """A replica that was never heard of takes a moment longer to look up: all have been heard of here."""
    ready = ReadySet([Replica(f"replica-{i}") for i in range(count)])
    for replica in ready:
        strategy.started(replica)
        strategy.finished(replica, FINE)
    return ready


def pick(strategy: Strategy, count: int) -> Round:
    return repeat(strategy.pick, heard_of(strategy, count))


def by_key(strategy: Strategy, count: int) -> Round:
    call, ready = strategy.pick, heard_of(strategy, count)

    def run() -> float:
        start = time.thread_time()
        for key in KEYS:
            call(ready, key)
        return time.thread_time() - start

    return run


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def increment(self) -> None:
        self.count += 1


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


def flips(count: int = 1000) -> tuple[Round, Round]:
    """One replica of many changes its readiness under a ring of 160 points each; and a tuple of as many."""
    replicas = [Replica(f"replica-{i}") for i in range(count)]
    tracker = ReadinessTracker(ProbePolicy(failure_threshold=1), replicas=replicas)
    for replica in replicas:
        tracker.observe(replica, True)
    strategy = RingHash()
    strategy.pick(tracker.ready, "key")
    state = [True]

    def flip() -> float:
        start = time.thread_time()
        for _ in range(10):
            state[0] = not state[0]
            tracker.observe("replica-500", state[0])
            strategy.pick(tracker.ready, "key")
        return (time.thread_time() - start) * CALLS / 10

    def build() -> float:
        start = time.thread_time()
        for _ in range(10):
            tuple(replica for replica in replicas)
        return (time.thread_time() - start) * CALLS / 10

    return flip, build


def measured(contenders: dict[str, Round]) -> dict[str, float]:
    """Return the least seconds that each takes."""
    least = dict.fromkeys(contenders, float("inf"))
    order = list(contenders)
    gc.disable()
    for _ in range(ROUNDS):
        random.shuffle(order)
        for name in order:
            least[name] = min(least[name], contenders[name]())
        gc.collect()
    gc.enable()
    return least


def main() -> None:
    replicas = [Replica(f"replica-{i}") for i in range(10)]
    tier = Tier(replicas)
    guarded = Tier(replicas, throttle=Throttle(rate=1e6, burst=1e6), cache=Cache(1000))
    contenders = {
        "rng.random()": repeat(random.Random(1).random),
        "an attribute increment by a method": repeat(Counter().increment),
        "round robin": pick(RoundRobin(), 10),
        PICK: pick(PowerOfTwo(), 10),
        "pick, power of two of 1,000": pick(PowerOfTwo(), 1000),
        "ring.owner": keyed(HashRing([replica.id for replica in replicas]).owner),
        "ring hash": by_key(RingHash(), 10),
        "lease": lease(tier),
        "decide": decide(tier, keyed=False),
        "decide and finish": there_and_back(tier),
        "decide: throttle, cache miss, pick": decide(guarded, keyed=True),
    }
    contenders["decide and finish"]()  # counts every replica once
    # Flips by themselves: what they touch would push the others' data out of the processor's caches.
    flip, build = flips()
    least = measured(contenders) | measured({"flip, and a pick by ring hash": flip, "tuple of 1,000": build})
    text = table("The way through a tier of 10, and what it is made of", least, floor=PICK, calls=CALLS)
    for (name, floor), limit in LIMITS.items():
        ratio = least[name] / least[floor]
        verdict = "met" if ratio <= limit else "missed"
        text += f"\n{name}: {ratio:.2f} x {floor}, aimed at {limit:g}: {verdict}"
    limits = {f"{name} / {floor}": limit for (name, floor), limit in LIMITS.items()}
    emit("tier", text, {"seconds": least, "calls": CALLS, "limits": limits})


if __name__ == "__main__":
    main()
