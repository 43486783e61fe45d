"""What traffic itself says of a replica, how long it counts, and how many may be out at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.outcome import Outcome, Verdict
from replicated.readiness import (
    FailureShare,
    OutlierDetector,
    PanicChanged,
    ProbePolicy,
    ReadinessTracker,
    State,
    SuccessRate,
)
from replicated.replica import Replica
from replicated.testing import ManualClock

RESET, FINE = Outcome.failure("reset"), Outcome.success(0.01)


def tracker(count: int = 10, policy=None, **options) -> tuple[ReadinessTracker, ManualClock]:
    clock = ManualClock()
    detector = OutlierDetector(**options)
    members = [Replica(f"r{i}") for i in range(count)]
    return ReadinessTracker(policy, outliers=detector, replicas=members, clock=clock), clock


def fail(tracked: ReadinessTracker, id: str, times: int = 5) -> None:
    for _ in range(times):
        tracked.observe_outcome(id, RESET)


def ready(tracked: ReadinessTracker) -> set[str]:
    return {replica.id for replica in tracked.ready}


def test_failures_in_a_row_eject():
    """Five failures without a success between take a replica out for 30 s, and it comes back by itself."""
    tracked, clock = tracker()
    fail(tracked, "r0", 4)
    tracked.observe_outcome("r0", FINE)
    fail(tracked, "r0", 4)
    tracked.observe_outcome("r0", Outcome.cancelled())
    assert "r0" in ready(tracked)
    version = tracked.ready.version
    fail(tracked, "r0", 1)
    assert "r0" not in ready(tracked)
    assert tracked.ready.version == version + 1
    assert str(tracked.explain("r0")) == (
        "r0 is ejected since 0.0 s: 5 requests in a row failed (reset); this can next change in 30.0 s"
    )
    clock.advance(29.9)
    tracked.tick()
    assert "r0" not in ready(tracked)
    clock.advance(0.1)
    tracked.tick()
    assert "r0" in ready(tracked)
    assert tracked.explain("r0").reason == "its ejection is over"


def test_ticks_are_free_until_something_is_due():
    """A tick before the first timer does not even take the lock."""
    tracked, _ = tracker()
    fail(tracked, "r0")
    with tracked._lock:
        tracked.tick(29.0)
    assert tracked.next_due() == 30.0


def test_successes_take_no_lock():
    """A success after successes changes nothing, and does not wait for anybody."""
    tracked, _ = tracker()
    with tracked._lock:
        tracked.observe_outcome("r0", FINE)


def test_ejections_double_and_are_forgiven():
    """Each ejection lasts twice as long as the one before, up to the longest; good time halves the next."""
    tracked, clock = tracker(base=30, longest=100)
    lasted = []
    for _ in range(4):
        fail(tracked, "r0")
        lasted.append(tracked.explain("r0").changes_in)
        clock.advance(lasted[-1])
        tracked.tick()
    assert lasted == [30, 60, 100, 100]
    tracked.observe_outcome("r0", FINE)
    clock.advance(60)
    fail(tracked, "r0")
    assert tracked.explain("r0").changes_in == 100
    clock.advance(100 + 30 * 5)
    tracked.tick()
    tracked.observe_outcome("r0", FINE)
    fail(tracked, "r0")
    assert tracked.explain("r0").changes_in == 30


def test_one_failure_after_an_ejection_is_enough():
    """Without probes a replica is on trial when it comes back: its first outcome decides."""
    tracked, clock = tracker()
    for outcome, stays in [(RESET, False), (FINE, True)]:
        fail(tracked, "r0")
        clock.advance(300)
        tracked.tick()
        tracked.observe_outcome("r0", Outcome.cancelled())
        tracked.observe_outcome("r0", outcome)
        assert ("r0" in ready(tracked)) is stays
        clock.advance(300)
        tracked.tick()
        tracked.observe_outcome("r0", FINE)
    assert "r0" in ready(tracked)


def test_with_probes_it_comes_back_through_one():
    """After an ejection a probe is due at once; a good one brings it back, a bad one ejects it anew."""
    tracked, clock = tracker(4, ProbePolicy())
    for replica in tracked.due():
        tracked.observe(replica, True)
    fail(tracked, "r0")
    clock.advance(10)
    assert {replica.id for replica in tracked.due()} == {"r0", "r1", "r2", "r3"}
    tracked.observe("r0", True)
    assert tracked.state("r0") is State.EJECTED
    clock.set(30.0)
    assert "r0" in {replica.id for replica in tracked.due()}
    assert "returns with its next good probe" in str(tracked.explain("r0"))
    assert tracked.explain("r0").changes_in == 0.0
    tracked.observe("r0", False, reason="refused")
    assert tracked.explain("r0").changes_in == 60.0
    assert tracked.explain("r0").reason == "on its return, the last probe failed (refused)"
    clock.set(90.0)
    tracked.due()
    tracked.observe("r0", True)
    assert "r0" in ready(tracked)


def test_who_is_down_by_its_probes_is_not_ejected_on_top():
    """Probes that fail for long do not prolong an ejection: once they are good again the replica is back."""
    tracked, clock = tracker(4, ProbePolicy(period=10, failure_threshold=2))
    for replica in tracked.due():
        tracked.observe(replica, True)
    fail(tracked, "r0")
    for _ in range(60):
        clock.advance(10)
        for replica in tracked.due():
            tracked.observe(replica, replica.id != "r0")
    assert tracked.state("r0") is State.UNREADY
    assert tracked.explain("r0").reason.startswith("the last 60 probes failed")
    clock.advance(10)
    tracked.due()
    tracked.observe("r0", True)
    assert tracked.state("r0") is State.READY


def test_an_ejection_that_ends_in_maintenance_brings_no_probe():
    """The end of an ejection does not have a replica probed that an operator took out."""
    tracked, clock = tracker(4, ProbePolicy())
    for replica in tracked.due():
        tracked.observe(replica, True)
    fail(tracked, "r0")
    tracked.maintain("r0")
    clock.set(30.0)
    assert "r0" not in {replica.id for replica in tracked.due()}
    tracked.undrain("r0")
    assert tracked.state("r0") is State.STARTING


def test_at_most_a_tenth_but_at_least_one():
    """Of 30 replicas three may be out through ejection, of 3 one, of 1 none."""
    for count, out in [(30, 3), (10, 1), (3, 1), (2, 1), (1, 0)]:
        tracked, _ = tracker(count)
        for i in range(count):
            fail(tracked, f"r{i}", 7)
        assert len(ready(tracked)) == count - out
    assert "too few would be left" in tracked.explain("r0").reason


def test_the_cap_counts_every_cause():
    """An ejection that would leave fewer than half fit is not made, whatever took the others out."""
    tracked, _ = tracker(10, max_ejected=1.0)
    for i in range(4):
        tracked.drain(f"r{i}")
    fail(tracked, "r4")
    fail(tracked, "r5")
    assert ready(tracked) == {"r5", "r6", "r7", "r8", "r9"}
    few, _ = tracker(4, max_ejected=1.0, panic_threshold=0.0, min_ready=3)
    fail(few, "r0")
    fail(few, "r1")
    assert len(ready(few)) == 3


def test_panic_lets_the_ejected_serve():
    """When too few are fit, the ejected serve again, events and explanations say so, and it ends."""
    tracked, _ = tracker(4, ProbePolicy(failure_threshold=1))
    for i in range(4):
        tracked.observe(f"r{i}", True)
    heard = []
    tracked.subscribe(heard.append)
    fail(tracked, "r0")
    tracked.observe("r1", False)
    assert ready(tracked) == {"r2", "r3"}
    tracked.observe("r2", False)
    assert ready(tracked) == {"r0", "r3"}
    assert tracked.ready.panic
    assert "it serves all the same" in str(tracked.explain("r0"))
    tracked.observe("r2", True)
    assert ready(tracked) == {"r2", "r3"}
    panics = [(event.on, event.fit, event.members) for event in heard if isinstance(event, PanicChanged)]
    assert panics == [(True, 1, 4), (False, 2, 4)]


def test_panic_over_probes_is_a_choice():
    """With a threshold of its own the tracker lets those with failed probes serve, never the unstarted."""
    policy, clock = ProbePolicy(failure_threshold=1), ManualClock()
    members = [Replica(name) for name in "abcd"]
    tracked = ReadinessTracker(policy, panic_threshold=0.5, replicas=members, clock=clock)
    assert ready(tracked) == set()
    for name in "abc":
        tracked.observe(name, True)
    tracked.observe("a", False)
    assert ready(tracked) == {"b", "c"}
    tracked.observe("b", False)
    assert ready(tracked) == {"a", "b", "c"}
    tracked.drain("c")
    assert ready(tracked) == {"a", "b"}


@given(st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=300))
def test_never_too_few(news):
    """Whatever fails, ejections leave half of the replicas, and never take more than a fifth."""
    tracked, clock = tracker(12, consecutive_failures=2, max_ejected=0.2)
    for id, ok in news:
        tracked.observe_outcome(f"r{id}", FINE if ok else RESET)
        clock.advance(1)
        tracked.tick()
        out = [i for i in range(12) if tracked.state(f"r{i}") is State.EJECTED]
        assert len(out) <= 2
        assert len(tracked.ready) == 12 - len(out)


def test_which_outcomes_are_failures_is_a_policy():
    """A function decides what speaks against a replica: slow answers, here."""
    tracked, _ = tracker(failed=lambda outcome: (outcome.latency or 0) > 1)
    fail(tracked, "r0")
    assert "r0" in ready(tracked)
    for _ in range(5):
        tracked.observe_outcome("r0", Outcome.success(2.0))
    assert "r0" not in ready(tracked)


def test_a_restart_is_a_new_chance():
    """A new incarnation is not ejected for what the old one did, nor are its failures added up."""
    tracked, _ = tracker(4)
    fail(tracked, "r0")
    fail(tracked, "r1", 4)
    fresh = [Replica(f"r{i}", incarnation="2") for i in range(4)]
    tracked.replace(fresh)
    assert len(ready(tracked)) == 4
    tracked.observe_outcome(Replica("r1"), RESET)
    tracked.observe_outcome("r1", RESET)
    assert len(ready(tracked)) == 4


def test_failure_share():
    """Over a window, a replica whose failures reach the share is ejected at its end, given the volume."""
    tracked, clock = tracker(6, consecutive_failures=10**6, rules=[FailureShare(share=0.5, volume=10)])
    for i in range(6):
        for turn in range(20):
            bad = (i == 0 and turn % 2) or (i == 1 and turn % 3 == 0)
            tracked.observe_outcome(f"r{i}", RESET if bad else FINE)
    assert len(ready(tracked)) == 6
    clock.advance(10)
    tracked.tick()
    assert ready(tracked) == {f"r{i}" for i in range(1, 6)}
    assert tracked.explain("r0").reason == "50% of its requests failed"
    clock.advance(30)
    tracked.tick()
    assert len(ready(tracked)) == 6


def test_success_rate():
    """Who succeeds far less often than the others stands out; when all fail alike nobody does."""
    rule = SuccessRate(volume=10)
    alike = {f"r{i}": (5, 95) for i in range(10)}
    assert rule.outliers(alike) == {}
    assert list(rule.outliers({**alike, "r3": (1, 99)})) == ["r3"]
    assert "1% of its requests succeeded" in rule.outliers({**alike, "r3": (1, 99)})["r3"]
    assert rule.outliers({**alike, "r3": (0, 9)}) == {}
    assert rule.outliers({"a": (0, 100), "b": (100, 0)}) == {}
    assert FailureShare(hosts=3).outliers({"a": (0, 100), "b": (100, 0)}) == {}


def test_the_first_rule_gives_the_reason():
    """Who stands out by two rules is ejected once, for the first; who left in the window is not judged."""
    rules = [FailureShare(share=0.5, volume=1, hosts=1), SuccessRate(volume=1, hosts=1, deviations=0.1)]
    tracked, clock = tracker(6, consecutive_failures=10**6, rules=rules, max_ejected=1)
    for i in range(6):
        tracked.observe_outcome(f"r{i}", RESET if i < 2 else FINE)
    tracked.remove("r0")
    clock.advance(10)
    tracked.tick()
    assert tracked.explain("r1").reason == "100% of its requests failed"


def test_a_detector_by_itself():
    """A detector only says who deserves to go, and for how long."""
    detector = OutlierDetector(consecutive_failures=1)
    assert detector.observe("a", Outcome(Verdict.FAILED)) == "a request failed"
    assert detector.observe(Replica("a"), Outcome.cancelled()) is None
    assert detector.observe(Replica("a"), RESET) == "2 requests in a row failed (reset)"
    assert [detector.eject("a", 0.0) for _ in range(6)] == [30, 60, 120, 240, 300, 300]
    detector.forget("a")
    assert detector.eject("a", 0.0) == 30


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"consecutive_failures": 0}, ValueError),
        ({"consecutive_failures": 1.5}, TypeError),
        ({"base": 0}, ValueError),
        ({"base": True}, TypeError),
        ({"longest": 1}, ValueError),
        ({"longest": float("inf")}, ValueError),
        ({"max_ejected": 2}, ValueError),
        ({"panic_threshold": -0.1}, ValueError),
        ({"min_ready": 0}, ValueError),
        ({"interval": 0}, ValueError),
        ({"failed": None}, TypeError),
    ],
)
def test_bad_input(change, error):
    """What cannot work is refused by name."""
    with pytest.raises(error, match=next(iter(change))):
        OutlierDetector(**change)


def test_bad_rules():
    """Rules too refuse what cannot work."""
    for make in (FailureShare, SuccessRate):
        for change in ({"volume": 0}, {"hosts": 0}):
            with pytest.raises(ValueError, match=next(iter(change))):
                make(**change)
    with pytest.raises(ValueError, match="share"):
        FailureShare(share=1.5)
    with pytest.raises(ValueError, match="deviations"):
        SuccessRate(deviations=0)
