"""Heads of responses as bytes on a wire: what they say, how they go on, what is none."""

from __future__ import annotations

import h11
import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicated.http.forwarding import HOP_BY_HOP, forwarded_response
from replicated.http.framing import IN_TOKEN, IN_VALUE
from replicated.http.message import Headers
from replicated.http.response_heads import REMEMBERED, ResponseHead, ResponseHeadReader

READER = ResponseHeadReader()
OK = b"HTTP/1.1 200 OK\r\n"
WRONG = r"must|has a|said twice|are given|understood|no transfer|not a number"


def read(head: bytes) -> ResponseHead:
    return READER.read(head + b"\r\n\r\nrest", len(head))


def test_a_head_is_read() -> None:
    """Status and header come out as they were sent, names in lower case, values trimmed, lines kept apart."""
    found = read(b"HTTP/1.1 404 Not Found\r\nServer: s\r\nX-Y: \t 1 2\t\r\nx-y:\r\nContent-Length: 3")
    assert found.status == 404
    assert found.headers == [(b"server", b"s"), (b"x-y", b"1 2"), (b"x-y", b""), (b"content-length", b"3")]
    assert (found.length, found.keep) == (3, True)
    assert found.plain == b"HTTP/1.1 404 Not Found\r\nserver: s\r\nx-y: 1 2\r\nx-y: \r\ncontent-length: 3"
    assert not found.dated


def test_one_among_others_is_read() -> None:
    """A head may begin and end anywhere in what has come."""
    data = b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"a: b\r\n\r\nHTTP"
    begins = data.index(b"HTTP/1.1 2")
    assert READER.read(data, begins - 4).status == 100
    assert READER.read(data, len(data) - 8, begins).headers == [(b"a", b"b")]


@pytest.mark.parametrize(
    ("head", "length", "keep"),
    [
        (b"HTTP/1.1 200 OK", None, True),
        (b"HTTP/1.1 200 ", None, True),
        (b"HTTP/1.1 200", None, True),
        (b"HTTP/1.1 299 \xc3\xa4\ttab", None, True),
        (b"HTTP/1.0 200 OK", None, False),
        (b"HTTP/1.0 200 OK\r\nConnection: a, Keep-Alive", None, True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nConnection: close", None, False),
        (b"HTTP/1.1 200 OK\r\nConnection: a , Close", None, False),
        (b"HTTP/1.1 200 OK\r\nConnection: closed", None, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 042 ", 42, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999", 10**18 - 1, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked", -1, True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x", None, True),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket", None, True),
    ],
)
def test_what_a_header_says_of_the_body_and_the_connection(
    head: bytes, length: int | None, *, keep: bool
) -> None:
    """Where the body ends, and whether the connection may serve again."""
    assert (read(head).length, read(head).keep) == (length, keep)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"garbage",
        b"\r\nHTTP/1.1 200 OK",
        b"http/1.1 200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/0.9 200 OK",
        b"HTTP/1.10 200 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 2\xb20 OK",
        b"HTTP/1.1 099 Low",
        b"HTTP/1.1 600 High",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\x7fK",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 OK\na: b",
        OK + b"a",
        OK + b": b",
        OK + b"a : b",
        OK + b" a: b",
        OK + b"a: b\r\n c",
        OK + b"a: b\r\n\tc",
        OK + b"a: b\nc: d",
        OK + b"a: b\rc: d",
        OK + b"a: \x00",
        OK + b"a: \x7f",
        OK + b"a: \x0b",
        OK + b"a(b): c",
        OK + b"\xe4: b",
        OK + b"a: b\r\n",
        OK + b"content-length: 2\r\ncontent-length: 2",
        OK + b"content-length: 2\r\nContent-Length: 3",
        OK + b"content-length: 2, 2",
        OK + b"content-length: 5,",
        OK + b"content-length: +2",
        OK + b"content-length: -2",
        OK + b"content-length: 0x2",
        OK + b"content-length: 1_0",
        OK + b"content-length: 2 2",
        OK + b"content-length: \xb2",
        OK + b"content-length:",
        OK + b"content-length: 1000000000000000000",
        OK + b"content-length: 2\r\ntransfer-encoding: chunked",
        OK + b"transfer-encoding: chunked\r\ncontent-length: 2",
        OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        OK + b"transfer-encoding: gzip, chunked",
        OK + b"transfer-encoding: chunked, gzip",
        OK + b"transfer-encoding: chunked;q=1",
        OK + b"transfer-encoding: identity",
        OK + b"transfer-encoding:",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked",
    ],
)
def test_what_is_none(head: bytes) -> None:
    """What is no response, or leaves in doubt where it ends, is refused; the second time as well."""
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"must|has a|said twice|given|understood|no transfer|not a number"
        ):
            read(head)


