"""Stored responses as bytes: what comes back is what went there, or it is no response at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.packing import pack, unpack
from replicated.http.stored import Stored

HEADERS = [
    (b"content-type", b"text/html; charset=\xff"),
    (b"vary", b"Accept, cookie"),
    (b"content-length", b"4"),
]
VARY = ((b"accept", b"*/*"), (b"cookie", b""))


def stored(**changes: Any) -> Stored:
    fields = {"status": 200, "headers": list(HEADERS), "body": b"body", "vary": VARY, "born": 90.0}
    fields |= {"fresh_until": 150.0, "grace_until": 160.0, "keep_until": 170.0, "assumed": True}
    return Stored(**(fields | changes))


def rewritten(**changes: Any) -> bytes:
    """Return packed bytes whose head says something else."""
    first, _, rest = pack(stored(), 100.0).partition(b"\n")
    size = int(first.split()[1])
    head = json.dumps(json.loads(rest[:size]) | changes).encode()
    return b"1 %d\n%b%b" % (len(head), head, rest[size:])


def test_there_and_back() -> None:
    """A response comes back as it was, with its instants as far from another one as they were."""
    assert unpack(pack(stored(), 100.0), 100.0) == stored()
    moved = unpack(pack(stored(), 100.0), 1000.0)
    assert (moved.born, moved.fresh_until, moved.grace_until, moved.keep_until) == (
        990.0,
        1050.0,
        1060.0,
        1070.0,
    )
    assert unpack(rewritten(), 100.0) == stored()


def test_a_204_needs_no_length() -> None:
    """What has no body need not say how long it is."""
    empty = stored(status=204, headers=[], vary=(), body=b"")
    assert unpack(pack(empty, 0.0), 0.0) == empty


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 206},
        {"status": 304},
        {"status": 101},
        {"status": True},
        {"status": "200"},
        {"assumed": 1},
        {"headers": None},
        {"headers": {"a": "b"}},
        {"headers": [["content-length", "5"]], "vary": []},
        {"headers": [], "vary": []},
        {"headers": [["content-length", "4"], ["content-length", "4"]], "vary": []},
        {"headers": [["content-length", "4"], ["x", "y\r\nset-cookie: a=b"]], "vary": []},
        {"headers": [["content-length", "4"], ["X", "y"]], "vary": []},
        {"headers": [["content-length", "4"], ["x y", "y"]], "vary": []},
        {"headers": [["content-length", "4"], ["x", "\u0100"]], "vary": []},
        {"headers": [["content-length", "4"], ["x", 1]], "vary": []},
        {"headers": [["content-length", "4"], ["x"]], "vary": []},
        {"headers": [["content-length", "4"], ["set-cookie", "a=b"]], "vary": []},
        {"headers": [["content-length", "4"], ["connection", "close"]], "vary": []},
        {"headers": [["content-length", "4"], ["vary", "*"]], "vary": [["*", ""]]},
        {"vary": []},
        {"vary": [["accept", "*/*"]]},
        {"vary": [["cookie", ""], ["accept", "*/*"]]},
        {"times": [0, 1, 2]},
        {"times": [0, 1, 2, 3, 4]},
        {"times": [0, 1, 2, float("inf")]},
        {"times": [0, 1, 2, float("nan")]},
        {"times": [0, 1, 2, 1e12]},
        {"times": [0, 1, 2, "3"]},
        {"times": [0, 1, 2, True]},
        {"times": 5},
    ],
)
def test_what_is_never_stored_is_not_read(changes: dict[str, Any]) -> None:
    """A head that says what no stored response says is none: not its fields, its length, its times."""
    with pytest.raises(ValueError, match=r"."):
        unpack(rewritten(**changes), 0.0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"2 2\n{}",
        b"1 2\n{}",
        b"1 2\n[]",
        b"1 4\nnull",
        b"1 99999999999\n{}",
        b"1 9\n{",
        b"1 2\n\xff\xff",
    ]
    + [b"1 100000\n" + b"[" * 100_000],
)
def test_garbage_is_no_response(data: bytes) -> None:
    """What is cut short, of another version or no JSON is refused, however deep it nests."""
    with pytest.raises(ValueError, match=r"."):
        unpack(data, 0.0)


@given(st.binary(max_size=80), st.integers(0, 400), st.integers(0, 80))
def test_whatever_is_changed(noise: bytes, where: int, cut: int) -> None:
    """Bytes put in or taken out anywhere give a response whose body has its length, or none."""
    packed = pack(stored(), 100.0)
    try:
        found = unpack(packed[:where] + noise + packed[where + cut :], 100.0)
    except ValueError:
        return
    assert dict(found.headers)[b"content-length"] == b"%d" % len(found.body)
