"""A bucket a key: bounded memory, the sweep, overflow, plans, blocks, shadow mode."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.testing import ManualClock
from replicated.throttle import Throttle, TokenBucket, debts, keyed


class Opaque:
    """A key whose hash and comparison are written in Python."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.name == self.name


KEYS: list[Hashable] = ["a", b"a", 7, ("a", 7), ("a", Opaque("b")), Opaque("a"), Opaque("b"), None]


@pytest.fixture(params=["one step", "locked"])
def interpreter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as where statements are one step, and as where a lock is needed."""
    if request.param == "locked":
        monkeypatch.setattr(debts, "ATOMIC", False)
        monkeypatch.setattr(keyed, "ATOMIC", False)


@pytest.mark.parametrize("atomic", [True, False])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(KEYS),
            st.sampled_from(["take", "peek", "refund"]),
            st.integers(1, 3),
            st.sampled_from([0, 1, 2, 3, 4, 50]),
        ),
        max_size=80,
    )
)
def test_each_key_is_a_bucket(atomic: bool, steps: list[tuple[Hashable, str, int, int]]) -> None:
    """Every key is answered as by a bucket of its own, however many there are and whatever was swept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(debts, "ATOMIC", atomic)
        patch.setattr(keyed, "ATOMIC", atomic)
        clock = ManualClock()
        throttle = Throttle(3, 3, clock=clock)
        buckets = {key: TokenBucket(3, 3, clock=clock) for key in KEYS}
        for key, what, cost, gap in steps:
            clock.advance(gap / 4)
            assert getattr(throttle, what)(key, cost) == getattr(buckets[key], what)(cost)
    assert len(throttle) <= len(KEYS)


def test_opaque_and_plain_keys(interpreter: None) -> None:
    """Equal keys share a bucket, whoever wrote their hash."""
    throttle = Throttle(1, 2, clock=ManualClock())
    for make in (lambda: Opaque("x"), lambda: ("x", 1), lambda: "x"):
        assert [throttle.take(make()) for _ in range(3)] == [0.0, 0.0, 1.0]
        throttle.refund(make())
        assert throttle.peek(make()) == 0.0


def test_unhashable() -> None:
    """A key that cannot be hashed is refused by name."""
    throttle = Throttle(1, 1)
    with pytest.raises(TypeError, match=r"key must be hashable, not \[\]"):
        throttle.take([])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        throttle.take([], 1.0)  # type: ignore[arg-type]
    assert len(throttle) == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_keys": 0}, ValueError),
        ({"max_keys": 1.5}, TypeError),
        ({"max_keys": True}, TypeError),
        ({"overflow": "forget"}, ValueError),
        ({"block": -1}, ValueError),
        ({"block": math.nan}, ValueError),
        ({"block": "1"}, TypeError),
    ],
)
def test_bad_arguments(arguments: dict[str, object], error: type[Exception]) -> None:
    """An argument that cannot be is refused by name."""
    with pytest.raises(error, match=next(iter(arguments))):
        Throttle(1, 1, **arguments)  # type: ignore[arg-type]


def test_idle_keys_are_forgotten_a_few_at_a_time() -> None:
    """New keys drop idle ones, none of them more than it may look at, and debtors stay."""
    clock = ManualClock()
    throttle = Throttle(1, 1, clock=clock)
    for key in range(1000):
        throttle.take(key)
    clock.advance(9)
    throttle.take(0)
    assert len(throttle) == 1000
    clock.advance(2)
    before = throttle.stats().dropped
    for key in range(1000, 1334):
        throttle.take(key)
        dropped = throttle.stats().dropped
        assert dropped - before <= debts.LOOKS
        before = dropped
    assert len(throttle) == 335
    assert throttle.stats().dropped == 999


@pytest.mark.parametrize("cost", [1, 2])
def test_known_keys_sweep_too(cost: int) -> None:
    """Idle keys go also where no new ones come, whether the known ones are admitted or refused."""
    clock = ManualClock()
    throttle = Throttle(1, 2, clock=clock)
    for key in range(100):
        throttle.take(key)
    for _ in range(300):
        clock.advance(2)
        for _ in range(3):
            throttle.take(7, cost)
    assert len(throttle) <= 2


def test_known_keys_sweep_by_time() -> None:
    """A known key looks at another once in ten milliseconds and no more, also after a change of limits."""
    clock = ManualClock(1000.0)
    throttle = Throttle(7e6, 1, clock=clock)
    for key in range(100):
        throttle.take(key)
    clock.advance(20)
    for step in range(8):
        if step == 4:
            throttle.reconfigure(1e6, 1)  # of which a tick is seven times as long
        for _ in range(4):
            clock.advance(0.003)
            assert throttle.take(99) == 0.0
    assert throttle.stats().dropped in (8, 9)


