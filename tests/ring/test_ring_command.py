"""``replicated ring``: tables, JSON and pictures that agree with the library."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from fractions import Fraction
from itertools import pairwise

import pytest
from click.testing import CliRunner

from replicated.ring import Arc, HashRing, JumpHash, Maglev, layouts
from replicated.serve.ring_command import parse_nodes, ring
from replicated.serve.ring_picture import STEPS, draw, sectors


def run(*arguments):
    return CliRunner().invoke(ring, arguments)


def report(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_json_is_the_library():
    """Shares, moves and owners are those of the library, exactly."""
    answer = report(
        "a", "b=2", "c=0", "--vnodes", "40", "--add", "d", "--remove", "a", "--key", "k", "--count", "2"
    )
    before = HashRing({"a": 1, "b": 2, "c": 0}, vnodes=40)
    after = HashRing({"b": 2, "c": 0, "d": 1}, vnodes=40)
    assert {row["node"]: Fraction(row["exact"]) for row in answer["nodes"]} == before.shares()
    assert {row["node"]: row["weight"] for row in answer["after"]} == after.nodes
    moved = {(row["from"], row["to"]): Fraction(row["exact"]) for row in answer["moved"]}
    assert moved == before.moved(after)
    assert Fraction(answer["moved_total"]["exact"]) == sum(moved.values())
    assert answer["keys"] == [{"key": "k", "owners": before.owners("k", 2), "after": after.owners("k", 2)}]


@pytest.mark.parametrize(
    ("spec", "table"),
    [
        ("nginx", HashRing(["x:1", "y:1"], layout=layouts.nginx())),
        (
            "envoy:min_size=64,hash=murmur2",
            HashRing(["x:1", "y:1"], layout=layouts.envoy(64, hash="murmur2")),
        ),
        ("haproxy:avalanche=false", HashRing(["x:1", "y:1"], layout=layouts.haproxy(avalanche=False))),
        ("maglev:size=1009", Maglev(["x:1", "y:1"], 1009)),
        ("jump", JumpHash(["x:1", "y:1"])),
    ],
)
def test_any_layout(spec, table):
    """Every layout and table can be asked for, with its settings."""
    answer = report("x:1", "y:1", "--layout", spec, "--key", "k")
    assert {row["node"]: Fraction(row["exact"]) for row in answer["nodes"]} == table.shares()
    assert answer["keys"] == [{"key": "k", "owners": table.owners("k", 3)}]


def test_tables_for_people():
    """Without --json the same stands in tables, the change beside what is."""
    result = run("a", "b", "--add", "c", "--key", "user:1")
    assert result.exit_code == 0
    for text in ("Shares of the hash space", "What would move", "Where keys live", "user:1", "%"):
        assert text in result.output
    plain = run("a", "b")
    assert "after" not in plain.output
    assert "moves" not in plain.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a", "a"), "'a' comes twice"),
        (("a=x",), "weight of 'a'"),
        (("a=-1",), "weight of 'a'"),
        (("a", "--layout", "nowhere"), "layout must be one of"),
        (("a", "--layout", "nginx:size=3"), "no setting 'size'"),
        (("a", "--layout", "nginx:size"), "name=value"),
        (("a", "--layout", "maglev", "--vnodes", "3"), "no virtual nodes"),
        (("a", "--layout", "maglev:size=10"), "prime"),
        (("a", "--remove", "b"), "'b' cannot be removed"),
        (("a", "--remove", "a", "--key", "k"), "weight above zero"),
        (("a", "--plot", "x.pdf"), ".svg or a .png"),
        (("a", "--plot", "/nowhere/x.svg"), "nowhere"),
    ],
)
def test_bad_questions(arguments, says):
    """What cannot be answered is said in a line, without a traceback."""
    result = run(*arguments)
    assert result.exit_code == 1
    assert says in result.output
    assert isinstance(result.exception, SystemExit)


def test_names_may_hold_an_equals_sign():
    """The last equals sign separates the weight."""
    assert parse_nodes(["zone=a=2", "b"]) == {"zone=a": 2, "b": 1}


@pytest.mark.parametrize("layout", ["xxh3", "rendezvous"])
def test_svg(tmp_path, layout):
    """The picture is well-formed, names every node in its legend, and has a colour for each."""
    path = tmp_path / "ring.svg"
    assert run("a<b", "b", "--layout", layout, "--add", "c", "--plot", str(path)).exit_code == 0
    root = ElementTree.parse(path).getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a<b", "b", "c"} < set(texts)
    fills = {element.get("fill") for element in root.iter("{http://www.w3.org/2000/svg}path")}
    assert len(fills) == 3


def test_png(tmp_path):
    """A PNG shows the colours of every node."""
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "ring.png"
    assert run("a", "b", "--plot", str(path)).exit_code == 0
    with image.open(path) as picture:
        assert picture.size == (1560, 960)
        assert len(picture.getcolors(1 << 20)) > 3


def test_png_without_pillow(tmp_path, monkeypatch):
    """Without the extra the command says which one to install."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    result = run("a", "--plot", str(tmp_path / "ring.png"))
    assert result.exit_code == 1
    assert "replicated-tier[plot]" in result.output


def test_sectors_of_many_arcs():
    """More arcs than can be seen are combed, and the sectors still make one circle."""
    ring = HashRing([f"n{number}" for number in range(20)])
    met = sectors(list(ring.arcs()), 64)
    assert len(met) <= STEPS
    assert met[0].start == 0
    assert met[-1].end == 1
    assert all(before.end == after.start for before, after in pairwise(met))
    assert sectors([Arc(0, 2**32 - 1, "a")], 32) == [(0, 1, "a")]


def test_legend_of_many_nodes(tmp_path):
    """What the legend has no room for is summed up in its last line."""
    shares = {f"n{number}": 1 / 50 for number in range(50)}
    draw(tmp_path / "ring.svg", "many", [], shares)
    assert "and 30 more" in (tmp_path / "ring.svg").read_text()
