"""Running an application on a socket, and stopping it in order."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import httpx
import pytest

from replicated.adapters.asgi_front import HandlerApp
from replicated.http.message import Request, Response
from replicated.serve.certificates import self_signed, server_context
from replicated.serve.server import bind, run_asgi


async def hello(request: Request) -> Response:
    return Response(200, [(b"content-length", b"2")], b"ok")


def test_a_socket_that_listens_is_taken() -> None:
    """A port is bound at once, and a second taker is told."""
    with bind("127.0.0.1", 0) as first:
        host, port = first.getsockname()
        with pytest.raises(OSError, match="in use"):
            bind(host, port)
    with pytest.raises(OSError, match="assign"):
        bind("203.0.113.1", 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_is_an_address_like_another() -> None:
    """Loopback of IPv6 can be listened on."""
    with bind("::1", 0) as listener:
        assert listener.family == socket.AF_INET6


@pytest.mark.parametrize("tls", [False, True])
def test_it_serves_and_ends_with_0(tls: bool) -> None:
    """It answers, with and without TLS, calls back when it is asked to end, and returns 0."""
    listener = bind("127.0.0.1", 0)
    scheme, port = "https" if tls else "http", listener.getsockname()[1]
    drained: list[float] = []
    answers: list[int] = []

    def visit() -> None:
        with httpx.Client(verify=False, timeout=10) as client:
            answers.append(client.get(f"{scheme}://127.0.0.1:{port}/").status_code)
        os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=visit)
    visitor.start()
    context = server_context(*self_signed(["127.0.0.1"])) if tls else None
    before = signal.getsignal(signal.SIGTERM)
    status = run_asgi(
        HandlerApp(hello), listen=listener, on_drain=lambda: drained.append(time.monotonic()), tls=context
    )
    visitor.join()
    assert (status, answers, len(drained)) == (0, [200], 1)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_failed_start_is_not_0() -> None:
    """An application whose start fails is not served, and the status says so."""

    class Failing(HandlerApp):
        async def startup(self) -> None:
            raise RuntimeError("no database")

    with pytest.raises(SystemExit) as ended:
        run_asgi(Failing(hello), listen=("127.0.0.1", 0))
    assert ended.value.code not in (0, None)


def test_a_signal_before_the_first_request_is_heard() -> None:
    """SIGTERM while it is still starting ends it in order, with 0."""

    class Impatient(HandlerApp):
        async def startup(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    started: list[bool] = []
    status = run_asgi(
        Impatient(hello), listen=("127.0.0.1", 0), on_start=lambda: started.append(True), drain_delay=0.1
    )
    assert (status, started) == (0, [True])
