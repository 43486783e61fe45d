"""The simulator against queueing theory, where there is theory: within the confidence that it states."""

from __future__ import annotations

import math

import pytest

from replicated.balance import PowerOfTwo, RandomChoice
from replicated.replica import Replica
from replicated.simulate import Behaviour, Simulation, constant, exponential, poisson
from replicated.tier import Tier


def simulation(
    count: int, rate: float, *, strategy=RandomChoice, workers=1, service=None, seed=1
) -> Simulation:
    def make(clock, rng):
        return Tier([Replica(f"r{i}") for i in range(count)], strategy=strategy(rng=rng), clock=clock)

    return Simulation(
        make,
        arrivals=poisson(rate),
        service=exponential(1.0) if service is None else service,
        behaviour=Behaviour(workers=workers),
        seed=seed,
    )


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server(load):
    """M/M/1: the mean time in the system is 1 / (1 - load) service times."""
    report = simulation(1, load).run(20_000)
    assert abs(report.mean - 1 / (1 - load)) <= report.error
    assert report.error < 0.25 / (1 - load)


def test_one_server_with_constant_work():
    """M/D/1: waiting is half of what it is with exponential work (Pollaczek and Khinchine)."""
    report = simulation(1, 0.7, service=constant(1.0)).run(20_000)
    assert abs(report.mean - (1 + 0.7 / (2 * 0.3))) <= report.error


def test_many_workers():
    """M/M/n: the wait is what Erlang's C formula says."""
    n, load = 5, 0.8
    offered = n * load
    term = offered**n / math.factorial(n) / (1 - load)
    waits = term / (sum(offered**k / math.factorial(k) for k in range(n)) + term)
    report = simulation(1, offered, workers=n).run(20_000)
    assert abs(report.mean - (1 + waits / (n * (1 - load)))) <= report.error


def test_random_choice_is_as_many_single_servers():
    """Random choice over n replicas is n queues that know nothing of each other."""
    report = simulation(10, 6.0).run(20_000)
    assert abs(report.mean - 1 / 0.4) <= report.error


def test_the_supermarket():
    """Two choices over many: the mean time is the sum of load ** (2 ** i - 2) (Mitzenmacher, 1996)."""
    load, n = 0.8, 100
    report = simulation(n, load * n, strategy=PowerOfTwo).run(30_000)
    theory = sum(load ** (2**i - 2) for i in range(1, 12))
    # The formula is for n without end; for n = 100 the queues are longer by about 1 / n.
    assert abs(report.mean - theory) <= report.error + theory / n


def test_littles_law():
    """What is in the system is arrivals times time in it, whatever the strategy."""
    system = simulation(5, 4.0, strategy=PowerOfTwo)
    area, last = 0.0, [0.0, 0]

    def watch(sim):
        nonlocal area
        area += (sim.now - last[0]) * last[1]
        last[:] = [sim.now, sum(server.held for server in sim.servers.values())]

    report = system.run(10_000, warm_up=0.0, watch=watch)
    assert area == pytest.approx(report.mean * report.answered, rel=1e-9)
