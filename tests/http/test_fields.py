"""Header fields: read over all their lines, written so that clients can act on them."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.fields import entity_tag_matches, find, find_all, problem, retry_after, token_list
from replicated.http.message import Request


@given(st.floats(min_value=0, max_value=1e9))
def test_retry_after_is_never_too_early(wait: float) -> None:
    """Whoever waits as long as Retry-After says has waited long enough, and never gets 0."""
    assert int(retry_after(wait)) >= max(wait, 1)
    assert int(retry_after(wait)) <= max(1, math.ceil(wait))


def test_retry_after_of_never_is_a_number() -> None:
    """A wait without end is said in seconds that clients can read."""
    assert retry_after(math.inf) == retry_after(1e300) == b"2147483648"


def test_fields_are_read_over_all_lines() -> None:
    """A list is the same list however its lines are cut."""
    headers = [(b"via", b"a, b"), (b"host", b"x"), (b"via", b",C ,")]
    assert token_list(headers, b"via") == [b"a", b"b", b"c"]
    assert find(headers, b"via") == b"a, b"
    assert find_all(headers, b"via") == [b"a, b", b",C ,"]
    assert find(headers, b"te") is None


@pytest.mark.parametrize(
    ("condition", "etag", "matches"),
    [
        (b'"a"', b'"a"', True),
        (b'W/"a"', b'"a"', True),
        (b'"a"', b'W/"a"', True),
        (b'"b", "a"', b'"a"', True),
        (b'"b,a", "c"', b'"b,a"', True),
        (b'"b,a"', b'"a"', False),
        (b"*", b'"a"', True),
        (b'"A"', b'"a"', False),
        (b"", b'"a"', False),
    ],
)
def test_entity_tags_compare_weakly(condition: bytes, etag: bytes, matches: bool) -> None:
    """If-None-Match compares opaque tags whole, whatever their weakness and commas."""
    assert entity_tag_matches(condition, etag) is matches


def test_a_problem_tells_machine_and_reader() -> None:
    """An answer of our own is problem details with a length, and never cached."""
    response = problem(503, "no replica can serve", [(b"retry-after", b"1")])
    assert isinstance(response.body, bytes)
    assert json.loads(response.body) == {
        "title": "Service Unavailable",
        "status": 503,
        "detail": "no replica can serve",
    }
    assert find(response.headers, b"content-length") == str(len(response.body)).encode()
    assert find(response.headers, b"cache-control") == b"no-store"
    assert find(response.headers, b"retry-after") == b"1"


def test_a_request_knows_whether_it_can_be_sent_twice() -> None:
    """Only idempotent requests without a body are replayable, and the path keeps its encoding."""

    async def body():  # type: ignore[no-untyped-def]
        yield b"x"

    assert Request("GET", b"/a%2Fb?q", []).replayable
    assert Request("GET", b"/a%2Fb?q", []).path == "/a%2Fb"
    assert not Request("POST", b"/", []).replayable
    assert not Request("PUT", b"/", [], body=body()).replayable
