"""The retry budget: never more than was earned, whatever the order of events and threads."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated import RetryBudget

events = st.lists(st.one_of(st.just("first"), st.just("retry"), st.floats(0, 10)), max_size=200)


@given(
    st.floats(0, 2),
    st.floats(0, 5),
    st.floats(1, 20),
    events,
)
def test_no_span_has_more_than_was_earned(
    ratio: float, per_second: float, reserve: float, happened: list[str | float]
) -> None:
    """In any span: at most the reserve, what its seconds and what its first attempts earn."""
    budget = RetryBudget(ratio, per_second, reserve)
    now = 1000.0
    # What a span from each earlier instant may still have; the tightest of them bounds the next retry.
    allowance = math.inf
    for event in happened:
        if event == "first":
            budget.deposit()
            allowance += ratio
        elif event == "retry":
            if budget.withdraw(now):
                allowance = min(allowance, reserve) - 1
                assert allowance > -1e-6
        else:
            now += float(event)
            allowance += float(event) * per_second
        allowance = min(allowance, reserve)


def test_what_is_earned_can_be_spent() -> None:
    """One in five by default's ratio, the reserve at once, and so many a second."""
    budget = RetryBudget(0.2, 0.0, 2)
    assert [budget.withdraw(0.0) for _ in range(3)] == [True, True, False]
    for _ in range(5):
        budget.deposit()
    assert [budget.withdraw(0.0) for _ in range(2)] == [True, False]
    budget = RetryBudget(0.0, 8.0, 1)
    assert [budget.withdraw(at) for at in (5.0, 5.0625, 5.125, 5.25, 1.0)] == [True, False, True, True, False]


def test_no_more_is_saved_up_than_the_reserve() -> None:
    """A quiet week earns no more than the reserve, nor do a million requests."""
    budget = RetryBudget(0.5, 1.0, 3)
    assert budget.withdraw(0.0)
    for _ in range(1000):
        budget.deposit()
    assert [budget.withdraw(1e6) for _ in range(4)] == [True, True, True, False]


def test_threads_never_mint() -> None:
    """First attempts and retries of many threads at once yield no more retries than were earned."""
    budget = RetryBudget(0.5, 0.0, 10)
    deposits, granted = 2000, []
    interval = sys.getswitchinterval()

    def work() -> None:
        mine = 0
        for _ in range(deposits):
            budget.deposit()
            mine += budget.withdraw(0.0)
        granted.append(mine)

    threads = [threading.Thread(target=work) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sum(granted) <= 10 + 0.5 * 4 * deposits


@pytest.mark.parametrize("name", ["ratio", "per_second", "reserve"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (math.nan, ValueError), (math.inf, ValueError), (True, TypeError), ("1", TypeError)],
)
def test_what_cannot_be_is_refused(name: str, value: Any, error: type[Exception]) -> None:
    """A negative, endless or non-number budget is an error naming the argument and its value."""
    with pytest.raises(error, match=f"{name} must be .*{value!r}"):
        RetryBudget(**{name: value})
    with pytest.raises(ValueError, match="reserve must be finite and at least 1, not 0"):
        RetryBudget(reserve=0)
