"""The simulator: repeatable, conserving, and honest about what goes wrong."""

from __future__ import annotations

import json
import math
import random
from functools import partial

import pytest

from replicated.balance import LeastLoaded, PeakEwma, PowerOfTwo, RingHash, RoundRobin
from replicated.readiness import OutlierDetector, ProbePolicy, ReadinessTracker, SlowStart
from replicated.replica import Replica
from replicated.simulate import (
    Become,
    Behaviour,
    Restart,
    Simulation,
    bursts,
    constant,
    exponential,
    lognormal,
    poisson,
    recorded,
    rolling,
    trace,
    zipf,
)
from replicated.simulate.report import confidence, quantile
from replicated.simulate.server import Server
from replicated.tier import Tier


def tiers(count: int, strategy=lambda clock, rng: PowerOfTwo(rng=rng), **tracking):
    def make(clock, rng):
        readiness = ReadinessTracker(clock=clock, rng=rng, **tracking)
        replicas = [Replica(f"r{i}") for i in range(count)]
        return Tier(replicas, strategy=strategy(clock, rng), readiness=readiness, clock=clock)

    return make


def test_a_seed_repeats_a_run():
    """The same seed gives the same report to the last digit, and another seed another one."""
    reports = [
        Simulation(
            tiers(5, policy=ProbePolicy(jitter=0.2)),
            arrivals=poisson(100),
            service=lognormal(0.02),
            keys=zipf(50, share=0.5),
            routers=3,
            incidents=[Restart("r1", 1.0, 2.0)],
            seed=seed,
        ).run(1000)
        for seed in (7, 7, 8)
    ]
    assert reports[0] == reports[1] != reports[2]


def test_strategies_meet_the_same_requests(monkeypatch):
    """Another strategy, or more routers, changes neither arrivals nor work nor keys."""

    def note(seen, send, request, forward):
        seen.append((request.arrived, request.key, request.work))
        send(request, forward)

    met = []
    for strategy, routers in ((PowerOfTwo, 1), (LeastLoaded, 4)):
        simulation = Simulation(
            tiers(3, lambda clock, rng, make=strategy: make(rng=rng)),
            arrivals=poisson(10),
            service=exponential(0.01),
            keys=zipf(9),
            routers=routers,
        )
        seen = []
        monkeypatch.setattr(simulation, "_send", partial(note, seen, simulation._send))
        simulation.run(200)
        met.append(seen)
    assert met[0] == met[1]


def test_everything_is_accounted_for():
    """Every request is answered, refused or failed, and nothing stays in flight, whatever happens."""
    simulation = Simulation(
        tiers(4, policy=ProbePolicy(period=0.5), outliers=OutlierDetector(base=1.0)),
        arrivals=bursts(100, 400, every=2.0, lasting=0.5),
        service=exponential(0.02),
        special={"r3": Behaviour(failing=0.3)},
        incidents=[
            *rolling(["r0", "r1"], at=1.0, every=3.0, down=1.0, grace=0.5),
            Restart("r2", 2.0, 2.0),
            Become("r3", 6.0, Behaviour(slow=2.0, workers=2)),
        ],
        seed=3,
    )
    told = []
    report = simulation.run(1500, warm_up=0.2, progress=told.append)
    assert report.answered + report.refused + report.failed == report.requests == 1200
    assert report.retried > 0
    assert all(tier.in_flight == 0 for tier in simulation.tiers)
    assert all(server.held == 0 for server in simulation.servers.values())
    assert told == sorted(told)
    assert 90 <= len(told) <= 100


def test_nobody_serves_before_a_probe_said_so():
    """With probes that start late, requests before are refused at once."""
    report = Simulation(
        tiers(2, policy=ProbePolicy(initial_delay=1.0)),
        arrivals=trace([0.5, 0.9, 1.5]),
        service=constant(0.1),
    ).run(10, warm_up=0)
    assert (report.requests, report.refused, report.answered) == (3, 2, 1)


