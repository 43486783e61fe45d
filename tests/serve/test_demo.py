"""`replicated demo`: it proves what it says, fails when a fact does not hold, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from replicated.serve.certificates import self_signed
from replicated.serve.demo import run, steps, topology
from replicated.serve.demo.steps import Fact, Stage
from replicated.serve.demo.topology import Topology, free_ports
from replicated.serve.demo.visitors import Answer, Load, Visitor
from replicated.serve.supervisor import Supervisor


def processes_of(parent: int) -> set[int]:
    """Return the processes that ``parent`` started and that still run."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.add(int(status.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_every_fact_holds() -> None:
    """The whole demo: seven facts, each measured, each holding, and the status is 0."""
    done = subprocess.run(
        [sys.executable, "-m", "replicated", "demo"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" holds: ") == 7
    assert "FAILS" not in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc who runs")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(number: int) -> None:
    """Ctrl-C and even SIGKILL of the demo take every process down with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "replicated", "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 60
        while len(children := processes_of(process.pid)) < 6:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        while any(alive(pid) for pid in children):
            assert time.monotonic() < deadline + 30
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


async def crooked(stage: Stage) -> Fact:
    """Find that something is not so."""
    return Fact("water flows uphill", "it does not", False)


async def broken(stage: Stage) -> Fact:
    """Break."""
    raise OSError("no network")


def test_a_fact_that_does_not_hold_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A false fact, and a step that cannot be carried out, print as failures and end with status 1."""
    monkeypatch.setattr(run, "STEPS", (crooked, broken))
    monkeypatch.setattr(Topology, "start", nothing)
    printed = io.StringIO()
    status = asyncio.run(run.demo(Console(file=printed, width=200)))
    assert status == 1
    assert "FAILS: it does not" in printed.getvalue()
    assert "OSError: no network" in printed.getvalue()


async def nothing(self: Topology, supervisor: Supervisor) -> None:
    """Start nothing."""


def test_keep_leaves_it_running_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """With keep, the URLs are printed and it runs until it is interrupted."""
    monkeypatch.setattr(run, "STEPS", ())
    monkeypatch.setattr(Topology, "start", nothing)
    printed = io.StringIO()

    async def interrupted() -> None:
        task = asyncio.create_task(run.demo(Console(file=printed, width=200), keep=True))
        while "Ctrl-C" not in printed.getvalue():
            await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(interrupted())
    assert "edge     https://127.0.0.1:" in printed.getvalue()
    assert "app-3    http://127.0.0.1:" in printed.getvalue()


def test_ports_are_free_and_stay_so() -> None:
    """Ports are distinct, and below those that outgoing connections are given."""
    ports = free_ports("127.0.0.1", 20)
    assert len(set(ports)) == 20
    assert max(ports) < 30000
    with pytest.raises(RuntimeError, match=r"no 1 free ports on 203.0.113.1"):
        free_ports("203.0.113.1", 1)


def test_a_process_that_ends_or_hangs_is_told(tmp_path: Path) -> None:
    """Waiting for a process that ended, or does not get ready in time, is an error that says which."""
    built = Topology(*self_signed(["127.0.0.1"], tmp_path))

    async def wait(module: str, *arguments: str) -> str:
        async with Supervisor(grace=1) as supervisor:
            await supervisor.start("app-1", module, *arguments)
            with pytest.raises(RuntimeError) as error:
                await built.until_ready(supervisor, "app-1", timeout=3)
            return str(error.value)

    assert "app-1 ended with 2" in asyncio.run(wait("replicated", "serve"))
    assert "app-1 is not ready after 3 s" in asyncio.run(wait("http.server", "--bind", "127.0.0.1", "0"))


def test_a_visitor_that_gets_nothing_calls_it_a_failure() -> None:
    """A refused connection is an answer that failed, with the reason, and load collects it."""
    port = free_ports("127.0.0.1", 1)[0]

    async def ask() -> tuple[Answer, Load]:
        tls = ssl.create_default_context()
        async with Visitor(f"https://127.0.0.1:{port}", tls, 3) as visitor:
            async with Load([visitor], [("GET", "/")], pause=0) as load:
                while not load.answers:
                    await asyncio.sleep(0.01)
            with pytest.raises(httpx.ConnectError):
                async with Load([visitor], [("GET", "/")]):
                    raise httpx.ConnectError("the demo itself breaks off")
            return await visitor.ask("/x"), load

    answer, load = asyncio.run(ask())
    assert answer.failed
    assert "ConnectError" in answer.error
    assert load.failures == load.answers
    assert "(/x: ConnectError" in steps.first_of([answer])


def test_steps_that_measure_nothing_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without misses or hits, without a 429, and without a replica to reach, no fact is claimed to hold."""

    class Deaf:
        async def ask(self, path: str, method: str = "GET") -> Answer:
            return Answer(path, 200, 0.001)

    assert topology.BURST == steps.BURST
    deaf = Deaf()
    monkeypatch.setattr(Stage, "visiting", lambda self, count: Lend([deaf] * count))
    stage = Stage(None, None, None)  # type: ignore[arg-type]
    assert not asyncio.run(steps.caching(stage)).holds
    assert not asyncio.run(steps.throttling(stage)).holds
    monkeypatch.setattr(Stage, "apps", ["app-1"])
    monkeypatch.setattr(steps, "ATTEMPTS", 3)
    with pytest.raises(RuntimeError, match="no request reaches app-1"):
        asyncio.run(steps.until_balanced(stage, deaf))  # type: ignore[arg-type]


class Lend:
    """A context manager that lends what it is given."""

    def __init__(self, visitors: list[object]) -> None:
        self.visitors = visitors

    async def __aenter__(self) -> list[object]:
        return self.visitors

    async def __aexit__(self, *exc_info: object) -> None:
        pass


def test_the_environment_of_the_demo_is_the_callers() -> None:
    """The demo needs no home, no root and no variable of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "replicated", "demo", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    assert done.returncode == 0
    assert "--keep" in done.stdout
