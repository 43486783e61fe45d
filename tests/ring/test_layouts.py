"""The layouts of other systems, held to what those systems answered."""

from __future__ import annotations

import copy
import json
import pickle
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.ring import HashRing, Maglev, jump, layouts
from replicated.ring import foreign_hashes as hashes

KEYS = [f"user:{number}" for number in range(300)]


def load(name):
    return json.loads((Path(__file__).parent / "vectors" / f"{name}.json").read_text())


def weights(case):
    return {node["name"]: node["weight"] for node in case["nodes"]}


def points(ring):
    circle = ring._now[4].circle
    return [[end, circle.names[owner]] for end, owner in zip(circle.ends, circle.owners, strict=True)]


LIVE = {
    "envoy_ring_xx_5_default": layouts.envoy(),
    "envoy_ring_murmur2_5": layouts.envoy(hash="murmur2"),
    "nginx_consistent_5_equal": layouts.nginx(),
    "libketama_equal_5": layouts.libketama(),
    "libmemcached_ketama_equal_5": layouts.libmemcached(),
    "twemproxy_ketama_md5": layouts.twemproxy(hash="md5"),
    "varnish_shard_equal_5": layouts.varnish(),
    "haproxy_consistent_sdbm_5": layouts.haproxy(),
}


@pytest.mark.parametrize("name", LIVE)
def test_picks_what_the_live_system_picked(name):
    """A thousand keys live where the real system put them, and the first of the preference order is there."""
    case = load(name)
    ring = HashRing(weights(case), layout=LIVE[name])
    for row in case["vectors"]:
        assert ring.owner(row["key"]) == row["node"]
        assert ring.owners(row["key"], 1) == [row["node"]]
        if "key_hash" in row:
            assert ring.position(row["key"]) == int(row["key_hash"])
        if "preference" in row:
            assert list(ring.walk(row["key"])) == row["preference"]
    if "ring" in case:
        assert points(ring) == case["ring"]
    assert sum(ring.shares().values()) == 1


@pytest.mark.parametrize("layout", [layouts.nginx(), layouts.pingora()])
@pytest.mark.parametrize(
    "case", load("pingora_nginx_sample")["cases"], ids=lambda case: f"{len(case['nodes'])}"
)
def test_nginx_samples(case, layout):
    """The rows that Pingora recorded from nginx, with weights, hold for both."""
    ring = HashRing(weights(case), layout=layout)
    assert [ring.owner(row["key"]) for row in case["vectors"]] == [row["node"] for row in case["vectors"]]


def test_libmemcached_weighted():
    """Libmemcached's own fixture of weighted ketama holds."""
    case = load("libmemcached_ketama_fixture")["cases"][0]
    ring = HashRing(weights(case), layout=layouts.libmemcached())
    for row in case["vectors"]:
        assert ring.position(row["key"]) == row["key_hash"]
        assert ring.explain(row["key"]).arc.last == row["point"]
        assert ring.owner(row["key"]) == row["node"]
    assert ring == HashRing(weights(case), layout=layouts.libmemcached()) != ring.owner
    equal = dict.fromkeys(weights(case), 1)
    forced = HashRing(equal, layout=layouts.libmemcached(weighted=True))
    assert len(forced._now[4].circle.ends) == 8 * 160
    keyed = HashRing(equal, layout=layouts.libmemcached(hash="fnv1a_32"))
    assert keyed.position("k") == hashes.fnv1a_32(b"k")


