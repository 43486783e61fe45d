"""httpx over the library's transport against httpx over its own: requests a second, and after cancellations.

The servers are trivial and each a process of its own, so that the client is what is measured: 16 requests at
once to three replicas through a tier, against as many to one server over httpx's own transport. Beside them
stands httpx over a transport without any I/O: what httpx itself costs, whatever carries its requests. Then
20 tasks cancel their requests at random over 10 connections for five seconds, five requests are made in turn,
and those that are served within two seconds are counted.

    python benchmarks/bench_httpx.py [--json FILE] [--rounds N] [--write]

With ``--write`` the tables are put into the page on httpx.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
from measure import emit, put

from replicated import Replica, Tier
from replicated.adapters.httpx_transport import AsyncReplicatedTransport

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "httpx.md"
AT_ONCE = 16
REQUESTS = 800
STORM = 5.0

SERVER = """
import asyncio, sys
OK = b"HTTP/1.1 200 OK\\r\\ncontent-type: text/plain\\r\\ncontent-length: 2\\r\\n\\r\\nok"
class Server(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(OK * data.count(b"\\r\\n\\r\\n"))
async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
try:
    import uvloop
except ImportError:
    asyncio.run(main())
else:
    uvloop.run(main())
"""


@contextlib.contextmanager
def servers(count: int) -> Iterator[list[str]]:
    """Run trivial servers, each a process; yield their URLs."""
    command = [sys.executable, "-c", SERVER]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(count)]
    try:
        yield [f"http://127.0.0.1:{int(process.stdout.readline())}" for process in running]  # type: ignore[union-attr]
    finally:
        for process in running:
            process.kill()
            process.communicate()


class NoTransport(httpx.AsyncBaseTransport):
    """Answers at once, out of nothing."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(b"ok"))


def contenders(urls: list[str]) -> dict[str, tuple[Callable[[], Any], str]]:
    """Return what makes each client, and the URL that it asks."""
    tier = Tier([Replica(f"r{number}", url) for number, url in enumerate(urls)])

    def limits(module: Any) -> Any:
        return module.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)

    return {
        "httpx over its own transport": (lambda: httpx.AsyncClient(limits=limits(httpx)), urls[0]),
        "httpx over AsyncReplicatedTransport, 3 replicas": (
            lambda: httpx.AsyncClient(transport=AsyncReplicatedTransport(tier)),
            "http://service",
        ),
        "httpx over no transport at all": (
            lambda: httpx.AsyncClient(transport=NoTransport()),
            "http://service",
        ),
        "httpx2 over its own transport": (lambda: httpx2.AsyncClient(limits=limits(httpx2)), urls[0]),
        "httpx2 over AsyncReplicatedTransport, 3 replicas": (
            lambda: httpx2.AsyncClient(transport=AsyncReplicatedTransport(tier)),
            "http://service",
        ),
    }


async def ask(client: Any, url: str, count: int) -> tuple[float, float]:
    """Return the seconds and the processor's seconds that so many requests take."""
    turns = iter(range(count))

    async def user() -> None:
        for _ in turns:
            assert (await client.get(url + "/")).content == b"ok"

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(user() for _ in range(AT_ONCE)))
    return time.perf_counter() - began, time.process_time() - cpu


async def measured(make: Callable[[], Any], url: str) -> tuple[float, float]:
    async with make() as client:
        await ask(client, url, AT_ONCE * 2)
        gc.collect()
        return await ask(client, url, REQUESTS)


def rates(urls: list[str], rounds: int) -> dict[str, tuple[float, float, float]]:
    """Return of each the requests a second, microseconds of CPU a request, and ratio of requests a second."""
    clients = contenders(urls)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
    for _ in range(rounds):
        order = list(clients)
        random.shuffle(order)
        for name in order:
            taken[name].append(asyncio.run(measured(*clients[name])))
    found = {}
    for name, times in taken.items():
        floor = taken[name.partition(" ")[0] + " over its own transport"]
        found[name] = (
            REQUESTS / statistics.median(seconds for seconds, _ in times),
            statistics.median(cpu for _, cpu in times) / REQUESTS * 1e6,
            statistics.median(f / t for (t, _), (f, _) in zip(times, floor, strict=True)),
        )
    return found


async def storm(client: Any, url: str) -> int:
    """Cancel requests at random, then return how many of five are served."""
    rng = random.Random(1)
    end = time.perf_counter() + STORM

    async def user() -> None:
        while time.perf_counter() < end:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0, 0.02)):
                    await client.get(url + "/")

    await asyncio.gather(*(user() for _ in range(20)), return_exceptions=True)
    served = 0
    for _ in range(5):
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2):
                served += (await client.get(url + "/")).content == b"ok"
    return served


def storms(urls: list[str]) -> dict[str, int]:
    tier = Tier([Replica(f"r{number}", url) for number, url in enumerate(urls)])
    clients: dict[str, tuple[Callable[[], Any], str]] = {
        "httpx over its own transport": (
            lambda: httpx.AsyncClient(limits=httpx.Limits(max_connections=10)),
            urls[0],
        ),
        "httpx over AsyncReplicatedTransport": (
            lambda: httpx.AsyncClient(transport=AsyncReplicatedTransport(tier, max_connections=10)),
            "http://service",
        ),
        "httpx2 over its own transport": (
            lambda: httpx2.AsyncClient(limits=httpx2.Limits(max_connections=10)),
            urls[0],
        ),
        "httpx2 over AsyncReplicatedTransport": (
            lambda: httpx2.AsyncClient(transport=AsyncReplicatedTransport(tier, max_connections=10)),
            "http://service",
        ),
    }

    async def run(make: Callable[[], Any], url: str) -> int:
        client = make()
        try:
            return await storm(client, url)
        finally:
            with contextlib.suppress(Exception):
                await client.aclose()

    return {name: asyncio.run(run(make, url)) for name, (make, url) in clients.items()}


def main() -> None:
    rounds = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 5
    with servers(3) as urls:
        rated = rates(urls, rounds)
        served = storms(urls)
    rows = ["| | requests/s | CPU a request, us | requests/s, ratio |", "|---|---:|---:|---:|"]
    for name, (rate, cpu, ratio) in rated.items():
        rows.append(f"| {name} | {rate:,.0f} | {cpu:,.0f} | {ratio:.1f} |")
    rows += ["", "| after 5 s of cancellations | served, of 5 |", "|---|---:|"]
    rows += [f"| {name} | {count} |" for name, count in served.items()]
    text = "\n".join([*rows, ""])
    emit("httpx", text, {"rates": rated, "storm": served})
    if "--write" in sys.argv:
        put(PAGE, {"bench_httpx": text})


if __name__ == "__main__":
    main()