@pytest.mark.parametrize("bound", [1.25, 1.5])
def test_no_replica_ever_above_its_bound(bound):
    """Under bounded loads, at every event, whoever got a request was below its bound before."""
    strategies = []

    def strategy(clock, rng):
        strategies.append(RingHash(bound))
        return strategies[-1]

    before = {"total": 0, "of": dict.fromkeys([f"r{i}" for i in range(5)], 0)}

    def watch(simulation):
        load = strategies[0].load
        for id, count in before["of"].items():
            if load.of(id) > count:
                assert load.of(id) <= math.ceil(bound * (before["total"] + 1) / 5)
            before["of"][id] = load.of(id)
        before["total"] = load.total

    Simulation(
        tiers(5, strategy), arrivals=poisson(400), service=exponential(0.01), keys=zipf(30, 1.2), seed=5
    ).run(3000, watch=watch)
    assert before["total"] == 0


def test_affinity_is_measured():
    """Strict hashing keeps every key; round robin over n keeps about one in n."""
    keep = {}
    for name, strategy in {"ring": RingHash(bound=None), "turns": RoundRobin()}.items():
        keep[name] = Simulation(
            tiers(4, lambda clock, rng, strategy=strategy: strategy),
            arrivals=poisson(10),
            service=constant(0.001),
            keys=zipf(40),
        ).run(2000)
    assert keep["ring"].affinity == 1.0
    assert keep["ring"].moved == 0.0
    assert 0.2 < keep["turns"].affinity < 0.3
    assert keep["turns"].peak_to_mean < 1.01 < keep["ring"].peak_to_mean


def test_peak_ewma_finds_the_slow_one():
    """With one of ten replicas ten times slower, p99 under peak-EWMA is near that without the slow one."""

    def p99(count, strategy, special):
        simulation = Simulation(
            tiers(count, strategy),
            arrivals=poisson(500),
            service=lognormal(0.01, 0.5),
            special=special,
            seed=1,
        )
        return simulation.run(8_000).p99

    def ewma(clock, rng):
        return PowerOfTwo(PeakEwma(clock=clock), rng=rng)

    slow = {"r0": Behaviour(slow=10.0)}
    found = p99(10, ewma, slow)
    assert found <= 1.5 * p99(9, ewma, {})
    assert p99(10, lambda clock, rng: RoundRobin(), slow) > 4 * found


def test_slow_start_spares_a_cold_replica():
    """A restarted replica that is slow at first hurts less when it warms up."""

    def p99(slow_start):
        return (
            Simulation(
                tiers(4, lambda clock, rng: RoundRobin(), slow_start=slow_start),
                arrivals=poisson(200),
                service=exponential(0.01),
                behaviour=Behaviour(cold=10.0, warm_after=50),
                incidents=[Restart("r0", 40.0, 1.0, grace=1.0)],
                seed=2,
            )
            .run(12_000, warm_up=0.6)
            .p99
        )

    assert p99(SlowStart(window=20)) < 0.7 * p99(None)


def test_a_server_remembers_keys():
    """A key that a replica holds takes no more than its work, until others push it out or it restarts."""
    server = Server(Behaviour(memory=2, miss=1.0, slow=2.0))
    assert [server.seconds(0.5, key) for key in ("a", "a", "b", "a", "c", "b", None)] == [2, 1, 2, 1, 2, 2, 1]
    assert server.stop() == []
    assert not server.up
    server.start()
    assert server.seconds(0.5, "b") == 2.0


def test_arrivals():
    """Rates come out as asked, bursts burst, and a trace is a trace."""
    rng = random.Random(1)
    arrivals = bursts(10, 100, every=10.0, lasting=1.0)(rng)
    times = []
    while (at := next(arrivals)) < 1000:
        times.append(at)
    burst = sum(at % 10 < 1 for at in times)
    assert abs(burst - 10_000) < 500
    assert abs(len(times) - burst - 9_000) < 475
    assert list(trace([0.0, 1.0, 1.0])(rng)) == [0.0, 1.0, 1.0]


