"""The hash ring: owners, preference orders, and what a change of membership may move."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from replicated.errors import EmptyRing, UnknownReplica
from replicated.ring import HashRing

KEYS = [f"user:{number}" for number in range(200)]

# Names cut from one string collide where a label has no separator; independent ones never would.
names = st.one_of(
    st.integers(1, 12).map(lambda cut: "a1_12_121211"[:cut]),
    st.sampled_from(["a", "a1", "a_1", "b", "10.0.0.1:80", "ü"]),
)
weights = st.one_of(st.sampled_from([0, 1, 2, 0.5]), st.floats(0.01, 5))
memberships = st.dictionaries(names, weights, max_size=8)
served = memberships.filter(lambda nodes: any(nodes.values()))


def ring_of(nodes: dict[str, float]) -> HashRing:
    return HashRing(nodes, vnodes=24)


@given(served, st.one_of(st.text(st.characters(codec="utf-8")), st.binary()))
def test_order(nodes, key):
    """Every node with a weight is in the preference order once, and the owner leads it."""
    ring = ring_of(nodes)
    order = list(ring.walk(key))
    assert sorted(order) == sorted(node for node, weight in nodes.items() if weight)
    assert order[0] == ring.owner(key)
    assert ring.owners(key, 2) == order[:2]
    assert ring.owners(key, 99) == order


@given(served, names)
def test_removal_leaves_the_order_of_the_others(nodes, gone):
    """A key's preference order without a node is its order in the ring without that node."""
    rest = {node: weight for node, weight in nodes.items() if node != gone}
    if not any(rest.values()):
        return
    ring, smaller = ring_of(nodes), ring_of(rest)
    for key in KEYS[:40]:
        assert [node for node in ring.walk(key) if node != gone] == list(smaller.walk(key))


@given(served, served)
def test_nothing_moves_between_nodes_that_stay(before, after):
    """A key changes its owner only if its old one or its new one changed."""
    for (source, target), part in ring_of(before).moved(ring_of(after)).items():
        assert part > 0
        assert before.get(source, 0) > after.get(source, 0) or after[target] > before.get(target, 0)


@given(served, served)
def test_moved_is_the_difference_of_the_shares(before, after):
    """What a node gains and loses adds up to the change of its share, exactly."""
    old, new = ring_of(before), ring_of(after)
    balance = dict.fromkeys(before.keys() | after.keys(), Fraction())
    for (source, target), part in old.moved(new).items():
        balance[source] -= part
        balance[target] += part
    had, has = old.shares(), new.shares()
    for node, change in balance.items():
        assert has.get(node, 0) - had.get(node, 0) == change
    assert not old.moved(old)


@given(memberships)
def test_shares(nodes):
    """Shares are of every node, 0 for a drained one, and sum to exactly 1 unless nobody owns anything."""
    shares = ring_of(nodes).shares()
    assert shares.keys() == nodes.keys()
    assert sum(shares.values()) == (1 if any(nodes.values()) else 0)
    assert all(bool(share) == bool(nodes[node]) for node, share in shares.items())


@given(st.permutations(["a", "b", "a1", "a_1"]), st.permutations([("a", 2), ("b", 0), ("c", 0.5)]))
def test_insertion_order_never_matters(plain, weighted):
    """The same members are the same ring, in whatever order they are named."""
    assert HashRing(plain, vnodes=5) == HashRing(sorted(plain), vnodes=5)
    ring, ordered = HashRing(dict(weighted), vnodes=5), HashRing(dict(sorted(weighted)), vnodes=5)
    assert ring == ordered
    assert [ring.owners(key, 3) for key in KEYS[:30]] == [ordered.owners(key, 3) for key in KEYS[:30]]


