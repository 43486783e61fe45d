"""Executes every code block of README.md and docs/: ``pytest README.md docs``.

`python` blocks run one after the other in one namespace a document; one with a title is a file, written to
a directory of the document's own. `console` blocks run in one bash a document, in that directory: each line
that begins with `$`, and what stands below it is looked for in what it prints. `yaml` and `json` blocks are
read, and the flags of `replicated` in them are checked. Blocks of any other language fail, so that none goes
unexecuted; `text` is no code, and `nginx` another program's.

Ports in the texts stand for others that are free, so that the machine's own 8080 is left alone. At 9001 to
9003 there are three replicas.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sybil import Document, Example, Region

ROOT = Path(__file__).parent
REPLICAS = {"9001": "a", "9002": "b", "9003": "c"}
PORT = re.compile(r"(?<=:)[89]\d{3}\b|(?<=--port )[89]\d{3}\b")
PATIENCE = 30.0
"""Seconds that a command, or the start of a server, may take."""


@cache
def port(written: str) -> str:
    """Return the free port that a port in the texts stands for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Replica(BaseHTTPRequestHandler):
    """Answers everything with its name."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        body = f"hello from {self.server.name}\n".encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def _replicas() -> Iterator[None]:
    servers = []
    for written, name in REPLICAS.items():
        server = ThreadingHTTPServer(("127.0.0.1", int(port(written))), Replica)
        server.daemon_threads, server.name = True, name  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
    yield
    for server in servers:
        server.shutdown()
        server.server_close()


class Shell:
    """A bash with job control, as a reader has one open beside the text, in a directory of its own.

    It prints to a file: a pipe that nobody reads while Python blocks run would stop its servers once full.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="replicated-docs-"))
        output = self.directory / ".printed"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with output.open("a") as printing:
            self.bash = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                stdin=subprocess.PIPE,
                stdout=printing,
                stderr=printing,
                cwd=self.directory,
                env={**os.environ, "PATH": path, "COLUMNS": "200"},
                text=True,
            )
        self.printed = output.open()
        self.say("set -m")  # jobs, and `kill %1`

    def say(self, line: str) -> None:
        """Type a line."""
        assert self.bash.stdin is not None
        print(line, file=self.bash.stdin, flush=True)

    def run(self, command: str) -> str:
        """Run a command; return what is printed until it ends, or until the server that it starts listens."""
        done = self.directory / ".done"
        self.say(command)
        if command.endswith("&"):
            self.say("echo $! >> .jobs")
            wait_until_it_serves(command)
        self.say(f"touch {done}")
        until(done.exists, command)
        done.unlink()
        return self.printed.read()

    def close(self) -> None:
        """Kill what still runs, and clear up."""
        self.bash.kill()
        self.bash.communicate()
        jobs = self.directory / ".jobs"
        for job in jobs.read_text().split() if jobs.exists() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job), signal.SIGKILL)
        self.printed.close()
        shutil.rmtree(self.directory)


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until something is true; fail when that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"after {PATIENCE:g} s still waiting for {what}"
        time.sleep(0.02)


def wait_until_it_serves(command: str) -> None:
    """Wait until the port that a command names reacts; one that speaks TLS will hang up on this."""
    [*_, found] = re.findall(r"(?:--port |--listen \S*:)(\d+)", command)

    def answers() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", int(found)), 1) as probe:
                probe.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
                probe.recv(1)
                return True
        except OSError:
            return False

    until(answers, command)


def run_console(example: Example) -> None:
    """Run the commands of a block; the lines below one must be in what it prints, in order, `...` for any."""
    for part in re.split(r"^\$ ", example.parsed.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        printed = rest = example.namespace["_shell"].run(command)
        for line in filter(str.strip, expected.splitlines()):
            pattern = ".*?".join(re.escape(piece.strip()) for piece in line.split("..."))
            found = re.search(pattern, rest)
            assert found, f"$ {command}\nis to print {line!r}, but printed\n{printed}"
            rest = rest[found.end() :]


def write_file(example: Example) -> None:
    """Write a block to the file that it is titled by; it is used when a console block says so."""
    arguments = example.region.lexemes["arguments"]
    [name] = re.findall(r'title="([\w.-]+)"', arguments)
    if arguments.startswith("python "):
        compile(example.parsed, name, "exec")
    (example.namespace["_shell"].directory / name).write_text(example.parsed)


def read_data(example: Example) -> None:
    """Read a block; whatever in it runs `replicated` must give it flags that it takes."""
    from mkdocs.utils import yaml_load

    from replicated.serve.cli import replicated

    for document in example.parsed.split("\n---\n"):
        found = json.loads(document) if document.lstrip().startswith("{") else yaml_load(document)
        for arguments in invocations(found):
            replicated.commands[arguments[0]].make_context(arguments[0], arguments[1:])


def invocations(node: Any) -> Iterator[list[str]]:
    """Find the lists of arguments that follow `replicated`, as Kubernetes and Compose write them."""
    if isinstance(node, dict):
        words = [*(node.get("command") or ()), *(node.get("args") or ())]
        if words[:1] == ["replicated"]:
            yield [str(word) for word in words[1:]]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from invocations(child)


def pass_over(example: Example) -> None:
    """Do nothing: it is no code."""


def refuse(example: Example) -> None:
    """Fail."""
    raise AssertionError(f"nothing executes {example.region.lexemes['arguments']!r}")


EVALUATORS = {
    "console": run_console,
    "json": read_data,
    "nginx": pass_over,
    "text": pass_over,
    "yaml": read_data,
}


def parse_blocks(document: Document) -> Iterable[Region]:
    """Find the blocks that are not plain Python."""
    from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

    lexer = FencedCodeBlockLexer(language=".+", mapping={"language": "arguments", "source": "source"})
    for region in lexer(document):
        language = region.lexemes["arguments"]
        if language != "python":
            region.parsed = region.lexemes["source"]
            titled = " title=" in language
            region.evaluator = write_file if titled else EVALUATORS.get(language, refuse)
            yield region


@cache
def hook() -> Any:
    """Make Sybil's hook. Late, since the tests of the library do without Sybil."""
    from sybil import Document, Sybil
    from sybil.parsers.markdown import PythonCodeBlockParser

    class Text(Document):
        def __init__(self, text: str, path: str) -> None:
            super().__init__(PORT.sub(lambda found: port(found[0]), text), path)

    return Sybil(
        [PythonCodeBlockParser(), parse_blocks],
        pattern="*.md",
        setup=lambda namespace: namespace.update(_shell=Shell()),
        teardown=lambda namespace: namespace["_shell"].close(),
        fixtures=["_replicas"],
        document_types={".md": Text},
    ).pytest()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Any:
    """Collect the texts."""
    ours = file_path == ROOT / "README.md" or (
        ROOT / "docs" in file_path.parents and file_path.suffix == ".md"
    )
    return hook()(file_path, parent) if ours else None
