"""Heads as bytes on a wire: what is one, what it says, and what is wrong with it."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.framing import Limits, Violation
from replicated.http.heads import REMEMBERED, Head, HeadReader

LIMITS = Limits(target=100, header_bytes=300, header_count=5, body=1000)
READER = HeadReader(LIMITS)


def read(data: bytes, host: bytes = b"") -> Head | Violation:
    return READER.read(data, data.index(b"\r\n\r\n"), host)


def test_a_head_is_read() -> None:
    """Method, target, version and header come out as they were sent, names in lower case, values trimmed."""
    found = read(b"PURGE /a%2Fb?c HTTP/1.1\r\nHost: h\r\nX-Y: \t 1 2\t\r\nx-y:\r\n\r\nrest")
    assert isinstance(found, Head)
    assert (found.method, found.target, found.minor) == ("PURGE", b"/a%2Fb?c", 1)
    fields = found.fields
    assert fields.headers == [(b"host", b"h"), (b"x-y", b"1 2"), (b"x-y", b"")]
    assert (fields.length, fields.close, fields.keep_alive, fields.expects, fields.websocket) == (0,) + (
        False,
    ) * 4


def test_what_a_header_asks_for() -> None:
    """A length, chunks, the end of the connection, an expectation, a tunnel."""

    def fields(text: bytes) -> object:
        found = read(b"GET / HTTP/1.1\r\nHost: h\r\n" + text + b"\r\n\r\n")
        assert isinstance(found, Head)
        return found.fields

    assert fields(b"Content-Length: 42").length == 42  # type: ignore[attr-defined]
    assert fields(b"Transfer-Encoding: Chunked").length == -1  # type: ignore[attr-defined]
    assert fields(b"Connection: a , Close").close  # type: ignore[attr-defined]
    assert fields(b"Connection: Keep-Alive").keep_alive  # type: ignore[attr-defined]
    assert fields(b"Expect: 100-continue").expects  # type: ignore[attr-defined]
    assert fields(b"Connection: upgrade\r\nUpgrade: WebSocket").websocket  # type: ignore[attr-defined]
    assert not fields(b"Upgrade: websocket").websocket  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /", 400),
        (b"", 400),
        (b"GET  / HTTP/1.1\r\nHost: h", 400),
        (b"GET / HTTP/1.1 \r\nHost: h", 400),
        (b"GET\t/ HTTP/1.1\r\nHost: h", 400),
        (b"G(T / HTTP/1.1\r\nHost: h", 400),
        (b" / HTTP/1.1\r\nHost: h", 400),
        (b"GET  HTTP/1.1\r\nHost: h", 400),
        (b"GET / http/1.1\r\nHost: h", 400),
        (b"GET / HTTP/1.10\r\nHost: h", 400),
        (b"GET / HTTP/1.2\r\nHost: h", 505),
        (b"CONNECT h:1 HTTP/1.1\r\nHost: h", 405),
        (b"TRACE / HTTP/1.1\r\nHost: h", 405),
        (b"GET /a#b HTTP/1.1\r\nHost: h", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: h", 400),
        (b"GET /\x7f HTTP/1.1\r\nHost: h", 400),
        (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: h", 400),
        (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: h", 414),
        (b"GET / HTTP/1.1\r\nHost: h" + b"\r\na: b" * 5, 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\na: " + b"b" * 300, 431),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nHost : h", 400),
        (b"GET / HTTP/1.1\r\n Host: h", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n folded", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nno colon", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n: nameless", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\na: b\nc: d", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\na: b\rc: d", 400),
        (b"GET / HTTP/1.1\nHost: h", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\na: \x00", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001", 413),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent_Length: 1", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked", 501),
        (b"GET / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.0", 400),
        (b"GET http://other/ HTTP/1.1\r\nHost: h", 400),
        (b"GET http://h@h/ HTTP/1.1\r\nHost: h", 400),
        (b"GET ftp://h/ HTTP/1.1\r\nHost: h", 400),
    ],
)
def test_what_is_none(head: bytes, status: int) -> None:
    """What is no request, or more than is allowed, has its status; the second time as well as the first."""
    for _ in range(2):
        found = read(head + b"\r\n\r\n")
        assert isinstance(found, Violation), found
        assert found.status == status


def test_a_host_that_http_1_0_does_not_name() -> None:
    """It is as the server says, and the header of the next request is not touched by it."""
    head = b"GET / HTTP/1.0\r\na: b\r\n\r\n"
    for host in (b"one", b"two"):
        found = read(head, host)
        assert isinstance(found, Head)
        assert found.fields.headers == [(b"host", host), (b"a", b"b")]
    assert isinstance(read(head.replace(b"1.0", b"1.1"), b"one"), Violation)


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        (b"", None),
        (b"\r", None),
        (b"\r\n", None),
        (b"GET / HTTP/1.1\r", None),
        (b"GET / HTTP/1.1\r\nHost: h\r\n", None),
        (b"{", 400),
        (b"\x16\x03\x01", 400),
        (b"GET /\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\n", 400),
        (b"GET /" + b"a" * 200, 414),
        (b"GET / HTTP/1.1\r\n" + b"a" * 400, 431),
    ],
)
def test_what_can_become_one(begun: bytes, status: int | None) -> None:
    """A beginning is refused as soon as nothing can make it right."""
    found = READER.not_yet(begun)
    assert (found and found.status) == status


def test_much_is_not_remembered() -> None:
    """Long lines and headers are read anew each time, and alike."""
    reader = HeadReader(Limits())
    head = b"GET /%b HTTP/1.1\r\nHost: h\r\na: %b" % (b"b" * REMEMBERED, b"c" * REMEMBERED)
    assert reader.read(head + b"\r\n\r\n", len(head)) == reader.read(head + b"\r\n\r\n", len(head))
    assert reader._line.cache_info().currsize == reader._fields.cache_info().currsize == 0


class Heard:
    """What llhttp makes of a request."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True


