"""Loads: what is in flight, and what latencies say, against models that compute them plainly."""

from __future__ import annotations

import math
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.balance import InFlight, PeakEwma, PowerOfTwo, Summed
from replicated.errors import AlreadyFinished
from replicated.outcome import Outcome, Verdict
from replicated.readiness import ReadySet
from replicated.replica import Replica
from replicated.testing import ManualClock

A, B = Replica("a"), Replica("b")


@pytest.mark.parametrize("make", [InFlight, Summed, lambda: PeakEwma(clock=ManualClock())])
def test_more_ends_than_starts(make):
    """Finishing what was not started is an error by name, and changes nothing."""
    load = make()
    with pytest.raises(AlreadyFinished, match="'a'"):
        load.finished(A, Outcome.success(1.0))
    load.started(A)
    load.finished(A, Outcome.success(1.0))
    before = load.of("a")
    with pytest.raises(AlreadyFinished):
        load.finished(A, Outcome.success(9.0))
    assert load.of("a") == before


@pytest.mark.parametrize("make", [InFlight, Summed])
def test_in_flight_is_conserved_over_threads(make):
    """Whatever threads start and finish, nothing is lost and nothing goes below zero."""
    load = make()
    replicas = [Replica(str(i)) for i in range(5)]

    def work(seed):
        rng, open_ = random.Random(seed), []
        for _ in range(2000):
            if open_ and rng.random() < 0.5:
                load.finished(open_.pop(), Outcome.success())
            else:
                open_.append(rng.choice(replicas))
                load.started(open_[-1])
        for replica in open_:
            load.finished(replica, Outcome.cancelled())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load.total == 0
    assert [load.of(replica.id) for replica in replicas] == [0] * 5


def test_names_long_gone_are_forgotten():
    """Counts of replicas that came and went do not pile up; those with requests in flight stay."""
    load = Summed()
    load.started(A)
    for i in range(5000):
        replica = Replica(f"r{i}")
        load.started(replica)
        load.finished(replica, Outcome.success())
    assert len(load._counts) <= 1025
    assert load.of("a") == 1
    assert load.of("never heard of") == 0
    assert repr(load) == "<Summed 1 on 1 replicas>"


def test_latencies_of_the_long_gone_are_forgotten():
    """Estimates of replicas that nobody heard of for long do not pile up."""
    clock = ManualClock()
    load = PeakEwma(clock=clock)
    load.started(A)
    for i in range(5000):
        replica = Replica(f"r{i}")
        load.started(replica)
        load.finished(replica, Outcome.success(0.1))
        clock.advance(1)
    assert len(load._estimates) <= 1225
    load.finished(A, Outcome.success(0.1))


steps = st.lists(
    st.tuples(st.sampled_from("ab"), st.floats(0, 30), st.floats(0.001, 5)), min_size=1, max_size=40
)


@given(steps)
def test_peak_ewma_is_finaglesaverage(sequence):
    """After any answers, the average is the one of Finagle's PeakEwma.scala, decayed to now."""
    clock = ManualClock()
    load = PeakEwma(decay=10, clock=clock)
    model: dict[str, tuple[float, float]] = {}
    for id, wait, latency in sequence:
        clock.advance(wait)
        replica = Replica(id)
        load.started(replica)
        load.finished(replica, Outcome.success(latency))
        cost, stamp = model.get(id, (0.0, 0.0))
        kept = math.exp(-(clock.now - stamp) / 10)
        cost = latency if latency > cost * kept else cost * kept + latency * (1 - kept)
        model[id] = (cost, clock.now)
    clock.advance(3)
    now = {id: cost * math.exp(-(clock.now - stamp) / 10) for id, (cost, stamp) in model.items()}
    for id, cost in now.items():
        assert load.latency(Replica(id)) == pytest.approx(cost, rel=1e-6, abs=1e-12)
    if len(now) == 2 and not math.isclose(now["a"], now["b"], rel_tol=1e-6):
        assert (load.of("a") < load.of("b")) is (now["a"] < now["b"])


def test_loads_stay_finite_for_years():
    """However long a load lives, and however rarely it hears, its numbers stay finite and comparable."""
    clock = ManualClock()
    load = PeakEwma(decay=0.5, clock=clock)
    for _ in range(50):
        for replica, latency in ((A, 0.1), (B, 0.2)):
            load.started(replica)
            load.finished(replica, Outcome.success(latency))
        assert 0 < load.of("a") < load.of("b") < math.inf
        clock.advance(31_557_600.0)


def test_one_request_for_the_unknown():
    """A replica that never answered is tried by one request, and by no second until it answers."""
    clock = ManualClock()
    load = PeakEwma(clock=clock)
    for _ in range(3):
        load.started(A)
    load.finished(A, Outcome.success(5.0))
    assert load.of("b") < load.of("a")
    load.started(B)
    assert load.of("b") > load.of("a")
    load.finished(B, Outcome.success(0.01))
    assert load.of("b") < load.of("a")
    assert load.latency("never heard of") == 0.0


def test_failing_fast_attracts_nothing():
    """A replica that refuses within a millisecond gets less than a sound one that takes a hundred."""
    clock, rng = ManualClock(), random.Random(1)
    strategy = PowerOfTwo(PeakEwma(clock=clock), rng=rng)
    ready = ReadySet([Replica(name) for name in "abcde"])
    counts = dict.fromkeys("abcde", 0)
    for _ in range(5000):
        replica = strategy.pick(ready)
        strategy.started(replica)
        counts[replica.id] += 1
        clock.advance(0.02)
        latency = rng.uniform(0.05, 0.15)
        failed = replica.id == "c"
        strategy.finished(replica, Outcome.failure("refused", 0.001) if failed else Outcome.success(latency))
    assert counts["c"] < 0.02 * 5000


def test_failures_do_not_feed_on_themselves():
    """When all fail for long, loads stay where ten usual latencies put them."""
    clock = ManualClock()
    load = PeakEwma(clock=clock)
    load.started(A)
    load.finished(A, Outcome.success(0.2))
    for _ in range(1000):
        load.started(A)
        load.finished(A, Outcome.failure("reset"))
    assert load.latency(A) == pytest.approx(2.0)
    fresh = PeakEwma(clock=clock)
    fresh.started(A)
    fresh.finished(A, Outcome.failure("reset", 40.0))
    assert fresh.latency(A) == 40.0


def test_a_cancelled_request_says_nothing():
    """Neither a cancelled request nor one without a latency moves an average."""
    clock = ManualClock()
    load = PeakEwma(clock=clock)
    for outcome in (
        Outcome.success(0.5),
        Outcome.cancelled(),
        Outcome(Verdict.CANCELLED, 9.0),
        Outcome.success(),
    ):
        load.started(A)
        load.finished(A, outcome)
    assert load.latency(A) == 0.5


def test_a_clock_set_back_does_no_harm():
    """A clock that goes back is taken as standing still."""
    clock = ManualClock(100.0)
    load = PeakEwma(clock=clock)
    for now in (100.0, 50.0, 100.0):
        clock.set(now)
        load.started(A)
        load.finished(A, Outcome.success(0.5))
    assert load.latency(A) == pytest.approx(0.5)


@pytest.mark.parametrize("change", [{"decay": 0}, {"decay": math.inf}, {"failure_factor": 0.5}])
def test_bad_input(change):
    """What cannot work is refused by name."""
    with pytest.raises(ValueError, match=next(iter(change))):
        PeakEwma(**change)
