"""``replicated up`` over real processes: kept running, changed under load, and all gone in the end."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from replicated.serve.cli import replicated
from replicated.serve.demo.topology import free_ports

APP = """
import http.server, os, signal, sys, threading

class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = (os.environ["REPLICA"] + " " + sys.argv[1]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Answers)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("process", os.getpid(), flush=True)
server.serve_forever()
"""


class Up:
    """A running ``replicated up``, its lines read as they come."""

    def __init__(self, directory: Path) -> None:
        (directory / "app.py").write_text(APP)
        self.file = directory / "stack.toml"
        self.port = side_by_side(5)
        self.front = f"http://127.0.0.1:{self.port + 4}/"
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.said: list[str] = []

    def write(self, replicas: int, word: str) -> None:
        """Write the stack file."""
        self.file.write_text(f"""
            [front]
            upstream = "app"
            port = {self.port + 4}
            probe-period = 0.2
            drain-delay = 0

            [app]
            command = ["{sys.executable}", "app.py", "{word}"]
            replicas = {replicas}
            port = {self.port}
            probe = "/"
            """)

    def start(self) -> None:
        """Start, and wait until it serves."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "replicated", "up", str(self.file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self.read, daemon=True).start()
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.front).status_code == 200:
                    return
            time.sleep(0.05)
        while not self.lines.empty():
            self.said.append(self.lines.get())
        raise AssertionError("it does not serve: " + "".join(self.said))

    def read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # closed while it is read
            for line in self.process.stdout:
                self.lines.put(line)

    def until(self, what: str) -> None:
        """Wait for a line with ``what`` in it."""
        while not self.said or what not in self.said[-1]:
            self.said.append(self.lines.get(timeout=30))
        self.said.append("")

    def processes(self, name: str) -> list[int]:
        """Return the processes that have run under a name, so far as heard."""
        return [int(line.split()[-1]) for line in self.said if line.startswith(name) and "process" in line]


def side_by_side(count: int) -> int:
    """Return the first of so many ports that nobody listens on."""
    while True:
        [first] = free_ports("127.0.0.1", 1)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for n in range(count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", first + n))
            return first


def runs(pid: int) -> bool:
    """Return whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A stack, not yet started; whatever of it runs is gone in the end."""
    stack = Up(tmp_path)
    yield stack
    stack.process.kill()
    stack.process.wait()
    assert stack.process.stdout is not None
    stack.process.stdout.close()


@contextlib.contextmanager
def load(url: str) -> Iterator[Callable[[], Counter[str]]]:
    """Ask again and again, and count the answers; whatever is not 200 counts as what it was."""
    seen: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client() as client:
            while not stop.is_set():
                try:
                    answer = client.get(url)
                    seen[answer.text if answer.status_code == 200 else f"status {answer.status_code}"] += 1
                except httpx.HTTPError as error:
                    seen[repr(error)] += 1
                time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield lambda: seen
    finally:
        stop.set()
        thread.join()


def test_a_stack_runs_changes_under_load_and_ends(up: Up) -> None:
    """One that ends comes back; growing, changing and shrinking lose no request; in the end all is gone."""
    up.write(2, "one")
    up.start()
    up.until("process")
    os.kill(*up.processes("app-"), signal.SIGKILL)
    up.until("it is started again")
    up.until("process")
    with load(up.front) as seen:
        up.write(3, "two")
        up.process.send_signal(signal.SIGHUP)
        up.until("the change is made")
        up.write(1, "two")
        up.process.send_signal(signal.SIGHUP)
        up.until("the change is made")
    counts = seen()
    assert {answer for answer in counts if answer[:4] != "app-"} == set(), counts
    assert {"app-1 two", "app-2 two", "app-3 two"} <= set(counts), counts
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(20) == 0
    assert not [pid for pid in up.processes("app-") if runs(pid)]


def test_killed_itself_it_leaves_nobody_behind(up: Up) -> None:
    """The end of the whole is the end of each part, also of programs that know nothing of it."""
    up.write(2, "one")
    up.start()
    up.until("process")
    up.until("process")
    up.process.kill()
    up.process.wait()
    left = up.processes("app-")
    assert len(left) == 2
    for _ in range(200):
        if not any(map(runs, left)):
            return
        time.sleep(0.02)
    raise AssertionError(f"{left} are left")


def test_a_file_that_is_wrong_changes_nothing(up: Up) -> None:
    """It is said in a line, and what runs goes on running."""
    up.write(1, "one")
    up.start()
    up.file.write_text("[app]")
    up.process.send_signal(signal.SIGHUP)
    up.until("app: port must be an integer from 1 to 65535, not None; nothing changes")
    assert httpx.get(up.front).text == "app-1 one"


def test_what_would_run_is_printed_and_not_run(tmp_path: Path) -> None:
    """``--check`` reads the file, and says in a line each what it asks for, or what is wrong."""
    file = tmp_path / "stack.toml"
    file.write_text('[app]\ncommand = "serve {port}"\nreplicas = 2\nport = 9001\n')
    done = CliRunner().invoke(replicated, ["up", "--check", str(file)])
    assert done.output.splitlines() == [
        "app-1     http://127.0.0.1:9001   serve {port}",
        "app-2     http://127.0.0.1:9002   serve {port}",
    ]
    file.write_text("[app]")
    done = CliRunner().invoke(replicated, ["up", "--check", str(file)])
    assert done.exit_code == 2
    assert done.output.endswith("stack.toml: app: port must be an integer from 1 to 65535, not None\n")
