"""Parts of a body: what fits together, what can be cut of it, and that nothing is ever made up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicated.http.message import Headers
from replicated.http.parts import MOST_PIECES, Parts
from replicated.http.ranges import Span
from replicated.http.stored import Stored

BODY = bytes(range(256))


def stored(**fields: str) -> Stored:
    fields = {"etag": '"a"', **fields}
    headers: Headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return Stored(200, headers, b"", (), 0.0, 60.0, 60.0, 60.0, False)


def part(first: int, last: int, body: bytes = BODY, **fields: str) -> Parts:
    return Parts.of(stored(**fields), Span(first, last, len(body)), body[first : last + 1])


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=12), st.data())
def test_whatever_is_cut_is_of_the_body(asked: list[tuple[int, int]], data: st.DataObject) -> None:
    """After any parts in any order, a range is answered just where all of it has come, and truly."""
    kept: Parts | None = None
    here: set[int] = set()
    for first, last in map(sorted, asked):
        new = part(first, last)
        kept = new if kept is None else kept.beside(new, 1000)
        here |= set(range(first, last + 1))
        assert sum(len(piece) for _, piece in kept.pieces) == len(here)
    assert kept is not None
    first, last = sorted((data.draw(st.integers(0, 255)), data.draw(st.integers(0, 255))))
    wanted = set(range(first, last + 1))
    assert kept.cut(first, last) == (BODY[first : last + 1] if wanted <= here else None)
    whole = kept.completed()
    assert (whole is not None) == (len(here) == 256)
    if whole is not None:
        assert type(whole) is Stored
        assert whole.body == BODY
        assert (b"content-length", b"256") in whole.headers


def test_only_one_strong_tag_fits() -> None:
    """Parts fit where both name the same strong entity tag, and the same length."""
    ours = part(0, 9)
    assert ours.fits(part(10, 19))
    assert not ours.fits(part(10, 19, etag='"b"'))
    assert not ours.fits(part(10, 19, BODY[:-1]))
    weak = part(0, 9, etag='W/"a"')
    assert not weak.fits(weak)


def test_the_latest_header_counts() -> None:
    """What a new part says replaces what was said before; what it does not say stays."""
    new = part(0, 9, a="1", b="1").beside(part(10, 19, b="2", b_="3"), 1000)
    assert sorted(new.headers) == [(b"a", b"1"), (b"b", b"2"), (b"b-", b"3"), (b"etag", b'"a"')]


def test_parts_are_bounded() -> None:
    """Beyond so many bytes the oldest parts go; pieces that touch become one before any go."""
    kept = part(100, 109).beside(part(0, 9), 20)
    assert kept.cut(100, 109) is not None
    kept = kept.beside(part(50, 59), 20)
    assert (kept.cut(100, 109), kept.cut(0, 9), kept.cut(50, 59)) == (None, BODY[:10], BODY[50:60])

    body = bytes(4 * MOST_PIECES)
    kept = part(0, 0, body)
    for at in range(1, 2 * MOST_PIECES):
        kept = kept.beside(part(at, at, body), 10_000)
        assert len(kept.pieces) <= MOST_PIECES
        assert kept.cut(0, at) is not None
    kept = part(0, 0, body)
    for at in range(2, 4 * MOST_PIECES, 2):
        kept = kept.beside(part(at, at, body), 10_000)
    assert len(kept.pieces) == MOST_PIECES
    assert kept.size - part(0, 0, body).size == (MOST_PIECES - 1) * 151
