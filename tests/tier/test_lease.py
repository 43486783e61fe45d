"""A lease as a Forward, and what is measured for whom when it ends."""

from __future__ import annotations

import threading

import pytest

from replicated import (
    AlreadyFinished,
    Forward,
    InFlight,
    LeastLoaded,
    NoReplica,
    Outcome,
    OutlierDetector,
    PeakEwma,
    PowerOfTwo,
    ReadinessTracker,
    Replica,
    RingHash,
    RoundRobin,
    State,
    Tier,
)
from replicated.testing import ManualClock, RecordingStrategy

AB = [Replica("a"), Replica("b")]


def test_it_becomes_a_forward_when_asked():
    """The Forward of a lease says all that a decision says, and is one request in flight with it."""
    clock = ManualClock()
    tier = Tier(AB, clock=clock)
    clock.advance(5)
    with tier.lease("key") as lease:
        clock.advance(1)
        forward = lease.forward
        assert forward is lease.forward
        assert (forward.replica, forward.attempt, forward.key) == (lease.replica, 1, "key")
        assert forward.started == clock.now - 1
        assert forward.explain() == f"{lease.replica.id} serves attempt 1"
        assert tier.in_flight == 1
        with pytest.raises(AlreadyFinished, match="in flight"):
            tier.retry(forward)
    assert tier.in_flight == 0
    again = tier.retry(lease.forward)
    assert isinstance(again, Forward)
    assert again.replica != lease.replica


def test_it_ends_once_whichever_way():
    """Ended as a Forward or as a lease, within the block or by it: once, and a second time is an error."""
    load = InFlight()
    tier = Tier(AB, strategy=LeastLoaded(load))
    with tier.lease() as lease:
        tier.finish(lease.forward, Outcome.failure())
        with pytest.raises(AlreadyFinished):
            lease.finish(Outcome.success())
    with tier.lease() as lease:
        forward = lease.forward
        lease.finish(Outcome.success())
        with pytest.raises(AlreadyFinished):
            tier.finish(forward, Outcome.success())
    with tier.lease() as lease:
        pass
    with pytest.raises(AlreadyFinished):
        lease.finish(Outcome.success())
    with pytest.raises(AlreadyFinished):
        tier.finish(lease.forward, Outcome.success())
    with pytest.raises(AlreadyFinished, match="with statement"):
        _ = tier.lease().forward
    assert tier.in_flight == load.total == 0


def test_many_threads_get_one_forward():
    """However many threads ask a lease for its Forward and end it, there is one, and it ends once."""
    load = InFlight()
    tier = Tier(AB, strategy=LeastLoaded(load))
    for _ in range(50):
        found: list[Forward] = []
        with tier.lease() as lease:
            barrier = threading.Barrier(4)

            def ask(lease=lease, barrier=barrier, found=found):
                barrier.wait()
                found.append(lease.forward)

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            barrier.wait()
        for thread in threads:
            thread.join()
        assert len(set(map(id, found))) == 1
        assert tier.in_flight == load.total == 0


def test_latencies_are_for_those_who_look():
    """A strategy by latency learns it from a lease, and so does one behind an outlier detector of its own."""
    clock = ManualClock()
    load = PeakEwma(clock=clock)
    tier = Tier(AB[:1], strategy=PowerOfTwo(load), clock=clock)
    with tier.lease():
        clock.advance(0.5)
    assert load.latency("a") == 0.5

    def slow(outcome: Outcome) -> bool:
        return outcome.latency is not None and outcome.latency > 1

    tracker = ReadinessTracker(outliers=OutlierDetector(1, failed=slow), clock=clock)
    guarded = Tier(AB, readiness=tracker, clock=clock)
    with guarded.lease() as lease:
        clock.advance(2)
    assert tracker.state(lease.replica) is State.EJECTED


def test_a_function_never_sees_an_empty_set():
    """A strategy that is a plain function need not bear an empty set: nobody asks it then."""
    tier = Tier(strategy=lambda ready, key=None: ready[0])
    with pytest.raises(NoReplica), tier.lease():
        pytest.fail("the block must not run")
    tier.readiness.replace(AB)
    with tier.lease() as lease:
        assert lease.replica == AB[0]


def test_time_passes_for_who_leases():
    """What time alone changes, such as the end of an ejection, has happened for a lease as for a decision."""
    clock = ManualClock()
    tracker = ReadinessTracker(outliers=OutlierDetector(1), replicas=AB[:1], clock=clock)
    tier = Tier(readiness=tracker, clock=clock)
    tracker.add(AB[1])
    tracker.observe_outcome("a", Outcome.failure())
    with tier.lease() as lease:
        assert lease.replica.id == "b"
    clock.advance(31)
    assert "a" not in tracker.ready.by_id
    with tier.lease():
        assert "a" in tracker.ready.by_id


@pytest.mark.parametrize("strategy", [PowerOfTwo, LeastLoaded, lambda load: RingHash(None, load=load)])
def test_a_load_counts_what_is_leased(strategy):
    """A lease is in flight for the strategy's load from its beginning to its end, whatever that is."""
    load = InFlight()
    tier = Tier(AB[:1], strategy=strategy(load))
    for end in (
        lambda lease: None,
        lambda lease: lease.finish(Outcome.failure()),
        lambda lease: lease.forward,
    ):
        with tier.lease("key") as lease:
            assert load.of("a") == tier.in_flight_of("a") == 1
            end(lease)
        assert load.of("a") == tier.in_flight_of("a") == 0
    for error in (OSError("reset"), KeyboardInterrupt()):
        with pytest.raises(type(error)), tier.lease():
            raise error
        assert load.of("a") == 0


def test_who_leases_piles_up_no_names():
    """The counts of replicas that came and went under leases do not pile up."""
    load = InFlight()
    tier = Tier(strategy=PowerOfTwo(load))
    for i in range(200):
        tier.readiness.replace([Replica(f"r{i}")])
        with tier.lease():
            if i % 2:
                tier.readiness.replace([])
    assert len(load._counts) <= 1


@pytest.mark.parametrize("outliers", [None, OutlierDetector()])
@pytest.mark.parametrize("make", [PowerOfTwo, RoundRobin, RecordingStrategy])
def test_who_leaves_waits_for_the_lease(make, outliers):
    """A replica that is removed under a lease leaves with its end, whatever its strategy hears."""
    strategy, clock = make(), ManualClock()
    tracker = ReadinessTracker(outliers=outliers, clock=clock)
    tier = Tier(AB, strategy=strategy, readiness=tracker, clock=clock)
    with tier.lease() as lease:
        tracker.remove(lease.replica)
        assert tracker.leaving
        assert tier.in_flight == 1
    assert not tracker.leaving
    if isinstance(strategy, RecordingStrategy):
        assert strategy.starts == [lease.replica.id]
        assert strategy.in_flight == {}