class Changes(RuleBasedStateMachine):
    """However a ring came to its membership, it is the ring built from it."""

    def __init__(self):
        super().__init__()
        self.nodes: dict[str, float] = {}
        self.ring = HashRing(vnodes=12)

    @rule(number=st.integers(0, 30), weight=weights)
    def put(self, number, weight):
        node = f"n{number}"
        if node in self.nodes:
            self.ring.reweight(node, weight)
        else:
            self.ring.add(node, weight)
        self.nodes[node] = weight

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def remove(self, data):
        node = data.draw(st.sampled_from(sorted(self.nodes)))
        self.ring.remove(node)
        del self.nodes[node]

    @rule(start=st.integers(0, 30), size=st.integers(0, 12))
    def replace(self, start, size):
        names = [f"n{number}" for number in range(start, start + size)]
        self.ring.replace(names)
        self.nodes = dict.fromkeys(names, 1)

    @rule()
    def spread(self):
        names = [f"n{number}" for number in range(25)]
        self.ring.replace(names)
        self.nodes = dict.fromkeys(names, 1)

    @invariant()
    def is_the_ring_built_at_once(self):
        built = HashRing(self.nodes, vnodes=12)
        assert self.ring == built
        assert self.ring.nodes == self.nodes
        assert len(self.ring) == len(self.nodes)
        assert self.ring.shares() == built.shares()
        if any(self.nodes.values()):
            assert not self.ring.moved(built)
            for key in KEYS[:30]:
                order = list(built.walk(key))
                assert list(self.ring.walk(key)) == order
                assert self.ring.owner(key) == built.owner(key) == order[0]


Changes.TestCase.settings = settings(max_examples=15, stateful_step_count=25)
TestChanges = Changes.TestCase


def test_slots_answer_as_bisection():
    """The slot table is a short cut and never another answer, also for positions beside a point."""
    ring = HashRing([f"n{number}" for number in range(300)], vnodes=7)
    ring.remove("n7")
    circle = ring._now[4].circle
    top = (1 << 64) - 1
    for end in [*circle.ends, 0, top]:
        for position in (end - 1, end, end + 1):
            if 0 <= position <= top:
                quick = circle.names[circle.slots[position >> circle.shift]]
                assert quick in (None, circle.owner(position))


def test_text_is_its_utf8():
    """A str and its UTF-8 bytes are one key."""
    ring = HashRing("abcdef"[number] for number in range(6))
    for key in ("user:42", "", "ü", "\x00", "語" * 50):
        assert ring.owner(key) == ring.owner(key.encode())
        assert ring.owners(key, 3) == ring.owners(key.encode(), 3)


def test_str_subclass_is_its_text():
    """A subclass of str is the key that its text is, whatever its own ``encode`` does."""

    class Shouting(str):
        def encode(self, *args):
            return b"no"

    ring = HashRing([f"n{number}" for number in range(50)])
    assert [ring.owner(Shouting(key)) for key in KEYS] == [ring.owner(key) for key in KEYS]


@pytest.mark.parametrize("key", [None, 42, 1.5, ("a",), bytearray(b"a"), memoryview(b"a")])
@pytest.mark.parametrize("ask", ["owner", "walk"])
def test_other_keys_are_refused(ask, key):
    """What is neither str nor bytes is no key."""
    with pytest.raises(TypeError, match="key must be str or bytes"):
        getattr(HashRing(["a"]), ask)(key)


@pytest.mark.parametrize("ask", ["owner", "walk"])
def test_surrogates_are_refused_by_name(ask):
    """A key that has no UTF-8 form is named in the error."""
    with pytest.raises(ValueError, match=r"user:\\ud800"):
        getattr(HashRing(["a"]), ask)("user:\ud800")


@pytest.mark.parametrize("nodes", [[], {"a": 0}, {"a": 0.0, "b": 0}])
def test_empty(nodes):
    """A ring that nobody serves says so, at once, whatever it is asked."""
    ring = HashRing(nodes)
    for ask in (ring.owner, ring.walk, lambda key: ring.owners(key, 1)):
        with pytest.raises(EmptyRing):
            ask("k")
    with pytest.raises(EmptyRing):
        ring.moved(HashRing(["a"]))
    assert len(ring) == len(nodes)
    assert set(ring.shares().values()) <= {0}


