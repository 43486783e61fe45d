"""Bodies in chunks: what they carry, in whatever pieces they come, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.chunks import MOST_LINE, MOST_OVERHEAD, MOST_TRAILER, Chunks


def fed(data: bytes, cuts: list[int]) -> tuple[bytes, Chunks]:
    chunks, body, at = Chunks(), b"", 0
    for cut in [*sorted(cuts), len(data)]:
        body += chunks.feed(data[at:cut])
        at = max(at, cut)
        if chunks.over:
            return body, chunks
    return body, chunks


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    st.sampled_from([b"", b";a", b";a=b", b';a="b;\tc\xff"', b";a;b=c"]),
    st.sampled_from([b"", b"X: y\r\n", b"a:\r\nb: c\r\n"]),
    st.lists(st.integers(0, 300), max_size=8),
)
def test_a_body_comes_out_as_it_went_in(
    pieces: list[bytes], extra: bytes, trailer: bytes, cuts: list[int]
) -> None:
    """However its bytes are cut, with extensions and a trailer or without; what follows is not touched."""
    data = b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extra, piece) for piece in pieces)
    whole = data + b"000" + extra + b"\r\n" + trailer + b"\r\n"
    body, chunks = fed(whole, [min(cut, len(whole)) for cut in cuts])
    assert body == b"".join(pieces)
    assert chunks.over
    assert chunks.rest == b""
    body, chunks = fed(whole + b"GET /", [])
    assert (body, chunks.rest) == (b"".join(pieces), b"GET /")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"g\r\n",
        b"+5\r\n",
        b"-1\r\n",
        b"0x5\r\n",
        b"1_0\r\n",
        b" 5\r\n",
        b"5 \r\n",
        b"5 ;a\r\n",
        b"5;\r\n",
        b"5;a b\r\n",
        b"5;=b\r\n",
        b'5;a="\n"\r\n',
        b"5\nabcde\r\n0\r\n\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"2\r\na\r\n0\r\n\r\n",
        b"1000000000000000\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\na: \x00\r\n\r\n",
        b"garbage",
        b"5garbage",
        b"5\r;",
        b"f" * 16,
        b"5;" + b"f" * MOST_LINE,
        b"1\r\nab",
        b"5;a=" + b"b" * MOST_LINE + b"\r\n",
        b"0\r\n" + b"a" * (MOST_TRAILER + 1),
        b"0\r\n" + b"a: bcdefg\r\n" * (MOST_TRAILER // 11 + 1),
        b"1;abcdefghijklmnopqrstuvwxyz\r\nx\r\n" * MOST_OVERHEAD,
    ],
)
def test_what_is_none(data: bytes) -> None:
    """Whatever could be read in two ways, or is more around a body than in it, is refused as it shows."""
    with pytest.raises(ValueError, match=r"chunk|line|trailer|header"):
        Chunks().feed(data)


def test_small_chunks_may_be_many() -> None:
    """A body of one byte a chunk is slow, and still a body."""
    assert Chunks().feed(b"1\r\nx\r\n" * 50_000) == b"x" * 50_000
