"""A replica that became ready warms up: its weight rises by steps, as every strategy sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.readiness import ProbePolicy, ReadinessTracker, SlowStart
from replicated.replica import Replica
from replicated.testing import ManualClock


def tracker(slow: SlowStart, names: str = "abc", **facts) -> tuple[ReadinessTracker, ManualClock]:
    clock = ManualClock()
    members = [Replica(name, **facts) for name in names]
    return ReadinessTracker(slow_start=slow, replicas=members, clock=clock), clock


def test_all_at_once_is_nobody():
    """Weights are relative: when everybody starts at the same time, nobody is spared."""
    tracked, _ = tracker(SlowStart())
    assert tracked.ready.ramp == {}
    assert tracked.ready.even


def test_the_late_one_ramps_up():
    """One that joins later rises from the minimum to its full weight in the window, by steps."""
    tracked, clock = tracker(SlowStart(window=10, steps=5), weight=2.0)
    clock.advance(100)
    tracked.tick()
    tracked.add(Replica("d", weight=2.0))
    seen = []
    while True:
        seen.append((clock.now, tracked.ready.weight("d")))
        assert tracked.ready.weight("a") == 2.0
        at = tracked.next_due()
        if at is None:
            break
        clock.set(at)
        tracked.tick()
    assert seen == [
        (100, pytest.approx(0.2)),
        (102, pytest.approx(0.4)),
        (104, pytest.approx(0.8)),
        (106, pytest.approx(1.2)),
        (108, pytest.approx(1.6)),
        (110, 2.0),
    ]
    assert tracked.ready.even


def test_when_all_warm_up_the_warmest_counts_as_warm():
    """Among replicas that all warm up, the one that is furthest has its full weight."""
    tracked, clock = tracker(SlowStart(window=10, steps=10), "a")
    clock.advance(5)
    tracked.add(Replica("b"))
    assert tracked.ready.ramp == {"b": pytest.approx(0.2)}
    assert "it warms up, at 20% of its weight" in str(tracked.explain("b"))


def test_who_falls_out_starts_again():
    """One that was unready in between warms up again from the minimum."""
    clock = ManualClock()
    members = [Replica("a"), Replica("b")]
    policy = ProbePolicy(failure_threshold=1)
    tracked = ReadinessTracker(policy, slow_start=SlowStart(window=10), replicas=members, clock=clock)
    for name in "ab":
        tracked.observe(name, True)
    clock.advance(20)
    tracked.tick()
    tracked.observe("b", False)
    assert tracked.ready.ramp == {}
    clock.advance(5)
    tracked.observe("b", True)
    assert tracked.ready.ramp == {"b": 0.1}
    tracked.remove("b")
    assert tracked.ready.ramp == {}


@given(st.floats(0.01, 1e4), st.floats(0.1, 10), st.floats(0.01, 1), st.integers(1, 100), st.floats(0, 2))
def test_the_curve(window, aggression, minimum, steps, part):
    """The fraction never falls, starts at the minimum or above, and is 1 from the window on."""
    slow = SlowStart(window, aggression, minimum, steps)
    here, later = slow.fraction(part * window), slow.fraction((part + 0.1) * window)
    assert minimum <= here <= later <= 1
    assert slow.fraction(-1.0) == slow.fraction(0.0)
    assert slow.fraction(window) == slow.fraction(1e9) == 1.0


def test_envoys_curve():
    """At the steps it is Envoy's formula, max(minimum, (t / window) ** (1 / aggression))."""
    slow = SlowStart(window=60, aggression=2.0, steps=60)
    for second in range(60):
        assert slow.fraction(second) == pytest.approx(max(0.1, (second / 60) ** 0.5))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"window": 0}, ValueError),
        ({"window": float("inf")}, ValueError),
        ({"aggression": -1}, ValueError),
        ({"aggression": "1"}, TypeError),
        ({"minimum": 0}, ValueError),
        ({"minimum": 1.1}, ValueError),
        ({"steps": 0}, ValueError),
        ({"steps": 2.5}, TypeError),
    ],
)
def test_bad_input(change, error):
    """What cannot work is refused by name."""
    with pytest.raises(error, match=next(iter(change))):
        SlowStart(**change)
