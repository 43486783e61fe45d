"""Homes: with pins for the sessions that need them, no change of members moves a live session."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated import Forward, Outcome, ReadinessTracker, Replica, RingHash, Tier
from replicated.balance import Homes
from replicated.pins import Pin, Pins
from replicated.testing import ManualClock

SECRET = b"0123456789abcdef"
KEEP = 100.0
steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0, KEEP)),
        st.tuples(st.just("grow"), st.just(0.0)),
        st.tuples(st.just("drain"), st.integers(0, 5).map(float)),
    ),
    max_size=7,
)


class Router:
    """What an adapter does with a cookie, in a few lines."""

    def __init__(self, tracker: ReadinessTracker, clock: ManualClock) -> None:
        self.tier = Tier(strategy=RingHash(None), readiness=tracker, clock=clock)
        self.homes = Homes(keep=KEEP, clock=clock)
        self.pins = Pins(SECRET, wall=clock, ttl=2 * KEEP)

    def serve(self, key: str, cookie: str | None, new: bool) -> tuple[str, str | None]:
        """Return who served, and the cookie that the client has now."""
        ready = self.tier.readiness.ready
        pin = self.pins.read(cookie, key) if cookie else None
        home = None if new or pin else self.homes.home(ready, key)
        wish = pin or (Pin(home) if home else None)
        decision = self.tier.decide(key, pin=wish)
        assert isinstance(decision, Forward)
        self.tier.finish(decision, Outcome.success())
        served = decision.replica.id
        if self.homes.differs(ready, key, served, pinned=pin is not None):
            cookie = self.pins.issue(key, served)
        return served, cookie


@given(steps)
def test_growing_and_draining_move_no_live_session(happened: list[tuple[str, float]]) -> None:
    """Two routers without shared state keep every session that asks often enough where it began."""
    clock = ManualClock()
    tracker = ReadinessTracker(replicas=[Replica("r0"), Replica("r1")], clock=clock)
    routers = [Router(tracker, clock), Router(tracker, clock)]
    live: dict[str, tuple[str, str | None]] = {}
    drained = ""
    for turn, (what, value) in enumerate([("wait", 0.0), *happened]):
        if what == "wait":
            clock.advance(value)
        elif what == "grow":
            tracker.add(Replica(f"r{len(tracker.members)}"))
        elif drained:
            tracker.undrain(drained)
            drained = ""
        else:
            drained = tracker.members[int(value) % len(tracker.members)].id
            tracker.drain(drained)
        for key in list(live):
            home, cookie = live[key]
            for router in routers:
                served, cookie = router.serve(key, cookie, new=False)
                assert served == home, (turn, what)
            live[key] = home, cookie
        for name in range(4):
            live[f"{turn}:{name}"] = routers[0].serve(f"{turn}:{name}", None, new=True)
            # The router that did not see it begin may be the next to be asked.
            routers[1].homes.home(tracker.ready, "anything")


def test_who_needs_no_pin_gets_none() -> None:
    """Without a change nobody does; after one those who moved, and a pin lasts beyond what is kept."""
    clock = ManualClock()
    tracker = ReadinessTracker(replicas=[Replica("r0"), Replica("r1")], clock=clock)
    homes, keys = Homes(keep=KEEP, clock=clock), [f"k{i}" for i in range(100)]
    strategy = RingHash(None)

    def owners() -> dict[str, str]:
        picks = {key: strategy.pick(tracker.ready, key) for key in keys}
        return {key: replica.id for key, replica in picks.items() if replica}

    before = owners()
    assert not any(homes.differs(tracker.ready, key, "r0") for key in keys)
    assert homes.home(tracker.ready, "k0") is None
    tracker.add(Replica("r2"))
    after = owners()
    moved = {key for key in keys if before[key] != after[key]}
    assert 0 < len(moved) < 60
    assert {key for key in keys if homes.differs(tracker.ready, key, before[key])} == moved
    assert all(homes.home(tracker.ready, key) == before[key] for key in keys)
    clock.advance(KEEP)
    assert homes.home(tracker.ready, "k0") is None
    key = min(moved)
    assert homes.differs(tracker.ready, key, before[key], pinned=True)
    assert not homes.differs(tracker.ready, key, before[key])


def test_readiness_is_no_change_and_empty_tables_are_no_homes() -> None:
    """Only members make tables, and one that owns nothing is not remembered."""
    tracker = ReadinessTracker(replicas=[Replica("a", weight=0.0)])
    homes = Homes()
    assert homes.home(tracker.ready, "k") is None
    assert homes.differs(tracker.ready, "k", "a", pinned=True)
    tracker.replace([Replica("a"), Replica("b")])
    assert homes.home(tracker.ready, "k") is None
    keys = [f"k{i}" for i in range(50)]
    tracker.drain("a")
    assert {homes.home(tracker.ready, key) for key in keys} == {"a", None}
    assert {homes.differs(tracker.ready, key, "b") for key in keys} == {True, False}
    tracker.undrain("a")
    tracker.replace([Replica("a", url="http://elsewhere"), Replica("b")])
    assert homes.home(tracker.ready, "k") is None
    for keep in (0, -1, float("inf"), float("nan"), True):
        with pytest.raises(ValueError, match="keep must be above 0"):
            Homes(keep=keep)


SCRIPT = """
import sys
from replicated import ReadinessTracker, Replica, RingHash
tracker = ReadinessTracker(replicas=[Replica(f"r{i}", weight=1 + i % 3) for i in range(20)])
tracker.drain("r7")
strategy = RingHash(None)
print(*[strategy.pick(tracker.ready, f"user:{i}").id for i in range(2000)])
"""


def test_processes_agree_without_shared_state() -> None:
    """Two routers, each with hash randomisation of its own, send every key to the same replica."""
    answers = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert answers[0] == answers[1]
    assert len(set(answers[0])) == 19
