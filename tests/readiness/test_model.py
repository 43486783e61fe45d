"""The tracker against a model that recomputes everything from scratch, under any order of calls."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from replicated.outcome import Outcome
from replicated.readiness import (
    Joined,
    Left,
    OutlierDetector,
    ProbePolicy,
    ReadinessTracker,
    SlowStart,
    State,
    StateChanged,
)
from replicated.replica import Replica
from replicated.testing import ManualClock

names = st.sampled_from("abcdef")


class TrackerMachine(RuleBasedStateMachine):
    """Replays events into a model, and holds the snapshot against the states."""

    @initialize(probed=st.booleans(), slow=st.booleans(), period=st.sampled_from([2.0, 10.0]))
    def begin(self, probed, slow, period):
        self.clock = ManualClock()
        policy = ProbePolicy(period=period, timeout=3, failure_threshold=2, jitter=0.3)
        self.tracker = ReadinessTracker(
            policy if probed else None,
            outliers=OutlierDetector(2, base=5, longest=20, max_ejected=0.4),
            slow_start=SlowStart(window=8, steps=4) if slow else None,
            clock=self.clock,
            rng=random.Random(1),
        )
        self.states: dict[str, State | None] = {}
        self.asked: dict[str, float] = {}
        self.last_version = 0
        self.tracker.subscribe(self.hear)

    def hear(self, event):
        if isinstance(event, Joined):
            assert event.replica.id not in self.states
            self.states[event.replica.id] = None
        elif isinstance(event, Left):
            del self.states[event.replica.id]
            self.asked.pop(event.replica.id, None)
        elif isinstance(event, StateChanged):
            assert self.states[event.replica.id] in (None, event.old)
            self.states[event.replica.id] = event.new
            assert event.version <= self.tracker.ready.version

    @rule(chosen=st.lists(st.tuples(names, st.sampled_from(["1", "2"])), unique_by=lambda c: c[0]))
    def replace(self, chosen):
        before = {replica.id: replica for replica in self.tracker.members}
        wanted = [Replica(name, incarnation=incarnation) for name, incarnation in chosen]
        for replica in wanted:
            if before.get(replica.id, replica) != replica:
                self.asked.pop(replica.id, None)
        self.tracker.replace(wanted)
        assert list(self.tracker.members) == wanted

    @rule(name=names, action=st.sampled_from(["drain", "maintain", "undrain"]))
    def operate(self, name, action):
        if name in self.states:
            if action == "undrain" or self.tracker.state(name) is State.MAINTENANCE:
                self.asked.pop(name, None)
            getattr(self.tracker, action)(name)

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 11.0]))
    def pass_time(self, seconds):
        self.clock.advance(seconds)
        self.tracker.tick()

    @rule()
    def due(self):
        for replica in self.tracker.due():
            if replica.id in self.asked:
                assert self.clock.now - self.asked[replica.id] >= 3
            self.asked[replica.id] = self.clock.now
            assert self.tracker.state(replica) is not State.MAINTENANCE

    @rule(name=names, ok=st.booleans())
    def observe(self, name, ok):
        if name in self.states:
            self.asked.pop(name, None)
            self.tracker.observe(name, ok)

    @rule(name=names, ok=st.booleans())
    def outcome(self, name, ok):
        if name in self.states:
            self.tracker.observe_outcome(name, Outcome.success(0.1) if ok else Outcome.failure())

    @invariant()
    def snapshot_is_the_states(self):
        ready, tracker = self.tracker.ready, self.tracker
        assert ready.version >= self.last_version
        self.last_version = ready.version
        assert set(self.states) == {replica.id for replica in ready.members}
        states = {id: tracker.state(id) for id in self.states}
        assert all(known in (None, states[id]) for id, known in self.states.items())
        fit = {id for id, state in states.items() if state is State.READY}
        ejected = {id for id, state in states.items() if state is State.EJECTED}
        serving = {replica.id for replica in ready}
        panic = len(fit) < 0.5 * len(states)
        assert serving == (fit | ejected if panic else fit)
        assert ready.panic is (panic and bool(ejected))
        assert [r for r in ready.members if r.id in serving] == list(ready)
        assert set(ready.ramp) <= serving
        assert all(0 < part < 1 for part in ready.ramp.values())
        for id in states:
            assert tracker.explain(id).state is states[id]

    @invariant()
    def something_is_always_due(self):
        if self.tracker.policy is not None and any(
            self.tracker.state(id) is not State.MAINTENANCE for id in self.states
        ):
            assert self.tracker.next_due() is not None


TestTracker = TrackerMachine.TestCase
TestTracker.settings = settings(max_examples=60, stateful_step_count=40)