def test_services_and_keys():
    """Means come out as asked, recorded times are drawn as they are, and popularity falls as Zipf says."""
    rng = random.Random(1)
    for service in (exponential(2.0), lognormal(2.0, 0.8), constant(2.0), recorded([1.0, 3.0])):
        draw = service(rng)
        assert sum(draw() for _ in range(20_000)) / 20_000 == pytest.approx(2.0, rel=0.05)
    draw = zipf(100, 1.0, share=0.5)(rng)
    keys = [draw() for _ in range(20_000)]
    assert keys.count(None) == pytest.approx(10_000, rel=0.05)
    assert keys.count("user:0") / keys.count("user:9") == pytest.approx(10, rel=0.35)


def test_a_report_reads_well():
    """The table names what was measured, and JSON holds all of it."""
    report = Simulation(tiers(2), arrivals=poisson(10), service=constant(0.01), seed=11).run(100)
    table = report.table()
    assert "| p50 / p99 / p99.9 | 10.0 / " in table
    assert "| seed | 11 |" in table
    assert json.loads(report.to_json())["served"] == dict(report.served)
    empty = Simulation(tiers(0), arrivals=trace([]), service=constant(1.0)).run(5)
    assert (empty.requests, empty.mean, empty.affinity, empty.error) == (0, 0.0, 1.0, math.inf)
    assert "0.00%" in empty.table()
    assert empty.refused_share == 0.0


def test_a_simulation_runs_once():
    """A second run is refused by name, since the first has left its queues and its time behind."""
    simulation = small()
    simulation.run(10)
    with pytest.raises(RuntimeError, match="once"):
        simulation.run(10)


def test_quantiles_and_confidence():
    """A quantile is a value that occurred, and the interval holds the mean about as often as it says."""
    assert [quantile(range(1, 101), q) for q in (0.5, 0.99, 0.999, 0.001)] == [50, 99, 100, 1]
    rng, held = random.Random(1), 0
    for _ in range(300):
        values = [rng.gauss(5, 1) for _ in range(200)]
        held += abs(sum(values) / 200 - 5) <= confidence(values)
    assert held >= 290


def small(**options):
    return Simulation(tiers(1), arrivals=poisson(1), service=constant(1), **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: poisson(0), "rate"),
        (lambda: poisson("1"), "rate"),
        (lambda: bursts(1, 2, every=1, lasting=2), "lasting"),
        (lambda: trace([2, 1]), "times"),
        (lambda: trace([math.nan]), "times"),
        (lambda: constant(-1), "seconds"),
        (lambda: recorded([]), "seconds"),
        (lambda: lognormal(1, 0), "sigma"),
        (lambda: zipf(0), "population"),
        (lambda: zipf(1, -1), "skew"),
        (lambda: zipf(1, share=2), "share"),
        (lambda: Behaviour(workers=0), "workers"),
        (lambda: Behaviour(slow=0), "slow"),
        (lambda: Behaviour(failing=2), "failing"),
        (lambda: Behaviour(miss=-1), "miss"),
        (lambda: Behaviour(cold=0.5), "cold"),
        (lambda: Restart("r0", -1, 0), "at"),
        (lambda: Become("r0", math.inf, Behaviour()), "at"),
        (lambda: small(routers=0), "routers"),
        (
            lambda: Simulation(
                tiers(1), arrivals=poisson(1), service=constant(1), special={"x": Behaviour()}
            ),
            "'x'",
        ),
        (
            lambda: Simulation(
                tiers(1), arrivals=poisson(1), service=constant(1), incidents=[Restart("x", 1, 1)]
            ),
            "'x'",
        ),
    ],
)
def test_bad_input(wrong, message):
    """What cannot work is refused by name."""
    with pytest.raises((ValueError, TypeError), match=message):
        wrong()