@pytest.mark.parametrize(
    "begun",
    [b"", b"H", b"HTTP/1.", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r", OK, OK + b"a: b", OK + b"a: b\r\n\r"],
)
def test_what_can_become_one(begun: bytes) -> None:
    """A beginning that more can make a head is waited for."""
    READER.not_yet(begun)


@pytest.mark.parametrize(
    "begun",
    [
        b"\x15\x03\x01",
        b"h",
        b"HTTP/2",
        b"\r\n",
        b"HTTP/1.1 200 OK\n",
        b"HTTP/1.1 2000\r\n",
        OK + b"a: b\nc",
        OK + b"a\r\r",
    ],
)
def test_what_can_not(begun: bytes) -> None:
    """A beginning is refused as soon as nothing can make it right: nobody waits for the rest."""
    with pytest.raises(ValueError, match=r"must|does not begin"):
        READER.not_yet(begun)


@pytest.mark.parametrize(
    ("head", "plain", "dated"),
    [
        (OK + b"Content-Length: 2\r\nDate: d", b"content-length: 2\r\ndate: d", True),
        (OK + b"Content-Length: 0", b"content-length: 0", False),
        (b"HTTP/1.0 200 Fine\r\nContent-Length: 2", b"content-length: 2", False),
        (
            OK + b"Connection: Close\r\nKeep-Alive: timeout=5\r\nTE: x\r\nContent-Length: 2\r\nUpgrade: h2c"
            b"\r\nTrailer: t\r\nProxy-Connection: close\r\nProxy-Authenticate: Basic",
            b"content-length: 2",
            False,
        ),
        (
            OK + b"Set-Cookie: a\r\nContent-Length: 2\r\nSet-Cookie: b",
            b"set-cookie: a\r\ncontent-length: 2\r\nset-cookie: b",
            False,
        ),
    ],
)
def test_how_a_head_goes_on(head: bytes, plain: bytes, *, dated: bool) -> None:
    """What ends with the hop is dropped, the rest is written anew, and the phrase is ours."""
    assert (read(head).plain, read(head).dated) == (OK + plain, dated)


def test_a_status_without_a_phrase_goes_on() -> None:
    """One that nobody has registered is passed on without what the replica calls it."""
    assert read(b"HTTP/1.1 299 Odd\r\nContent-Length: 2").plain == b"HTTP/1.1 299 \r\ncontent-length: 2"


@pytest.mark.parametrize(
    "head",
    [
        OK,
        OK + b"Transfer-Encoding: chunked\r\n",
        OK + b"Content-Length: 2\r\nProxy-Status: a\r\n",
        OK + b"Content-Length: 2\r\nDate: a\r\nDate: b\r\n",
        OK + b"Content-Length: 2\r\nConnection: x-a\r\nX-A: b\r\n",
        OK + b"Content-Length: 2\r\nConnection: content-length\r\n",
        OK + b"Content-Length: 2\r\nConnection: close\r\nClose: b\r\n",
        OK + b"Content-Length: 02\r\n",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n",
        b"HTTP/1.1 101 Switching\r\nContent-Length: 0\r\n",
        b"HTTP/1.1 204 None\r\nContent-Length: 0\r\n",
        b"HTTP/1.1 304 None\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 503 Bad\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 504 Bad\r\nContent-Length: 2\r\n",
    ],
)
def test_what_does_not_go_on_as_it_is(head: bytes) -> None:
    """Where more is to be known or said than the head and its body, there is nothing to write at once."""
    assert read(head.removesuffix(b"\r\n")).plain is None


def test_much_is_not_remembered() -> None:
    """Long heads and long lines are read anew each time, and alike."""
    reader = ResponseHeadReader()
    head = OK + b"content-length: 2\r\na: " + b"b" * REMEMBERED
    assert reader.read(head, len(head)) == reader.read(head, len(head))
    assert reader._head.cache_info().currsize == 0
    assert reader._line.cache_info().currsize == 1


NAMES = st.text(IN_TOKEN.decode(), min_size=1, max_size=9).map(str.encode)
VALUES = st.lists(st.sampled_from(IN_VALUE), max_size=9).map(bytes).map(lambda value: value.strip(b" \t"))
SPACE = st.sampled_from([b"", b" ", b"\t", b" \t "])
FRAMING = {b"connection", b"content-length", b"transfer-encoding"}


@given(
    st.integers(200, 599),
    st.lists(st.tuples(NAMES.filter(lambda name: name.lower() not in FRAMING), VALUES, SPACE), max_size=6),
    st.sampled_from([b"Connection: close", b"connection: keep-alive", b"X: y"]),
)
def test_what_was_written_is_read(status: int, lines: list[tuple[bytes, bytes, bytes]], last: bytes) -> None:
    """Any header survives; and what goes on is the same less what ends with the hop, as another reads it."""
    head = b"\r\n".join(
        [b"HTTP/1.1 %d X" % status, b"content-length: 0"]
        + [name + b":" + space + value + space for name, value, space in lines]
        + [last]
    )
    found = read(head)
    name, _, value = last.lower().partition(b": ")
    sent = [(name.lower(), value) for name, value, _ in lines]
    assert found.headers == [(b"content-length", b"0"), *sent, (name, value)]
    assert (found.status, found.length, found.keep) == (status, 0, value != b"close")
    if found.plain is None:
        assert status in (204, 304, 502, 503, 504) or any(
            name in (b"proxy-status", b"date") for name, _ in sent
        )
        return
    kept = forwarded_response(found.headers, status)
    assert read(found.plain) == found._replace(headers=kept, keep=True)
    assert found.dated == any(name == b"date" for name, _ in kept)
    assert HOP_BY_HOP.isdisjoint(name for name, _ in kept)


class Heard:
    """What llhttp makes of a response."""

    def __init__(self) -> None:
        self.headers: Headers = []
        self.complete = False
        self.body = b""
        self.keep = False
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True
        self.keep = self.parser.should_keep_alive()


FIRSTS = st.sampled_from(
    (
        b"HTTP/1.1 200 OK|HTTP/1.1 200|HTTP/1.1 404 |HTTP/1.0 200 OK|HTTP/1.1 204 No|HTTP/1.1 304 Not|"
        b"HTTP/1.1 100 Continue|HTTP/1.1 103 Early|HTTP/1.1 101 Switching|HTTP/1.1 500 \xe4|HTTP/1.1 2000 X|"
        b"HTTP/2.0 200 OK|HTTP/1.1  200 OK"
    ).split(b"|")
)
LINES = st.sampled_from(
    (
        b"Server: h|Date:h|a: b|a:b |A:\t| x: y|x : y|x|:|x: \x01|x: \xff|x: a\rb|x: a\nb|Connection: close|"
        b"connection: Keep-Alive|Connection: upgrade|Upgrade: websocket|Content-Length: 3|content-length:0|"
        b"Content-Length: 3, 3|Content-Length: +3|Transfer-Encoding: chunked|"
        b"transfer-encoding: gzip, chunked|Transfer-Encoding: identity|Proxy-Status: p"
    ).split(b"|")
)
DIRT = st.one_of(
    st.binary(max_size=2), st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b"0"])
)


