"""Whatever happens to membership, readiness and requests, what is in flight adds up."""

from __future__ import annotations

import random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from replicated import Forward, InFlight, LeastLoaded, Outcome, ReadinessTracker, Replica, Tier
from replicated.testing import ManualClock

IDS = "abcde"


class Conservation(RuleBasedStateMachine):
    """Drives a tier beside the obvious model: a list of what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.load = InFlight()
        self.tracker = ReadinessTracker(clock=self.clock)
        self.tier = Tier(
            [Replica("a")],
            strategy=LeastLoaded(self.load, rng=random.Random(0)),
            readiness=self.tracker,
            clock=self.clock,
        )
        self.open: list[Forward] = []

    @rule(ids=st.sets(st.sampled_from(IDS)))
    def replace(self, ids: set[str]) -> None:
        self.tracker.replace([Replica(id) for id in sorted(ids)])

    @rule(id=st.sampled_from(IDS), drained=st.booleans())
    def drain(self, id: str, drained: bool) -> None:
        if id in {member.id for member in self.tracker.members}:
            self.tracker.drain(id) if drained else self.tracker.undrain(id)

    @rule(key=st.none() | st.text(max_size=3))
    def ask(self, key: str | None) -> None:
        decision = self.tier.decide(key)
        assert isinstance(decision, Forward) == bool(self.tracker.ready)
        if isinstance(decision, Forward):
            assert decision.replica in self.tracker.ready
            self.open.append(decision)

    @rule(data=st.data(), verdict=st.sampled_from(["ok", "failed", "cancelled", "retried"]))
    def finish(self, data: st.DataObject, verdict: str) -> None:
        if not self.open:
            return
        forward = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        match verdict:
            case "ok":
                self.tier.finish(forward, Outcome.success(0.1))
            case "cancelled":
                self.tier.finish(forward, Outcome.cancelled())
            case "failed":
                self.tier.finish(forward, Outcome.failure())
            case "retried":
                self.tier.finish(forward, Outcome.failure())
                decision = self.tier.retry(forward)
                if isinstance(decision, Forward):
                    assert decision.replica.id not in decision.tried
                    self.open.append(decision)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def it_adds_up(self) -> None:
        assert self.tier.in_flight == len(self.open)
        for id in IDS:
            assert self.load.of(id) == sum(forward.replica.id == id for forward in self.open)


TestConservation = Conservation.TestCase
