"""One bucket against exact rational arithmetic, and what it says to bad input and bad clocks."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.testing import ManualClock
from replicated.throttle import Throttle, TokenBucket

NS = 10**9
RATES = [
    1,
    3,
    10,
    7.5,
    0.1,
    1 / 3,
    1e6,
    3e6,
    2**-20 + 1,
    Fraction(1, 3600),
    Fraction(500, 3600),
    1 / 86400,
    math.pi,
]
rates = st.sampled_from(RATES)


class Model:
    """A token bucket as a textbook has it, in exact arithmetic: tokens, and when they were counted."""

    def __init__(self, rate: Fraction, burst: Fraction) -> None:
        self.rate, self.burst, self.tokens, self.counted = rate, burst, burst, Fraction(0)

    def count(self, now: Fraction) -> None:
        self.tokens = min(self.burst, self.tokens + (now - self.counted) * self.rate)
        self.counted = now

    def take(self, now: Fraction, cost: Fraction) -> Fraction:
        self.count(now)
        if self.tokens >= cost:
            self.tokens -= cost
            return Fraction(0)
        return (cost - self.tokens) / self.rate

    def refund(self, now: Fraction, cost: Fraction) -> None:
        self.count(now)
        self.tokens = min(self.burst, self.tokens + cost)


def exactly(rate: float | Fraction) -> Fraction:
    """What a rate means: a float is the simplest fraction that is that float."""
    simple = Fraction(rate).limit_denominator(10**6)
    return simple if float(simple) == float(rate) else Fraction(rate)


def in_nanoseconds(clock: ManualClock) -> Fraction:
    return Fraction(round(clock.now * NS), NS)


steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "peek", "refund"]),
        st.integers(1, 5),
        st.floats(0, 3),  # of the time that a unit takes
    ),
    max_size=60,
)


@pytest.mark.parametrize("keyed", [False, True])
@given(rate=rates, burst=st.integers(5, 9), steps=steps)
def test_model(keyed: bool, rate: float, burst: int, steps: list[tuple[str, int, float]]) -> None:
    """Every answer is that of the textbook in exact arithmetic, rounded up to the next nanosecond."""
    clock = ManualClock()
    bucket = Throttle(rate, burst, clock=clock) if keyed else TokenBucket(rate, burst, clock=clock)
    key = ("k",) if keyed else ()
    model = Model(exactly(rate), Fraction(burst))
    at = 0
    for what, cost, gap in steps:
        at += round(gap / rate * NS)
        clock.set(at / NS)
        now = Fraction(at, NS)
        if what == "refund":
            bucket.refund(*key, cost)
            model.refund(now, Fraction(cost))
            continue
        before = model.tokens, model.counted
        expected = model.take(now, Fraction(cost))
        if what == "peek":
            model.tokens, model.counted = before
        wait = getattr(bucket, what)(*key, cost)
        assert (wait == 0.0) == (expected == 0)
        rounded = Fraction(math.ceil(expected * NS), NS)
        # After weeks the clock's own floats are so coarse that a wait needs one more to reach the time.
        coarse = math.ulp(clock.now + wait)
        most = rounded * (1 + Fraction(1, 2**52)) + (Fraction(coarse) if coarse > 1e-10 else 0)
        assert rounded <= Fraction(wait) <= most


@given(rate=rates, burst=st.integers(1, 6), gaps=st.lists(st.integers(0, 10), max_size=80))
def test_window(rate: float, burst: int, gaps: list[int]) -> None:
    """In no window of length w is more than rate * w + burst admitted."""
    clock = ManualClock()
    bucket = TokenBucket(rate, burst, clock=clock)
    admitted: list[Fraction] = []
    for at in accumulate(gaps):
        clock.set(round(at / 5 / rate * NS) / NS)
        if bucket.take() == 0.0:
            admitted.append(in_nanoseconds(clock))
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            window = admitted[last] - admitted[first]
            assert last - first + 1 <= exactly(rate) * window + burst


@pytest.mark.parametrize("rate", RATES)
def test_delivered(rate: float) -> None:
    """A caller who always waits as told gets the configured rate: no fraction of a unit is dropped."""
    clock = ManualClock()
    bucket = TokenBucket(rate, 2, clock=clock)  # room for what the waits are rounded up by
    taken = 0
    while taken < 2002:
        wait = bucket.take()
        taken += wait == 0.0
        clock.set((round(clock.now * NS) + math.ceil(wait * NS - 1e-3)) / NS)
    delivered = 2000 / in_nanoseconds(clock)
    assert 0.9999 * exactly(rate) <= delivered <= exactly(rate)


@given(
    rate=rates,
    start=st.floats(-1e6, 4e9),
    burst=st.integers(1, 3),
    costs=st.lists(st.integers(1, 3), min_size=1, max_size=8),
)
def test_wait_is_enough(rate: float, start: float, burst: int, costs: list[int]) -> None:
    """Adding the wait to whatever the clock showed is always enough, on clocks of any coarseness."""
    clock = ManualClock(start)
    bucket = TokenBucket(rate, burst, clock=clock)
    for cost in (min(cost, burst) for cost in costs):
        wait = bucket.take(cost)
        if wait:
            clock.advance(wait)
            assert bucket.take(cost) == 0.0


@given(rate=rates, start=st.integers(0, 10**14), part=st.floats(0, 1, exclude_max=True))
def test_shorter_is_not(rate: float, start: int, part: float) -> None:
    """Waiting less than the wait, by a nanosecond or by more, is never enough."""
    clock = ManualClock(start / NS)
    bucket = TokenBucket(rate, 1, clock=clock)
    assert bucket.take() == 0.0
    wait = math.ceil(bucket.peek() * NS - 1e-3)
    clock.set((start + min(int(wait * part), wait - 1)) / NS)
    assert bucket.take() > 0.0


def test_waits_are_plain() -> None:
    """A wait that a float can say is said exactly."""
    clock = ManualClock(100.0)
    bucket = TokenBucket(4, 1, clock=clock)
    assert bucket.take() == 0.0
    assert bucket.take() == bucket.peek() == 0.25
    clock.advance(0.125)
    assert bucket.take() == 0.125


def test_fractional_costs() -> None:
    """A cost and a burst may be fractions of a unit."""
    bucket = TokenBucket(1, 2.5, clock=ManualClock())
    assert bucket.take(Fraction(1, 4)) == 0.0
    assert bucket.take(0.5) == 0.0
    assert bucket.take(2) == 0.25
    assert bucket.take(1.75) == 0.0


def test_refund_never_exceeds_the_burst() -> None:
    """Giving back more than was taken fills the bucket and no more."""
    bucket = TokenBucket(1, 3, clock=ManualClock())
    bucket.take()
    for _ in range(5):
        bucket.refund(3)
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_peek_mints_nothing() -> None:
    """Asking a thousand times changes nothing."""
    clock = ManualClock()
    bucket = TokenBucket(1, 1, clock=clock)
    bucket.take()
    for _ in range(1000):
        clock.advance(0.0009765625)
        bucket.peek()
    assert bucket.peek() == bucket.take() == 0.0234375


@pytest.mark.parametrize("name", ["rate", "burst"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (1j, TypeError),
    ],
)
@pytest.mark.parametrize("make", [TokenBucket, Throttle])
def test_bad_limits(name: str, value: object, error: type[Exception], make: Callable[..., object]) -> None:
    """A rate or burst that cannot be is refused by name and value."""
    with pytest.raises(error, match=f"{name} must .*not {value!r}"):
        make(**{"rate": 1, "burst": 1, name: value})


@pytest.mark.parametrize(
    ("cost", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (4, ValueError),
        (math.nan, ValueError),
        (True, TypeError),
        ("1", TypeError),
    ],
)
def test_bad_costs(cost: object, error: type[Exception]) -> None:
    """A cost that cannot be is refused, one above the burst too, and nothing has changed."""
    bucket = TokenBucket(1, 3, clock=ManualClock())
    for call in (bucket.take, bucket.peek, bucket.refund):
        with pytest.raises(error, match="cost must be"):
            call(cost)  # type: ignore[operator]
    assert bucket.take(3) == 0.0


def test_bad_clock_and_extreme_rates() -> None:
    """A clock must be callable, a burst of less than a unit is no limit, and every wait must fit a float."""
    with pytest.raises(TypeError, match="clock"):
        TokenBucket(1, 1, clock=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="burst"):
        TokenBucket(1, 0.5)
    with pytest.raises(ValueError, match="rate"):
        TokenBucket(5e-324, 1)
    assert TokenBucket(1e300, 1e300).take(1e299) == 0.0
    slow = TokenBucket(1e-300, 1)
    assert slow.take() == 0.0
    assert slow.take() == pytest.approx(1e300)


@given(back=st.integers(1, 10**6), taken=st.integers(0, 5))
def test_clock_that_steps_back(back: int, taken: int) -> None:
    """A clock that steps back gives no unit and keeps nobody out for longer than a burst takes to refill."""
    clock = ManualClock(2e6)
    bucket = TokenBucket(1, 5, clock=clock)
    for _ in range(taken):
        bucket.take()
    clock.set(2e6 - back)
    admitted = 0
    while bucket.take() == 0.0:
        admitted += 1
    assert admitted <= 5 - taken
    assert bucket.peek() <= 5
    clock.advance(5)
    assert bucket.take() == 0.0


def test_clock_that_jumps_ahead() -> None:
    """A clock that jumps ahead by years refills the bucket and no more."""
    clock = ManualClock()
    bucket = TokenBucket(1, 2, clock=clock)
    bucket.take(2)
    clock.advance(1e9)
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("rate", [1000, 3000])
def test_real_clock(rate: int) -> None:
    """On the real clock a full bucket gives its burst, and a wait is no longer than a unit takes."""
    bucket = TokenBucket(rate, 2)
    assert bucket.take() == 0.0
    bucket.refund()
    assert bucket.peek() == 0.0
    bucket.take(2)
    assert 0.0 <= bucket.peek() <= 1 / rate + 1e-9


@pytest.mark.parametrize("keyed", [False, True])
def test_threads(keyed: bool) -> None:
    """Eight threads that take from one bucket get the burst, to the unit."""
    burst = 4000
    clock = ManualClock()
    bucket = Throttle(1, burst, clock=clock) if keyed else TokenBucket(1, burst, clock=clock)
    key = ("k",) if keyed else ()
    admitted = [0] * 8

    def run(index: int) -> None:
        for _ in range(1000):
            admitted[index] += bucket.take(*key) == 0.0

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sum(admitted) == burst


def test_repr() -> None:
    """A bucket says what it is."""
    assert repr(TokenBucket(0.5, 3)) == "<TokenBucket 0.5/s, burst 3>"
