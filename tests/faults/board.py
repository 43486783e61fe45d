"""The fault board: twelve faults, three replicas, and what clients of ``replicated serve`` notice of them.

``python board.py`` prints the table; ``--brief`` shortens each run, ``--at-once N`` runs several beside each
other, ``--json`` prints what was counted. The tier has no flag but its upstreams, and ``--probe`` where a
fault is one of readiness.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load import Load, Sample
from replica import LARGE, ROW, SMALL, Board

from replicated.serve.lifeline import LIFELINE

RATE = 150.0
REPLICA = str(Path(__file__).with_name("replica.py"))


@dataclass
class Row:
    """What came of one fault; latencies in milliseconds."""

    fault: str
    sent: int
    lost: int
    statuses: dict[int, int]
    base_p50: float
    base_p99: float
    p50: float
    p99: float
    attempts: float
    slowest_503: float = 0.0
    back_after: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it is as good as it is meant to be, latencies included."""
        good = self.lost == 0 and self.attempts <= 1.1
        if self.fault in ("stopped", "hanging"):
            good = good and self.p99 <= 5 * self.base_p99
        if self.fault == "all down":
            good = good and self.slowest_503 <= 50 and self.back_after is not None and self.back_after <= 0.5
        return good


class Site:
    """Three replicas and a tier in front of them, in processes of their own."""

    def __init__(self, directory: Path, flags: tuple[str, ...]) -> None:
        self.path = directory / "board"
        self.path.write_bytes(bytes(3 * ROW.size))
        self.log = directory / "log"
        self.board = Board(self.path)
        self.flags = flags
        self.ports = free_ports(3)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.spares: list[subprocess.Popen[bytes]] = []
        self.replicas: dict[int, subprocess.Popen[bytes]] = {}
        self.returned = 0.0  # when the first one was back, where all were gone

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start a replica that waits to be told where it is."""
        process = subprocess.Popen([sys.executable, REPLICA, str(self.path)], stdin=subprocess.PIPE)
        self.processes.append(process)
        return process

    async def start(self, number: int) -> None:
        """Let a replica begin; an interpreter's own start is not what is measured."""
        process = self.replicas[number] = self.spares.pop()
        assert process.stdin is not None
        process.stdin.write(b"%d %d\n" % (self.ports[number], number))
        process.stdin.flush()
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.ports[number])
                writer.close()
                return
            await asyncio.sleep(0.005)

    async def restart(self, number: int, how: signal.Signals) -> None:
        self.signal(number, how)
        while self.replicas[number].poll() is None:
            await asyncio.sleep(0.005)
        await self.start(number)

    def signal(self, number: int, what: signal.Signals) -> None:
        self.replicas[number].send_signal(what)

    def read(self) -> int:
        """Return how many requests the replicas have read."""
        return sum(self.board.read(number) for number in range(3))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """Run it; yields the tier's port."""
        upstreams = [f"--upstream=http://127.0.0.1:{port}" for port in self.ports]
        command = [
            sys.executable,
            "-m",
            "replicated",
            "serve",
            *upstreams,
            "--listen=127.0.0.1:0",
            *self.flags,
        ]
        ours, lifeline = os.pipe()  # whose other end closes when this process is gone, however it went
        try:
            self.spares = [self.spawn() for _ in range(6)]  # each may have to be replaced once
            for number in range(3):
                await self.start(number)
            with self.log.open("wb") as log:
                tier = subprocess.Popen(
                    command, stderr=log, pass_fds=[ours], env={**os.environ, LIFELINE: str(ours)}
                )
                self.processes.append(tier)
            while not (found := re.search(r"serves http://127\.0\.0\.1:([0-9]+).*\n", self.log.read_text())):
                if tier.poll() is not None:
                    raise RuntimeError(f"the tier did not start: {self.log.read_text()}")
                await asyncio.sleep(0.01)
            yield int(found[1])
            sys.stderr.write(self.log.read_text()[found.end() :])  # whatever it complained of
        finally:
            os.close(ours)
            os.close(lifeline)
            for process in self.processes:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(n)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in socks]


Break = Callable[[Site, float], Awaitable[None]]


def playing(fault: str, *numbers: int) -> Break:
    """Return what lets replicas play a fault for a time."""

    async def go(site: Site, seconds: float) -> None:
        for number in numbers:
            site.board.play(number, fault)
        await asyncio.sleep(seconds)
        for number in numbers:
            site.board.play(number, "none")

    return go


def killed(*numbers: int) -> Break:
    async def go(site: Site, seconds: float) -> None:
        for number in numbers:
            site.signal(number, signal.SIGKILL)
        await asyncio.sleep(seconds)
        for number in numbers:
            await site.start(number)
            site.returned = site.returned or time.monotonic()

    return go


