"""The contract that every table keeps, and what is particular to Maglev, rendezvous and jump hash."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.errors import EmptyRing
from replicated.ring import HashRing, JumpHash, Maglev, Rendezvous, Table

KEYS = [f"user:{number}" for number in range(2000)]


def maglev(nodes=()):
    return Maglev(nodes, size=1009)


TABLES = [HashRing, maglev, Rendezvous, JumpHash]
each_table = pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
weighing = pytest.mark.parametrize("make", TABLES[:3], ids=lambda make: make.__name__)


@each_table
def test_contract(make):
    """Owner, owners and walk agree, hold every node once, and take text and bytes alike."""
    nodes = [f"n{number}" for number in range(7)]
    table = make(nodes)
    assert isinstance(table, Table)
    assert table.nodes == dict.fromkeys(nodes, 1)
    assert len(table) == 7
    assert "n3" in table
    assert "x" not in table
    for key in KEYS[:200]:
        order = list(table.walk(key))
        assert sorted(order) == nodes
        assert order[0] == table.owner(key) == table.owner(key.encode())
        assert table.owners(key, 3) == order[:3]
        assert table.owners(key, 50) == order
    assert sum(table.shares().values()) == 1
    assert not table.moved(make(nodes))


@each_table
def test_shares_are_what_keys_meet(make):
    """Each node meets its share of many keys, within five standard deviations."""
    table = make([f"n{number}" for number in range(5)])
    met = Counter(map(table.owner, KEYS))
    for node, share in table.shares().items():
        expected = float(share) * len(KEYS)
        assert abs(met[node] - expected) < 5 * expected**0.5


@each_table
def test_moved_is_what_keys_do(make):
    """As many keys move between each pair as announced, within five standard deviations."""
    before, after = make(["a", "b", "c"]), make(["a", "b", "c", "d"])
    met = Counter((before.owner(key), after.owner(key)) for key in KEYS)
    moved = before.moved(after)
    for pair, count in met.items():
        if pair[0] != pair[1]:
            expected = float(moved[pair]) * len(KEYS)
            assert abs(count - expected) < 5 * (expected + 1) ** 0.5
    back = after.moved(before)
    assert back == {(new, old): part for (old, new), part in moved.items()}


@each_table
@pytest.mark.parametrize("key", [None, 42, ["a"], bytearray(b"a")])
def test_other_keys_are_refused(make, key):
    """What is neither str nor bytes is no key."""
    for ask in (make(["a"]).owner, make(["a"]).walk):
        with pytest.raises(TypeError, match="key must be str or bytes"):
            ask(key)


@each_table
def test_bad_input(make):
    """Duplicates, empty names, bad weights and bad counts are refused; nobody means EmptyRing."""
    for nodes in (["a", "a"], [""], {"a": -1}, {"a": float("nan")}):
        with pytest.raises(ValueError, match=r"node|weight"):
            make(nodes)
    with pytest.raises(ValueError, match="count"):
        make(["a"]).owners("k", 0)
    with pytest.raises(ValueError, match="UTF-8"):
        make(["a"]).owner("\ud800")
    empty = make()
    for ask in (empty.owner, empty.walk, lambda key: empty.owners(key, 2)):
        with pytest.raises(EmptyRing):
            ask("k")
    with pytest.raises(EmptyRing):
        empty.moved(make(["a"]))
    with pytest.raises(TypeError, match="other"):
        make(["a"]).moved(3)
    assert len(empty) == 0
    assert empty.shares() == {}


@each_table
def test_copies_and_pickles(make):
    """Copies and pickles are equal tables that answer the same."""
    table = make(["b", "a", "c"])
    for twin in (copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert twin == table
        assert [twin.owners(key, 2) for key in KEYS[:50]] == [table.owners(key, 2) for key in KEYS[:50]]
    assert table != make(["a"])
    assert table != 3
    assert type(table).__name__ in repr(table)
    assert "99 nodes" in repr(make(map(str, range(99))))


@pytest.mark.parametrize("make", TABLES[1:], ids=lambda make: make.__name__)
def test_fixed_tables_are_values(make):
    """Tables that never change can be members of sets."""
    assert len({make(["a", "b"]), make(["a", "b"]), make(["a"])}) == 2


def test_maglev_of_more_nodes_than_a_byte_names():
    """A table of 300 nodes gives each its slots."""
    table = maglev([f"n{number}" for number in range(300)])
    assert set(Counter(table.slots).values()) == {3, 4}
    assert all(table.owner(key) == next(table.walk(key)) for key in KEYS[:50])


def test_rendezvous_owner_leads_the_order_with_weights():
    """With unequal weights too the owner is the first of the order."""
    table = Rendezvous({"a": 1, "b": 2, "c": 0.5})
    assert all(table.owner(key) == next(table.walk(key)) for key in KEYS[:200])


@weighing
def test_weights_and_drained_nodes(make):
    """Shares follow the weights roughly at least; a drained node is a member that owns nothing."""
    table = make({"a": 1, "b": 3, "c": 0})
    shares = table.shares()
    assert shares["c"] == 0
    assert 0.7 < shares["b"] < 0.8
    assert "c" in table
    assert all("c" not in table.walk(key) for key in KEYS[:50])
    assert make({"b": 3, "a": 1}) == make({"a": 1, "b": 3}) != table


def test_processes_agree():
    """Two processes with different hash seeds give every key of every table the same order."""
    program = """