@pytest.mark.parametrize(
    ("nodes", "error", "says"),
    [
        ("abc", TypeError, "several names"),
        (b"abc", TypeError, "several names"),
        (["a", "b", "a"], ValueError, "'a' comes twice"),
        (["a", ""], ValueError, "empty"),
        (["a", 1], TypeError, "node must be a str"),
        (["\udc80"], ValueError, "UTF-8"),
        ({"a": float("nan")}, ValueError, "weight of 'a'"),
        ({"a": float("inf")}, ValueError, "weight of 'a'"),
        ({"a": -1}, ValueError, "weight of 'a'"),
        ({"a": True}, TypeError, "weight of 'a'"),
        ({"a": "1"}, TypeError, "weight of 'a'"),
        ({"a": 30_000}, ValueError, "11520000 points"),
        ({"a": 1e308}, ValueError, "points, more than its limit of 8388608"),
        ({"a": 10**400}, ValueError, "weight of 'a'"),
    ],
)
def test_bad_memberships_change_nothing(nodes, error, says):
    """A membership that cannot be is refused, and the ring stays as it was."""
    with pytest.raises(error, match=says):
        HashRing(nodes)
    ring = HashRing(["x", "y"])
    with pytest.raises(error, match=says):
        ring.replace(nodes)
    assert ring == HashRing(["x", "y"])


def test_bad_changes_change_nothing():
    """A change that cannot be is refused, and the ring stays as it was."""
    ring = HashRing(["x", "y"])
    for change, error in [
        (lambda: ring.add("x"), ValueError),
        (lambda: ring.add(""), ValueError),
        (lambda: ring.add("z", float("nan")), ValueError),
        (lambda: ring.add("z", 1e9), ValueError),
        (lambda: ring.remove("z"), UnknownReplica),
        (lambda: ring.reweight("z", 1), UnknownReplica),
        (lambda: ring.reweight("x", -1), ValueError),
        (lambda: ring.owners("k", 0), ValueError),
        (lambda: ring.owners("k", True), TypeError),
        (lambda: ring.owners("k", 1.0), TypeError),
        (lambda: ring.moved(["x"]), TypeError),
    ]:
        with pytest.raises(error):
            change()
    assert ring == HashRing(["x", "y"])


@pytest.mark.parametrize(
    ("vnodes", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_bad_vnodes(vnodes, error):
    """A number of virtual nodes that cannot be is refused by name."""
    with pytest.raises(error, match="vnodes"):
        HashRing(["a"], vnodes=vnodes)


def test_copies_change_on_their_own():
    """A copy, a deep copy and a pickle equal the ring, and a change of one is not seen in the other."""
    ring = HashRing({"a": 1, "b": 0.5, "c": 0}, vnodes=30)
    for twin in (copy.copy(ring), copy.deepcopy(ring), pickle.loads(pickle.dumps(ring))):
        assert twin == ring
        assert [twin.owners(key, 2) for key in KEYS] == [ring.owners(key, 2) for key in KEYS]
        twin.add("d")
        assert twin != ring
        assert "d" not in ring
    assert ring != "ring"


def test_equality_is_of_the_mapping():
    """Rings that differ in weights, in virtual nodes or in drained members differ."""
    assert HashRing({"a": 1}) == HashRing({"a": 1.0}) == HashRing(["a"])
    assert HashRing({"a": 2}) != HashRing({"a": 1})
    assert HashRing(["a"], vnodes=3) != HashRing(["a"], vnodes=4)
    assert HashRing({"a": 1, "b": 0}) != HashRing(["a"])
    with pytest.raises(TypeError):
        hash(HashRing())


def test_repr_shows_state():
    """A ring shows its members, or how many there are, and its size."""
    assert (
        repr(HashRing({"a": 1, "b": 0.5}, vnodes=10))
        == "<HashRing {'a': 1, 'b': 0.5}, 15 points, Xxh3(vnodes=10)>"
    )
    assert repr(HashRing(map(str, range(99)), vnodes=1)) == "<HashRing 99 nodes, 99 points, Xxh3(vnodes=1)>"


def test_golden():
    """The default mapping is frozen: whoever changes it moves every user's keys."""
    ring = HashRing({"10.0.0.1:80": 1, "10.0.0.2:80": 1, "10.0.0.3:80": 2, "ü": 0.5})
    assert [ring.owners(key, 4) for key in ("", "user:42", b"\xff", "語")] == GOLDEN
    assert len(ring._now[4].circle.ends) == 1728


GOLDEN = [
    ["10.0.0.2:80", "10.0.0.1:80", "10.0.0.3:80", "ü"],
    ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "ü"],
    ["10.0.0.3:80", "ü", "10.0.0.2:80", "10.0.0.1:80"],
    ["10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80", "ü"],
]
