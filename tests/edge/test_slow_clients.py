"""Clients that are slow, or too much, at a running edge: each has its answer, or its end, and costs little.

What is waited for comes at some time; only what must not come is counted. So a busy machine changes nothing.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

PATIENCE = 20.0


@pytest.fixture(scope="module")
def hasty(make_edge: Any, own_recorder: Any) -> Any:
    """An edge that waits for nobody for long."""
    times = ["--header-timeout", "--body-timeout", "--write-timeout", "--keep-alive"]
    flags = [word for name in times for word in (name, "0.5")]
    return make_edge(*flags, "--eject-after", "0", "--cache", "1MiB", before=own_recorder)


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def rest(sock: socket.socket) -> bytes:
    """Return what comes until the end, however that comes."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            got += data
    return got


def trickle(sock: socket.socket, piece: bytes) -> bytes:
    """Send a piece again and again, until the edge has had enough; return what it said."""
    got = b""
    sock.settimeout(0.02)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            sock.send(piece)
        try:
            data = sock.recv(65536)
        except TimeoutError:
            continue
        except ConnectionResetError:
            return got
        if not data:
            return got
        got += data
    raise AssertionError("it is still served")


POST = b"POST /p HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "head", [b"content-length: 1000\r\n\r\nhalf", b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
def test_a_body_that_stops_is_a_408(hasty: Any, own_recorder: Any, head: bytes) -> None:
    """It is said, the connection ends, and the replica never has a whole request."""
    own_recorder.forget()
    with hasty.connect(PATIENCE) as sock:
        sock.sendall(POST + head)
        answer = rest(sock)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert not [one for one in own_recorder.seen if one.method == b"POST"]
    hasty.settle()


def test_a_body_that_trickles_is_a_408(hasty: Any, own_recorder: Any) -> None:
    """A byte now and then is less than the least rate, and no sign of life."""
    own_recorder.forget()
    with hasty.connect(PATIENCE) as sock:
        sock.sendall(POST + b"content-length: 100000\r\n\r\n")
        assert trickle(sock, b"x").startswith(b"HTTP/1.1 408 ")
    assert not [one for one in own_recorder.seen if one.method == b"POST"]


def test_a_header_that_trickles_is_a_408(hasty: Any) -> None:
    """However steadily it comes, a header has its time from the first byte."""
    with hasty.connect(PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        assert trickle(sock, b"x: y\r\n").startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_who_says_nothing_is_closed(hasty: Any, sent: bytes) -> None:
    """A connection that is idle, from the beginning or after an answer, ends without another word."""
    with hasty.connect(PATIENCE) as sock:
        sock.sendall(sent)
        assert rest(sock).count(b"HTTP/1.1 ") == len(sent[:1])


FLOODS = {
    "lines": b"x: y\r\n" * 100_000,
    "one line": b"x: " + b"y" * 1_000_000,
    "one name": b"x" * 1_000_000,
    "cookies": b"cookie: %b\r\n" % (b"a=b; " * 1000) * 100,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_header_is_a_431(hasty: Any, own_recorder: Any, flood: bytes) -> None:
    """Whatever it is made of, it is refused before its end, and nothing of it reaches the replica."""
    own_recorder.forget()
    with hasty.connect(PATIENCE) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"GET /flood HTTP/1.1\r\nhost: x\r\n" + flood)
            sock.shutdown(socket.SHUT_WR)
        assert rest(sock).startswith(b"HTTP/1.1 431 ")
    hasty.settle()
    assert own_recorder.seen == []


def test_many_half_headers_cost_what_they_are(hasty: Any) -> None:
    """Two hundred of 30 KiB that never end take no multiple of that, and are a 408 each."""
    hasty.settle()
    before = hasty.memory()
    half = b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 30_000
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(hasty.connect(PATIENCE)) for _ in range(200)]
        for sock in clients:
            with contextlib.suppress(ConnectionError):  # an early one may have had its 408 on a busy machine
                sock.sendall(half)
        most = before

        def answered() -> bool:
            nonlocal most
            most = max(most, hasty.memory())
            return bool(select.select([clients[-1]], [], [], 0)[0])

        until(answered, "headers that are still waited for")
        assert most - before < 50 * 2**20
        assert {rest(sock)[:13] for sock in clients} == {b"HTTP/1.1 408 "}
    hasty.settle()


BOMBS = {
    "all of it": b",".join([b"0-"] * 1000),
    "each byte": b",".join([b"%d-%d" % (at, at) for at in range(0, 2000, 2)]),
    "the end": b",".join([b"-%d" % at for at in range(1, 1000)]),
}


@pytest.mark.parametrize("ranges", BOMBS.values(), ids=BOMBS)
def test_bombs_of_ranges_come_to_no_more_than_the_page(hasty: Any, ranges: bytes) -> None:
    """A hundred at once, out of the cache: each is answered, and none by more bytes than there are."""
    hasty.settle()
    before = hasty.memory()
    sent = b"GET /big HTTP/1.1\r\nhost: x\r\nrange: bytes=%b\r\n" % ranges
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(hasty.connect(PATIENCE)) for _ in range(20)]
        for sock in clients:
            sock.sendall((sent + b"\r\n") * 4 + sent + b"connection: close\r\n\r\n")
        for sock in clients:
            got = rest(sock)
            assert got.count(b"HTTP/1.1 ") == 5
            assert len(got) < 5 * (10_000 + 1000)
    assert hasty.memory() - before < 30 * 2**20


def test_readers_that_are_slow_are_cut_off(hasty: Any, own_recorder: Any) -> None:
    """Forty that take nothing, or sip, are cut in the end; until then each has a bounded share of memory."""
    count, whole = 40, 8 * 2**20
    hasty.settle()
    own_recorder.ended.clear()
    before = hasty.memory()
    readers = []
    try:
        for _ in range(count):
            sock = socket.socket()
            readers.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(PATIENCE)
            sock.connect(hasty.address)
            sock.sendall(b"GET /huge HTTP/1.1\r\nhost: x\r\n\r\n")
        most, taken = before, 0

        def all_cut() -> bool:
            nonlocal most, taken
            most = max(most, hasty.memory())
            for sock in readers[::2]:
                with contextlib.suppress(OSError):
                    taken += len(sock.recv(1, socket.MSG_DONTWAIT))
            return len(own_recorder.ended) == count

        until(all_cut, "readers that are still served")
        for sock in readers:
            taken += len(rest(sock))
    finally:
        for sock in readers:
            sock.close()
    assert taken < count * whole / 2
    assert most - before < count * whole / 2
    hasty.settle()
