"""Ring hash: keys stay, no replica goes above its bound, and no flip of readiness builds a ring."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from replicated.balance import InFlight, RingHash
from replicated.outcome import Outcome
from replicated.readiness import ReadySet
from replicated.replica import Replica
from replicated.ring import HashRing, Maglev, Rendezvous
from replicated.testing import RecordingStrategy

KEYS = [f"user:{i}" for i in range(400)]


def fleet(count: int) -> ReadySet:
    return ReadySet([Replica(f"r{i}") for i in range(count)])


@pytest.mark.parametrize("make_table", [HashRing, Maglev, Rendezvous])
def test_a_key_has_its_owner(make_table):
    """While everybody is ready and idle, a key goes to the owner that its table says."""
    ready = fleet(7)
    table = make_table({replica.id: 1.0 for replica in ready})
    strategy = RingHash(make_table=make_table)
    for key in KEYS[:100]:
        assert strategy.pick(ready, key).id == table.owner(key)
        assert strategy.pick(ready, key.encode()).id == table.owner(key)


@settings(max_examples=30)
@given(st.sets(st.integers(0, 7), max_size=7))
def test_only_the_keys_of_the_lost_move(lost):
    """Keys of replicas that can serve stay; the others go to the next of their own order; all come back."""
    ready, strategy = fleet(8), RingHash()
    ring = HashRing([replica.id for replica in ready])
    before = {key: strategy.pick(ready, key).id for key in KEYS[:100]}
    gone = {f"r{i}" for i in lost}
    less = ready.without(gone)
    for key, owner in before.items():
        expected = next(id for id in ring.walk(key) if id not in gone)
        assert strategy.pick(less, key).id == expected
        assert owner in gone or expected == owner
    assert {key: strategy.pick(ready, key).id for key in KEYS[:100]} == before


def test_no_flip_builds_a_ring():
    """The table is built once a membership, however often readiness changes and retries narrow it."""
    built = []

    def make(weights):
        built.append(weights)
        return HashRing(weights)

    strategy, ready = RingHash(make_table=make), fleet(20)
    built.clear()
    for turn in range(50):
        flipped = ReadySet.of(ready.members, {f"r{i}" for i in range(20) if i != turn % 20}, turn)
        strategy.pick(flipped, "key")
        strategy.pick(flipped.without({"r1"}), "key")
    assert len(built) == 1
    same = list(ready)
    for _ in range(5):
        strategy.pick(same, "key")
    assert len(built) == 1
    strategy.pick(fleet(21), "key")
    assert len(built) == 2
    assert built[0] == dict.fromkeys([replica.id for replica in ready], 1.0)


class BoundMachine(RuleBasedStateMachine):
    """Any order of picks, ends and flips under one bound."""

    @initialize(
        bound=st.sampled_from([1.01, 1.25, 2.0]),
        slack=st.integers(0, 2),
        weights=st.lists(st.sampled_from([1.0, 2.0, 0.5]), min_size=1, max_size=6),
        even=st.booleans(),
    )
    def begin(self, bound, slack, weights, even):
        self.load = InFlight()
        self.strategy = RingHash(bound, slack=slack, load=self.load)
        members = tuple(Replica(f"r{i}", weight=1.0 if even else w) for i, w in enumerate(weights))
        self.everyone = self.ready = ReadySet.of(members, None, 0)
        self.open: list[Replica] = []

    @rule(key=st.sampled_from(KEYS[:5]))
    def start(self, key):
        before = self.load.total
        replica = self.strategy.pick(self.ready, key)
        if replica is None:
            assert not self.ready
            return
        assert replica in self.ready
        passed = self.strategy.passed_over(self.ready, key)
        assert replica.id not in [id for id, _ in passed]
        weights = self.ready.weights
        share = weights[replica.id] / sum(weights.values())
        self.strategy.started(replica)
        self.open.append(replica)
        most = math.ceil(self.strategy.bound * (before + 1) * share - 1e-9) + self.strategy.slack
        assert self.load.of(replica.id) <= most

    @rule(which=st.integers(0, 100))
    def finish(self, which):
        if self.open:
            self.strategy.finished(self.open.pop(which % len(self.open)), Outcome.success(0.1))

    @rule(out=st.sets(st.integers(0, 5), max_size=3))
    def flip(self, out):
        self.ready = self.everyone.without({f"r{i}" for i in out})

    @invariant()
    def counts_are_conserved(self):
        assert self.load.total == len(self.open)
        for id, count in Counter(replica.id for replica in self.open).items():
            assert self.load.of(id) == count


TestBound = BoundMachine.TestCase
TestBound.settings = settings(max_examples=40, stateful_step_count=40)


def test_a_hot_key_overflows_along_its_order_and_comes_home():
    """One hot key spreads over the replicas of its order, and is home as soon as there is room."""
    ready, strategy = fleet(5), RingHash(bound=1.25)
    order = list(HashRing([replica.id for replica in ready]).walk("hot"))
    for _ in range(100):
        strategy.started(strategy.pick(ready, "hot"))
    counts = [strategy.load.of(id) for id in order]
    assert counts == [25, 25, 25, 25, 0]
    for _ in range(10):
        strategy.finished(ready.by_id[order[0]], Outcome.success())
    assert strategy.pick(ready, "hot").id == order[0]


def test_slack_keeps_a_second_request_at_home():
    """Without slack the bound moves a lone user's second concurrent request; with slack it stays."""
    ready = fleet(5)
    for slack, homes in ((0, 2), (3, 1)):
        strategy, seen = RingHash(slack=slack), set()
        for _ in range(2):
            replica = strategy.pick(ready, "user")
            strategy.started(replica)
            seen.add(replica.id)
        assert len(seen) == homes


