"""The edge against a parser of another house: what the one lets pass, the other reads in the same way.

Requests are put together from what is usual and what is odd, then broken at random. h11 reads the bytes that
the edge was sent; whatever the edge has answered with 200, its replica has seen exactly that, in that order,
and h11 reads the same.
"""

from __future__ import annotations

import itertools
from typing import Any

import h11
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GOOD = b"GET /last HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"

METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"get", b"BREW"])
TARGETS = st.sampled_from([b"/", b"/a%2Fb", b"/a?b=c", b"//a", b"/\xc3\xa4", b"/a\\b", b"*", b"/%zz"])
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.2", b"http/1.1"])
HOSTS = st.sampled_from([b"Host: service"] * 8 + [b"host:service", b"Host: a, b", b"Host : service", b"X: y"])
LINES = st.sampled_from(
    [
        b"X: y",
        b"X:",
        b"X:  y  ",
        b"X : y",
        b" X: y",
        b"X: a\r\n b",
        b"X: a\nY: b",
        b"X: a\rb",
        b"Content-Length: 5",
        b"Content-Length: 0",
        b"Content-Length: 10",
        b"Content-Length: +5",
        b"Content-Length: 5, 5",
        b"content-length:5",
        b"Content-Length : 5",
        b"Content_Length: 5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: Chunked",
        b"Transfer-Encoding: x, chunked",
        b"Transfer-Encoding:\tchunked",
        b"transfer-encoding:chunked",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: content-length",
        b"Connection: upgrade\r\nUpgrade: websocket",
        b"Expect: 100-continue",
        b"Expect: x",
    ]
)
BODIES = st.sampled_from(
    [
        b"",
        b"hello",
        b"helloworld",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0 \r\n\r\n",
        b"-1\r\nhello\r\n0\r\n\r\n",
        b"GET /inner HTTP/1.1\r\nHost: service\r\n\r\n",
    ]
)
ODD = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b",", b"0", b"5", b";", b"_", b"\x0b", b"\x85", b"/"]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request: mostly what it should be, with a line or two that are odd."""
    first = b" ".join([draw(METHODS), draw(TARGETS), draw(VERSIONS)])
    lines = draw(st.lists(LINES, max_size=3))
    if draw(st.booleans()):
        body = draw(BODIES)
        framing = b"Content-Length: %d" % len(body)
        if body.endswith(b"0\r\n\r\n") and draw(st.booleans()):
            framing = b"Transfer-Encoding: chunked"
        lines.insert(draw(st.integers(0, len(lines))), framing)
    else:
        body = draw(BODIES)
    return b"\r\n".join([first, draw(HOSTS), *lines, b"", body])


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """Some requests one after the other, broken in a place or two or not at all."""
    sent = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(sent)))
        sent = sent[:at] + draw(ODD) + sent[at + draw(st.integers(0, 1)) :]
    return sent


ASCII = bytes(range(128)) + b"~" * 128
"""h11 takes no byte beyond ASCII in a target; the edge passes it on as it came, and nobody doubts it."""


def read_by_h11(sent: bytes) -> tuple[list[tuple[bytes, bytes, bytes]], bool]:
    """Return the requests that h11 finds, and whether it found no fault with any."""
    rest = sent.translate(ASCII)
    found: list[tuple[bytes, bytes, bytes]] = []
    while True:
        while rest.startswith(b"\r\n"):  # which h11 takes ill, and RFC 9112 (2.2) does not
            rest = rest[2:]
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(rest)
        body, over = b"", False
        while not over:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return found, False
            match event:
                case h11.Request():
                    request = event
                case h11.Data():
                    body += bytes(event.data)
                case h11.EndOfMessage():
                    over = True
                case _:
                    return found, False
        found.append((request.method, request.target, body))
        rest = bytes(connection.trailing_data[0])
        connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        connection.send(h11.EndOfMessage())
        if connection.our_state is not h11.DONE:
            return found, True


def heads(statuses: list[tuple[bytes, bytes, bytes]]) -> list[bool]:
    return [method == b"HEAD" for method, _, _ in statuses]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sent=wires(), cuts=st.lists(st.integers(0, 400), max_size=3))
def test_what_passes_is_read_alike_by_all(running: Any, recorder: Any, sent: bytes, cuts: list[int]) -> None:
    """Edge, replica and h11 agree on each request that was answered, however its bytes are cut."""
    sent += GOOD
    judged, faultless = read_by_h11(sent)
    recorder.forget()
    pieces = [sent[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(sent)])]
    patience = 2.0 if faultless else 0.3
    found = running.talk(*filter(None, pieces), closes=True, heads=heads(judged), patience=patience)
    running.settle()
    seen = [(one.method, one.target.translate(ASCII), one.body.translate(ASCII)) for one in recorder.seen]
    assert recorder.faults == []
    assert seen == judged[: len(seen)]
    assert found.statuses[: len(seen)] == [200] * len(seen)
    assert found.rest == b""
    assert all(status >= 400 for status in found.statuses[len(seen) :])
    assert len(found.statuses) <= len(seen) + 1
