"""Which bytes a request asks for, and how several ranges come in one answer."""

from __future__ import annotations

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.fields import find
from replicated.http.message import Headers
from replicated.http.ranges import MOST_RANGES, SHORT, content_range, partial, single, spans

BODY = bytes(range(256)) * 8
WHOLE: Headers = [(b"content-type", b"text/x"), (b"etag", b'"a"'), (b"content-length", b"2048")]


def cut(wanted: bytes, headers: Headers = WHOLE) -> tuple[Headers, bytes]:
    asked = spans(wanted, len(BODY))
    assert asked is not None
    response = partial(headers, len(BODY), [(first, last, BODY[first : last + 1]) for first, last in asked])
    assert isinstance(response.body, bytes)
    assert response.status == 206
    assert find(response.headers, b"content-length") == b"%d" % len(response.body)
    assert find(response.headers, b"etag") == b'"a"'
    return response.headers, response.body


def parsed(headers: Headers, body: bytes) -> list[tuple[str, str | None, bytes]]:
    """Read an answer with a parser that others wrote."""
    kind = find(headers, b"content-type")
    assert kind is not None
    text = b"content-type: " + kind + b"\r\n\r\n" + body
    message = email.message_from_bytes(text, policy=email.policy.HTTP)
    assert message.get_content_type() == "multipart/byteranges"
    found = []
    for part in message.iter_parts():  # type: ignore[attr-defined]
        said = str(part["content-range"])
        first, last = map(int, said.removeprefix("bytes ").partition("/")[0].split("-"))
        found.append((said, part["content-type"], BODY[first : last + 1]))
    return found


def test_several_ranges_are_parts_of_one_body() -> None:
    """Ranges that lie apart come as parts, each with its type and its place, in the order asked for."""
    headers, body = cut(b"bytes=1000-1009, 0-1,-5")
    assert find(headers, b"content-range") is None
    assert [(said, kind) for said, kind, _ in parsed(headers, body)] == [
        ("bytes 1000-1009/2048", "text/x"),
        ("bytes 0-1/2048", "text/x"),
        ("bytes 2043-2047/2048", "text/x"),
    ]
    for first, last in ((1000, 1009), (0, 1), (2043, 2047)):
        head = b"Content-Type: text/x\r\nContent-Range: bytes %d-%d/2048\r\n\r\n" % (first, last)
        assert head + BODY[first : last + 1] + b"\r\n--" in body


def test_a_body_without_a_type_has_parts_without() -> None:
    """Where the whole says no type, neither do its parts."""
    _, body = cut(b"bytes=0-1,1000-1001", [(b"etag", b'"a"')])
    assert b"ontent-Type" not in body


def test_one_range_is_left_of_several() -> None:
    """Of ranges that are one, or of which one can be had, there is no multipart answer."""
    for wanted, said in (
        (b"bytes=0-9,5-20", b"bytes 0-20/2048"),
        (b"bytes=5-20,0-9", b"bytes 0-20/2048"),
        (b"bytes=0-9,%d-%d" % (9 + SHORT, 9 + SHORT), b"bytes 0-89/2048"),
        (b"bytes=0-0,5000-", b"bytes 0-0/2048"),
        (b"bytes=,0-0,", b"bytes 0-0/2048"),
    ):
        assert find(cut(wanted)[0], b"content-range") == said
    assert spans(b"bytes=0-9,%d-" % (10 + SHORT), 2048) == [(0, 9), (10 + SHORT, 2047)]


@pytest.mark.parametrize(
    "wanted",
    [
        b"bytes=0-0," * MOST_RANGES + b"0-0",
        b"bytes=" + b"," * 10_000,
        b"bytes=",
        b"bytes=,",
        b"bytes=0-1,x",
        b"bytes=0-1,9-3",
        b"bytes=-",
        b"bytes=1",
        b"bytes 0-1",
        b"lines=0-1",
        b"bytes=0-9999999999999999999",
    ],
)
def test_what_is_ignored(wanted: bytes) -> None:
    """Floods, other units and nonsense are no ranges: the whole is the answer."""
    assert spans(wanted, 2048) is None


def test_what_cannot_be_had() -> None:
    """Where no range is satisfiable, there is none; of an empty body there never is."""
    assert spans(b"bytes=2048-,3000-", 2048) == []
    assert spans(b"bytes=-0", 2048) == spans(b"bytes=0-", 0) == spans(b"bytes=-5", 0) == []
    response = partial(WHOLE, 2048, [])
    assert (response.status, find(response.headers, b"content-range")) == (416, b"bytes */2048")
    assert find(response.headers, b"content-type") is None


@given(
    st.lists(st.tuples(st.integers(0, 2100), st.integers(0, 300)), min_size=1, max_size=MOST_RANGES),
    st.integers(0, 2100),
)
def test_ranges_never_grow(asked: list[tuple[int, int]], size: int) -> None:
    """All that is asked for and exists is answered once, and never more than the whole."""
    wanted = b"bytes=" + b",".join(b"%d-%d" % (first, first + more) for first, more in asked)
    found = spans(wanted, size)
    assert found is not None
    covered = [at for first, last in found for at in range(first, last + 1)]
    assert len(covered) == len(set(covered)) <= size
    assert set(covered) >= {at for first, more in asked for at in range(first, first + more + 1) if at < size}


def test_one_spelling_for_one_range() -> None:
    """A range has one name, however it is written; several have none."""

    def name(*lines: bytes) -> str | None:
        return single([(b"range", line) for line in lines])

    assert name(b"bytes=00-09") == name(b"Bytes= 0-9 ") == "0-9"
    assert (name(b"bytes=5-"), name(b"bytes=-05")) == ("5-", "-5")
    assert name() is name(b"bytes=0-1,3-4") is name(b"bytes=0-1", b"bytes=0-1") is name(b"lines=0-1") is None


def test_which_part_an_answer_brings() -> None:
    """An answer brings a part where it says so once; what cannot be is none."""
    assert content_range([(b"content-range", b"bytes 0-4/10")]) == (0, 4, 10)
    assert content_range([(b"content-range", b"bytes 0-4/10")] * 2) is None
    for nonsense in (
        b"bytes */10",
        b"bytes 0-4/*",
        b"bytes 5-4/10",
        b"bytes 0-10/10",
        b"bytes 0-4/10, 0-4/10",
    ):
        assert content_range([(b"content-range", nonsense)]) is None