def test_strict_hashing_has_no_bound():
    """Without a bound a key stays at home whatever is in flight there."""
    ready, strategy = fleet(5), RingHash(bound=None)
    home = strategy.pick(ready, "hot")
    for _ in range(100):
        assert strategy.pick(ready, "hot") is home
        strategy.started(home)
    assert strategy.passed_over(ready, "hot") == []


def test_a_missing_key_is_balanced():
    """None and empty keys go to the fallback, which hears of every start and end."""
    fallback = RecordingStrategy()
    strategy, ready = RingHash(fallback=fallback), fleet(3)
    for key in (None, "", b""):
        strategy.pick(ready, key)
    assert len(fallback.picks) == 3
    strategy.pick(ready, "key")
    assert len(fallback.picks) == 3
    strategy.started(ready[0])
    strategy.finished(ready[0], Outcome.success())
    assert fallback.starts == ["r0"]
    assert fallback.in_flight == {}
    assert strategy.passed_over(ready, None) == []


def test_reasons_are_given():
    """Those passed over are named with why: not ready, at the bound, warming up."""
    members = fleet(3).members
    order = list(HashRing(["r0", "r1", "r2"]).walk("key"))
    strategy = RingHash(bound=1.25)
    ready = ReadySet.of(members, set(order[1:]), 1)
    strategy.started(ready.by_id[order[1]])
    assert strategy.pick(ready, "key").id in order[1:]
    for _ in range(3):
        strategy.started(ready.by_id[order[1]])
    reasons = dict(strategy.passed_over(ready, "key"))
    assert reasons == {order[0]: "not ready", order[1]: "4 in flight, its bound"}
    assert strategy.passed_over(ReadySet(), "key") == []


def test_warming_keys_only_ever_come_home():
    """As a replica warms up it takes more of its keys, never gives one back, and has all in the end."""
    members = fleet(4).members
    strategy = RingHash(bound=None)
    home = {key: strategy.pick(ReadySet(members), key).id for key in KEYS}
    before: set[str] = set()
    for part in (0.1, 0.3, 0.6, 0.9):
        ready = ReadySet.of(members, None, 1, ramp={"r1": part})
        here = {key for key in KEYS if strategy.pick(ready, key).id == "r1"}
        assert before <= here <= {key for key in KEYS if home[key] == "r1"}
        assert all(strategy.pick(ready, key).id == home[key] for key in KEYS if home[key] != "r1")
        before = here
    reasons = [why for key in KEYS for _, why in strategy.passed_over(ready, key)]
    assert set(reasons) == {"it warms up, at 90%"}


def test_when_all_others_are_gone_a_cold_one_serves():
    """A replica that warms up takes every key when it is the only one left."""
    members = fleet(3).members
    strategy = RingHash()
    ready = ReadySet.of(members, {"r1"}, 1, ramp={"r1": 0.1})
    assert {strategy.pick(ready, key).id for key in KEYS[:50]} == {"r1"}


def test_counts_that_move_during_a_walk_do_no_harm():
    """When everyone seems full, because others start during the walk, the one with most room serves."""

    class Racing(InFlight):
        def __init__(self):
            super().__init__()
            self.of = {"r0": 50, "r1": 40, "r2": 60}.__getitem__

    strategy = RingHash(load=Racing())
    assert strategy.pick(fleet(3), "key").id == "r1"


def test_many_routers_agree():
    """Routers that share nothing send a key to the same replica, in whatever order they learnt of them."""
    replicas = list(fleet(12))
    picks = set()
    for seed in range(5):
        random.Random(seed).shuffle(replicas)
        strategy = RingHash(load=InFlight())
        ready = ReadySet(replicas)
        picks.add(tuple(strategy.pick(ready, key).id for key in KEYS[:50]))
    assert len(picks) == 1


def test_a_table_without_weights_picks_nobody_of_weight_zero():
    """Also where the table ignores weights, a replica of weight 0 is passed over."""
    members = [Replica("a", weight=0.0), Replica("b"), Replica("c")]
    for weight in (1.0, 2.0):
        ready = ReadySet([*members[:2], Replica("c", weight=weight)])
        strategy = RingHash(make_table=lambda weights: HashRing(list(weights)))
        assert {strategy.pick(ready, key).id for key in KEYS[:60]} == {"b", "c"}


def test_nobody_owns():
    """A membership in which all weights are 0 owns nothing."""
    ready = ReadySet([Replica("a", weight=0.0)])
    assert RingHash().pick(ready, "key") is None
    assert RingHash().passed_over(ready, "key") == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"bound": 1.0}, ValueError),
        ({"bound": math.nan}, ValueError),
        ({"bound": True}, ValueError),
        ({"slack": -1}, ValueError),
        ({"slack": 1.5}, TypeError),
    ],
)
def test_bad_input(change, error):
    """What cannot work is refused by name."""
    with pytest.raises(error, match=next(iter(change))):
        RingHash(**change)
