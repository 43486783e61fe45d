"""A cache hit over loopback: `replicated serve --cache`, against forwarding and against no cache at all.

wrk asks for one page of 1,000 bytes. The same program answers it from its cache, and forwards it to its one
upstream. Two servers that do nothing else say how near that is to what is possible: the same front before a
handler that returns the page, and uvicorn before an application that does. Each is a process of its own, and
what one request takes of its processor time is counted too: that says more than rates on a shared machine.

    python benchmarks/bench_http_cache.py [--json FILE] [--rounds N] [--seconds S] [--write]

Needs wrk. With ``--write`` the table is put into the page on the cache.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from conformance_http_cache import await_port, free_port
from measure import emit, put

PAGE = Path(__file__).parents[1] / "docs" / "cache.md"
BODY = "x" * 1000
CONNECTIONS = (16, 64)
BEGIN = """
import asyncio, sys
try:
    from uvloop import run
except ImportError:
    from asyncio import run
BODY = b"x" * 1000
"""
ORIGIN = (
    BEGIN
    + """
PAGE = b"HTTP/1.1 200 OK\\r\\ncontent-type: text/html\\r\\ncache-control: max-age=600\\r\\n"
PAGE += b"etag: \\"1\\"\\r\\ncontent-length: 1000\\r\\n\\r\\n" + BODY
class Server(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(PAGE * data.count(b"\\r\\n\\r\\n"))
async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
run(main())
"""
)
FRONT = (
    BEGIN
    + """
import socket
from replicated.adapters.front.front import Front
from replicated.http.message import Response
HEADERS = [(b"content-type", b"text/html"), (b"cache-control", b"max-age=600"), (b"etag", b'"1"')]
HEADERS += [(b"content-length", b"1000"), (b"age", b"1")]
async def handler(request):
    return Response(200, list(HEADERS), BODY)
async def main():
    Front(handler).start(socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024))
    await asyncio.Event().wait()
run(main())
"""
)
UVICORN = (
    BEGIN
    + """
import uvicorn
HEADERS = [(b"content-type", b"text/html"), (b"cache-control", b"max-age=600"), (b"etag", b'"1"')]
HEADERS += [(b"content-length", b"1000"), (b"age", b"1")]
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False, lifespan="off")
"""
)


@contextlib.contextmanager
def running() -> Iterator[dict[str, tuple[str, int]]]:
    """Run every contender; yield their URLs and process ids."""
    origin, hit, forward, front, uvicorn = (free_port() for _ in range(5))
    serve = [sys.executable, "-m", "replicated", "serve", "--upstream", f"http://127.0.0.1:{origin}"]
    commands = [
        [sys.executable, "-c", ORIGIN, str(origin)],
        [*serve, "--listen", f"127.0.0.1:{hit}", "--cache", "64MiB"],
        [*serve, "--listen", f"127.0.0.1:{forward}"],
        [sys.executable, "-c", FRONT, str(front)],
        [sys.executable, "-c", UVICORN, str(uvicorn)],
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(command, **quiet) for command in commands]  # type: ignore[call-overload]
    names = {
        "a hit, `serve --cache`": hit,
        "forwarded, `serve`": forward,
        "the same front, a handler that returns the page": front,
        "uvicorn, an application that returns the page": uvicorn,
    }
    try:
        for port in (origin, *names.values()):
            await_port(port)
        pids = [process.pid for process in processes[1:]]
        urls = [f"http://127.0.0.1:{port}/" for port in names.values()]
        yield dict(zip(names, zip(urls, pids, strict=True), strict=True))
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def rate(url: str, connections: int, seconds: float) -> float:
    """Return the requests a second that wrk gets; none may fail."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])  # type: ignore[index]


def argument(name: str, default: float) -> float:
    return float(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def processor(pid: int) -> float:
    """Return the seconds of processor time that a process has taken (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    rounds, seconds = int(argument("--rounds", 3)), argument("--seconds", 1)
    rates: dict[str, list[list[float]]] = {}
    with running() as contenders:
        for url, _ in contenders.values():
            for _ in range(2):
                with urllib.request.urlopen(url) as response:
                    assert response.read() == BODY.encode()
                    said = response.headers["cache-status"]
            assert said in (None, "replicated; hit"), said
        for _ in range(rounds):
            for name, (url, pid) in contenders.items():
                before = processor(pid)
                taken = [rate(url, connections, seconds) for connections in CONNECTIONS]
                cost = (processor(pid) - before) / sum(taken) / seconds
                rates.setdefault(name, []).append([*taken, cost * 1e6])
    heads = [f"requests/s at {count}" for count in CONNECTIONS]
    rows = [f"| | {' | '.join(heads)} | CPU a request, us | a hit takes |"]
    rows.append("|---|" + "---:|" * (len(heads) + 2))
    hits = rates[next(iter(rates))]
    figures = {}
    for name, taken in rates.items():
        *medians, cost = (statistics.median(column) for column in zip(*taken, strict=True))
        # Of each round by itself: the machine changes its pace between rounds.
        share = statistics.median(ours[-1] / theirs[-1] for ours, theirs in zip(hits, taken, strict=True))
        figures[name] = {"rates": medians, "cpu_us": cost, "a hit takes": share}
        rates_said = " | ".join(f"{median:,.0f}" for median in medians)
        rows.append(f"| {name} | {rates_said} | {cost:.0f} | {share:.2f} x |")
    text = "\n".join(rows)
    emit("http cache", text, figures)
    if "--write" in sys.argv:
        put(PAGE, {"bench_http_cache": text})


if __name__ == "__main__":
    main()