async def stopped(site: Site, seconds: float) -> None:
    site.signal(0, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    site.signal(0, signal.SIGCONT)


def rolling(how: signal.Signals) -> Break:
    async def go(site: Site, seconds: float) -> None:
        for number in range(3):
            turn = asyncio.create_task(asyncio.sleep(seconds / 3))
            await site.restart(number, how)
            await turn

    return go


PROBED = ("--probe=/readyz", "--probe-period=0.25")
FAULTS: dict[str, tuple[Break, str, tuple[str, ...]]] = {
    "killed idle": (killed(0), "/small", ()),
    "killed mid-body": (killed(0), "/large", ()),
    "stopped": (stopped, "/small", ()),
    "ten times slower": (playing("slow", 0), "/small", ()),
    "hanging": (playing("hang", 0), "/small", ()),
    "resetting": (playing("reset", 0), "/small", ()),
    "half 503": (playing("busy", 0), "/small", ()),
    "readiness flapping": (playing("flapping", 0), "/small", PROBED),
    "all probes failing": (playing("unready", 0, 1, 2), "/small", PROBED),
    "all down": (killed(0, 1, 2), "/small", ()),
    "rolling SIGTERM": (rolling(signal.SIGTERM), "/small", ()),
    "rolling SIGKILL": (rolling(signal.SIGKILL), "/small", ()),
}


async def run(fault: str, total: float, lasting: float) -> Row:
    """Run one fault in the middle of a load."""
    breaks, path, flags = FAULTS[fault]
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory), flags)
        async with site.running() as port:
            load = Load(port, path, len(LARGE if path == "/large" else SMALL), rate=RATE)
            await ready(load)
            before = site.read()
            sending = asyncio.create_task(load.run(total))
            begin = time.monotonic()
            await asyncio.sleep((total - lasting) / 2)
            broken = time.monotonic()
            await breaks(site, lasting)
            mended = time.monotonic()
            await sending
            attempts = (site.read() - before) / len(load.samples)
    # The first moments, in which everything is cold, are not what the others are compared with.
    base = [s for s in load.samples if begin + (broken - begin) / 4 <= s.due < broken - 0.1]
    during = [s for s in load.samples if broken <= s.due < mended]
    counts = {status: [s.status for s in load.samples].count(status) for status in (200, 502, 503, 504, 0)}
    row = Row(
        fault, len(load.samples), len(load.samples) - counts[200], {k: n for k, n in counts.items() if n},
        quantile(base, 0.5), quantile(base, 0.99), quantile(during, 0.5), quantile(during, 0.99),
        round(attempts, 3),
    )  # fmt: skip
    if fault == "all down":
        judge_return(row, load.samples, broken, site.returned)
    return row


def judge_return(row: Row, samples: list[Sample], broken: float, returned: float) -> None:
    """Where nobody is left, nothing is lost by an honest 503, said at once, until somebody is back."""
    refused = [s for s in samples if s.status == 503]
    row.slowest_503 = max((s.latency * 1000 for s in refused), default=0.0)
    good = [s.due + s.latency - returned for s in samples if s.status == 200 and s.due + s.latency > returned]
    row.back_after = round(min(good), 3) if good else None
    row.lost = sum(1 for s in samples if s.status != 200 and (s.status != 503 or s.due > returned + 0.5))


async def ready(load: Load) -> None:
    """Wait until the tier answers, which with probes takes a moment."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if await load.exchange() == 200:
                    return
            await asyncio.sleep(0.05)


def quantile(samples: list[Sample], q: float) -> float:
    """Return a quantile of latencies, in milliseconds."""
    ordered = sorted(s.latency * 1000 for s in samples)
    return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 1) if ordered else 0.0


async def main(faults: list[str], total: float, lasting: float, at_once: int) -> list[Row]:
    slots = asyncio.Semaphore(at_once)

    async def one(fault: str) -> Row:
        async with slots:
            return await run(fault, total, lasting)

    return await asyncio.gather(*(one(fault) for fault in faults))


def table(rows: list[Row]) -> str:
    lines = [f"{'fault':20}{'sent':>6}{'lost':>6}{'p50':>14}{'p99':>16}{'attempts':>10}  answers"]
    for r in rows:
        more = "" if r.fault != "all down" else f" 503 <= {r.slowest_503:.0f} ms, back in {r.back_after} s"
        lines.append(
            f"{r.fault:20}{r.sent:>6}{r.lost:>6}{f'{r.base_p50} {r.p50}':>14}{f'{r.base_p99} {r.p99}':>16}"
            f"{r.attempts:>10.3f}  {'ok' if r.ok else 'NOT'} {r.statuses}{more}"
        )
    return "\n".join(lines)


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--brief", action="store_true", help="1 of 2.5 s instead of 5 of 11")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    asked = arguments()
    length, fault_length = (2.5, 1.0) if asked.brief else (11.0, 5.0)
    rows = asyncio.run(main(asked.faults or list(FAULTS), length, fault_length, asked.at_once))
    text = json.dumps([asdict(row) for row in rows]) if asked.json else table(rows)
    sys.stdout.write(text + "\n")
