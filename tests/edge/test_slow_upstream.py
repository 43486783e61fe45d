"""Replicas that stall, or never come to an end, behind a running edge: each has its time and its bounds."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PATIENCE = 20.0


@pytest.fixture(scope="module")
def hasty(make_edge: Any, own_recorder: Any) -> Any:
    """An edge that waits for no replica for long."""
    times = ["--first-byte-timeout", "--read-timeout", "--tunnel-timeout"]
    flags = [word for name in times for word in (name, "0.3")]
    return make_edge(*flags, "--eject-after", "0", before=own_recorder)


@pytest.fixture(scope="module")
def patient(make_edge: Any, own_recorder: Any) -> Any:
    """An edge that waits for as long as any."""
    return make_edge("--eject-after", "0", before=own_recorder)


def get(target: bytes, *lines: bytes) -> bytes:
    """A GET with some header lines."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"host: x", *lines, b"", b""])


@pytest.fixture
def ended(own_recorder: Any) -> Callable[[bytes], None]:
    """Wait until the edge has closed the connection of a target's replica."""
    own_recorder.ended.clear()

    def wait(target: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while target not in own_recorder.ended:
            assert time.monotonic() < deadline, f"{target!r} is still listened to"
            time.sleep(0.005)

    return wait


@pytest.mark.parametrize("target", [b"/silent", b"/half-head", b"/drip", b"/half-body"])
def test_what_does_not_come_in_time_is_a_504(hasty: Any, ended: Any, target: bytes) -> None:
    """A replica that is silent, or trickles its header, is given up, and its connection closed."""
    [answer] = hasty.talk(get(target), patience=PATIENCE).answers
    assert answer.status == 504
    assert b"timeout" in answer.header(b"proxy-status")[0]
    ended(target)


@pytest.mark.parametrize("target", [b"/half-chunk", b"/half-long"])
def test_a_stream_that_stalls_is_cut(hasty: Any, ended: Any, target: bytes) -> None:
    """Where its beginning has gone out, the client sees that it is not whole."""
    found = hasty.talk(get(target), closes=True, patience=PATIENCE)
    assert found.closed
    assert found.statuses == []
    ended(target)


def test_a_tunnel_that_is_silent_is_closed(hasty: Any, ended: Any) -> None:
    """On both sides."""
    with hasty.connect(PATIENCE) as sock:
        sock.sendall(get(b"/switches", b"connection: upgrade", b"upgrade: websocket"))
        assert sock.recv(65536).startswith(b"HTTP/1.1 101 ")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(65536) == b""
    ended(b"/switches")


def test_all_attempts_together_have_their_time(make_edge: Any, own_recorder: Any, ended: Any) -> None:
    """Whatever one of them may take."""
    edge = make_edge("--total-timeout", "0.3", "--eject-after", "0", before=own_recorder)
    assert edge.talk(get(b"/silent"), patience=PATIENCE).statuses == [504]
    ended(b"/silent")


@pytest.fixture
def full() -> Iterator[str]:
    """A replica whose queue of connections is full: who comes gets no word."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        address = listener.getsockname()
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(address)
        with socket.socket() as probe, contextlib.suppress(TimeoutError):
            probe.settimeout(0.1)
            probe.connect(address)
            pytest.skip("this system's queue has no end")
        yield f"http://127.0.0.1:{address[1]}"


def test_a_connection_has_its_time(make_edge: Any, own_recorder: Any, full: str) -> None:
    """Who gets none within that is passed over, or told so where there is nobody else."""
    edge = make_edge("--upstream", full, "--connect-timeout", "0.3", before=own_recorder)
    assert {edge.talk(get(b"/"), patience=PATIENCE).statuses[0] for _ in range(4)} == {200}
    own_recorder.forget()


@pytest.mark.parametrize(
    ("target", "statuses"),
    [
        (b"/header-without-end", [502]),
        (b"/line-without-end", [502]),
        (b"/interim-without-end", [502]),
        (b"/extension-without-end", []),
        (b"/trailer-without-end", []),
        (b"/answers-without-end", [200]),
    ],
)
def test_what_has_no_end_is_ended(patient: Any, ended: Any, target: bytes, statuses: list[int]) -> None:
    """The replica is cut off, the client has one answer or none that is whole, and memory does not grow."""
    patient.settle()
    before = patient.memory()
    found = patient.talk(get(target, b"connection: close"), closes=True, patience=PATIENCE)
    assert found.closed
    assert found.statuses in (statuses, [502])
    assert found.rest == b"" or not statuses
    ended(target)
    assert patient.memory() - before < 16 * 2**20
    patient.settle()
