"""The running edge, asked over raw sockets, and behind it a replica that records what reached it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

SERVES = re.compile(r"serves (https?://\S+)")
LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
FIRST = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.1")
SENTINEL = b"/sentinel"


class Malformed(Exception):
    """What reached the replica is not HTTP/1.1 in its strictest reading."""


class Seen(NamedTuple):
    """A request as the replica read it.

    Attributes:
        method: As it came.
        target: Likewise.
        headers: Names in lower case.
        body: Without its framing.
    """

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> list[bytes]:
        """Return the values of all lines of one name."""
        return [value for found, value in self.headers if found == name]


class Stream:
    """What comes over a connection, read strictly."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.held = b""

    def more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self.held += data

    def until(self, mark: bytes) -> bytes:
        """Return what comes before a mark."""
        while mark not in self.held:
            self.more()
        found, _, self.held = self.held.partition(mark)
        return found

    def exactly(self, count: int) -> bytes:
        """Return so many bytes."""
        while len(self.held) < count:
            self.more()
        found, self.held = self.held[:count], self.held[count:]
        return found

    def fields(self, lines: list[bytes]) -> list[tuple[bytes, bytes]]:
        """Read header lines."""
        headers = []
        for line in lines:
            found = LINE.fullmatch(line)
            if found is None:
                raise Malformed(f"header line {line!r}")
            headers.append((found[1].lower(), found[2]))
        return headers

    def body(self, headers: list[tuple[bytes, bytes]]) -> bytes | None:
        """Read a body, or None where nothing says how long it is."""
        lengths = [value for name, value in headers if name == b"content-length"]
        codings = [value for name, value in headers if name == b"transfer-encoding"]
        if (lengths and codings) or len(lengths) > 1 or len(codings) > 1:
            raise Malformed(f"framed twice: {lengths} {codings}")
        if codings:
            if codings != [b"chunked"]:
                raise Malformed(f"transfer-encoding {codings}")
            pieces = []
            while True:
                size = self.until(b"\r\n")
                if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
                    raise Malformed(f"chunk size {size!r}")
                pieces.append(self.exactly(int(size, 16)))
                if self.exactly(2) != b"\r\n":
                    raise Malformed("a chunk without its end")
                if not pieces[-1]:
                    return b"".join(pieces)
        if lengths:
            if not re.fullmatch(rb"[0-9]+", lengths[0]):
                raise Malformed(f"content-length {lengths[0]!r}")
            return self.exactly(int(lengths[0]))
        return None

    def request(self) -> Seen:
        """Read a request."""
        first, *lines = self.until(b"\r\n\r\n").split(b"\r\n")
        found = FIRST.fullmatch(first)
        if found is None:
            raise Malformed(f"request line {first!r}")
        headers = self.fields(lines)
        seen = Seen(found[1], found[2], headers, b"")
        if len(seen.header(b"host")) != 1:
            raise Malformed(f"hosts {seen.header(b'host')}")
        return seen._replace(body=self.body(headers) or b"")


ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncache-control: no-store\r\n\r\nok"
BIG = b"0123456789" * 1000

