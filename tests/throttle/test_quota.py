"""What is left: the same state that takes are decided by, read without changing it."""

from __future__ import annotations

from collections.abc import Hashable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.testing import ManualClock
from replicated.throttle import Admits, Limit, Limits, Quota, TellsQuotas, Throttle, TokenBucket, Told
from replicated.throttle.gcra import Number

steps = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["take", "refund", "plan", "clear"]),
        st.integers(1, 3),
        st.sampled_from([0.0, 0.1, 0.3, 1.0, 7.0]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("options", [{}, {"overflow": "share"}, {"block": 2}, {"max_keys": 50}])
@given(steps=steps, rate=st.sampled_from([3, 0.7, Fraction(1, 3), 1e10]), burst=st.sampled_from([1, 3, 3.5]))
def test_what_remains_can_be_taken_and_no_more(
    options: dict[str, object], steps: list[tuple[str, str, int, float]], rate: Number, burst: Number
) -> None:
    """A take of what remains is admitted, one of a unit more is not, and after the reset all is there."""
    clock = ManualClock()
    throttle = Throttle(rate, burst, **{"max_keys": 2, **options}, clock=clock)  # type: ignore[arg-type]
    for key, step, cost, pause in steps:
        clock.advance(pause)
        if step == "plan":
            throttle.set_plan(key, rate, burst + 1)
        elif step == "clear":
            throttle.clear_plan(key)
        elif cost <= burst:
            getattr(throttle, step)(key, cost)
        for each in ("a", "b", "c"):
            before = throttle.peek(each)
            [left] = throttle.quotas(each)
            assert throttle.quotas(each) == (left,)
            assert throttle.peek(each) == before
            assert 0 <= left.remaining <= left.burst
            if left.remaining:
                assert throttle.peek(each, left.remaining) == 0.0
            if left.remaining < left.burst:
                assert throttle.peek(each, left.remaining + 1) > 0.0
                assert left.reset >= left.more > 0.0
            else:
                assert left.more == 0.0
    for each in ("a", "b", "c"):
        [left] = throttle.quotas(each)
        if left.remaining < left.burst:
            wait = throttle.peek(each, left.remaining + 1)
            assert left.more == pytest.approx(wait, rel=0, abs=1e-9)
            clock.advance(left.more)
            assert throttle.quotas(each)[0].remaining > left.remaining
        [left] = throttle.quotas(each)
        clock.advance(left.reset)
        assert throttle.quotas(each)[0].remaining == left.burst


@given(takes=st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.2, 1.0])), max_size=20))
def test_each_of_several_limits_tells(takes: list[tuple[int, float]]) -> None:
    """Each limit tells what a bucket of its own would, in units of its own."""
    clock = ManualClock()
    limits = Limits(Limit("takes", 2, 5, counts="takes"), Limit("cost", 3, 8), clock=clock)
    ones, costs = TokenBucket(2, 5, clock=clock), TokenBucket(3, 8, clock=clock)
    for cost, pause in takes:
        clock.advance(pause)
        if not limits.take("a", cost):
            ones.take()
            costs.take(cost)
        assert limits.quotas("a") == (ones.quota("takes"), costs.quota("cost"))
    assert limits.quotas("b") == (
        Quota("takes", 5, 2.5, 5, 0.0, 0.0),
        Quota("cost", 8, limits.quotas("b")[1].window, 8, 0.0, 0.0),
    )


def test_a_quota_by_hand() -> None:
    """A bucket of 20 at 10 a second comes back in two seconds, and half of it in one."""
    clock = ManualClock()
    throttle = Throttle(10, 20, clock=clock)
    assert throttle.quotas("a") == (Quota("default", 20, 2.0, 20, 0.0, 0.0),)
    throttle.take("a", 10)
    assert throttle.quotas("a") == (Quota("default", 20, 2.0, 10, 1.0, 0.1),)
    clock.advance(0.55)
    assert throttle.quotas("a") == (Quota("default", 20, 2.0, 15, 0.45, 0.05),)


def test_nothing_remains_without_a_place() -> None:
    """A new key that finds no place is told when there may be one; a shared bucket tells for itself."""
    clock = ManualClock()
    refusing = Throttle(1, 2, max_keys=1, clock=clock)
    sharing = Throttle(1, 2, max_keys=1, overflow="share", clock=clock)
    several = Limits(Limit("l", 1, 2), max_keys=1, clock=clock)
    for throttle in (refusing, sharing, several):
        throttle.take("a")
    assert refusing.quotas("b") == (Quota("default", 2, 2.0, 0, 1.0, 1.0),)
    assert several.quotas("b") == (Quota("l", 2, 2.0, 0, 1.0, 1.0),)
    sharing.take("b")
    assert sharing.quotas("c") == (Quota("default", 2, 2.0, 1, 1.0, 1.0),)


def test_nothing_remains_to_the_blocked() -> None:
    """A block leaves nothing while it lasts, although units come back."""
    clock = ManualClock()
    throttle = Throttle(1, 1, block=60, clock=clock)
    throttle.take("a")
    throttle.take("a")
    clock.advance(10)
    assert throttle.quotas("a") == (Quota("default", 1, 1.0, 0, 50.0, 50.0),)


def test_who_admits_and_who_tells() -> None:
    """Throttles by key admit, and tell what is left."""
    everyone: list[Admits] = [Throttle(1, 1), Limits(Limit("l", 1, 1))]
    assert all(isinstance(each, TellsQuotas) for each in everyone)
    assert Told(1.5).quotas == ()


@pytest.mark.parametrize("throttle", [Throttle(1, 1), Limits(Limit("l", 1, 1))])
def test_unhashable(throttle: TellsQuotas) -> None:
    """A key that cannot be hashed is a TypeError."""
    key: Hashable = [[]]  # type: ignore[assignment]
    with pytest.raises(TypeError, match="unhashable"):
        throttle.quotas(key)
