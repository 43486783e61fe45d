"""A limit that changes while it is in use: nothing is given by the change, and nothing is lost."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.testing import ManualClock
from replicated.throttle import Limit, Limits, Throttle, TokenBucket, debts, keyed

LIMITS = [(Fraction(1, 3), 1), (1, 5), (3, 2), (7, 9), (1000, 40), (0.1, 3)]


class Model:
    """A bucket of units in exact fractions, that knows whether one who owes nothing is remembered."""

    def __init__(self, rate: Any, burst: Any, *, remembers: bool) -> None:
        self.rate, self.burst, self.remembers = Fraction(str(rate)), Fraction(burst), remembers
        self.left, self.at = self.burst, Fraction(0)

    def go(self, now: Fraction) -> None:
        self.left, self.at = min(self.burst, self.left + (now - self.at) * self.rate), now

    def change(self, rate: Any, burst: Any) -> None:
        full = self.left == self.burst and not self.remembers
        self.rate, self.burst = Fraction(str(rate)), Fraction(burst)
        self.left = self.burst if full else min(self.left, self.burst)


def bucket(clock: ManualClock) -> tuple[Any, Callable[..., None], bool]:
    made = TokenBucket(*LIMITS[0], clock=clock)
    return made, made.reconfigure, True


def throttle(clock: ManualClock) -> tuple[Any, Callable[..., None], bool]:
    made = Throttle(*LIMITS[0], clock=clock)
    return made, made.reconfigure, False


def limits(clock: ManualClock) -> tuple[Any, Callable[..., None], bool]:
    made = Limits(Limit("it", *LIMITS[0]), Limit("vast", 10**6, 10**6), clock=clock)
    return made, lambda rate, burst: made.reconfigure("it", rate, burst), False


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "refund", "peek", "change"]),
        st.integers(0, 5),
        st.sampled_from([0, 0, 1, 10, 300, 2000]),
        st.sampled_from("abc"),
    ),
    max_size=40,
)


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("make", [bucket, throttle, limits])
@given(steps=STEPS)
def test_what_is_left_is_carried_over(make: Any, atomic: bool, steps: list[Any]) -> None:
    """However often the limit changes, each key is answered as an exact bucket that keeps its units."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(debts, "ATOMIC", atomic)
        patch.setattr(keyed, "ATOMIC", atomic)
        clock = ManualClock()
        subject, change, remembers = make(clock)
        models = {key: Model(*LIMITS[0], remembers=remembers) for key in "abc"}
        now = 0
        for what, number, gap, key in steps:
            now += gap
            clock.set(now / 1000)
            for model in models.values():
                model.go(Fraction(now, 1000))
            if what == "change":
                change(*LIMITS[number])
                for model in models.values():
                    model.change(*LIMITS[number])
                continue
            if make is bucket:
                key, arguments = "a", ()
            else:
                arguments = (key,)
            model = models[key]
            answer = getattr(subject, what)(*arguments)
            if what == "refund":
                model.left = min(model.burst, model.left + 1)
                continue
            # What is carried over is rounded down to a tick, of which a unit has at least a million.
            if answer == 0.0:
                assert model.left >= 1
                model.left -= what == "take"
            else:
                assert model.left < 1 + Fraction(1, 10**5)
                assert answer == pytest.approx(max(0, (1 - model.left) / model.rate), abs=1e-5)


@given(
    changes=st.lists(st.tuples(st.sampled_from(LIMITS), st.integers(0, 60)), min_size=1, max_size=6),
    seed=st.integers(0, 100),
)
def test_no_window_gets_more(changes: list[Any], seed: int) -> None:
    """From each change on no window gets more than the new rate and burst allow."""
    clock = ManualClock()
    subject = Throttle(5, 5, clock=clock)
    now = 0
    for (rate, burst), calls in changes:
        subject.reconfigure(rate, burst)
        taken = []
        for call in range(calls):
            now += (seed + call) % 7 * 20
            clock.set(now / 1000)
            if subject.take("k") == 0.0:
                taken.append(Fraction(now, 1000))
        lowest = Fraction(0)
        for index, at in enumerate(taken):
            level = index - Fraction(str(rate)) * at
            lowest = level if index == 0 else min(lowest, level)
            assert level - lowest + 1 <= burst


def test_keys_are_carried_over_as_the_hand_comes_by() -> None:
    """After a change memory stays bounded, idle keys go, and former limits go with their last key."""
    clock = ManualClock()
    subject = Throttle(1, 10, max_keys=100, clock=clock)
    for key in range(100):
        subject.take(key, 10)
    clock.advance(1)
    subject.reconfigure(2, 20)
    subject.reconfigure(3, 30)
    assert len(subject) == 100
    assert subject.take("new") == subject.peek("new") > 0.0
    assert len(subject) == 100
    assert subject.quotas(7)[0].remaining == 1
    assert subject.peek(50, 30) == pytest.approx(29 / 3)
    clock.advance(30)
    for key in range(200, 225):
        assert subject.take(key) == 0.0
    assert len(subject) == 25
    assert not subject._debts._former
    assert subject.stats().dropped == 100


