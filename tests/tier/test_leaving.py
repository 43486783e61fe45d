"""A removal waits for what is in flight: who leaves is known until the last request there ends."""

from __future__ import annotations

import threading

import pytest

from replicated import (
    Forward,
    Outcome,
    OutlierDetector,
    ReadinessTracker,
    Replica,
    RingHash,
    State,
    Tier,
    UnknownReplica,
)
from replicated.pins import Pin
from replicated.readiness import Joined, Left, StateChanged
from replicated.testing import ManualClock

A, B = Replica("a"), Replica("b")


def only_a(ready, key=None):
    return ready.by_id.get("a") or ready[0]


def both(clock=None, **changes):
    clock = clock or ManualClock()
    tracker = ReadinessTracker(replicas=[A, B], clock=clock, **changes)
    heard = []
    tracker.subscribe(heard.append)
    return Tier(strategy=only_a, readiness=tracker, clock=clock), heard, clock


def test_who_is_removed_leaves_when_the_last_request_ends():
    """No pick finds it any more; its state, explanations and events tell of it until nothing is in flight."""
    tier, heard, clock = both()
    first, second = tier.decide(), tier.decide()
    assert tier.in_flight_of("a") == tier.in_flight_of(A) == 2
    clock.advance(1)
    tier.readiness.remove("a")
    assert tier.replicas == (B,)
    assert tier.readiness.state(A) is State.LEAVING
    assert [(type(event), event.new) for event in heard] == [(StateChanged, State.LEAVING)]
    clock.advance(2)
    assert str(tier.readiness.explain("a")) == (
        "a is leaving since 2.0 s: it was removed, and 2 requests in flight there will end"
    )
    other = tier.decide(pin=Pin("a"))
    assert isinstance(other, Forward)
    assert other.replica == B
    assert "a is leaving" in other.explain()
    tier.finish(first, Outcome.success(0.1))
    assert "1 request in flight" in tier.readiness.explain("a").reason
    assert len(heard) == 1
    tier.finish(second, Outcome.failure("reset"))
    assert [type(event) for event in heard] == [StateChanged, Left]
    assert heard[-1].replica == A
    assert not tier.readiness.leaving
    with pytest.raises(UnknownReplica):
        tier.readiness.state("a")


@pytest.mark.parametrize("outliers", [None, OutlierDetector()])
def test_a_lease_is_waited_for_as_well(outliers):
    """Also what was lent holds a removal up, until its block ends."""
    tier, heard, _ = both(outliers=outliers)
    tier = Tier(strategy=RingHash(), readiness=tier.readiness)
    for early in (True, False):
        tier.readiness.replace([A])
        heard.clear()
        with tier.lease("key") as lease:
            tier.readiness.replace([B])
            assert [type(event) for event in heard] == [StateChanged, Joined]
            assert tier.in_flight_of("a") == 1
            if early:
                lease.finish(Outcome.success())
                assert type(heard[-1]) is Left
        assert [type(event) for event in heard] == [StateChanged, Joined, Left]


def test_nothing_in_flight_is_nothing_to_wait_for():
    """Who has nothing in flight has left at once, and so has one whose tracker serves no tier."""
    tier, heard, _ = both()
    tier.readiness.remove("a")
    assert [type(event) for event in heard] == [Left]
    alone = ReadinessTracker(replicas=[A])
    alone.subscribe(heard.append)
    alone.remove("a")
    assert [type(event) for event in heard] == [Left, Left]


def test_who_comes_back_has_not_left():
    """One that joins again while it was leaving is a member, and its old requests end as a member's."""
    tier, heard, _ = both()
    forward = tier.decide()
    tier.readiness.remove("a")
    tier.readiness.add(A)
    assert [type(event) for event in heard] == [StateChanged, Joined]
    assert tier.readiness.state("a") is State.READY
    tier.finish(forward, Outcome.success(0.1))
    assert len(heard) == 2
    assert not tier.readiness.leaving
    tier.readiness.ended("a")
    assert len(heard) == 2


def test_two_tiers_of_one_tracker():
    """A removal waits for the requests of every tier that picks from the same ready set."""
    tier, heard, _ = both()
    beside = Tier(strategy=only_a, readiness=tier.readiness)
    mine, theirs = tier.decide(), beside.decide()
    tier.readiness.remove("a")
    tier.finish(mine, Outcome.success(0.1))
    assert tier.readiness.state("a") is State.LEAVING
    beside.finish(theirs, Outcome.success(0.1))
    assert type(heard[-1]) is Left


def test_threads_that_end_while_others_remove():
    """However ends and removals meet, everyone who was removed has left once in the end."""
    tracker = ReadinessTracker()
    heard = []
    tracker.subscribe(heard.append)
    tier = Tier(strategy=only_a, readiness=tracker)
    for _ in range(100):
        tracker.replace([A])
        forwards = [tier.decide() for _ in range(3)]
        threads = [
            threading.Thread(target=tier.finish, args=(forward, Outcome.success(0.1))) for forward in forwards
        ]
        threads.append(threading.Thread(target=tracker.replace, args=([B],)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not tracker.leaving
    assert sum(type(event) is Left and event.replica == A for event in heard) == 100
