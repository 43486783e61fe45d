"""What comes at a simulated tier: when requests arrive, which keys they carry, how long they take.

Recipes, drawn from a generator of random numbers that the simulation owns, so that a seed repeats a run. They
know nothing of replicas.
"""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TypeAlias

__all__ = [
    "Arrivals",
    "Draw",
    "Keys",
    "Service",
    "bursts",
    "constant",
    "exponential",
    "lognormal",
    "poisson",
    "recorded",
    "trace",
    "zipf",
]

Arrivals: TypeAlias = Callable[[random.Random], Iterator[float]]
"""Given chance, the times of arrival in seconds, never falling."""

Draw: TypeAlias = Callable[[], float]

Service: TypeAlias = Callable[[random.Random], Draw]
"""Given chance, a function that draws the seconds of work in one request."""

Keys: TypeAlias = Callable[[random.Random], Callable[[], str | None]]
"""Given chance, a function that draws the affinity key of one request; None for none."""


def poisson(rate: float) -> Arrivals:
    """Arrivals that know nothing of each other, ``rate`` a second on average."""
    _above("rate", rate)

    def arrivals(rng: random.Random) -> Iterator[float]:
        now, gap = 0.0, rng.expovariate
        while True:
            now += gap(rate)
            yield now

    return arrivals


def bursts(rate: float, peak: float, *, every: float, lasting: float) -> Arrivals:
    """Poisson arrivals at ``rate``, and at ``peak`` in the first ``lasting`` of every ``every`` seconds."""
    for name, value in (("rate", rate), ("peak", peak), ("every", every), ("lasting", lasting)):
        _above(name, value)
    if lasting > every:
        raise ValueError(f"lasting must be at most every ({every} s), not {lasting!r}")

    def arrivals(rng: random.Random) -> Iterator[float]:
        # Thinning (Lewis and Shedler, 1979): draw at the highest rate, keep the fraction that is due now.
        now, highest = 0.0, max(rate, peak)
        while True:
            now += rng.expovariate(highest)
            if rng.random() * highest < (peak if now % every < lasting else rate):
                yield now

    return arrivals


def trace(times: Iterable[float]) -> Arrivals:
    """Arrivals as recorded: seconds from the start, never falling."""
    recorded_times = list(times)
    if any(not 0 <= at < math.inf for at in recorded_times) or recorded_times != sorted(recorded_times):
        raise ValueError("times must be finite seconds, 0 or more, and never fall")
    return lambda rng: iter(recorded_times)


def constant(seconds: float) -> Service:
    """Every request takes as long."""
    _above("seconds", seconds)
    return lambda rng: lambda: seconds


def exponential(mean: float) -> Service:
    """Service times without memory: what queueing theory is exact for."""
    _above("mean", mean)
    return lambda rng: lambda: rng.expovariate(1 / mean)


def lognormal(mean: float, sigma: float = 1.0) -> Service:
    """Service times with a long tail; ``sigma`` is the standard deviation of their logarithm."""
    _above("mean", mean)
    _above("sigma", sigma)
    mu = math.log(mean) - sigma * sigma / 2
    return lambda rng: lambda: rng.lognormvariate(mu, sigma)


def recorded(seconds: Sequence[float]) -> Service:
    """Service times drawn from those that were measured, each as likely."""
    values = list(seconds)
    if not values or any(not 0 <= value < math.inf for value in values):
        raise ValueError("seconds must be at least one service time, each finite and 0 or more")
    return lambda rng: lambda: values[int(rng.random() * len(values))]


def zipf(population: int, skew: float = 1.0, *, share: float = 1.0) -> Keys:
    """Keys of which the k-th most popular of ``population`` is asked for in proportion to ``1 / k ** skew``.

    Args:
        population: How many keys there are.
        skew: 0 for all alike; about 1 for what users of a service are like.
        share: The fraction of requests that carry a key at all.
    """
    if isinstance(population, bool) or not isinstance(population, int) or population < 1:
        raise ValueError(f"population must be a whole number of 1 or more, not {population!r}")
    if not 0 <= skew < math.inf:
        raise ValueError(f"skew must be 0 or more and finite, not {skew!r}")
    if not 0 <= share <= 1:
        raise ValueError(f"share must be a fraction from 0 to 1, not {share!r}")

    def keys(rng: random.Random) -> Callable[[], str | None]:
        names = [f"user:{rank}" for rank in range(population)]
        sums = list(accumulate([1 / (rank + 1) ** skew for rank in range(population)]))
        total, last, chance = sums[-1], population - 1, rng.random

        def draw() -> str | None:
            if share < 1 and chance() >= share:
                return None
            return names[bisect(sums, chance() * total, 0, last)]

        return draw

    return keys


def _above(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, not {value!r}")