LINES = st.sampled_from(
    (
        b"Host: h|Host:h|a: b|a:b |A:\t| x: y|x : y|x|:|x: \x01|x: \xff|x: a\rb|x: a\nb|Connection: close|"
        b"Content-Length: 3|content-length:5|Transfer-Encoding: chunked"
    ).split(b"|")
)
FIRSTS = st.sampled_from(
    (
        b"GET / HTTP/1.1|POST /a?b HTTP/1.1|GET / HTTP/1.0|GET /\x80 HTTP/1.1|get / HTTP/1.1|GET /|"
        b"GET  / HTTP/1.1|GET http://h/x HTTP/1.1|OPTIONS * HTTP/1.1|GET / HTTP/1.1 |QUERY / HTTP/1.1"
    ).split(b"|")
)


@given(FIRSTS, st.lists(LINES, max_size=4), st.binary(max_size=3), st.integers(0, 60))
def test_what_is_accepted_llhttp_reads_alike(first: bytes, lines: list[bytes], dirt: bytes, at: int) -> None:
    """No head passes that another strict parser refuses, or reads otherwise."""
    head = b"\r\n".join([first, *lines])
    head = head[:at] + dirt + head[at:]
    end = (head + b"\r\n\r\n").find(b"\r\n\r\n")
    found = READER.read(head + b"\r\n\r\n", end, b"host")
    if isinstance(found, Violation) or found.method not in ("GET", "POST", "OPTIONS"):
        return
    heard = Heard()
    parser = httptools.HttpRequestParser(heard)
    parser.feed_data(head[:end] + b"\r\n\r\n")
    assert heard.complete
    assert parser.get_method().decode() == found.method
    assert heard.target.endswith(found.target) or heard.target == b"http://h"
    own = [line for line in found.fields.headers if line != (b"host", b"host")]
    assert [(name, value.strip(b" \t")) for name, value in heard.headers] == own