@pytest.mark.parametrize("case", load("envoy_ring_hash_test_cc")["cases"], ids=lambda case: case["test"])
def test_envoy_unit_tests(case):
    """The rings of Envoy's own unit tests come out, points, sizes and picks."""
    layout = layouts.envoy(
        min_size=case["minimum_ring_size"],
        max_size=case.get("maximum_ring_size", 8_388_608),
        hash="murmur2" if "MURMUR" in case["hash_function"] else "xxhash",
    )
    ring = HashRing(weights(case), layout=layout)
    circle = ring._now[4].circle
    assert len(circle.ends) == case.get("expect_size", len(circle.ends))
    assert points(ring) == case.get("ring", points(ring))
    for row in case.get("vectors", []):
        assert circle.owner(row["hash"]) == row["node"]
    if "histogram" in case:
        probes = case["histogram"]["probes"]
        picks = [circle.owner(probe * ((2**64 - 1) // probes)) for probe in range(probes)]
        assert {node: picks.count(node) for node in set(picks)} == case["histogram"]["counts"]


def test_envoy_maglev():
    """The live table of Envoy answers as ours, and has as many slots for each."""
    case = load("envoy_maglev_5_65537")
    table = Maglev(weights(case))
    assert [table.owner(row["key"]) for row in case["vectors"]] == [row["node"] for row in case["vectors"]]
    assert {node: table.slots.count(node) for node in table.nodes} == case["table_counts"]


@pytest.mark.parametrize("case", load("envoy_maglev_test_cc")["cases"], ids=lambda case: case["test"])
def test_envoy_maglev_unit_tests(case):
    """The tables of Envoy's own unit tests come out, slot by slot."""
    table = Maglev(weights(case), size=case["table_size"])
    if "table" in case:
        assert table.slots == case["table"]
    for node, count in case.get("table_counts", case.get("counts", {})).items():
        assert table.slots.count(node) == count


def test_jump_hash():
    """The published rows of the reference implementation hold."""
    for row in load("jump_hash")["vectors"]:
        assert jump(row["key"], row["buckets"]) == row["bucket"]


NAMED = {
    "one_at_a_time": hashes.one_at_a_time,
    "md5": hashes.md5,
    "crc": hashes.crc32_memcached,
    "crc32": hashes.crc32_memcached,
    "crc32a": zlib.crc32,
    "fnv1_32": hashes.fnv1_32,
    "fnv1_64": hashes.fnv1_64,
    "fnv1a_32": hashes.fnv1a_32,
    "fnv1a_64": hashes.fnv1a_64,
    "jenkins": hashes.jenkins,
    "murmur": hashes.murmur2_32,
}


@pytest.mark.parametrize("name", NAMED)
def test_hash_functions(name):
    """Each function gives the values of libmemcached's and twemproxy's test-suites."""
    memcached = load("libmemcached_hash_functions")
    twemproxy = load("twemproxy_hash_functions")
    if name in memcached["values"]:
        assert [NAMED[name](key.encode()) for key in memcached["keys"]] == memcached["values"][name]
    if name in twemproxy["values"]:
        assert NAMED[name](twemproxy["key"].encode()) == twemproxy["values"][name]
    for row in twemproxy["ketama_hash"]:
        assert hashes.md5_points(row["key"].encode())[row["alignment"]] == row["value"]


def test_hash_functions_without_vectors():
    """Empty input, and the functions that no suite publishes rows for, keep their values."""
    assert hashes.jenkins(b"") == 0xDEADBEEF + 13
    assert hashes.djb2(b"") == 5381
    assert hashes.djb2(b"a") == 5381 * 33 + 97
    assert hashes.sdbm(b"ab") == 97 * 65599 + 98
    assert hashes.one_at_a_time(b"\xff") != hashes.one_at_a_time(b"\x7f")
    assert hashes.fnv1a_32(b"\x80") == (0x811C9DC5 ^ 0xFFFFFF80) * 0x01000193 % 2**32


@pytest.mark.parametrize("hash", sorted(NAMED.keys() - {"crc"}))
def test_twemproxy_hashes_keys_as_told(hash):
    """Twemproxy's key hash is a choice, its points are MD5 with any."""
    nodes = ["a:1", "b:1", "c:1"]
    ring = HashRing(nodes, layout=layouts.twemproxy(hash=hash))
    assert [ring.position(key) for key in KEYS] == [NAMED[hash](key.encode()) for key in KEYS]
    assert points(ring) == points(HashRing(nodes, layout=layouts.twemproxy()))


@pytest.mark.parametrize("count", [25, 47, 50, 55])
def test_ketama_loses_points_to_its_floats(count):
    """At some numbers of equal nodes the rounding of 32-bit floats takes four points from each."""
    nodes = dict.fromkeys((f"h{number}:1" for number in range(count)), 2)
    for layout in (layouts.twemproxy(), layouts.libmemcached()):
        assert len(HashRing(nodes, layout=layout)._now[4].circle.ends) == 156 * count
    assert {count for _, count in layouts.libketama().plan(dict.fromkeys("abcde", 1)).values()} == {160}


def test_default_port_is_left_out():
    """Libmemcached and twemproxy label a server at port 11211 by its host alone."""
    for layout in (layouts.libmemcached(), layouts.twemproxy()):
        with_port = HashRing({"a:11211": 2, "b:11211": 2}, layout=layout)
        without = HashRing({"a": 2, "b": 2}, layout=layout)
        assert [with_port.owner(key).partition(":")[0] for key in KEYS] == [
            without.owner(key) for key in KEYS
        ]


def test_names_of_nginx_and_pingora():
    """Nginx splits off a port and keeps brackets, Pingora drops them, a unix socket is all host."""
    nginx, pingora = layouts.nginx(), layouts.pingora()
    base = zlib.crc32(b"::1\x0080")
    assert pingora.points("[::1]:80", 2)[0] == zlib.crc32(b"\0\0\0\0", base)
    assert nginx.points("[::1]:80", 1) == [zlib.crc32(b"[::1]\x0080\0\0\0\0")]
    assert nginx.points("[::1]", 1) == [zlib.crc32(b"[::1]\0\0\0\0\0")]
    assert nginx.points("unix:/run/a:1", 1) == nginx.points("UNIX:/run/a:1", 1)
    assert nginx.points("unix:/run/a:1", 1) == [zlib.crc32(b"/run/a:1\0\0\0\0\0")]
    assert nginx.points("backend", 1) == [zlib.crc32(b"backend\0\0\0\0\0")]
    assert nginx.points("backend:x", 1) == [zlib.crc32(b"backend:x\0\0\0\0\0")]


def test_pingora_ipv6():
    """Pingora's own test of an IPv6 ring holds."""
    ring = HashRing(["[::1]:7777", "[::1]:7778", "[::1]:7779"], layout=layouts.pingora())
    assert list(ring.walk("doghash")) == ["[::1]:7777", "[::1]:7778", "[::1]:7779"]


def test_grpc_is_envoy_by_name():
    """GRPC's ring is Envoy's over the nodes by name, capped at 4,096 points."""
    nodes = {"c": 3, "a": 1, "b": 2}
    envoy = HashRing(dict(sorted(nodes.items())), layout=layouts.envoy())
    assert points(HashRing(nodes, layout=layouts.grpc())) == points(envoy)
    assert len(HashRing({"a": 1, "b": 1e6}, layout=layouts.grpc())._now[4].circle.ends) == 4096


def test_haproxy_by_id():
    """HAProxy's points follow from the server's id; without ids, from its place."""
    nodes = ["x", "y", "z"]
    placed = HashRing(nodes, layout=layouts.haproxy())
    assert placed == copy.copy(placed)
    by_id = HashRing(["z", "x", "y"], layout=layouts.haproxy(ids={"x": 1, "y": 2, "z": 3}))
    assert [placed.owners(key, 3) for key in KEYS] == [by_id.owners(key, 3) for key in KEYS]
    for hash, function in [("sdbm", hashes.sdbm), ("djb2", hashes.djb2), ("crc32", zlib.crc32)]:
        plain = HashRing(nodes, layout=layouts.haproxy(hash=hash, avalanche=False))
        spread = HashRing(nodes, layout=layouts.haproxy(hash=hash))
        assert plain.position("k") == function(b"k")
        assert spread.position("k") == hashes.haproxy_avalanche(function(b"k"))


def distance(one, other):
    return (one - other) % 2**32


def test_nearest_of_a_single_position():
    """A circle whose only position is the nearest everywhere has one owner."""

    class Single:
        bits, rule = 32, "nearest"

        def key_hash(self, weights):
            return len

        def plan(self, weights):
            return {node: (node, 1) for node in weights}

        def points(self, label, count):
            return [100]

    for nodes in (["a"], ["a", "b"]):
        ring = HashRing(nodes, layout=Single())
        assert sum(ring.shares().values()) == 1
        assert ring.owner(b"k") == next(ring.walk(b"k")) == "a"
        assert sorted(ring.walk(b" " * 200)) == nodes


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_nearest_point_owns(position, count):
    """HAProxy's circle gives a position to its nearest point, the one before it at half-way."""
    layout = layouts.haproxy()
    circle = HashRing([f"s{number}" for number in range(count)], layout=layout)._now[4].circle
    at = zip(circle.points, circle.point_owners, strict=True)
    gaps = [
        (min((distance(position, point), 0), (distance(point, position), 1)), circle.names[owner])
        for point, owner in at
    ]
    assert circle.owner(position) == min(gaps)[1] == next(circle.walk(position))


@pytest.mark.parametrize("layout", [*LIVE.values(), layouts.pingora(), layouts.grpc()], ids=repr)
def test_layouts_are_values(layout):
    """A layout, and a ring with it, survive pickling, and their preference orders hold everybody once."""
    assert pickle.loads(pickle.dumps(layout)) == layout
    nodes = {f"10.0.0.{number}:80": number % 3 for number in range(9)}
    ring = HashRing(nodes, layout=layout)
    twin = pickle.loads(pickle.dumps(ring))
    assert twin == ring
    for key in KEYS[:20]:
        order = list(ring.walk(key))
        assert sorted(order) == sorted(node for node, weight in nodes.items() if weight)
        assert order == list(twin.walk(key))
        assert order[0] == ring.owner(key) == ring.explain(key).arc.node
    assert sum(arc.last - arc.first + 1 for arc in ring.arcs()) == 1 << layout.bits
    ring.remove("10.0.0.1:80")
    assert ring == HashRing(ring.nodes, layout=layout)


@pytest.mark.parametrize(
    "layout",
    [layouts.nginx(), layouts.varnish(), layouts.haproxy(ids={n: ord(n) for n in "abcdef"})],
    ids=repr,
)
def test_local_layouts_keep_the_others_order(layout):
    """Where a node's points are its own affair, removing it leaves the order of the others."""
    ring, smaller = HashRing([*"abcdef"], layout=layout), HashRing([*"abdef"], layout=layout)
    for key in KEYS:
        if ring.position(key) < min(ring._now[4].circle.ends[-2:]):  # Varnish does not go round
            assert [node for node in ring.walk(key) if node != "c"] == list(smaller.walk(key))


def test_shared_positions_go_to_the_first():
    """Of two nodes on one position the first in the layout's order owns it, and the other is next."""

    class Flat:
        bits, rule = 32, "next"

        def key_hash(self, weights):
            return len

        def plan(self, weights):
            return {node: (node, 3) for node in weights}

        def points(self, label, count):
            return [10, 20, 20]

    ring = HashRing([*"bca"], layout=Flat())
    assert [ring.owners(b" " * length, 3) for length in (5, 15, 30)] == [["b", "c", "a"]] * 3
    assert ring.shares() == {"b": 1, "c": 0, "a": 0}
    ring.remove("b")
    assert ring.owners(b"", 3) == ["c", "a"]
    ring.add("z")
    assert ring.owners(b"", 3) == ["c", "a", "z"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: layouts.envoy(hash="md5"), "hash must be"),
        (lambda: layouts.envoy(min_size=0), "min_size"),
        (lambda: layouts.envoy(min_size=9, max_size=8), "min_size"),
        (lambda: layouts.twemproxy(hash="sha"), "hash must be one of"),
        (lambda: layouts.libmemcached(hash="sha"), "hash must be one of"),
        (lambda: layouts.haproxy(hash="wt6"), "hash must be one of"),
        (lambda: layouts.varnish(replicas=0), "replicas"),
        (lambda: HashRing({"a": 0.5}, layout=layouts.nginx()), "whole and below 2..32 for nginx"),
        (lambda: HashRing({"a": 0.5}, layout=layouts.varnish()), "as Varnish has it"),
        (lambda: HashRing({"a": 1e300}, layout=layouts.libketama()), "for libketama"),
        (lambda: HashRing({"a": 1e308, "b": 1e308}, layout=layouts.envoy()), "finite sum"),
        (lambda: HashRing(["a"], layout=layouts.haproxy(ids={})), "ids must give"),
        (lambda: HashRing(["a", "b"], layout=layouts.haproxy(ids={"a": 1, "b": 1})), "ids must give"),
        (lambda: HashRing(["a"], vnodes=7, layout=layouts.nginx()), "vnodes must be None"),
        (lambda: HashRing(["a"], layout=layouts.nginx()).moved(HashRing(["a"])), "must hash keys as"),
    ],
)
def test_what_a_layout_cannot_do_is_refused(make, says):
    """A setting or a weight that the system does not know is refused by name."""
    with pytest.raises(ValueError, match=says):
        make()


def test_vnodes_with_the_default_layout():
    """The number of virtual nodes can be given beside the default layout, or in it."""
    assert HashRing(["a"], vnodes=7, layout=layouts.xxh3()) == HashRing(["a"], layout=layouts.xxh3(vnodes=7))