def test_memory() -> None:
    """A key costs at most 110 bytes beyond itself."""
    throttle = Throttle(3, 10)
    count = 22_000  # just after the table has grown, when it is at its emptiest
    for key in range(count):
        throttle.take(key)
    store = throttle._debts
    size = (
        sys.getsizeof(store.plain)
        + sys.getsizeof(store._order)
        + sum(map(sys.getsizeof, store.plain.values()))
    )
    assert size / count <= 110


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60),
    overflow=st.sampled_from(["refuse", "share"]),
)
def test_flood(steps: list[tuple[int, bool]], overflow: keyed.Overflow) -> None:
    """Under a flood of fresh keys no known client's allowance changes."""
    clock = ManualClock()
    flooded = Throttle(1, 3, max_keys=4, overflow=overflow, clock=clock)
    quiet = Throttle(1, 3, clock=clock)
    flooded.take("known")
    quiet.take("known")
    fresh = 0
    for gap, known in steps:
        clock.advance(gap / 4)
        if known:
            assert flooded.take("known") == quiet.take("known")
        for _ in range(5):
            flooded.take(("flood", fresh))
            fresh += 1
        # A new key may have taken the place of an idle one, and the known one then finds none.
        if quiet.peek("known") == 0.0 and flooded._debts.find("known") is None:
            return
    assert len(flooded) <= 4


def test_overflow_refuse() -> None:
    """Without a place a new key is refused, told when there may be one, and then admitted."""
    clock = ManualClock()
    throttle = Throttle(1, 4, max_keys=2, clock=clock)
    throttle.take("a", 2)
    throttle.take("b", 3)
    assert throttle.peek("c") == throttle.take("c") == 2.0
    assert len(throttle) == 2
    clock.advance(2)
    assert throttle.peek("c") == throttle.take("c") == 0.0
    assert (throttle.stats().overflowed, throttle.stats().refused) == (1, 1)


def test_overflow_looks_on() -> None:
    """An idle key that the hand has not reached is reached by asking again, and the wait is never 0."""
    clock = ManualClock()
    throttle = Throttle(1, 100, max_keys=12, clock=clock)
    for key in range(12):
        throttle.take(key, 1 if key == 11 else 100)
    clock.advance(1)
    waits = [throttle.take("new") for _ in range(3)]
    assert waits[-1] == 0.0
    assert all(wait > 0.0 for wait in waits[:-1])


def test_overflow_share() -> None:
    """New keys without a place take from one bucket that they have in common."""
    throttle = Throttle(1, 2, max_keys=1, overflow="share", clock=ManualClock())
    throttle.take("a")
    assert throttle.take("b") == throttle.take("c") == 0.0
    assert throttle.peek("d") == throttle.take("d") == 1.0
    assert throttle.take("a") == 0.0
    assert (throttle.stats().overflowed, throttle.stats().refused) == (3, 1)


@given(back=st.integers(0, 10**6))
def test_clock_that_steps_back(back: int) -> None:
    """Not even a key that was dropped gets a unit from a clock that steps back, and nobody is locked out."""
    clock = ManualClock(2e6)
    throttle = Throttle(1, 2, clock=clock)
    throttle.take("dropped", 2)
    clock.advance(12)
    throttle.take("kept", 2)
    assert len(throttle) == 1
    clock.set(2e6 + 12 - back)
    assert (throttle.peek("dropped", 2) == 0.0) == (back <= 10)
    assert (throttle.take("dropped", 2) == 0.0) == (back <= 10)
    assert throttle.take("kept") > 0.0
    clock.advance(2)
    for key in ("dropped", "kept", "new"):
        assert throttle.take(key) == 0.0


def test_sweep_after_a_step_back() -> None:
    """A clock that steps back does not keep keys in memory until it has caught up."""
    clock = ManualClock(1e6)
    throttle = Throttle(1, 1, clock=clock)
    for key in range(50):
        throttle.take(key)
    clock.set(0.0)
    for key in range(100, 120):
        throttle.take(key)
    clock.advance(12)
    for key in range(200, 230):
        throttle.take(key)
    assert len(throttle) == 30


def test_block() -> None:
    """A refusal blocks its key for exactly the time given, which no refusal meanwhile prolongs."""
    clock = ManualClock()
    throttle = Throttle(1, 2, block=10, clock=clock)
    assert throttle.take("a", 2) == 0.0
    assert throttle.peek("a") == 1.0
    assert throttle.take("a") == 10.0
    clock.advance(4)
    assert throttle.take("a") == throttle.peek("a") == 6.0
    assert throttle.take("b") == 0.0
    clock.set(9.999)
    assert throttle.take("a") > 0.0
    clock.set(10.0)
    assert throttle.peek("a", 2) == throttle.take("a", 2) == 0.0
    assert throttle.stats().blocked == 1
    assert throttle.take("a", 2) == 10.0


def test_short_block() -> None:
    """A block shorter than the wait for the unit does not shorten that."""
    throttle = Throttle(1, 1, block=0.25, clock=ManualClock())
    throttle.take("a")
    assert throttle.take("a") == 1.0


