"""`replicated serve` and `ReverseProxy` against nginx, HAProxy and asgiproxy, in front of the same backends.

Every proxy is one process with one worker, keeps connections to three backends (nginx, each a process of its
own) and is asked with wrk. Rounds are interleaved; what is compared are the medians of the ratios to nginx in
the same round. Peers that are not installed are left out. Beside the requests a second stands what a request
costs each proxy in processor time, which a busy machine changes less.

    python benchmarks/bench_http.py [--rounds 5] [--seconds 3] [--only small,large,tls,memory] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measure import emit

from replicated.serve.certificates import self_signed

SIZE = 10 * 2**20
TICK = os.sysconf("SC_CLK_TCK")
PEERS = ("nginx", "haproxy", "replicated serve", "ReverseProxy, uvicorn", "asgiproxy, uvicorn")

NGINX = """
daemon off; worker_processes 1; pid {home}/{name}.pid; error_log /dev/null;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; client_max_body_size 100m;
  client_body_temp_path {home}/{name}-body; proxy_temp_path {home}/{name}-proxy;
  fastcgi_temp_path {home}/{name}-f; uwsgi_temp_path {home}/{name}-u; scgi_temp_path {home}/{name}-s;
  {inside}
}}
"""
BACKEND = """
  server {{ listen 127.0.0.1:{port} backlog=2048; root {home}/www;
    location / {{ default_type text/plain; return 200 "hello, world\\n"; }}
    location /large {{ }}
    location /upload {{ client_body_buffer_size 1m; proxy_pass http://127.0.0.1:{port}/; }} }}
"""
PROXY = """
  upstream tier {{ {servers} keepalive 64; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} {tls} backlog=2048; {certificate}
    location / {{ proxy_pass http://tier; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 3s
  timeout client 60s
  timeout server 60s
  option forwardfor
frontend front
  bind 127.0.0.1:{port}
  default_backend tier
backend tier
  balance random(2)
  http-reuse always
  {servers}
"""
REVERSE = """
import sys, uvicorn
from replicated import PowerOfTwo, Replica, Tier
from replicated.adapters.asgi import ReverseProxy
replicas = [Replica(url, url) for url in sys.argv[2:]]
app = ReverseProxy(Tier(replicas, strategy=PowerOfTwo()))
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)
"""
ASGIPROXY = """
import sys, uvicorn
from asgiproxy.__main__ import make_app
app, _ = make_app(sys.argv[2])
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False, lifespan="off")
"""
UPLOAD = 'wrk.method = "POST"; wrk.body = string.rep("x", %d)'
STREAM = """
import asyncio, sys
async def serve(reader, writer):
    try:
        await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\n\\r\\n")
        while True:
            writer.write(b"data: tick\\n\\n")
            await writer.drain()
            await asyncio.sleep(5)
    except (OSError, asyncio.IncompleteReadError):
        writer.close()
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=2048) as server:
        await server.serve_forever()
asyncio.run(main())
"""


@dataclass
class Proxy:
    """One contender, running."""

    port: int
    process: subprocess.Popen[bytes]

    def seconds(self) -> float:
        """Processor time of the process and its children so far."""
        return sum(cpu(pid) for pid in (self.process.pid, *children(self.process.pid)))


def children(pid: int) -> list[int]:
    """The processes that one has started."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split()]
    return []


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Bench:
    """The backends, and whoever stands in front of them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.running: list[subprocess.Popen[bytes]] = []
        home.chmod(0o755)  # nginx reads as nobody
        (home / "www").mkdir()
        (home / "www" / "large").write_bytes(bytes(SIZE))
        (home / "upload.lua").write_text(UPLOAD % SIZE)
        self.backends = [free_port() for _ in range(3)]
        for number, port in enumerate(self.backends):
            self.nginx(f"backend{number}", BACKEND.format(port=port, home=home))
        for port in self.backends:
            answering(port)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running.append(process)
        return process

    def nginx(self, name: str, inside: str) -> subprocess.Popen[bytes]:
        file = self.home / f"{name}.conf"
        file.write_text(NGINX.format(home=self.home, name=name, inside=inside))
        return self.start("nginx", "-c", str(file))

    def proxy(self, name: str, *, tls: bool = False) -> Proxy | None:
        """Start a contender; None where it is not installed."""
        port = free_port()
        urls = [f"http://127.0.0.1:{backend}" for backend in self.backends]
        program = [sys.executable, "-c"]
        match name:
            case "nginx":
                servers = "".join(f"server 127.0.0.1:{backend}; " for backend in self.backends)
                certificate = ""
                if tls:
                    cert, key = self_signed(["127.0.0.1"])
                    certificate = f"ssl_certificate {cert}; ssl_certificate_key {key};"
                process = self.nginx(
                    f"proxy{port}",
                    PROXY.format(
                        port=port, servers=servers, tls="ssl" if tls else "", certificate=certificate
                    ),
                )
            case "haproxy":
                if shutil.which("haproxy") is None:
                    return None
                servers = "\n  ".join(f"server s{b} 127.0.0.1:{b}" for b in self.backends)
                file = self.home / f"haproxy{port}.cfg"
                file.write_text(HAPROXY.format(port=port, servers=servers))
                process = self.start("haproxy", "-db", "-f", str(file))
            case "replicated serve":
                flags = [flag for url in urls for flag in ("--upstream", url)]
                flags += ["--probe", "/", "--strategy", "power-of-two", "--listen", f"127.0.0.1:{port}"]
                flags += ["--tls-self-signed"] if tls else []
                process = self.start(sys.executable, "-m", "replicated", "serve", *flags)
            case "ReverseProxy, uvicorn":
                process = self.start(*program, REVERSE, str(port), *urls)
            case _:
                if importlib.util.find_spec("asgiproxy") is None:
                    return None
                process = self.start(*program, ASGIPROXY, str(port), urls[0])
        answering(port)
        time.sleep(0.5)  # probes, and what a process does first
        return Proxy(port, process)

    def close(self) -> None:
        for process in reversed(self.running):
            process.send_signal(signal.SIGINT if process.poll() is None else 0)
        for process in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
            process.kill()
            process.wait()


def answering(port: int) -> None:
    """Wait until somebody listens."""
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nobody listens on {port}")


def wrk(proxy: Proxy, connections: int, seconds: float, path: str = "/", *extra: str) -> dict[str, float]:
    """Ask for some time; return requests a second, p99 and microseconds of processor time a request."""
    before = proxy.seconds()
    tls = "https" if "--tls" in extra else "http"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "--timeout", "10"]
    command += [*(part for part in extra if part != "--tls"), f"{tls}://127.0.0.1:{proxy.port}{path}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    requests = int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])  # type: ignore[index]
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", said).groups()  # type: ignore[union-attr]
    if "Non-2xx" in said:
        raise RuntimeError(said)
    p99 = float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]
    return {"rate": rate, "p99": p99, "cpu": (proxy.seconds() - before) / max(1, requests) * 1e6}


def compare(
    title: str, proxies: dict[str, Proxy], rounds: int, ask: tuple[object, ...]
) -> tuple[str, dict[str, dict[str, float]]]:
    """Return a table of the medians, with the ratios to nginx in the same round."""
    taken: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(rounds):
        for name, proxy in proxies.items():
            taken[name].append(wrk(proxy, *ask))  # type: ignore[arg-type]
    rows = [f"### {title}", "", "| | requests/s | of nginx's | p99, ms | of nginx's | CPU, us | of nginx's |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|")
    figures: dict[str, dict[str, float]] = {}
    for name, results in taken.items():
        row = []
        for key in ("rate", "p99", "cpu"):
            value = statistics.median(result[key] for result in results)
            floors = zip(results, taken["nginx"], strict=True)
            ratio = statistics.median(own[key] / floor[key] for own, floor in floors if floor[key])
            row += [f"{value:,.0f}" if key == "rate" else f"{value:.1f}", f"{ratio:.2f}"]
            figures.setdefault(name, {}).update({key: value, f"{key}_ratio": ratio})
        rows.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join([*rows, ""]), figures


def memory(bench: Bench, streams: int = 1000) -> tuple[str, dict[str, float]]:
    """What 1,000 concurrent streams cost in memory, each with a client that reads what comes."""
    source = free_port()
    bench.start(sys.executable, "-c", STREAM, str(source))
    answering(source)
    port = free_port()
    process = bench.start(
        *(sys.executable, "-m", "replicated", "serve", "--listen", f"127.0.0.1:{port}"),
        *("--upstream", f"http://127.0.0.1:{source}"),
    )
    answering(port)

    def resident() -> float:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0

    async def one() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"tick")
        return writer

    async def main() -> tuple[float, float]:
        writers = [await one()]
        before = resident()
        for _ in range(streams // 50):
            writers += await asyncio.gather(*(one() for _ in range(50)))
        after = resident()
        for writer in writers:
            writer.close()
        return before, after

    before, after = asyncio.run(main())
    each = (after - before) * 1024 / streams
    sizes = f"{before:.0f} MiB before, {after:.0f} MiB with them, {each:.0f} KiB each"
    text = f"### Memory\n\n{streams} streams at once: {sizes}\n"
    return text, {"before": before, "after": after, "each_kib": each}


@contextlib.contextmanager
def benches() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(Path(home))
        try:
            yield bench
        finally:
            bench.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", default="small,large,tls,memory")
    options, rest = parser.parse_known_args()
    only, rounds, seconds = options.only.split(","), options.rounds, options.seconds
    texts, figures = [], {}
    with benches() as bench:
        if {"small", "large"} & set(only):
            proxies = {name: proxy for name in PEERS if (proxy := bench.proxy(name)) is not None}
        if "small" in only:
            for connections in (16, 64):
                title = f"{connections} connections"
                text, figures[title] = compare(title, proxies, rounds, (connections, seconds))
                texts.append(text)
        if "large" in only:
            large = {name: proxies[name] for name in ("nginx", "replicated serve", "ReverseProxy, uvicorn")}
            upload = ("-s", str(bench.home / "upload.lua"))
            for title, ask in (
                ("10 MiB down, 4 connections", (4, seconds, "/large")),
                ("10 MiB up, 4 connections", (4, seconds, "/upload", *upload)),
            ):
                text, figures[title] = compare(title, large, rounds, ask)
                texts.append(text)
        if "tls" in only:
            names = ("nginx", "replicated serve")
            with_tls = {name: proxy for name in names if (proxy := bench.proxy(name, tls=True)) is not None}
            title = "TLS, 16 connections"
            text, figures[title] = compare(title, with_tls, rounds, (16, seconds, "/", "--tls"))
            texts.append(text)
        if "memory" in only:
            text, figures["memory"] = memory(bench)
            texts.append(text)
    emit("http", "\n".join(texts), figures, rest)


if __name__ == "__main__":
    main()
