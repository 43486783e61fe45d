"""A replica that says anything: whatever passes as its answer, h11 reads in the same way.

Answers are put together from what is usual and what is odd, then broken at random. The edge's client reads
with the strictest eyes; the request that it sends behind gets its own answer, or none.
"""

from __future__ import annotations

from typing import Any

import h11
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ASK = b"GET /says HTTP/1.1\r\nHost: service\r\n\r\nGET /own HTTP/1.1\r\nHost: service\r\n\r\n"

FIRST = st.sampled_from(
    [b"HTTP/1.1 200 OK"] * 6
    + [
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 404 Not Found",
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 Not Modified",
    ]
    + [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 20 OK", b"HTTP/2 200 OK"]
)
LINES = st.sampled_from(
    [
        b"X: y",
        b"X: a\r\n b",
        b"X : y",
        b"X: a\rb",
        b"X: a\nSet-Cookie: b",
        b"Content-Length: 2",
        b"Content-Length: 5",
        b"Content-Length: 0",
        b"content-length: +2",
        b"Content-Length: 2, 2",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: upgrade\r\nUpgrade: websocket",
        b"Trailer: X",
    ]
)
BODIES = st.sampled_from(
    [
        b"",
        b"ok",
        b"hello",
        b"2\r\nok\r\n0\r\n\r\n",
        b"2;a=b\r\nok\r\n0\r\nX: y\r\n\r\n",
        b"2\nok\n0\n\n",
        b"0x2\r\nok\r\n0\r\n\r\n",
        b"okHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ]
)
ODD = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b",", b"0", b"5", b";", b"\x0b", b"x"]
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer, mostly what it should be, broken in a place or two or not at all."""
    body = draw(BODIES)
    lines = draw(st.lists(LINES, max_size=3))
    framing = draw(st.sampled_from([None, b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked"]))
    if framing is not None:
        lines.insert(draw(st.integers(0, len(lines))), framing)
    said = b"\r\n".join([draw(FIRST), *lines, b"", body])
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(said)))
        said = said[:at] + draw(ODD) + said[at + draw(st.integers(0, 1)) :]
    return said


def read_by_h11(said: bytes) -> tuple[int, bytes] | None:
    """Return the status and the body that h11 finds; None where it finds fault."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(said)
    connection.receive_data(b"")
    status, body = 0, b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return None
        match event:
            case h11.Response():
                status = event.status_code
            case h11.Data():
                body += bytes(event.data)
            case h11.EndOfMessage():
                return status, body
            case h11.InformationalResponse():
                pass
            case _:
                return None


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(said=answers())
def test_what_passes_for_an_answer_is_read_alike_by_all(running: Any, recorder: Any, said: bytes) -> None:
    """Either it is a 502, or cut off, or what h11 reads as well; the next request is not answered by it."""
    running.settle()  # a good answer in between, so that its replica is not given up
    recorder.says = said
    found = running.talk(ASK, answers=2, patience=2.0)
    assert found.rest == b""
    assert len(found.answers) == 2 or found.closed
    if found.answers:
        first, *more = found.answers
        if first.status != 502:
            assert (first.status, first.body) == read_by_h11(said)
            assert not first.header(b"set-cookie")
        assert [(second.status, second.body) for second in more] in ([], [(200, b"ok")])
