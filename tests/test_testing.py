"""The fakes themselves: a clock that stands, probes from a script, a strategy that remembers."""

from __future__ import annotations

import pytest

from replicated.balance import RoundRobin
from replicated.outcome import Outcome
from replicated.readiness import ProbePolicy, ReadinessTracker
from replicated.replica import Replica
from replicated.testing import ManualClock, RecordingStrategy, ScriptedProbe, StrategyContract


def test_a_manual_clock_stands_until_moved():
    """It shows what it was told, moves on by seconds, and can be set back on purpose only."""
    clock = ManualClock(5.0)
    assert clock() == clock() == 5.0
    assert clock.advance(2.5) == clock() == 7.5
    clock.set(1.0)
    assert repr(clock) == "ManualClock(1.0)"
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds"):
            clock.advance(seconds)
    with pytest.raises(ValueError, match="now"):
        clock.set(float("nan"))
    assert clock() == 1.0


def test_a_script_is_followed_to_its_end():
    """Results come in the order written, the last for ever, and who is not in the script is well."""
    probe = ScriptedProbe({"a": [False, True, False]})
    assert [probe(Replica("a")) for _ in range(5)] == [False, True, False, False, False]
    assert probe(Replica("b"))
    assert probe.asked == ["a"] * 5 + ["b"]
    with pytest.raises(ValueError, match="'a'"):
        ScriptedProbe({"a": []})


def test_a_script_ends_with_its_time():
    """Running a script leaves the clock at the end, also when nothing is probed or due."""
    for policy in (None, ProbePolicy(period=7)):
        clock = ManualClock()
        tracker = ReadinessTracker(policy, replicas=[Replica("a")], clock=clock)
        ScriptedProbe().run(tracker, clock, 20)
        assert clock() == 20
        assert len(tracker.ready) == 1


def test_a_recording_strategy_remembers():
    """It picks as another does, or the first, and knows what is in flight."""
    first, turns = RecordingStrategy(), RecordingStrategy(RoundRobin())
    ready = [Replica("none", weight=0.0), Replica("a"), Replica("b")]
    assert first.pick(ready).id == first.pick(ready, "key").id == "a"
    assert first.pick([]) is None
    assert first.picks == [(None, "a"), ("key", "a"), (None, None)]
    assert [turns.pick(ready).id for _ in range(3)] == ["a", "b", "a"]
    for replica in ready:
        turns.started(replica)
    turns.finished(ready[1], Outcome.failure("reset"))
    assert turns.in_flight == {"none": 1, "b": 1}
    assert turns.ends[0][1].reason == "reset"


def test_the_contract_wants_a_strategy():
    """A contract without make() says what is missing."""
    with pytest.raises(NotImplementedError, match="make"):
        StrategyContract().strategy()
