"""What three ways to share a throttle over replicas admit, as the simulator shows it.

``python benchmarks/sim_throttle.py [--requests N] [--seed N]`` prints the table of ``docs/throttle.md``; with
``--write`` it puts it there. The same seed gives the same table on any machine.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable
from fractions import Fraction
from pathlib import Path
from typing import Any

from measure import simulated

from replicated.clock import Clock
from replicated.replica import Replica
from replicated.ring import HashRing
from replicated.simulate import Simulation, constant, poisson, zipf
from replicated.throttle import Throttle
from replicated.tier import Decision, Forward, Tier

PAGE = Path(__file__).parents[1] / "docs" / "throttle.md"
RATE, BURST, REPLICAS, CLIENTS = 10, 20, 4, 20
Sharing = Callable[["Replicas"], Callable[[int, Hashable], Throttle]]


class Replicas:
    """The replicas that throttle: which of them a request reaches, and which throttle decides there.

    Args:
        sharing: How they share one limit.
        sticky: The part of a client's requests that reach one and the same replica.
        leaves: When the last replica leaves, in seconds.
    """

    def __init__(self, sharing: Sharing, sticky: float = 0.0, leaves: float | None = None) -> None:
        self.names = [f"replica-{number}" for number in range(REPLICAS)]
        self.ring = HashRing(self.names)
        self.front = HashRing(self.names, vnodes=7)  # who keeps clients on a replica need not know ours
        self.sharing, self.sticky, self.leaves = sharing, sticky, leaves
        self.decider: Callable[[int, Hashable], Throttle] | None = None
        self.admitted: defaultdict[Hashable, list[Fraction]] = defaultdict(list)
        self.due: defaultdict[Hashable, int] = defaultdict(int)

    def make_tier(self, clock: Clock, rng: random.Random) -> Tier:
        """Return the tier of one replica; they come into being on the clock that all share."""
        self.clock, self.rng = clock, rng
        if self.decider is None:
            self.decider = self.sharing(self)
            self.exact = Throttle(RATE, BURST, clock=clock)
        return Throttled(self, clock)

    def throttle(self, key: str) -> Throttle:
        """Return the throttle that decides about a request, where it happens to arrive."""
        if self.leaves is not None and self.clock() >= self.leaves:
            self.leaves = None
            gone = self.names.pop()
            self.ring.remove(gone)
            self.front.remove(gone)
        name = self.front.owner(key) if self.rng.random() < self.sticky else self.rng.choice(self.names)
        assert self.decider is not None
        return self.decider(self.names.index(name), key)

    def share(self) -> float:
        """What is admitted, as a part of what exact buckets would admit of the very same requests."""
        return sum(map(len, self.admitted.values())) / sum(self.due.values())

    def excess(self) -> float:
        """How far the worst window of any client goes above rate * w + burst; one pass a client, exact."""
        worst = Fraction(0)
        for times in self.admitted.values():
            lowest = -RATE * times[0]
            for index, at in enumerate(times):
                level = index - RATE * at
                lowest = min(lowest, level)
                worst = max(worst, level - lowest + 1 - BURST)
        return float(worst)


class Throttled(Tier):
    """A tier that asks the throttle first, by the key that the simulator gives each request."""

    def __init__(self, replicas: Replicas, clock: Clock) -> None:
        super().__init__([Replica("behind")], clock=clock)
        self.side = replicas

    def decide(self, key: Any = None, **facts: Any) -> Decision:
        """Decide about one request, and keep count of both the real answer and the exact one."""
        side = self.side
        self.throttle = side.throttle(key)
        side.due[key] += side.exact.take(key) == 0.0
        decision = super().decide(key, throttle_key=key, **facts)
        if isinstance(decision, Forward):
            # As the throttle reads it: in whole nanoseconds.
            side.admitted[key].append(Fraction(round(self.now() * 10**9), 10**9))
        return decision


def each_its_share(replicas: Replicas) -> Callable[[int, Hashable], Throttle]:
    """Each has a throttle with its part of the limit."""
    rate, burst = Fraction(RATE, REPLICAS), Fraction(BURST, REPLICAS)
    throttles = [Throttle(rate, burst, clock=replicas.clock) for _ in range(REPLICAS)]
    return lambda here, key: throttles[here]


def the_owner_decides(replicas: Replicas) -> Callable[[int, Hashable], Throttle]:
    """Each has the whole limit, and a request goes to its key's owner wherever it arrives."""
    throttles = {name: Throttle(RATE, BURST, clock=replicas.clock) for name in replicas.names}
    return lambda here, key: throttles[replicas.ring.owner(str(key))]


def one_for_all(replicas: Replicas) -> Callable[[int, Hashable], Throttle]:
    """One throttle stands where all ask: on a server, by the same arithmetic."""
    throttle = Throttle(RATE, BURST, clock=replicas.clock)
    return lambda here, key: throttle


def table(requests: int, seed: int) -> str:
    """Return the table: each way to share, under each kind of arrivals."""
    within, beyond = 0.8 * RATE * CLIENTS, 2.0 * RATE * CLIENTS
    cases: dict[str, tuple[float, dict[str, float]]] = {
        "even, 0.8 x": (within, {}),
        "even, 2 x": (beyond, {}),
        "80 % to one replica, 0.8 x": (within, {"sticky": 0.8}),
        "80 % to one replica, 2 x": (beyond, {"sticky": 0.8}),
        "one of four leaves, 2 x": (beyond, {"leaves": requests / beyond / 2}),
    }
    ways = {
        "each its share": each_its_share,
        "the key's owner decides": the_owner_decides,
        "one for all": one_for_all,
    }
    lines = [f"| | {' | '.join(cases)} |", "|---|" + "---:|" * len(cases)]
    for name, sharing in ways.items():
        cells = []
        for rate, circumstances in cases.values():
            replicas = Replicas(sharing, **circumstances)
            Simulation(
                replicas.make_tier,
                arrivals=poisson(rate),
                service=constant(1e-6),
                keys=zipf(CLIENTS, 0),
                routers=REPLICAS,
                seed=seed,
            ).run(requests)
            cells.append(f"{replicas.share():.1%} / {replicas.excess():.3g}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    simulated("sim_throttle.py", table, PAGE, "sharing", 20_000)
