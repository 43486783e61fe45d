"""Arcs, explanations and the size of a ring: what it can say about itself."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.errors import EmptyRing, UnknownReplica
from replicated.ring import HashRing, layouts

RING = HashRing({"a": 1, "b": 0.5, "c": 0, "d": 2}, vnodes=20)


def test_arcs_tile_the_circle():
    """The arcs cover every position once, in order, and their lengths are the shares."""
    arcs = list(RING.arcs())
    assert arcs[0].first == 0
    assert arcs[-1].last == 2**64 - 1
    assert all(left.last + 1 == right.first for left, right in pairwise(arcs))
    assert all(left.node != right.node for left, right in pairwise(arcs))
    for node, share in RING.shares().items():
        assert sum(arc.last - arc.first + 1 for arc in RING.arcs(node)) == share * 2**64


@given(st.text(st.characters(codec="utf-8")))
def test_a_key_lies_in_an_arc_of_its_owner(key):
    """A key's position is in exactly one arc, which its owner owns, and that is what explain says."""
    position = RING.position(key)
    [arc] = [arc for arc in RING.arcs() if arc.first <= position <= arc.last]
    why = RING.explain(key)
    assert arc.node == RING.owner(key) == why.arc.node
    assert arc.first <= why.arc.first <= position <= why.arc.last <= arc.last
    assert why.order == tuple(RING.walk(key))
    assert why.drained == ("c",)
    assert why.position == position


def test_explanations_read():
    """An explanation names the position, the owner, who is next and who is drained."""
    text = str(RING.explain("user:42"))
    owner, *others = RING.walk("user:42")
    assert text.startswith("'user:42' lies at 0x")
    assert f"of {owner}; next are {', '.join(others)}; drained: c" in text
    assert str(HashRing(["a"]).explain(b"k")).endswith("of a")


def test_nobody_and_strangers():
    """An empty ring has no arcs and nothing to explain; a stranger's arcs are refused."""
    ring = HashRing({"a": 0})
    assert list(ring.arcs()) == list(ring.arcs("a")) == []
    with pytest.raises(EmptyRing):
        ring.explain("k")
    with pytest.raises(UnknownReplica, match="'z'"):
        ring.arcs("z")
    assert ring.layout == layouts.xxh3()
    with pytest.raises(TypeError, match="key"):
        ring.position(1)


def test_more_nodes_than_a_byte_names():
    """A ring that grows past 255 nodes, and one that shrinks again, is the ring built at once."""
    names = [f"n{number}" for number in range(270)]
    ring = HashRing(names[:250], vnodes=30)
    for name in names[250:]:
        ring.add(name)
    built = HashRing(names, vnodes=30)
    assert ring == built
    keys = [f"k{number}" for number in range(500)]
    assert [ring.owners(key, 3) for key in keys] == [built.owners(key, 3) for key in keys]
    for name in names[10:]:
        ring.remove(name)
    assert [ring.owner(key) for key in keys] == [HashRing(names[:10], vnodes=30).owner(key) for key in keys]


def test_a_point_on_a_taken_position():
    """A node that joins on another's position takes its rank there, as if it had always been."""

    class Crowded:
        bits, rule = 32, "next"

        def key_hash(self, weights):
            return len

        def plan(self, weights):
            return {node: (node, 1) for node in sorted(weights)}

        def points(self, label, count):
            return [len(label) * 10]

    names = [f"{'n' * number}" for number in range(1, 40)]
    layout = Crowded()
    ring = HashRing(names, layout=layout)
    ring.add("a")
    ring.add("z")
    assert ring.owners(b"", 3) == ["a", "n", "z"]
    ring.remove("n")
    assert ring.owners(b"", 3) == ["a", "z", "nn"]
    assert ring == HashRing(ring.nodes, layout=layout)


def test_a_node_with_two_points_on_one_position():
    """A node that meets itself on a position can lose one point, or all, and leaves nothing behind."""

    class Twice:
        bits, rule = 32, "next"

        def key_hash(self, weights):
            return len

        def plan(self, weights):
            return {node: (node, int(weight)) for node, weight in weights.items()}

        def points(self, label, count):
            return [7, 20, 20][:count] if label == "twin" else [130 + 2 * at for at in range(count)]

    layout = Twice()
    ring = HashRing({"twin": 3, "a": 50}, layout=layout)
    ring.reweight("twin", 2)
    assert ring == HashRing({"twin": 2, "a": 50}, layout=layout)
    assert repr(ring) == repr(HashRing({"twin": 2, "a": 50}, layout=layout))
    ring.remove("twin")
    assert ring.owner(b" " * 10) == "a"
    assert ring.owners(b"", 9) == ["a"]


def test_positions_that_are_one_float():
    """Points closer than a float can tell are in order all the same."""

    class Close:
        bits, rule = 64, "next"

        def key_hash(self, weights):
            return lambda data: (1 << 63) + len(data)

        def plan(self, weights):
            return {node: (node, 1) for node in weights}

        def points(self, label, count):
            return [(1 << 63) + 100 - ord(label)]

    ring = HashRing([*"abc"], layout=Close())
    assert ring.owners(b"", 3) == ["c", "b", "a"]
    assert [ring.owner(b" " * length) for length in (1, 2, 3, 4)] == ["c", "b", "a", "c"]


@pytest.mark.parametrize(("count", "most"), [(10, 1.10), (100, 1.15)])
def test_default_is_balanced(count, most):
    """With the default virtual nodes the busiest of equal nodes stays near the mean, over many name sets."""
    peaks = []
    for number in range(200 // count):
        shares = HashRing([f"{number}-10.0.0.{node}:80" for node in range(count)]).shares()
        peaks.append(float(max(shares.values())) * count)
    assert sum(peaks) / len(peaks) <= most
