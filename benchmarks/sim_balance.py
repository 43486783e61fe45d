"""What the strategies do to latency, load and affinity, as the simulator shows it.

``python benchmarks/sim_balance.py [--requests N] [--seed N]`` prints the tables of ``docs/balancing.md``;
with ``--write`` it puts them there. The same seed gives the same tables on any machine.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

from measure import put

from replicated.balance import LeastLoaded, PeakEwma, PowerOfTwo, RandomChoice, RingHash, RoundRobin, Strategy
from replicated.clock import Clock
from replicated.readiness import ReadinessTracker, SlowStart
from replicated.replica import Replica
from replicated.simulate import (
    Behaviour,
    MakeTier,
    Report,
    Restart,
    Simulation,
    exponential,
    lognormal,
    poisson,
    zipf,
)
from replicated.tier import Tier

PAGE = Path(__file__).parents[1] / "docs" / "balancing.md"
MakeStrategy = Callable[[Clock, random.Random], Strategy]

STRATEGIES: dict[str, MakeStrategy] = {
    "round robin": lambda clock, rng: RoundRobin(),
    "random": lambda clock, rng: RandomChoice(rng=rng),
    "power of two": lambda clock, rng: PowerOfTwo(rng=rng),
    "least loaded": lambda clock, rng: LeastLoaded(rng=rng),
    "power of two, peak-EWMA": lambda clock, rng: PowerOfTwo(PeakEwma(clock=clock), rng=rng),
}


def tiers(count: int, strategy: MakeStrategy, slow_start: SlowStart | None = None) -> MakeTier:
    """Return what builds a router's tier of ``count`` replicas."""

    def make(clock: Clock, rng: random.Random) -> Tier:
        readiness = ReadinessTracker(slow_start=slow_start, clock=clock, rng=rng)
        replicas = [Replica(f"r{i}") for i in range(count)]
        return Tier(replicas, strategy=strategy(clock, rng), readiness=readiness, clock=clock)

    return make


def ms(*seconds: float) -> list[str]:
    """Return seconds as milliseconds to read."""
    return [f"{second * 1000:,.0f}" for second in seconds]


def rows(title: str, heads: list[str], lines: list[list[str]]) -> str:
    """Return a Markdown table."""
    head = [f"| {' | '.join([title, *heads])} |", "|---|" + "---:|" * len(heads)]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines), ""])


def one_slow(requests: int, seed: int) -> str:
    """One of ten replicas is ten times slower."""

    def run(count: int, strategy: MakeStrategy, special: dict[str, Behaviour]) -> Report:
        simulation = Simulation(
            tiers(count, strategy),
            arrivals=poisson(500),
            service=lognormal(0.01, 0.5),
            special=special,
            seed=seed,
        )
        return simulation.run(requests)

    slow = {"r0": Behaviour(slow=10.0)}
    found = {name: run(10, strategy, slow) for name, strategy in STRATEGIES.items()}
    found["peak-EWMA, the slow one removed"] = run(9, STRATEGIES["power of two, peak-EWMA"], {})
    lines = [
        [
            name,
            *ms(report.mean, report.p50, report.p99, report.p999),
            f"{report.served['r0'] / report.requests:.1%}",
        ]
        for name, report in found.items()
    ]
    lines[-1][-1] = ""
    return rows("strategy", ["mean ms", "p50", "p99", "p99.9", "to the slow one"], lines)


