"""One contract, held by every strategy."""

from __future__ import annotations

import random
from collections.abc import Sequence

from replicated.balance import (
    InFlight,
    Key,
    LeastLoaded,
    PeakEwma,
    PowerOfTwo,
    RandomChoice,
    RingHash,
    RoundRobin,
    Strategy,
)
from replicated.readiness import ReadySet
from replicated.replica import Replica
from replicated.testing import ManualClock, RecordingStrategy, StrategyContract


class TestRoundRobin(StrategyContract):
    def make(self) -> Strategy:
        return RoundRobin()


class TestRandomChoice(StrategyContract):
    def make(self) -> Strategy:
        return RandomChoice(rng=random.Random(1))


class TestLeastLoaded(StrategyContract):
    def make(self) -> Strategy:
        return LeastLoaded(rng=random.Random(2))


class TestPowerOfTwo(StrategyContract):
    def make(self) -> Strategy:
        return PowerOfTwo(rng=random.Random(3))


class TestPeakEwma(StrategyContract):
    # Latencies rule, so idle picks lean to whoever answered first.
    weighted = False

    def make(self) -> Strategy:
        return PowerOfTwo(PeakEwma(clock=ManualClock()), rng=random.Random(4))


class TestRingHash(StrategyContract):
    def make(self) -> Strategy:
        load = InFlight()
        return RingHash(load=load, fallback=PowerOfTwo(rng=random.Random(5)))


class TestRingHashUnbound(StrategyContract):
    def make(self) -> Strategy:
        return RingHash(bound=None)


class TestFunction(StrategyContract):
    weighted = False

    def make(self):
        rng = random.Random(6)

        def any_of(ready: Sequence[Replica], key: Key = None) -> Replica | None:
            chosen = [replica for replica in ready if replica.weight]
            return rng.choice(chosen) if chosen else None

        return any_of


class TestRecording(StrategyContract):
    def make(self) -> Strategy:
        return RecordingStrategy(RoundRobin())


class Broken(StrategyContract):
    """Not collected: the broken strategies below are run through it by hand."""


def broken(pick, test: str) -> bool:
    contract = Broken()
    contract.make = lambda: pick
    try:
        getattr(contract, test)()
    except AssertionError:
        return True
    return False


def test_the_contract_catches_the_classic_mistakes():
    """Each mistake that writers of strategies make fails the test meant for it."""
    assert broken(lambda ready, key=None: ready[0] if ready else None, "test_weight_zero_is_never_picked")
    assert broken(lambda ready, key=None: ready[0] if ready else None, "test_a_missing_key_is_no_constant")
    assert broken(lambda ready, key=None: ready[0] if ready else None, "test_weights_mean_what_they_say")
    assert broken(lambda ready, key=None: Replica("ghost"), "test_nobody")
    assert broken(
        lambda ready, key=None: ready.members[0] if isinstance(ready, ReadySet) else ready[0],
        "test_picks_come_from_the_ready",
    )
