"""Running fronts on sockets, and stopping them in order, by signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from replicated.adapters.front.front import Front
from replicated.adapters.proxy.probe_answers import ProbeAnswers
from replicated.http.message import Request, Response
from replicated.serve.certificates import self_signed, server_context
from replicated.serve.fronts import bind, run_fronts

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"

PROGRAM = """
import asyncio, sys
from replicated.adapters.front.front import Front
from replicated.adapters.proxy.probe_answers import ProbeAnswers
from replicated.http.message import Response
from replicated.serve.fronts import bind, run_fronts

async def handler(request):
    if request.target == b"/slow":
        print("slow", flush=True)
        await asyncio.sleep(float(sys.argv[3]))
    return Response(200, [], b"served")

probes = ProbeAnswers(handler)
listener = bind("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
sys.exit(run_fronts(
    [(Front(probes), listener)],
    on_start=lambda: print("ready", flush=True),
    on_drain=probes.drain,
    drain_delay=float(sys.argv[1]),
    grace=float(sys.argv[2]),
    last=True,
))
"""


class Process:
    """A server of its own."""

    def __init__(self, delay: float, grace: float = 10, slow: float = 10) -> None:
        arguments = [sys.executable, "-c", PROGRAM, str(delay), str(grace), str(slow)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self.port = int(self.line())
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def connect(self, sent: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        sock.sendall(sent)
        return sock

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Callable[..., Process]:
    """Start a server; it is gone at the end."""

    def start(*arguments: float) -> Process:
        started = Process(*arguments)
        request.addfinalizer(started.end)
        return started

    return start


def answer(sock: socket.socket) -> bytes:
    """Return all that comes until the end."""
    received = b""
    with sock:
        while piece := sock.recv(65536):
            received += piece
    return received


def test_accepted_and_unread_connections_are_served(process: Callable[..., Process]) -> None:
    """At SIGTERM nobody who is connected is lost: not those in the queue of a stopped process either."""
    server = process(0)
    fresh = server.connect()
    slow = server.connect(GET.replace(b"/ ", b"/slow "))
    assert server.line() == "slow"
    os.kill(server.process.pid, signal.SIGSTOP)
    queued = [server.connect(GET) for _ in range(50)]
    os.kill(server.process.pid, signal.SIGTERM)
    os.kill(server.process.pid, signal.SIGCONT)
    for sock in queued:
        assert answer(sock).endswith(b"served")
    fresh.sendall(GET)
    assert b"connection: close" in answer(fresh)
    server.process.send_signal(signal.SIGTERM)
    slow.close()
    assert server.process.wait(10) == 0


def test_readiness_goes_first(process: Callable[..., Process]) -> None:
    """Until the delay is over requests are served, probes are told, and connections are asked to close."""
    server = process(0.4)
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while b"503" not in answer(server.connect(b"GET /readyz HTTP/1.0\r\n\r\n"))[:12]:
        assert time.monotonic() < deadline
    assert b"connection: close\r\n" in answer(server.connect(GET))
    assert server.process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(process: Callable[..., Process], number: int) -> None:
    """Neither the delay nor what is in flight is waited for; the status is 0 all the same."""
    server = process(60, 60)
    slow = server.connect(GET.replace(b"/ ", b"/slow "))
    assert server.line() == "slow"
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    server.process.send_signal(number)
    assert server.process.wait(10) == 0
    with pytest.raises(ConnectionResetError):
        answer(slow)


def test_a_person_waits_for_no_balancer(process: Callable[..., Process]) -> None:
    """SIGINT skips the delay, and still serves what is in flight."""
    server = process(60, 60, 0.3)
    slow = server.connect(GET.replace(b"/ ", b"/slow "))
    assert server.line() == "slow"
    server.process.send_signal(signal.SIGINT)
    assert answer(slow).endswith(b"served")
    assert server.process.wait(10) == 0


def test_what_does_not_end_is_cut(process: Callable[..., Process]) -> None:
    """After the grace the process ends, with 0."""
    server = process(0, 0.1)
    slow = server.connect(GET.replace(b"/ ", b"/slow "))
    assert server.line() == "slow"
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0
    with pytest.raises(ConnectionResetError):
        answer(slow)


@pytest.mark.parametrize("tls", [False, True])
def test_several_fronts_in_one_process(tls: bool) -> None:
    """Each socket has its own handler; what runs beside them is entered first and left last."""
    events: list[str] = []

    def handler(text: str) -> Any:
        async def handle(request: Request) -> Response:
            return Response(200, [], text.encode())

        return handle

    class Beside:
        async def __aenter__(self) -> None:
            events.append("entered")

        async def __aexit__(self, *_: object) -> None:
            events.append("left")

    context = server_context(*self_signed(["127.0.0.1"])) if tls else None
    fronts = [
        (Front(ProbeAnswers(handler(name)), tls=context), bind("127.0.0.1", 0)) for name in ("one", "two")
    ]
    answers = []

    def visit() -> None:
        with httpx.Client(verify=False, timeout=10) as client:
            for _, listener in fronts:
                host, port = listener.getsockname()
                answers.append(client.get(f"http{'s' if tls else ''}://{host}:{port}/").text)
        os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=visit)
    before = signal.getsignal(signal.SIGTERM)

    def start() -> None:
        events.append("started")
        visitor.start()

    assert run_fronts(fronts, beside=Beside(), on_start=start, on_drain=lambda: events.append("drained")) == 0
    visitor.join()
    assert answers == ["one", "two"]
    assert events == ["entered", "started", "drained", "left"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_before_the_first_request_is_heard() -> None:
    """SIGTERM while it is still starting ends it in order, with 0; a start that fails is raised."""
    started: list[bool] = []

    class Beside:
        def __init__(self, error: Exception | None) -> None:
            self.error = error

        async def __aenter__(self) -> None:
            if self.error is not None:
                raise self.error
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0)

        async def __aexit__(self, *_: object) -> None:
            """Leave."""

    async def nobody(request: Request) -> Response:
        raise AssertionError

    front = (Front(nobody), bind("127.0.0.1", 0))
    assert run_fronts([front], beside=Beside(None), on_start=lambda: started.append(True)) == 0
    assert started == [True]
    with pytest.raises(ValueError, match="no database"):
        run_fronts([(Front(nobody), bind("127.0.0.1", 0))], beside=Beside(ValueError("no database")))
