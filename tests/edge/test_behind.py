"""The configurations of the page on nginx, HAProxy and Varnish, run by the real ones."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "behind.md"


def blocks(heading: str) -> list[str]:
    """Return the code blocks below a heading of the page."""
    _, _, section = PAGE.read_text().partition(f"\n## {heading}\n")
    return re.findall(r"```\w+\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)


@pytest.fixture
def start(tmp_path: Path, program: Any) -> Callable[..., tuple[str, int]]:
    """Write a configuration, with its ports put right, and start a program that reads it."""

    def start(command: list[str], configuration: str, tier: tuple[str, int]) -> tuple[str, int]:
        found = shutil.which(command[0], path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if found is None:
            pytest.skip(f"{command[0]} is not installed")

        def words(port: int) -> list[str]:
            written = configuration.replace("8080", str(tier[1])).replace("8000", str(port))
            (tmp_path / "configuration").write_text(written)
            return [found, *(word.format(directory=tmp_path, port=port) for word in command[1:])]

        return "127.0.0.1", program(words)

    return start


def ask(address: tuple[str, int], sent: bytes) -> bytes:
    """Send something from another address of this machine; return all that comes until the end."""
    with socket.create_connection(address, 5, source_address=("127.0.0.2", 0)) as sock:
        sock.sendall(sent)
        got = b""
        while data := sock.recv(65536):
            got += data
        return got


def judge(address: tuple[str, int], recorder: Any) -> None:
    """Look at what reaches a replica through both."""
    recorder.forget()
    lines = b"Host: service.test\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n"
    answer = ask(address, b"GET /a%2Fb?c=%20d HTTP/1.1\r\n" + lines + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert answer.endswith(b"\r\n\r\nok")
    body = b"5\r\nhello\r\n0\r\n\r\n"
    answer = ask(address, b"POST /p HTTP/1.1\r\n" + lines + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert recorder.faults == []
    got, posted = recorder.seen
    assert (got.method, got.target, got.header(b"host")) == (b"GET", b"/a%2Fb?c=%20d", [b"service.test"])
    assert (posted.method, posted.target, posted.body) == (b"POST", b"/p", b"hello")
    for seen in (got, posted):
        [chain] = seen.header(b"x-forwarded-for")
        assert chain.split(b", ")[0] == b"127.0.0.2", chain
        assert seen.header(b"x-forwarded-proto") == [b"http"]


def test_behind_nginx(start: Any, plain: Any, recorder: Any) -> None:
    """Behind nginx the client is the client, and targets and bodies are as they came."""
    [block] = blocks("nginx")
    here = [f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    around = "daemon off; worker_processes 1; pid nginx.pid; error_log stderr; events { }"
    around += f" http {{ access_log off; {' '.join(here)}\n{block} }}\n"
    command = ["nginx", "-e", "stderr", "-p", "{directory}", "-c", "{directory}/configuration"]
    judge(start(command, around, plain.address), recorder)


def test_behind_haproxy(start: Any, plain: Any, recorder: Any) -> None:
    """Behind HAProxy likewise."""
    command = ["haproxy", "-db", "-f", "{directory}/configuration"]
    judge(start(command, blocks("HAProxy")[0], plain.address), recorder)


def test_behind_haproxy_that_passes_bytes_on(start: Any, make_edge: Any, recorder: Any) -> None:
    """Where HAProxy says by the PROXY protocol for whom it passes bytes on, that is who asks."""
    edge = make_edge("--trust", "127.0.0.1", "--proxy-protocol")
    command = ["haproxy", "-db", "-f", "{directory}/configuration"]
    recorder.forget()
    address = start(command, blocks("HAProxy")[1], edge.address)
    answer = ask(address, b"GET /a HTTP/1.1\r\nHost: service.test\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200"), answer
    [seen] = recorder.seen
    assert seen.header(b"x-forwarded-for") == [b"127.0.0.2"]


def test_behind_varnish(start: Any, plain: Any, recorder: Any) -> None:
    """Behind Varnish likewise."""
    [block] = blocks("Varnish")
    command = ["varnishd", "-F", "-j", "none", "-n", "{directory}/varnish", "-s", "malloc,16m"]
    command += ["-a", "127.0.0.1:{port}", "-f", "{directory}/configuration"]
    judge(start(command, block, plain.address), recorder)
