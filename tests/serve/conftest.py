"""Real processes for the tests of what serves: started, read, signalled, never left behind."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

SERVES = re.compile(r"serves (https?://\S+)")


class Served:
    """A running ``replicated serve``."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "replicated", "serve", "--listen", "127.0.0.1:0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = SERVES.search(line)
        if found is None:
            self.stop()
            raise AssertionError(f"it did not start: {line}")
        self.url = found[1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            assert self.process.stderr is not None
            self.process.stderr.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start ``replicated serve`` with some flags; what is left is stopped at the end."""
    running: list[Served] = []

    def start(*arguments: str) -> Served:
        running.append(Served(*arguments))
        return running[-1]

    yield start
    for served in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            served.stop(signal.SIGKILL)


class Backend(ThreadingHTTPServer):
    """A replica in a thread: says its name, and what it was asked."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.name = name
        self.ready = True
        self.down = False
        self.asked: list[str] = []
        self.hold = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away are part of the tests."""


class Answering(BaseHTTPRequestHandler):
    """Answers for a ``Backend``."""

    protocol_version = "HTTP/1.1"
    server: Backend
    wbufsize = -1  # head and body in one segment, or else every answer waits for a delayed acknowledgement

    def do_GET(self) -> None:
        if self.server.down:
            self.close_connection = True
            return None
        if self.path == "/readyz":
            return self.answer(200 if self.server.ready else 503, b"")
        self.server.asked.append(self.path)
        if self.path == "/slow":
            self.server.hold.wait(10)
        cache = {"/kept": "max-age=60", "/brief": "max-age=1"}.get(self.path, "no-store")
        headers = "\n".join(f"{name}: {value}" for name, value in self.headers.items())
        return self.answer(200, f"{self.server.name}\n{headers}".encode(), cache)

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        self.answer(200, b"%d" % len(body))

    def answer(self, status: int, body: bytes, cache: str = "no-store") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", cache)
        self.send_header("x-replica", self.server.name)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def backends() -> Iterator[list[Backend]]:
    """Three replicas: a, b and c."""
    servers = [Backend(name) for name in "abc"]
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    yield servers
    for server, thread in zip(servers, threads, strict=True):
        server.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