HOSTILE = {
    b"/endless-headers": [b"HTTP/1.1 200 OK\r\n", *[b"x-flood: %s\r\n" % (b"a" * 1000)] * 300],
    b"/endless-line": [b"HTTP/1.1 200 OK\r\nx: ", *[b"a" * 10_000] * 30],
    b"/garbage": [b"\x00\x01\x02 what\r\n\r\n"],
    b"/greeting": [b"220 smtp.example ESMTP\r\n"],
    b"/http-0.9": [b"<html>hello</html>"],
    b"/no-such-version": [b"HTTP/3.7 200 OK\r\ncontent-length: 2\r\n\r\nok"],
    b"/status-99": [b"HTTP/1.1 99 Low\r\ncontent-length: 2\r\n\r\nok"],
    b"/status-1000": [b"HTTP/1.1 1000 High\r\ncontent-length: 2\r\n\r\nok"],
    b"/early-close": [b""],
    b"/close-in-header": [b"HTTP/1.1 200 OK\r\ncontent-le"],
    b"/two-lengths": [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!"],
    b"/length-and-chunked": [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ],
    b"/plus-length": [b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok"],
    b"/list-length": [b"HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok"],
    b"/odd-coding": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
    b"/nul-in-value": [b"HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 2\r\n\r\nok"],
    b"/cr-in-value": [b"HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 2\r\n\r\nok"],
    b"/space-before-colon": [b"HTTP/1.1 200 OK\r\nset-cookie : b\r\ncontent-length: 2\r\n\r\nok"],
    b"/switched": [b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"],
    b"/interim-flood": [b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"] * 20_000,
    b"/bad-chunk": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n"],
    b"/cut-chunk": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"],
    b"/cut-length": [b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\nok"],
    b"/interim": [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", ANSWER],
    b"/head-with-body": [b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"],
    b"/204-with-body": [b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc"],
    b"/304-with-body": [b'HTTP/1.1 304 Not Modified\r\netag: "a"\r\ncontent-length: 3\r\n\r\nabc'],
    b"/two-answers": [ANSWER, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale"],
    b"/folded": [b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nok"],
    b"/until-close": [b"HTTP/1.1 200 OK\r\n\r\nok"],
    b"/chunked": [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nx: y\r\n\r\n"
    ],
    b"/big": [b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: %d\r\n\r\n" % len(BIG), BIG],
    b"/hop-by-hop": [
        b"HTTP/1.1 200 OK\r\nconnection: x-secret\r\nx-secret: 1\r\nkeep-alive: timeout=5\r\n"
        b"proxy-connection: keep-alive\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nok"
    ],
}
"""What the replica says instead of an ordinary answer, by path; then it closes the connection."""

HUGE = 8 * 2**20
STALLS = {
    b"/silent": b"",
    b"/half-head": b"HTTP/1.1 200 OK\r\ncontent-le",
    b"/half-body": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
    b"/half-chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf",
    b"/half-long": b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + bytes(300_000),
    b"/switches": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    b"/huge": b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % HUGE + bytes(HUGE),
}
"""What it says, and then nothing, until the connection is closed."""

ENDLESS = {
    b"/header-without-end": (b"HTTP/1.1 200 OK\r\n", b"x-flood: %s\r\n" % (b"a" * 1000)),
    b"/line-without-end": (b"HTTP/1.1 200 OK\r\nx: ", b"a" * 65536),
    b"/interim-without-end": (b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
    b"/extension-without-end": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;",
        b"x" * 65536,
    ),
    b"/trailer-without-end": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        b"x: %s\r\n" % (b"a" * 1000),
    ),
    b"/answers-without-end": (b"", ANSWER),
}
"""What it begins with, and what it says again and again, until the connection is closed."""


class Recorder:
    """A replica in threads: it reads with the strictest eyes, and says what it saw."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.seen: list[Seen] = []
        self.faults: list[str] = []
        self.ended: list[bytes] = []  # targets whose connection was closed while it stalled, or said more
        self.says = b""  # in answer to /says
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        stream = Stream(sock)
        with sock:
            try:
                while True:
                    request = stream.request()
                    if request.target != SENTINEL:
                        self.seen.append(request)
                    hostile = [self.says] if request.target == b"/says" else HOSTILE.get(request.target)
                    if hostile is not None:
                        for piece in hostile:
                            sock.sendall(piece)
                        return
                    if request.target in STALLS or request.target in ENDLESS or request.target == b"/drip":
                        self.torment(sock, request.target)
                    sock.sendall(ANSWER if request.method != b"HEAD" else ANSWER[:-2])
            except EOFError:
                if stream.held:
                    self.faults.append(f"left over: {stream.held[:200]!r}")
            except Malformed as error:
                self.faults.append(str(error))
            except OSError:
                pass

    def torment(self, sock: socket.socket, target: bytes) -> None:
        """Say what keeps a reader waiting or busy for ever, until the connection is closed."""
        try:
            if target in STALLS:
                sock.sendall(STALLS[target])
                while sock.recv(65536):
                    pass
            elif target in ENDLESS:
                first, again = ENDLESS[target]
                sock.sendall(first)
                while True:
                    sock.sendall(again)
            else:
                for byte in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1000:
                    sock.sendall(b"%c" % byte)
                    time.sleep(0.02)
        except OSError:
            pass
        self.ended.append(target)

    def forget(self) -> None:
        self.seen.clear()
        self.faults.clear()


class Answer(NamedTuple):
    """A response as a client read it.

    Attributes:
        status: Its code.
        headers: Names in lower case.
        body: Without its framing.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> list[bytes]:
        """Return the values of all lines of one name."""
        return [value for found, value in self.headers if found == name]


class Edge:
    """A running ``replicated serve`` in front of a recorder."""

    slow: Sequence[Future[bytes]] = ()

    def __init__(self, recorder: Recorder, *flags: str) -> None:
        self.recorder = recorder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "replicated", "serve", "--listen", "127.0.0.1:0"]
            + ["--upstream", recorder.url, *flags],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = SERVES.search(line)
        if found is None:
            self.process.kill()
            line += self.process.stderr.read()
            self.stop()
            raise AssertionError(f"it did not start: {line}")
        host, _, port = found[1].partition("://")[2].rpartition(":")
        self.address = host, int(port)
        self.said = [line]
        threading.Thread(target=self.said.extend, args=(self.process.stderr,), daemon=True).start()

    def line(self, mark: str, after: int = 0) -> str:
        """Wait for a line with a mark on standard error, not among the first ``after``."""
        deadline = time.monotonic() + 10
        while not (found := [line for line in self.said[after:] if mark in line]):
            assert time.monotonic() < deadline, f"no {mark!r} in {self.said}"
            time.sleep(0.01)
        return found[0]

    def other(self, mark: str) -> tuple[str, int]:
        """Return another address that it listens on, from the line with a mark."""
        found = re.search(r"http://([^:/]+):([0-9]+)", self.line(mark))
        assert found is not None
        return found[1], int(found[2])

    def connect(self, timeout: float = 5.0) -> socket.socket:
        """Open a connection."""
        sock = socket.create_connection(self.address, timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def talk(
        self,
        *sent: bytes,
        answers: int = 1,
        closes: bool = False,
        head: bool = False,
        heads: list[bool] | None = None,
        patience: float = 5.0,
    ) -> Conversation:
        """Send something, and read so many final answers, or until the edge closes.

        Args:
            sent: What is sent, each piece by itself; nothing more of it once the edge has closed.
            answers: Final answers to wait for. One that ends the connection is waited for to that end.
            closes: Whether to wait for the end of the connection in any case.
            head: Whether the answers have no bodies, whatever they say.
            heads: The same of each answer in turn.
            patience: Seconds that the edge may be silent; then the connection is still open.
        """
        with self.connect(patience) as sock:
            stream = Stream(sock)
            found: list[Answer] = []
            interim: list[int] = []
            closed = False
            with contextlib.suppress(OSError):  # it may have seen enough
                for piece in sent:
                    if piece is not sent[0]:
                        time.sleep(0.001)  # else the kernel would put them together again
                    sock.sendall(piece)
            try:
                while len(found) < answers or closes:
                    bodiless = heads[len(found)] if heads and len(found) < len(heads) else head
                    answer = read_answer(stream, bodiless)
                    if answer.status < 200:
                        interim.append(answer.status)
                        continue
                    found.append(answer)
                    closes = closes or b"close" in answer.header(b"connection")
            except (EOFError, ConnectionResetError):
                closed = True
            except TimeoutError:
                pass
            rest = stream.held
            if not closed:
                sock.setblocking(False)
                try:
                    data = sock.recv(65536)
                    closed, rest = not data, rest + data
                except BlockingIOError:
                    pass
        return Conversation(found, interim, closed, rest)

    def memory(self) -> int:
        """Return how many bytes of memory it has; skip where nobody says."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            pytest.skip("there is no /proc")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def settle(self) -> None:
        """Wait until whatever was on its way to the replica has reached it."""
        asked = b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % SENTINEL
        [answer] = self.talk(asked, closes=True).answers
        assert answer.status == 200
        time.sleep(0.002)

    def stop(self) -> None:
        """Stop it at once, as a second Ctrl-C does."""
        for _ in range(2):
            self.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait(10)
            assert self.process.stderr is not None
            self.process.stderr.close()


class Conversation(NamedTuple):
    """What came back over one connection.

    Attributes:
        answers: The final answers.
        interim: The codes of interim ones.
        closed: Whether the edge closed the connection.
        rest: Bytes that belong to no answer.
    """

    answers: list[Answer]
    interim: list[int]
    closed: bool
    rest: bytes

    @property
    def statuses(self) -> list[int]:
        """The codes of the final answers."""
        return [answer.status for answer in self.answers]


def read_answer(stream: Stream, head: bool) -> Answer:
    """Read one response; one that ends with its connection is read to that end."""
    first, *lines = stream.until(b"\r\n\r\n").split(b"\r\n")
    found = re.fullmatch(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [\x20-\x7e]*", first)
    if found is None:
        raise Malformed(f"status line {first!r}")
    status = int(found[1])
    headers = stream.fields(lines)
    if head or status < 200 or status in (204, 304):
        return Answer(status, headers, b"")
    body = stream.body(headers)
    if body is None:
        try:
            while True:
                stream.more()
        except EOFError:
            body, stream.held = stream.held, b""
    return Answer(status, headers, body)


@pytest.fixture(scope="session")
def recorder() -> Iterator[Recorder]:
    """The replica."""
    found = Recorder()
    yield found
    found.listener.close()


@pytest.fixture(scope="module")
def own_recorder() -> Iterator[Recorder]:
    """A replica of their own, for those who break off what others count."""
    found = Recorder()
    yield found
    found.listener.close()


@pytest.fixture(scope="session")
def make_edge(recorder: Recorder) -> Iterator[Callable[..., Edge]]:
    """Start an edge with some flags; all are stopped at the end."""
    edges: list[Edge] = []

    def make(*flags: str, before: Recorder = recorder) -> Edge:
        edges.append(Edge(before, *flags))
        return edges[-1]

    yield make
    for edge in edges:
        edge.stop()


@pytest.fixture(scope="session")
def running(make_edge: Callable[..., Edge]) -> Edge:
    """One edge for all, which two slow clients keep busy."""
    edge = make_edge("--body-limit", "64KiB")
    heads = (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 1000, b"")
    pool = ThreadPoolExecutor(2)
    edge.slow = [pool.submit(trickle, edge, head) for head in heads]
    pool.shutdown(wait=False)
    return edge


@pytest.fixture(scope="session")
def plain(make_edge: Callable[..., Edge]) -> Edge:
    """An edge that believes who stands before it, and answers operators."""
    return make_edge("--trust", "127.0.0.1", "--admin", ":0")


def trickle(edge: Edge, head: bytes) -> bytes:
    """Send a head byte by byte; return what comes back until the end."""
    with edge.connect(0.25) as sock:
        deadline = time.monotonic() + 30
        got = b""
        while time.monotonic() < deadline:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.send(head[:1])
            head = head[1:]
            with contextlib.suppress(TimeoutError):
                data = sock.recv(65536)
                if not data:
                    return got
                got += data
    raise AssertionError("it is still served")


@pytest.fixture(scope="session")
def slow(running: Edge) -> Iterator[Sequence[Future[bytes]]]:
    """Clients that were slow from the beginning, while everything else was tested."""
    yield running.slow
    for waiting in running.slow:
        waiting.result(30)


@pytest.fixture
def edge(running: Edge, recorder: Recorder) -> Edge:
    """The edge, and a replica that has seen nothing yet."""
    recorder.forget()
    return running


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[Callable[[int], list[str]]], int]]:
    """Run ``words(port)`` and wait until it listens on that port; what still runs is ended in the end."""
    running: list[subprocess.Popen[bytes]] = []

    def run(words: Callable[[int], list[str]]) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        output = tmp_path / "output"
        with output.open("wb") as written:
            process = subprocess.Popen(words(port), cwd=tmp_path, stdout=written, stderr=written)
        running.append(process)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                assert process.poll() is None, output.read_text()
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.02)
            else:
                return port

    yield run
    for process in running:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
