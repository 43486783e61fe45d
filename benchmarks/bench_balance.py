"""What a choice costs: picks, leases and flips against the bare operations that they are made of.

Run it with ``python benchmarks/bench_balance.py [--json FILE]``. A figure is a median over rounds in which
all contenders ran; on a shared machine only the ratios mean anything.
"""

from __future__ import annotations

import random

from measure import emit, interleaved, table

from replicated.balance import LeastLoaded, PeakEwma, PowerOfTwo, RandomChoice, RingHash, RoundRobin
from replicated.outcome import Outcome
from replicated.readiness import ProbePolicy, ReadinessTracker, ReadySet
from replicated.replica import Replica
from replicated.ring import HashRing
from replicated.throttle import Throttle
from replicated.tier import Forward, Tier

CALLS = 400  # short runs: on a busy machine most then pass between two switches of the scheduler
ROUNDS = 101
KEYS = [f"user:{i}" for i in range(CALLS)]


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def increment(self) -> None:
        self.count += 1


def repeat(call, *arguments):
    """Return a contender that makes the same call over and over."""

    def none() -> None:
        for _ in range(CALLS):
            call()

    def one() -> None:
        (argument,) = arguments
        for _ in range(CALLS):
            call(argument)

    return one if arguments else none


def keyed(call, *first):
    """Return a contender that makes one call a key."""

    def run() -> None:
        for key in KEYS:
            call(*first, key)

    return run


def pick_by_key(strategy, ready):
    pick = strategy.pick

    def run() -> None:
        for key in KEYS:
            pick(ready, key)

    return run


def picks(count: int) -> dict[str, object]:
    ready = ReadySet([Replica(f"replica-{i}") for i in range(count)])
    uneven = ReadySet([Replica(f"replica-{i}", weight=1.0 + i % 3) for i in range(count)])
    ring = HashRing([replica.id for replica in ready])
    rng = random.Random(1)
    contenders = {
        "rng.random()": repeat(rng.random),
        "attribute increment": repeat(Counter().increment),
        "round robin": repeat(RoundRobin().pick, ready),
        "random": repeat(RandomChoice(rng=rng).pick, ready),
        "power of two": repeat(PowerOfTwo(rng=rng).pick, ready),
        "power of two, peak-EWMA": repeat(PowerOfTwo(PeakEwma(), rng=rng).pick, ready),
        "power of two, weighted": repeat(PowerOfTwo(rng=rng).pick, uneven),
        "ring.owner": keyed(ring.owner),
        "ring hash": pick_by_key(RingHash(), ready),
    }
    if count <= 10:
        contenders["least loaded"] = repeat(LeastLoaded(rng=rng).pick, ready)
        contenders["round robin, weighted"] = repeat(RoundRobin().pick, uneven)
    return contenders


def ways(count: int = 10) -> dict[str, object]:
    replicas = [Replica(f"replica-{i}") for i in range(count)]
    tier = Tier(replicas)
    guarded = Tier(replicas, throttle=Throttle(rate=1e9, burst=1e9))
    ready, strategy = tier.readiness.ready, PowerOfTwo()
    fine = Outcome.success(0.001)

    def decide() -> None:
        for _ in range(CALLS):
            decision = tier.decide()
            if isinstance(decision, Forward):
                tier.finish(decision, fine)

    def throttled() -> None:
        for key in KEYS:
            decision = guarded.decide(throttle_key=key)
            if isinstance(decision, Forward):
                guarded.finish(decision, fine)

    def lease() -> None:
        for _ in range(CALLS):
            with tier.lease():
                pass

    return {
        "power of two": repeat(strategy.pick, ready),
        "decide and finish": decide,
        "decide with a throttle, and finish": throttled,
        "lease": lease,
    }


def flips(count: int = 1000) -> tuple[dict[str, object], list[int]]:
    built = []

    def make_table(weights):
        built.append(len(weights))
        return HashRing(weights)

    replicas = [Replica(f"replica-{i}") for i in range(count)]
    tracker = ReadinessTracker(ProbePolicy(failure_threshold=1), replicas=replicas)
    for replica in replicas:
        tracker.observe(replica, True)
    strategy = RingHash(make_table=make_table)
    strategy.pick(tracker.ready, "key")
    built.clear()
    state = [True]

    def flip() -> None:
        for _ in range(20):
            state[0] = not state[0]
            tracker.observe("replica-500", state[0])

    def flip_and_pick() -> None:
        for _ in range(20):
            state[0] = not state[0]
            tracker.observe("replica-500", state[0])
            strategy.pick(tracker.ready, "key")

    def build() -> None:
        for _ in range(20):
            tuple([replica for replica in replicas])  # noqa: C416 - building it is what is measured

    def by_generator() -> None:
        for _ in range(20):
            tuple(replica for replica in replicas)

    return {
        "tuple of 1,000, from a comprehension": build,
        "tuple of 1,000, from a generator": by_generator,
        "flip": flip,
        "flip, and a pick by ring hash": flip_and_pick,
    }, built


def main() -> None:
    texts, figures = [], {}
    for count in (10, 1000):
        seconds = interleaved(picks(count), rounds=ROUNDS)
        figures[f"picks of {count}"] = seconds
        texts.append(table(f"A pick of {count:,} ready replicas", seconds, floor="rng.random()", calls=CALLS))
    seconds = figures["ways"] = interleaved(ways(), rounds=ROUNDS)
    texts.append(table("The way through a tier of 10", seconds, floor="power of two", calls=CALLS))
    contenders, built = flips()
    seconds = figures["flips"] = interleaved(contenders, rounds=ROUNDS)
    floor = "tuple of 1,000, from a generator"
    texts.append(
        table("One replica of 1,000 changes its readiness", seconds, floor=floor, calls=20, unit="us")
    )
    texts.append(f"Rings built during {ROUNDS * 40} flips: {len(built)}\n")
    emit("balance", "\n".join(texts), figures)


if __name__ == "__main__":
    main()
