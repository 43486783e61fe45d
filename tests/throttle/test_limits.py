"""Several limits at once: all or nothing, and the one that binds is named."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.testing import ManualClock
from replicated.throttle import OVERFLOW, Limit, Limits, TokenBucket


def make(clock: ManualClock, **options: int) -> Limits:
    return Limits(
        Limit("second", 2, 2, counts="takes"),
        Limit("hour", Fraction(10, 3600), 10, counts="takes"),
        Limit("work", 3, 30),
        clock=clock,
        **options,
    )


def test_the_limit_that_binds() -> None:
    """A refusal names the limit with the longest wait, and an admission none."""
    clock = ManualClock()
    limits = make(clock)
    assert limits.take("k", 30) == 0.0
    assert limits.take("k", 3) == 1.0
    assert (limits.peek("k", 3).limit, limits.take("k", 3).limit) == ("work", "work")
    clock.advance(1)
    admitted = limits.take("k", 3)
    assert (admitted, admitted.limit) == (0.0, "")
    clock.advance(100)
    for _ in range(3):
        limits.take("k")
        limits.take("k")
        assert limits.take("k").limit == "second"
        clock.advance(1)
    limits.take("k")
    limits.take("k")
    clock.advance(1)
    wait = limits.take("k")
    assert wait.limit == "hour"
    assert wait == limits.peek("k") == pytest.approx(360 - 105)
    assert dict(limits.refused()) == {"second": 3, "hour": 1, "work": 2, OVERFLOW: 0}


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.integers(1, 5),
            st.integers(0, 8),
            st.sampled_from(["take", "peek", "refund"]),
        ),
        max_size=50,
    )
)
def test_all_or_nothing(steps: list[tuple[str, int, int, str]]) -> None:
    """The answers are those of separate buckets from which is taken only when all of them have it."""
    clock = ManualClock()
    limits = Limits(Limit("slow", 1, 5, counts="takes"), Limit("work", 7, 9), clock=clock)
    buckets = {key: [TokenBucket(1, 5, clock=clock), TokenBucket(7, 9, clock=clock)] for key in "ab"}
    for key, cost, gap, what in steps:
        clock.advance(gap / 16)
        costs = [1, cost]
        if what == "refund":
            limits.refund(key, cost)
            for bucket, each in zip(buckets[key], costs, strict=True):
                bucket.refund(each)
            continue
        waits = [bucket.peek(each) for bucket, each in zip(buckets[key], costs, strict=True)]
        if what == "take" and not any(waits):
            for bucket, each in zip(buckets[key], costs, strict=True):
                bucket.take(each)
        assert getattr(limits, what)(key, cost) == max(waits)


def test_overflow() -> None:
    """A new key without a place is refused by name, takes nothing, and is let in when there is one."""
    clock = ManualClock()
    limits = make(clock, max_keys=1)
    limits.take("a", 30)
    wait = limits.take("b")
    assert (wait, wait.limit) == (0.5, OVERFLOW)
    assert limits.peek("b") == 0.5
    assert limits.refused()[OVERFLOW] == 1
    clock.advance(0.5)
    assert limits.peek("b") > 0.5  # by now the longer limits hold the place
    clock.advance(360)
    assert limits.take("b") == 0.0
    assert len(limits) == 1


def test_clock_that_steps_back() -> None:
    """A clock that steps back gives nothing and keeps nobody out for longer than a burst takes to refill."""
    clock = ManualClock(1e6)
    limits = Limits(Limit("a", 1, 2), Limit("b", 10, 2), clock=clock)
    limits.take("dropped", 2)
    clock.advance(20)
    limits.take("kept", 2)
    assert len(limits) == 1
    clock.set(0.0)
    for key in ("dropped", "kept"):
        assert limits.take(key).limit == "a"
    clock.advance(2)
    for key in ("dropped", "kept"):
        assert limits.take(key, 2) == 0.0


def test_bad_input() -> None:
    """Limits that cannot be are refused by name, costs too, and then nothing was taken."""
    with pytest.raises(ValueError, match="limits"):
        Limits()
    with pytest.raises(ValueError, match="limits"):
        Limits(Limit("a", 1, 1), Limit("a", 2, 2))
    for name in ("", OVERFLOW):
        with pytest.raises(ValueError, match="name"):
            Limit(name, 1, 1)
    with pytest.raises(ValueError, match="counts"):
        Limit("a", 1, 1, counts="bytes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rate"):
        Limits(Limit("a", math.nan, 1))
    with pytest.raises(ValueError, match="max_keys"):
        Limits(Limit("a", 1, 1), max_keys=0)
    limits = make(ManualClock())
    for cost in (0, 31, math.inf):
        with pytest.raises(ValueError, match="cost"):
            limits.take("k", cost)
    with pytest.raises(TypeError):
        limits.take([])  # type: ignore[arg-type]
    assert limits.take("k", 30) == 0.0


def test_repr() -> None:
    """Limits say what they are."""
    assert repr(Limits(Limit("a", 1, 2), Limit("b", 0.5, 3))) == "<Limits a: 1/s, burst 2, b: 0.5/s, burst 3>"
