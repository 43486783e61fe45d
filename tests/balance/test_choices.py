"""Random, power of two, least loaded, zones, subsets, functions: what each promises beyond the contract."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicated.balance import (
    InFlight,
    LeastLoaded,
    PowerOfTwo,
    PreferZone,
    RandomChoice,
    RingHash,
    RoundRobin,
    Strategy,
    Subset,
    as_strategy,
)
from replicated.outcome import Outcome
from replicated.readiness import ReadySet
from replicated.replica import Replica
from replicated.testing import RecordingStrategy, StrategyContract

weights = st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=2, max_size=8)


def fleet(count: int, **facts) -> ReadySet:
    return ReadySet([Replica(f"r{i}", **facts) for i in range(count)])


@given(weights, st.randoms(use_true_random=False))
def test_least_loaded_is_the_least(chosen, rng):
    """No other replica has less load a unit of weight than the one picked."""
    ready = ReadySet([Replica(f"r{i}", weight=weight) for i, weight in enumerate(chosen)])
    strategy = LeastLoaded(load := InFlight(), rng=rng)
    for _ in range(20):
        replica = strategy.pick(ready)
        if replica is None:
            assert not any(chosen)
            return
        least = min(load.of(r.id) / r.weight for r in ready if r.weight)
        assert load.of(replica.id) / replica.weight == least
        strategy.started(replica)


@settings(max_examples=50)
@given(weights, st.randoms(use_true_random=False))
def test_power_of_two_never_takes_the_strictly_worst(chosen, rng):
    """The replica with strictly the most load a unit of weight is never picked while there is another."""
    ready = ReadySet([Replica(f"r{i}", weight=weight) for i, weight in enumerate(chosen)])
    strategy = PowerOfTwo(load := InFlight(), rng=rng)
    for _ in range(30):
        replica = strategy.pick(ready)
        loads = sorted(((load.of(r.id) / r.weight, r.id) for r in ready if r.weight), reverse=True)
        if len(loads) > 1 and loads[0][0] > loads[1][0]:
            assert replica.id != loads[0][1]
        if replica is None:
            assert not loads
            return
        strategy.started(replica)


def test_power_of_two_fills_in_proportion():
    """Requests that stay open fill the replicas in proportion to their weights, almost exactly."""
    ready = ReadySet([Replica(f"r{w}", weight=float(w)) for w in (1, 2, 3, 4)])
    strategy = PowerOfTwo(load := InFlight(), rng=random.Random(1))
    for _ in range(1000):
        strategy.started(strategy.pick(ready))
    for replica in ready:
        assert abs(load.of(replica.id) - 100 * replica.weight) <= 10


def test_two_choices_beat_one():
    """With n open requests on n replicas the fullest has about log2 log n, far less than by one choice."""
    ready, most = fleet(1000), {}
    for strategy in (PowerOfTwo(rng=random.Random(1)), RandomChoice(rng=random.Random(1))):
        counts = Counter()
        for _ in range(1000):
            replica = strategy.pick(ready)
            strategy.started(replica)
            counts[replica.id] += 1
        most[type(strategy).__name__] = max(counts.values())
    assert most["PowerOfTwo"] <= 3 < most["RandomChoice"]


def test_every_pair_is_drawn():
    """Every ordered pair of different replicas is compared, and none with itself."""
    seen = Counter()

    class Watch(InFlight):
        def __init__(self):
            super().__init__()
            self.of = self.look
            self.asked = []

        def look(self, id):
            self.asked.append(id)
            return 0

    for ready in (fleet(5), ReadySet([Replica(f"r{i}", weight=1.0 + (i == 0)) for i in range(5)])):
        strategy = PowerOfTwo(load := Watch(), rng=random.Random(1))
        seen.clear()
        for _ in range(2000):
            load.asked.clear()
            strategy.pick(ready)
            seen[tuple(load.asked)] += 1
        assert len(seen) == 20
        assert all(first != second for first, second in seen)
        assert min(seen.values()) > 40


def test_warming_replicas_get_less_under_every_strategy():
    """A ramp of a tenth is a tenth of a share, whoever chooses."""
    members = fleet(5).members
    ready = ReadySet.of(members, None, 1, ramp={"r0": 0.1})
    share = 0.1 / 4.1
    strategies = (
        RoundRobin(),
        RandomChoice(rng=random.Random(1)),
        PowerOfTwo(rng=random.Random(1)),
        LeastLoaded(rng=random.Random(1)),
    )
    for strategy in strategies:
        got = sum(strategy.pick(ready).id == "r0" for _ in range(4100))
        assert abs(got - 4100 * share) <= 5 * math.sqrt(4100 * share)
    ring = RingHash(bound=None)
    keys = [f"key {i}" for i in range(4000)]
    cold = sum(ring.pick(ready, key).id == "r0" for key in keys)
    own = sum(ring.pick(ReadySet(members), key).id == "r0" for key in keys)
    assert 0.05 * own < cold < 0.16 * own


def zones(near: int, far: int) -> ReadySet:
    return ReadySet(
        [Replica(f"n{i}", zone="here") for i in range(near)]
        + [Replica(f"f{i}", zone="there") for i in range(far)]
    )


class TestPreferZone(StrategyContract):
    def make(self) -> Strategy:
        return PreferZone("here", rng=random.Random(1))


def test_near_while_it_suffices():
    """All traffic stays near until the zone lost more than was set aside; then the rest spills."""
    ready = zones(10, 10)
    strategy = PreferZone("here", RandomChoice(rng=random.Random(1)), rng=random.Random(2))
    for lost, share in ((0, 1.0), (2, 1.0), (5, 0.7), (9, 0.14), (10, 0.0)):
        left = ready.without({f"n{i}" for i in range(lost)})
        for keys in ([None] * 3000, [f"key {i}" for i in range(3000)]):
            near = sum(strategy.pick(left, key).zone == "here" for key in keys)
            assert abs(near / 3000 - share) <= 0.05


def test_keys_change_sides_no_more_than_needed():
    """When the share of the zone shrinks, keys go from near to far and none the other way."""
    strategy = PreferZone("here", RingHash(bound=None))
    keys = [f"key {i}" for i in range(500)]
    ready = zones(10, 10)
    before = {key: strategy.pick(ready.without({f"n{i}" for i in range(5)}), key).zone for key in keys}
    after = {key: strategy.pick(ready.without({f"n{i}" for i in range(6)}), key).zone for key in keys}
    assert not [key for key in keys if before[key] == "there" and after[key] == "here"]


def test_no_zone_at_all():
    """Where nobody is near, or nobody is far, the others serve."""
    strategy = PreferZone("here", inner := RecordingStrategy(), overprovision=1.0)
    assert strategy.pick(zones(0, 3)).zone == "there"
    strategy.started(zones(0, 1)[0])
    strategy.finished(zones(0, 1)[0], Outcome.success())
    assert inner.in_flight == {}
    lone = zones(2, 0).without({"n0"})
    assert {strategy.pick(lone, f"key {i}").zone for i in range(20)} == {"here"}
    with pytest.raises(ValueError, match="overprovision"):
        PreferZone("here", overprovision=0.9)


class TestSubset(StrategyContract):
    def make(self) -> Strategy:
        return Subset(3, "router-1", PowerOfTwo(rng=random.Random(1)))


def test_a_router_keeps_to_its_part():
    """A router uses as many replicas as told, refills from its own order, and gets its own back."""
    ready, strategy = fleet(50), Subset(5, "router-1")
    mine = {replica.id for replica in strategy.chosen(ready)}
    assert len(mine) == 5
    assert {strategy.pick(ready).id for _ in range(300)} == mine
    lost = sorted(mine)[0]
    refilled = {replica.id for replica in strategy.chosen(ready.without({lost}))}
    assert mine - refilled == {lost}
    assert len(refilled) == 5
    assert {replica.id for replica in strategy.chosen(ready)} == mine
    more = ReadySet([*ready, Replica("new")])
    assert len(mine & {replica.id for replica in strategy.chosen(more)}) >= 4
    assert len(strategy.chosen(fleet(3))) == 3
    with pytest.raises(ValueError, match="size"):
        Subset(0, "router-1")
    with pytest.raises(ValueError, match="router must not be empty"):
        Subset(5, "")
    with pytest.raises(TypeError, match="router must be a str, not 7"):
        Subset(5, 7)  # type: ignore[arg-type]


def test_a_part_of_each_zone():
    """Behind a preference for a zone each side has its part, and neither is chosen anew for every pick."""
    ready, subset = zones(20, 20), Subset(3, "router-1", PowerOfTwo(rng=random.Random(1)))
    strategy = PreferZone("here", subset, overprovision=1.0, rng=random.Random(2))
    lacking = ready.without({f"n{i}" for i in range(10)})
    served = {strategy.pick(lacking).id for _ in range(300)}
    assert len(served) == 6
    assert sum(name.startswith("n") for name in served) == 3
    near, far = strategy._views.near, strategy._views.far
    parts = [subset.chosen(near), subset.chosen(far)] * 2
    assert len(set(map(id, parts))) == 2


def test_routers_spread():
    """Many routers use all replicas, the busiest little more than chance makes it."""
    ready, counts = fleet(100), Counter()
    for router in range(200):
        counts.update(replica.id for replica in Subset(10, f"router-{router}").chosen(ready))
    assert len(counts) == 100
    assert max(counts.values()) <= 20 + 4 * math.sqrt(20)
    recording = RecordingStrategy()
    strategy = Subset(1, "router", recording)
    strategy.started(ready[0])
    strategy.finished(ready[0], Outcome.success())
    assert recording.ends


def test_as_strategy():
    """A strategy stays what it is, a function becomes one, and what is neither is refused by name."""
    strategy = RoundRobin()
    assert as_strategy(strategy) is strategy
    wrapped = as_strategy(lambda ready, key=None: ready[0] if ready else None)
    assert isinstance(wrapped, Strategy)
    assert wrapped.pick(fleet(2)).id == "r0"
    assert "lambda" in repr(wrapped)

    class Half:
        def pick(self, ready, key=None): ...

    for wrong, message in [
        (RoundRobin, "RoundRobin\\(\\)"),
        (Half(), "only some"),
        ("round-robin", "function"),
        (None, "function"),
        (lambda ready: None, "key=None"),
        (lambda ready, key, more: None, "key=None"),
    ]:
        with pytest.raises(TypeError, match=message):
            as_strategy(wrong)


def test_a_builtin_without_a_signature_will_do():
    """A callable whose signature cannot be looked at is taken at its word."""
    assert as_strategy(max).pick is max