def test_blocked_keys_are_neither_dropped_nor_for_ever() -> None:
    """A blocked key keeps its place while it owes nothing, and a clock set back does not prolong it."""
    clock = ManualClock(1000.0)
    throttle = Throttle(1, 1, max_keys=2, block=100, clock=clock)
    throttle.take("a")
    throttle.take("a")
    clock.advance(50)
    throttle.take("b")
    assert throttle.take("c") == 1.0
    assert throttle.take("a") == 50.0
    clock.set(0.0)
    assert throttle.take("a") == 100.0
    clock.advance(100)
    assert throttle.take("d") == 0.0
    assert throttle.take("a") == 0.0


def test_blocked_and_idle_keys_are_dropped() -> None:
    """A key whose block is over and whose bucket is full is forgotten like any other."""
    clock = ManualClock()
    throttle = Throttle(1, 1, block=5, clock=clock)
    throttle.take("a")
    throttle.take("a")
    clock.advance(15)
    throttle.take("b")
    assert len(throttle) == 1
    assert throttle.take("a") == 0.0


def test_shadow() -> None:
    """In shadow mode nobody is refused, and those who would have been are counted."""
    throttle = Throttle(1, 1, max_keys=1, shadow=True, clock=ManualClock())
    assert [throttle.take(key) for key in "aab"] == [0.0, 0.0, 0.0]
    assert (throttle.stats().refused, throttle.stats().overflowed) == (2, 1)
    assert throttle.peek("a") == 1.0


def test_plans() -> None:
    """A key with a plan has its own limit, and the others theirs."""
    clock = ManualClock()
    throttle = Throttle(1, 1, clock=clock)
    throttle.set_plan("vip", 2, 10)
    assert throttle.take("vip", 10) == 0.0
    assert throttle.peek("vip") == throttle.take("vip") == 0.5
    throttle.refund("vip", 3)
    assert throttle.take("vip", 3) == 0.0
    throttle.refund("vip", 10)
    throttle.refund("vip", 10)
    assert throttle.take("vip", 10) == 0.0
    assert throttle.take("a") == 0.0
    assert throttle.take("a") == 1.0
    assert len(throttle) == 1


def test_plan_changes_give_nothing() -> None:
    """However plans are set and cleared, a key never has more left than before, in units."""
    clock = ManualClock()
    throttle = Throttle(1, 3, clock=clock)
    throttle.take("k", 2)
    throttle.set_plan("k", 5, 100)
    assert throttle.take("k") == 0.0
    assert throttle.take("k") == pytest.approx(0.2)
    throttle.set_plan("k", Fraction(1, 3), 2)
    assert throttle.take("k") == pytest.approx(3.0)
    throttle.set_plan("k", 1000, 1000)
    throttle.clear_plan("k")
    throttle.clear_plan("k")
    assert throttle.take("k") == pytest.approx(1.0)
    throttle.set_plan("k", 7, 1000)
    throttle.clear_plan("k")
    assert throttle.peek("k") == pytest.approx(1.0)
    clock.advance(1)
    assert throttle.take("k") == 0.0


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["take", "set", "clear"]), st.integers(1, 9), st.integers(1, 9)),
        max_size=40,
    )
)
def test_no_free_refill(steps: list[tuple[str, int, int]]) -> None:
    """While time stands no change of plans lets a key that has begun take more than its largest burst."""
    throttle = Throttle(1, 9, clock=ManualClock())
    taken = 0
    for what, rate, burst in [("take", 1, 1), *steps]:
        if what == "take":
            taken += throttle.take("k") == 0.0
        elif what == "set":
            throttle.set_plan("k", rate, burst)
        else:
            throttle.clear_plan("k")
    assert taken <= 9


def test_plans_and_blocks() -> None:
    """A block outlasts a change of plans, in both directions."""
    clock = ManualClock()
    throttle = Throttle(1, 1, block=10, clock=clock)
    throttle.take("k")
    throttle.take("k")
    throttle.set_plan("k", 100, 100)
    assert throttle.take("k") == throttle.peek("k") == 10.0
    clock.advance(5)
    throttle.clear_plan("k")
    assert throttle.take("k") == 5.0
    clock.advance(5)
    assert throttle.take("k") == 0.0
    throttle.set_plan("p", 1, 1)
    throttle.take("p")
    assert throttle.take("p") == 10.0
    clock.advance(10)
    assert throttle.take("p") == 0.0


def test_repr() -> None:
    """A throttle says what it is and how full."""
    throttle = Throttle(10, 20, max_keys=5)
    throttle.take("a")
    assert repr(throttle) == "<Throttle 10/s, burst 20: 1 of 5 keys>"


def test_plans_on_the_real_clock() -> None:
    """Limits of different rates agree on what the real clock reads."""
    throttle = Throttle(3, 3)
    throttle.take("k", 3)
    throttle.set_plan("k", Fraction(1, 7), 7)
    assert 6.9 < throttle.take("k") <= 7.0
    throttle.clear_plan("k")
    assert 0.3 < throttle.take("k") < 0.34