from replicated.ring import *
tables = [HashRing("a b c d".split()), Maglev("a b c d".split(), 1009),
          Rendezvous({"a": 1, "b": 2.5, "c": 1}), JumpHash("a b c d".split())]
print([[t.owners(f"k{i}", 4) for i in range(50)] for t in tables])
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "a" in outputs.pop()


weights = st.dictionaries(
    st.sampled_from("abcdef"), st.sampled_from([0, 1, 2, 0.5, 3.25]), min_size=1
).filter(lambda nodes: any(nodes.values()))


@given(weights, weights)
def test_rendezvous_moves_sum_to_the_shares(before, after):
    """What moves, exactly, is the difference of exact shares, and none of it between nodes that stay."""
    old, new = Rendezvous(before), Rendezvous(after)
    moved = old.moved(new)
    balance = Counter[str]()
    for (source, target), part in moved.items():
        assert part > 0
        balance[source] -= part
        balance[target] += part
    had, has = old.shares(), new.shares()
    for node in before.keys() | after.keys():
        assert has.get(node, 0) - had.get(node, 0) == balance[node]
    growth = {
        node: after.get(node, 0) / before[node] if before.get(node) else float("inf")
        for node in before.keys() | after.keys()
    }
    assert all(growth[source] < growth[target] for source, target in moved)


@given(weights, st.sampled_from("abcdef"), st.sampled_from(KEYS))
def test_rendezvous_keeps_the_order_of_the_others(nodes, gone, key):
    """Removing a node, also the one that made the weights unequal, leaves the order of the others."""
    rest = {node: weight for node, weight in nodes.items() if node != gone}
    if any(rest.values()):
        order = [node for node in Rendezvous(nodes).walk(key) if node != gone]
        assert order == list(Rendezvous(rest).walk(key))


def test_rendezvous_golden():
    """The mapping of rendezvous is frozen."""
    assert [Rendezvous([*"abc"]).owners(key, 3) for key in KEYS[:4]] == RENDEZVOUS


def test_jump_order_is_stable_and_uniform():
    """Without its last node a key keeps the order of the others, and every order is as likely."""
    nodes = ["n0", "n1", "n2", "n3"]
    orders = Counter()
    for key in KEYS:
        order = JumpHash(nodes).owners(key, 4)
        assert [node for node in order if node != "n3"] == JumpHash(nodes[:3]).owners(key, 3)
        orders[tuple(order)] += 1
    assert len(orders) == 24
    assert max(orders.values()) < 2 * len(KEYS) / 24


def test_jump_particulars():
    """Order is the bucket number, weights are refused, a shift of the names moves by name."""
    assert JumpHash(["b", "a"]) != JumpHash(["a", "b"])
    assert JumpHash(["b", "a"]).moved(JumpHash(["a", "b"])) == {
        ("b", "a"): Fraction(1, 2),
        ("a", "b"): Fraction(1, 2),
    }
    with pytest.raises(ValueError, match="weight of 'a'"):
        JumpHash({"a": 2})
    from replicated.ring import jump

    for arguments in ((-1, 3), (1 << 64, 3), (0, 0)):
        with pytest.raises(ValueError, match=r"number|buckets"):
            jump(*arguments)


def test_maglev_is_even():
    """Shares differ by one slot at most at equal weights, and follow the weights otherwise."""
    table = maglev([f"n{number}" for number in range(10)])
    counts = Counter(table.slots)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert table.size == len(table.slots) == 1009


def test_maglev_walks_as_envoy_retries():
    """Attempt a looks up the hash exclusive-or -a, as Envoy does, and slots that are never met come last."""
    from replicated.ring.keys import xxh64

    table = maglev(["a", "b", "c"])
    for key in KEYS[:50]:
        position = xxh64(key.encode())
        tries = [table.slots[(position ^ (2**64 - attempt) % 2**64) % 1009] for attempt in range(200)]
        assert list(table.walk(key)) == list(dict.fromkeys(tries))
    crowded = Maglev([f"n{number}" for number in range(11)], size=11)
    assert all(len(set(crowded.walk(key))) == 11 for key in KEYS[:50])


@pytest.mark.parametrize(
    ("size", "error"),
    [(0, ValueError), (1, ValueError), (1000, ValueError), (7_000_003, ValueError), (7.0, TypeError)],
)
def test_bad_sizes(size, error):
    """A size that is no prime, too large or no int is refused; so is one below the number of nodes."""
    with pytest.raises(error, match="size"):
        Maglev(["a"], size=size)
    with pytest.raises(ValueError, match="at least 4"):
        Maglev([*"abcd"], size=3)
    with pytest.raises(ValueError, match="size 1009"):
        maglev(["a"]).moved(Maglev(["a"], size=7))


RENDEZVOUS = [["c", "b", "a"], ["b", "a", "c"], ["a", "c", "b"], ["b", "a", "c"]]