def bounds(requests: int, seed: int) -> str:
    """A few keys are asked for far more than others, and a replica that does not know a key works longer."""
    lines = []
    cases: dict[str, MakeStrategy] = {"strict": lambda clock, rng: RingHash(None)}
    for bound in (2.0, 1.5, 1.25):
        cases[f"bound {bound}"] = lambda clock, rng, bound=bound: RingHash(bound)  # type: ignore[misc]
    cases["bound 1.25, slack 4"] = lambda clock, rng: RingHash(1.25, slack=4)
    cases["power of two"] = lambda clock, rng: PowerOfTwo(rng=rng)
    for name, strategy in cases.items():
        report = Simulation(
            tiers(20, strategy),
            arrivals=poisson(1600),
            service=exponential(0.08),
            keys=zipf(20_000, 1.1),
            behaviour=Behaviour(workers=16, memory=1500, miss=0.1),
            seed=seed,
        ).run(requests)
        lines.append([name, *ms(report.p50, report.p99), f"{report.peak_to_mean:.2f}", str(report.peak_held),
                      f"{report.affinity:.1%}"])  # fmt: skip
    return rows("ring hash", ["p50 ms", "p99", "peak/mean load", "most held", "affinity"], lines)


def warming(requests: int, seed: int) -> str:
    """One of four replicas restarts, and is five times slower at first."""
    lines = []
    cases = {"none": None, "10 s": SlowStart(10), "30 s": SlowStart(30), "60 s": SlowStart(60)}
    for name, slow_start in cases.items():
        report = Simulation(
            tiers(4, STRATEGIES["round robin"], slow_start),
            arrivals=poisson(200),
            service=exponential(0.01),
            behaviour=Behaviour(cold=5.0, warm_after=300),
            incidents=[Restart("r0", 0.55 * requests / 200, 2.0, grace=2.0)],
            seed=seed,
        ).run(requests, warm_up=0.5)
        lines.append([name, *ms(report.mean, report.p99, report.p999), str(report.peak_held)])
    return rows("slow start", ["mean ms", "p99", "p99.9", "most held"], lines)


def routers(requests: int, seed: int) -> str:
    """The same traffic through more routers, none of which sees what the others send."""
    lines = []
    for count in (1, 10, 100):
        found = [
            Simulation(
                tiers(50, strategy),
                arrivals=poisson(4000),
                service=exponential(0.01),
                keys=zipf(20_000, 0.5),
                routers=count,
                seed=seed,
            ).run(requests)
            for strategy in (
                STRATEGIES["power of two"],
                STRATEGIES["least loaded"],
                lambda clock, rng: RingHash(None),
                lambda clock, rng: RingHash(1.25, slack=4),
            )
        ]
        two, least, strict, bounded = found
        figures = [
            *ms(two.p99, least.p99),
            f"{strict.affinity:.1%}",
            f"{bounded.affinity:.1%}",
            *ms(bounded.p99),
        ]
        lines.append([str(count), *figures])
    heads = [
        "power of two p99 ms",
        "least loaded p99",
        "strict ring, affinity",
        "bound 1.25, affinity",
        "p99",
    ]
    return rows("routers", heads, lines)


def scale(requests: int, seed: int) -> str:
    """A thousand replicas, and what it costs to simulate them."""
    began = time.process_time()
    report = Simulation(
        tiers(1000, STRATEGIES["power of two"]),
        arrivals=poisson(80_000),
        service=exponential(0.01),
        seed=seed,
    ).run(requests)
    took = time.process_time() - began
    theory = sum(0.01 * 0.8 ** (2**i - 2) for i in range(1, 12))
    found = f"mean {report.mean * 1000:.2f} ± {report.error * 1000:.2f} ms, in theory {theory * 1000:.2f}"
    return f"{requests:,} requests over 1,000 replicas took {took:.1f} s of processor time; {found}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--scale", type=int, default=0, help="also simulate so many requests over 1,000 replicas"
    )
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    options = parser.parse_args()
    tables = {}
    for experiment in (one_slow, bounds, warming, routers):
        table = experiment(options.requests, options.seed)
        note = f"`sim_balance.py --requests {options.requests} --seed {options.seed}`"
        print(f"## {experiment.__name__}\n\n{table}\n{note}\n")
        tables[experiment.__name__] = f"{table}\n{note}"
    if options.write:
        put(PAGE, tables)
    if options.scale:
        print(scale(options.scale, options.seed))


if __name__ == "__main__":
    main()
