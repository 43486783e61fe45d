"""A cache hit over loopback: `replicated serve --cache`, against forwarding and against no cache at all.

wrk asks for one page of 1,000 bytes. The same program answers it from its cache, and forwards it to its one
upstream. Two servers that do nothing else say how near that is to what is possible: the same front before a
handler that returns the page, and uvicorn before an application that does. Each is a process of its own.

    python benchmarks/bench_http_cache.py [--json FILE] [--rounds N] [--seconds S] [--write]

Needs wrk. With ``--write`` the table is put into the page on the cache.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from conformance_http_cache import await_port, free_port
from measure import emit

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
from replicated.adapters.front import Front
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
def running() -> Iterator[dict[str, str]]:
    """Run every contender; yield their URLs."""
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
        yield {name: f"http://127.0.0.1:{port}/" for name, port in names.items()}
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


def main() -> None:
    rounds, seconds = int(argument("--rounds", 3)), argument("--seconds", 1)
    rates: dict[tuple[str, int], list[float]] = {}
    with running() as urls:
        for url in urls.values():
            with urllib.request.urlopen(url) as response:
                assert response.read() == BODY.encode()
        with urllib.request.urlopen(urls["a hit, `serve --cache`"]) as response:
            assert response.headers["cache-status"] == "replicated; hit"
        time.sleep(0.5)
        for _ in range(rounds):
            for connections in CONNECTIONS:
                for name, url in urls.items():
                    rates.setdefault((name, connections), []).append(rate(url, connections, seconds))
    medians = {key: statistics.median(taken) for key, taken in rates.items()}
    rows = ["| | " + " | ".join(f"requests/s at {count} | a hit is" for count in CONNECTIONS) + " |"]
    rows.append("|---|" + "---:|" * 2 * len(CONNECTIONS))
    first = next(iter(urls))
    ratios = {}
    for name in urls:
        cells = []
        for count in CONNECTIONS:
            # Of each round by itself: the machine changes its pace between rounds.
            pairs = zip(rates[first, count], rates[name, count], strict=True)
            ratio = statistics.median(ours / theirs for ours, theirs in pairs)
            ratios[f"{name}, {count}"] = ratio
            cells += [f"{medians[name, count]:,.0f}", f"{ratio:.2f} x"]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    text = "\n".join(rows)
    emit("http cache", text, {"rates": {f"{n}, {c}": r for (n, c), r in medians.items()}, "ratios": ratios})
    if "--write" in sys.argv:
        mark = "<!-- bench_http_cache -->"
        page = PAGE.read_text("utf-8")
        found = re.sub(f"{mark}.*?{mark}", lambda _: f"{mark}\n\n{text}\n\n{mark}", page, flags=re.DOTALL)
        PAGE.write_text(found, "utf-8")


if __name__ == "__main__":
    main()