def test_blocks_plans_and_shares() -> None:
    """A change of the common limit prolongs no block, touches no plan, and changes the shared bucket too."""
    clock = ManualClock()
    subject = Throttle(Fraction(1, 3), 1, max_keys=1, overflow="share", block=10, clock=clock)
    subject.set_plan("vip", 1, 4)
    subject.take("vip", 3)
    subject.take("a")
    assert subject.take("a") == 10.0
    subject.reconfigure(7, 7)
    assert subject.take("a") == subject.peek("a") == 10.0
    assert subject.quotas("a")[0].remaining == 0
    assert subject.take("vip") == 0.0
    assert subject.take("vip") == 10.0
    assert [subject.take("b") for _ in range(2)] == [0.0, pytest.approx(1 / 7)]
    clock.advance(4)
    assert subject.take("a") == 6.0
    clock.advance(6)
    assert subject.take("a", 7) == 0.0
    subject.clear_plan("vip")
    assert subject.take("vip", 4) == 0.0
    assert subject.take("vip") > 0.0


def test_a_clock_that_steps_back() -> None:
    """A change while the clock has stepped back gives nothing to anybody."""
    clock = ManualClock(1000.0)
    subject = Throttle(1, 2, clock=clock)
    subject.take("gone", 2)
    clock.advance(15)
    subject.take("kept", 2)
    clock.set(0.0)
    subject.reconfigure(2, 4)
    assert len(subject) == 1
    for key in ("gone", "kept", "new"):
        assert subject.take(key) > 0.0
    clock.advance(2)
    assert subject.take("kept", 4) == 0.0


def test_on_the_real_clock() -> None:
    """Limits whose ticks differ agree on what the real clock reads."""
    for subject in (Throttle(3, 3), Limits(Limit("it", 3, 3))):
        change: Any = subject.reconfigure
        take: Any = subject.take
        assert take("k", 3) == 0.0
        change(*(("it",) if isinstance(subject, Limits) else ()), Fraction(1, 7), 7)
        assert 6.9 < take("k") <= 7.0
    bucket = TokenBucket(3, 3)
    bucket.take(3)
    bucket.reconfigure(Fraction(1, 7), 7)
    assert 6.9 < bucket.take() <= bucket.quota().reset


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((0, 1), ValueError), ((1, 0), ValueError), ((math.nan, 1), ValueError), (("1", 1), TypeError)],
)
def test_bad_limits(arguments: Any, error: type[Exception]) -> None:
    """A limit that cannot be changes nothing."""
    several = Limits(Limit("it", 1, 1))
    for subject in (Throttle(1, 1), TokenBucket(1, 1), several):
        before = repr(subject)
        with pytest.raises(error):
            subject.reconfigure(*(("it",) if subject is several else ()), *arguments)  # type: ignore[arg-type]
        assert repr(subject) == before
    with pytest.raises(ValueError, match=r"name must be one of \['it'\], not 'other'"):
        several.reconfigure("other", 1, 1)


class Meddling:
    """A clock that, while it is read, lets another thread change the limit."""

    def __init__(self) -> None:
        self.subject: Any = None
        self.left = 0

    def __call__(self) -> float:
        if self.left:
            self.left -= 1
            self.subject.reconfigure(Fraction(1, 7), 3)
        return 1000.0


@pytest.mark.parametrize("what", ["take", "peek", "refund", "quota"])
def test_a_change_in_the_middle(what: str) -> None:
    """A bucket whose limit changes while its clock is read reads it again, in the new ticks."""
    clock = Meddling()
    subject = TokenBucket(1000, 3, clock=clock)
    subject.take(3)
    clock.subject, clock.left = subject, 1
    answer = getattr(subject, what)()
    if what == "quota":
        assert answer.reset == 21.0
    else:
        assert answer == (None if what == "refund" else 7.0)
    assert subject.take() == (0.0 if what == "refund" else 7.0)


def test_a_throttle_changes_in_the_middle() -> None:
    """A key whose limit changes while the clock is read is told the wait by the new limit."""
    clock = Meddling()
    subject = Throttle(1000, 3, clock=clock)
    subject.take("k", 3)
    clock.subject, clock.left = subject, 1
    assert subject.take("k") == 7.0
    assert subject.take("k") == 7.0


@pytest.mark.parametrize(
    "make", [lambda: TokenBucket(Fraction(1, 9), 200), lambda: Throttle(Fraction(1, 9), 200)]
)
def test_threads_while_it_changes(make: Any) -> None:
    """Eight threads get the burst and no more, however often the limit changes under them."""
    subject = make()
    key = ("k",) if isinstance(subject, Throttle) else ()
    subject.take(*key)
    taken = [0] * 8
    begin = threading.Barrier(9)

    def run(number: int) -> None:
        begin.wait()
        for _ in range(200):
            taken[number] += subject.take(*key) == 0.0

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    begin.wait()
    for change in range(300):
        subject.reconfigure(Fraction(1, 3600 + change % 7), 200)
    for thread in threads:
        thread.join()
    assert sum(taken) == 199
