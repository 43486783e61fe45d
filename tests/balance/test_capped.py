"""A cap on each replica: never exceeded by one thread, and never in the way of one with room."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated import AlreadyFinished, Outcome, Replica, RingHash, RoundRobin, Tier, Unavailable
from replicated.balance import Capped, PowerOfTwo, Strategy
from replicated.readiness import ReadySet
from replicated.ring import HashRing
from replicated.testing import StrategyContract

FINE = Outcome.success(0.1)


class TestCapped(StrategyContract):
    def make(self) -> Strategy:
        return Capped(1_000_000, PowerOfTwo(rng=random.Random(8)))


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.lists(st.one_of(st.none(), st.integers(0, 20)), max_size=40),
)
def test_who_is_full_is_not_picked_and_who_has_room_is(
    limit: int, count: int, happened: list[int | None]
) -> None:
    """Whatever starts and ends, nobody exceeds the limit, and None is the answer only when all are at it."""
    ready = ReadySet([Replica(f"r{i}") for i in range(count)])
    strategy, open_ = Capped(limit), list[Replica]()
    for event in happened:
        if event is None:
            replica = strategy.pick(ready)
            assert (replica is None) is (len(open_) == limit * count)
            if replica is not None:
                strategy.started(replica)
                open_.append(replica)
                assert open_.count(replica) <= limit
        elif open_:
            strategy.finished(open_.pop(event % len(open_)), FINE)


def test_a_full_replica_builds_no_ring() -> None:
    """A key of a full replica goes on along its order and comes back, by one and the same table."""
    built = []

    def table(weights: dict[str, float]) -> HashRing:
        built.append(weights)
        return HashRing(weights)

    strategy = Capped(1, RingHash(None, make_table=table))
    ready = ReadySet([Replica(name) for name in "abcd"])
    tables = len(built)
    order = list(HashRing(list("abcd")).walk("key"))
    for name in order:
        replica = strategy.pick(ready, "key")
        assert replica is not None
        assert replica.id == name
        strategy.started(replica)
    assert strategy.pick(list(ready), "key") is None
    strategy.finished(Replica(order[2]), FINE)
    assert strategy.pick(ready, "key") == Replica(order[2])
    assert len(built) == tables + 1


def test_a_tier_of_full_replicas_refuses_at_once() -> None:
    """Nobody is sent beyond the cap; an end makes room, whoever made it."""
    tier = Tier([Replica("a")], strategy=Capped(1, RoundRobin()))
    with tier.lease():
        assert isinstance(tier.decide(), Unavailable)
    with tier.lease() as lease:
        assert lease.replica.id == "a"


def test_an_end_without_a_start_changes_nothing() -> None:
    """It is the strategy's to complain, and the count stays right."""
    strategy, a = Capped(1), Replica("a")
    with pytest.raises(AlreadyFinished):
        strategy.finished(a, FINE)
    strategy.started(a)
    assert strategy.pick([a]) is None


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_limit_is_a_count(limit: int, error: type[Exception]) -> None:
    """A whole number from 1."""
    with pytest.raises(error, match="limit must be"):
        Capped(limit)


def test_who_waits_for_room_hears_of_it():
    """When one that was full has room again, ``on_room`` is called, after the count went down."""
    capped = Capped(2)
    heard = []
    replica = Replica("a")
    capped.on_room = lambda: heard.append(capped.pick([replica]))
    for _ in range(2):
        capped.started(replica)
    for _ in range(2):
        capped.finished(replica, Outcome.success())
    assert heard == [replica]