@given(
    FIRSTS,
    st.lists(LINES, max_size=5),
    st.lists(st.tuples(DIRT, st.integers(0, 80), st.integers(0, 2)), max_size=2),
)
@example(b"HTTP/1.1 101 X", [b"Connection: upgrade", b"Upgrade: websocket"], [])
@example(b"HTTP/1.0 200 OK", [b"Content-Length: 3", b"connection: Keep-Alive"], [])
@example(b"HTTP/1.1 200 OK", [b"Transfer-Encoding: chunked"], [])
def test_what_is_accepted_others_read_alike(
    first: bytes, lines: list[bytes], spoiled: list[tuple[bytes, int, int]]
) -> None:
    """No head passes that llhttp or h11 refuses, or reads otherwise: in its lines, or in where it ends."""
    head = b"\r\n".join([first, *lines])
    for dirt, at, gone in spoiled:
        head = head[:at] + dirt + head[at + gone :]
    head = head[: (head + b"\r\n\r\n").find(b"\r\n\r\n")]
    try:
        found = read(head)
    except ValueError:
        return
    READER.not_yet(head + b"\r\n\r")

    other = h11.Connection(h11.CLIENT)
    asked = [("host", "h"), ("connection", "upgrade"), ("upgrade", "x")]
    other.send(h11.Request(method="GET", target="/", headers=asked))
    other.send(h11.EndOfMessage())
    other.receive_data(head + b"\r\n\r\n")
    event = other.next_event()
    assert isinstance(event, h11.InformationalResponse if found.status < 200 else h11.Response)
    assert (event.status_code, list(event.headers)) == (found.status, found.headers)

    if found.status == 101:
        return  # llhttp has done with it, be it a switch or an error
    heard = Heard()
    body = {-1: b"1\r\nx\r\n0\r\n\r\n", None: b"x"}.get(found.length, b"x" * min(9, found.length or 0))
    bodiless = found.status < 200 or found.status in (204, 304)
    heard.parser.feed_data(head + b"\r\n\r\n" + (b"" if bodiless else body))
    assert heard.parser.get_status_code() == found.status
    assert heard.headers == found.headers
    if found.status >= 200:
        ends = bodiless or (found.length is not None and found.length < 10)
        assert heard.complete == ends
        assert heard.body == (b"" if bodiless else b"x" if found.length == -1 else body)
        assert heard.keep or not (ends and found.keep)
