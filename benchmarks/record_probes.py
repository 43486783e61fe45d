"""Records what a live HAProxy and a live Varnish conclude from scripted answers, for the tests.

``python benchmarks/record_probes.py [--check]`` needs the two programs, and takes about a minute. With
``--check`` nothing is written, and a row that came out differently is printed; the status is then 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "tests" / "readiness" / "vectors" / "probe_sequences.json"
PERIOD = 0.3
Ask = Callable[[], Awaitable[str]]

HAPROXY = """
global
    stats socket {socket} mode 600
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
backend b
    option httpchk GET /
    server s 127.0.0.1:{port} check inter 300ms rise {rise} fall {fall}
frontend f
    bind unix@{socket}.http
    default_backend b
"""
VARNISH = """
vcl 4.1;
backend b {{
    .host = "127.0.0.1"; .port = "{port}";
    .probe = {{
        .url = "/"; .interval = 0.3s; .timeout = 0.25s; .window = {window}; .threshold = {threshold};
    }}
}}
"""


async def play(results: str, start: Callable[[int], Any]) -> str:
    """Answer health checks as ``results`` says, and return the state a tenth of a second after each."""
    states: list[str] = []
    asked = 0
    done = asyncio.Event()
    ready: asyncio.Future[Ask] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            turn, asked = asked, asked + 1
            good = turn >= len(results) or results[turn] == "+"
            status = b"200 OK" if good else b"503 Busy"
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
            writer.close()
            await asyncio.sleep(0.1)
            if turn < len(results):
                ask = await ready
                states.append(await ask())
                if turn == len(results) - 1:
                    done.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, start(server.sockets[0].getsockname()[1]) as asked_of:
        ready.set_result(asked_of)
        async with asyncio.timeout(PERIOD * len(results) + 20):
            await done.wait()
    return "".join(states)


@contextlib.asynccontextmanager
async def process(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    null = asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(*command, stdout=null, stderr=null)
    try:
        yield child
    finally:
        child.terminate()
        await child.wait()


@contextlib.asynccontextmanager
async def haproxy(port: int, *, rise: int, fall: int) -> AsyncIterator[Ask]:
    with tempfile.TemporaryDirectory() as directory:
        socket = f"{directory}/stats"
        config = Path(directory, "haproxy.cfg")
        config.write_text(HAPROXY.format(socket=socket, port=port, rise=rise, fall=fall))

        async def ask() -> str:
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(b"show stat\n")
            lines = (await reader.read(-1)).decode().splitlines()
            writer.close()
            names = lines[0].removeprefix("# ").split(",")
            rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:] if line]
            status = next(row["status"] for row in rows if row["svname"] == "s")
            return "U" if status.startswith("UP") else "d"

        async with process("haproxy", "-db", "-f", str(config)):
            yield ask


@contextlib.asynccontextmanager
async def varnish(port: int, *, window: int, threshold: int) -> AsyncIterator[Ask]:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        vcl = Path(directory, "b.vcl")
        vcl.write_text(VARNISH.format(port=port, window=window, threshold=threshold))
        vcl.chmod(0o644)
        work = f"{directory}/work"

        async def ask() -> str:
            arguments = ("-n", work, "backend.list", "-j")
            child = await asyncio.create_subprocess_exec("varnishadm", *arguments, stdout=-1)
            found = json.loads((await child.communicate())[0])
            backends = next(part for part in found if isinstance(part, dict))
            return "U" if next(iter(backends.values()))["probe_message"][2] == "healthy" else "d"

        arguments = ("-F", "-n", work, "-f", str(vcl), "-a", f"{directory}/http", "-s", "malloc,16m")
        async with process("varnishd", *arguments):
            yield ask


async def record(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as it comes out now."""
    settings = {name: row[name] for name in ("rise", "fall", "window", "threshold") if name in row}
    start = haproxy if row["system"] == "haproxy" else varnish
    return {**row, "states": await play(row["results"], lambda port: start(port, **settings))}


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for program in ("haproxy", "varnishd", "varnishadm"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed")
    before = json.loads(FILE.read_text())
    after = [await record(row) for row in before]
    for old, new in zip(before, after, strict=True):
        if old != new:
            print(f"{json.dumps(old)}\n  now {new['states']}")
    if options.check:
        return int(before != after)
    FILE.write_text("[\n " + ",\n ".join(map(json.dumps, after)) + "\n]\n")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
