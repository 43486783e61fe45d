"""A second attempt beside the first, and a retry that costs nothing."""

from __future__ import annotations

import pytest

from replicated import (
    AlreadyFinished,
    Forward,
    Outcome,
    OutlierDetector,
    ReadinessTracker,
    Replica,
    RetryBudget,
    RoundRobin,
    State,
    Tier,
    Unavailable,
)
from replicated.pins import Pin
from replicated.testing import ManualClock

ABC = [Replica("a"), Replica("b"), Replica("c")]


def test_a_hedge_is_another_replica_beside_the_first() -> None:
    """Both are in flight, both are finished, and whoever retries after them meets the third."""
    tier = Tier(ABC, strategy=RoundRobin())
    first = tier.decide()
    assert isinstance(first, Forward)
    second = tier.hedge(first)
    assert isinstance(second, Forward)
    assert tier.in_flight == 2
    assert second.tried == (first.replica.id,)
    for forward in (first, second):
        tier.finish(forward, Outcome.failure())
    third = tier.retry(second)
    assert isinstance(third, Forward)
    assert {first.replica.id, second.replica.id, third.replica.id} == {"a", "b", "c"}
    tier.finish(third, Outcome.success())
    assert isinstance(tier.retry(third), Unavailable)
    with pytest.raises(AlreadyFinished):
        tier.hedge(first)


def test_what_is_kept_somewhere_is_not_hedged() -> None:
    """A key or a pin says that one replica remembers what others do not."""
    tier = Tier(ABC, strategy=RoundRobin())
    for asked in ({"key": "session"}, {"pin": Pin("a", False)}, {"pin": Pin("a", True)}):
        forward = tier.decide(**asked)  # type: ignore[arg-type]
        assert isinstance(forward, Forward)
        hedge = tier.hedge(forward)
        assert isinstance(hedge, Unavailable)
        assert "remembered" in hedge.reason


def test_hedges_take_of_the_retry_budget_and_of_the_attempts() -> None:
    """Where either is used up there is no second replica."""
    tier = Tier(ABC, strategy=RoundRobin(), retries=RetryBudget(0, 0, 1), clock=ManualClock())
    first, other = tier.decide(), tier.decide()
    assert isinstance(first, Forward)
    assert isinstance(other, Forward)
    assert isinstance(tier.hedge(first), Forward)
    assert isinstance(tier.hedge(other), Unavailable)
    single = Tier(ABC, max_attempts=1)
    only = single.decide()
    assert isinstance(only, Forward)
    assert isinstance(single.hedge(only), Unavailable)


def test_what_no_replica_has_seen_costs_no_budget() -> None:
    """Where no connection came about the next attempt is the first that anybody serves."""
    tier = Tier(ABC, strategy=RoundRobin(), retries=RetryBudget(0, 0, 1), clock=ManualClock())
    for _ in range(5):
        first = tier.decide()
        assert isinstance(first, Forward)
        tier.finish(first, Outcome.failure("refused"))
        second = tier.retry(first, unseen=True)
        assert isinstance(second, Forward)
        tier.finish(second, Outcome.failure("refused"))
    assert isinstance(tier.retry(second), Forward)
    assert isinstance(tier.retry(second), Unavailable)


def test_the_ejected_are_asked_where_all_others_have_failed() -> None:
    """A retry prefers whoever is ready, and takes one that is out for its failures before nobody at all."""
    tier = Tier(
        ABC,
        strategy=RoundRobin(),
        readiness=ReadinessTracker(outliers=OutlierDetector(1), clock=ManualClock()),
        clock=ManualClock(),
    )
    first = tier.decide()
    assert isinstance(first, Forward)
    tier.finish(first, Outcome.failure())
    assert tier.readiness.state(first.replica) is State.EJECTED
    second = tier.decide()
    assert isinstance(second, Forward)
    tier.finish(second, Outcome.failure())
    third = tier.retry(second)
    assert isinstance(third, Forward)
    hedge = tier.hedge(third)
    assert isinstance(hedge, Unavailable)
    tier.finish(third, Outcome.failure())
    last = tier.retry(third)
    assert isinstance(last, Forward)
    assert last.replica == first.replica
    tier.finish(last, Outcome.failure())
    assert isinstance(tier.retry(last), Unavailable)
