"""What may pass: framing beyond doubt, sizes within limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.framing import Limits, check_request

HOST = (b"host", b"example.com")
LIMITS = Limits()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 400),
        ([HOST, HOST], 400),
        ([(b"host", b"user@example.com")], 400),
        ([(b"host", b"a,b")], 400),
        ([(b"host", b"a" * 301)], 400),
        ([(b"host", b"example.com/path")], 400),
        ([HOST, (b"content-length", b"3"), (b"transfer-encoding", b"chunked")], 400),
        ([HOST, (b"content-length", b"3"), (b"content-length", b"3")], 400),
        ([HOST, (b"content-length", b"+3")], 400),
        ([HOST, (b"content-length", b"0x3")], 400),
        ([HOST, (b"content-length", b"1_0")], 400),
        ([HOST, (b"content-length", b"3, 3")], 400),
        ([HOST, (b"content-length", b"")], 400),
        ([HOST, (b"content-length", b"9" * 18)], 413),
        ([HOST, (b"transfer-encoding", b"gzip, chunked")], 501),
        ([HOST, (b"transfer-encoding", b"\x0bchunked")], 400),
        ([HOST, (b"transfer-encoding", b"identity")], 501),
        ([HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")], 400),
        ([HOST, (b"na me", b"x")], 400),
        ([HOST, (b"", b"x")], 400),
        ([HOST, (b"a\r\nb", b"x")], 400),
        ([HOST, (b"x", b"a\r\nhost: b")], 400),
        ([HOST, (b"x", b"a\nb")], 400),
        ([HOST, (b"x", b"a\0b")], 400),
        ([(b"host", b"example.com\n")], 400),
        ([HOST, (b"connection", b"Content-Length"), (b"content-length", b"3")], 400),
        ([HOST, (b"connection", b"transfer-encoding")], 400),
        ([HOST, (b"connection", b"close, Cookie")], 400),
        ([HOST, (b"connection", b"close"), (b"connection", b"x-forwarded-for")], 400),
        ([HOST] + [(b"a", b"b")] * 100, 431),
        ([HOST, (b"a", b"b" * 40_000)], 431),
    ],
)
def test_what_leaves_doubt_is_refused(headers: list[tuple[bytes, bytes]], status: int) -> None:
    """Two lengths, odd lengths, odd codings, two hosts, names that are none and excess are all refused."""
    violation = check_request("POST", b"/", headers, LIMITS)
    assert violation is not None
    assert violation.status == status


@pytest.mark.parametrize(
    "headers",
    [
        [HOST],
        [(b"host", b"")],
        [(b"host", b"[::1]:8080")],
        [(b"host", b"127.0.0.1:80")],
        [HOST, (b"content-length", b"0")],
        [HOST, (b"x", b"tab\there, and \xc3\xa9"), (b"empty", b"")],
        [HOST, (b"transfer-encoding", b"Chunked")],
        [HOST, (b"connection", b"keep-alive, x-hop"), (b"cookie", b"a=b"), (b"cookie", b"c=d")],
    ],
)
def test_what_is_plain_passes(headers: list[tuple[bytes, bytes]]) -> None:
    """A request whose framing is beyond doubt passes."""
    assert check_request("POST", b"/a?b", headers, LIMITS) is None


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("CONNECT", b"example.com:443", 405),
        ("TRACE", b"/", 405),
        ("GET", b"/" + b"a" * 8192, 414),
        ("GET", b"http://example.com/", 400),
        ("GET", b"*", 400),
        ("GET", b"", 400),
        ("GET", b"/a b", 400),
        ("GET", b"/ HTTP/1.1\r\nhost: b", 400),
        ("GET", b"/a#b", 400),
        ("GET", b"/a\x7f", 400),
        ("GET\r\n", b"/", 400),
        ("G T", b"/", 400),
        ("G\u00c9T", b"/", 400),
        ("", b"/", 400),
    ],
)
def test_methods_and_targets_that_are_not_forwarded(method: str, target: bytes, status: int) -> None:
    """CONNECT and TRACE are off, a target is a path, and not too long a one."""
    violation = check_request(method, target, [HOST], LIMITS)
    assert violation is not None
    assert violation.status == status


def test_methods_of_others_pass() -> None:
    """A method that is a token passes, whether or not we have heard of it."""
    assert check_request("PROPFIND", b"/", [HOST], LIMITS) is None


def test_options_may_ask_for_the_server_itself() -> None:
    """OPTIONS * is a request like any other."""
    assert check_request("OPTIONS", b"*", [HOST], LIMITS) is None


@pytest.mark.parametrize("limit", ["target", "header_bytes", "header_count", "body"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10"])
def test_a_limit_is_a_positive_integer(limit: str, value: object) -> None:
    """A limit that cannot work is a ValueError naming it and its value."""
    with pytest.raises(ValueError, match=f"{limit} must be a positive integer.*{value!r}"):
        Limits(**{limit: value})  # type: ignore[arg-type]


tokens = st.text(alphabet="abcXYZ019!#$%&'*+-.^_`|~", min_size=1).map(str.encode)
values = st.binary(max_size=20)


@given(
    st.lists(st.tuples(st.one_of(tokens, st.binary(max_size=5)), values), max_size=5), st.binary(max_size=10)
)
def test_what_passes_is_one_request_on_the_wire(headers: list[tuple[bytes, bytes]], path: bytes) -> None:
    """Whatever passes and is written out reads as the same request line and the same header lines."""
    lines = [HOST, *headers]
    target = b"/" + path
    if check_request("GET", target, lines, LIMITS) is not None:
        return
    wire = b"GET " + target + b" HTTP/1.1\r\n" + b"".join(n + b": " + v + b"\r\n" for n, v in lines) + b"\r\n"
    assert wire.index(b"\r\n\r\n") == len(wire) - 4
    first, *rest = wire[:-4].split(b"\r\n")
    assert first.split(b" ") == [b"GET", target, b"HTTP/1.1"]
    assert [tuple(line.split(b": ", 1)) for line in rest] == lines
    assert b"\n" not in wire.replace(b"\r\n", b"")
