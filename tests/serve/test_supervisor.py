"""Real processes: started, stopped in time, and gone when their supervisor is, however it went."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from replicated.serve import lifeline
from replicated.serve import supervisor as module_under_test
from replicated.serve.supervisor import LIFELINE, Child, Supervisor, hold_lifeline

PROGRAMS = {
    # Serves until it is asked to end.
    "polite": """
        import signal, sys
        from holding import hold_lifeline
        hold_lifeline()
        def end(*_):
            print("bye"); sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("hello", *sys.argv[1:])
        while True: signal.pause()
        """,
    # Has to be made to.
    "deaf": """
        import signal
        from holding import hold_lifeline
        hold_lifeline()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("hello")
        while True: signal.pause()
        """,
    # Says something and ends.
    "brief": """
        import os, sys
        print(sys.argv[1].replace(",", "\\n"), end="")
        print(os.environ.get("EXTRA", ""), file=sys.stderr, end="")
        sys.exit(3)
        """,
    # Leaves a process behind that keeps its output open.
    "parent": """
        import os, subprocess, sys
        held = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        os.set_inheritable(held.stdin.fileno(), True)
        subprocess.Popen(["sleep", "3"], close_fds=False)
        print("hello", flush=True)
        os._exit(0)
        """,
    # A supervisor, with two children, for somebody to kill.
    "nested": """
        import asyncio, signal, sys
        from replicated.serve.supervisor import Supervisor
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
        async def main():
            async with Supervisor(grace=5) as supervisor:
                for name in ("polite", "deaf"):
                    child = await supervisor.start(name, name)
                    while "hello" not in child.output:
                        await asyncio.sleep(0.01)
                print(*(child.pid for child in supervisor.children.values()), flush=True)
                await supervisor.wait_all()
        asyncio.run(main())
        """,
}


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that children run, on a path that they inherit."""
    # The child's side alone: importing the whole package is most of what such a short process would do.
    (tmp_path / "holding.py").write_text(Path(lifeline.__file__).read_text())
    for name, text in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    root = Path(module_under_test.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root)]))


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(bounded())


async def said(child: Child, words: str) -> None:
    while words not in child.output:
        assert child.returncode is None, list(child.output)
        await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def gone(*pids: int) -> None:
    while any(map(is_running, pids)):
        await asyncio.sleep(0.01)


def test_a_child_starts_ends_and_starts_again() -> None:
    """Terminate asks, restart runs the same command in another process, and output goes on."""

    async def main() -> None:
        async with Supervisor() as supervisor:
            child = await supervisor.start("one", "polite", "a", "b")
            await said(child, "hello a b")
            assert supervisor["one"] is child
            assert repr(child) == f"<Child 'one' {child.pid} running>"
            assert os.getsid(child.pid) == child.pid
            again = await supervisor.restart("one")
            assert child.returncode == 0
            assert repr(child).endswith("ended with 0>")
            assert again.pid != child.pid
            await said(again, "hello a b")
            assert list(child.output) == ["hello a b", "bye"]
            assert list(again.output) == ["hello a b"]
            assert await supervisor.terminate("one") == 0
            assert await supervisor.terminate("one") == 0
            again.send(signal.SIGTERM)
            revived = await supervisor.restart("one")
            assert await supervisor.kill("one") == -signal.SIGKILL
            assert revived.returncode == -signal.SIGKILL

    run(main())


def test_a_child_that_ignores_sigterm_is_killed_when_its_grace_is_over() -> None:
    """Whoever does not end is made to."""

    async def main() -> None:
        async with Supervisor() as supervisor:
            await said(await supervisor.start("deaf", "deaf"), "hello")
            assert await supervisor.terminate("deaf", grace=0.1) == -signal.SIGKILL

    run(main())


@pytest.mark.parametrize("error", [None, ValueError, asyncio.CancelledError, KeyboardInterrupt])
def test_leaving_ends_every_child(error: type[BaseException] | None) -> None:
    """Whatever leads out of the block, no process is left."""
    children: list[Child] = []

    async def main() -> None:
        async with Supervisor(grace=0.2) as supervisor:
            for name in ("polite", "deaf"):
                children.append(await supervisor.start(name, name))
                await said(children[-1], "hello")
            if error is not None:
                raise error

    if error is None:
        run(main())
    else:
        with pytest.raises(error):
            run(main())
    assert [child.returncode for child in children] == [0, -signal.SIGKILL]
    assert not any(is_running(child.pid) for child in children)


def test_cancelled_while_it_waits_it_kills() -> None:
    """A second Ctrl-C does not wait for the grace period, and leaves nobody either."""

    async def main() -> None:
        pids: list[int] = []

        async def supervise() -> None:
            async with Supervisor(grace=60) as supervisor:
                child = await supervisor.start("deaf", "deaf")
                await said(child, "hello")
                pids.append(child.pid)

        task = asyncio.create_task(supervise())
        while not pids:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone(*pids)

    run(main())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_child_outlives_its_supervisor(number: signal.Signals) -> None:
    """Also a supervisor that dies by SIGKILL takes its children along, those that ignore SIGTERM too."""
    command = [sys.executable, "-m", "nested"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as nested,
        contextlib.ExitStack() as clean,
    ):
        assert nested.stdout is not None
        clean.callback(nested.kill)
        pids = [int(word) for word in nested.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
        if number == signal.SIGINT:
            os.kill(pids[1], signal.SIGKILL)  # the deaf one, or the end would take its whole grace
        nested.send_signal(number)
        nested.wait(10)
        run(gone(*pids))


def test_the_lifeline_is_for_children_and_its_other_end_for_nobody() -> None:
    """A second child does not keep the first one's lifeline open, and no descriptor stays behind."""
    before = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        async with Supervisor(grace=5) as supervisor:
            for name in ("one", "two"):
                child = await supervisor.start(name, "polite")
                await said(child, "hello")
                assert supervisor._lifeline is not None
                links = {os.readlink(f"/proc/self/fd/{fd}") for fd in supervisor._lifeline}
                held = [
                    Path(f"/proc/{child.pid}/fd/{fd}")
                    for fd in os.listdir(f"/proc/{child.pid}/fd")
                    if os.readlink(f"/proc/{child.pid}/fd/{fd}") in links
                ]
                assert len(held) == 1
                assert held[0].lstat().st_mode & 0o700 == 0o500  # open for reading

    run(main())
    assert len(os.listdir("/proc/self/fd")) == before


def test_output_is_remembered_in_lines_and_kept_in_a_log(tmp_path: Path) -> None:
    """The last lines stay, of both streams, and a log has all of them over restarts."""

    async def main() -> None:
        async with Supervisor(lines=2, logs=tmp_path / "new" / "logs") as supervisor:
            child = await supervisor.start("b", "brief", "1,2,3,", environment={"EXTRA": "more"})
            assert await child.wait() == 3
            assert list(child.output) == ["3", "more"]
            again = await supervisor.restart("b")
            await again.wait()
        assert (tmp_path / "new" / "logs" / "b.log").read_text() == "1\n2\n3\nmore" * 2

    run(main())


def test_a_line_without_end_does_not_grow() -> None:
    """Of a very long line its beginning is remembered."""

    async def main() -> None:
        async with Supervisor() as supervisor:
            child = await supervisor.start("b", "brief", "x" * 100_000 + ",y")
            await child.wait()
            assert [len(line) for line in child.output] == [8192, 1]
            child = await supervisor.start("b", "brief", "x" * 100_000)
            await child.wait()
            assert len(child.output[-1]) == 8192

    run(main())


def test_all_are_waited_for_and_stopped_together() -> None:
    """The exit statuses come by name."""

    async def main() -> None:
        async with Supervisor() as supervisor:
            await supervisor.start("a", "brief", "a")
            await supervisor.start("b", "brief", "b")
            assert await supervisor.wait_all() == {"a": 3, "b": 3}
            await said(await supervisor.start("c", "polite"), "hello")
            assert list(supervisor.children) == ["a", "b", "c"]
            assert await supervisor.stop() == {"c": 0, "b": 3, "a": 3}

    run(main())


def test_a_grandchild_that_holds_the_output_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child has ended when it has, even while its output is held open by what it left behind."""
    monkeypatch.setattr(module_under_test, "_LAST_WORDS", 0.05)

    async def main() -> None:
        async with Supervisor() as supervisor:
            child = await supervisor.start("p", "parent")
            async with asyncio.timeout(2.5):
                assert await child.wait() == 0
            assert list(child.output) == ["hello"]

    run(main())


def test_a_name_that_two_tasks_start_is_started_once() -> None:
    """The second of two starts at the same time is refused, so nobody runs without a name."""

    async def main() -> None:
        async with Supervisor(grace=5) as supervisor:
            starts = (supervisor.start("a", "polite") for _ in range(2))
            first, second = await asyncio.gather(*starts, return_exceptions=True)
            assert isinstance(first, Child)
            assert isinstance(second, ValueError)
            await said(first, "hello")

    run(main())


def test_what_starts_while_the_supervisor_is_closed_ends_too() -> None:
    """A task that is starting a child when the block is left does not leave that child behind."""

    async def main() -> None:
        async with Supervisor(grace=5) as supervisor:
            late = asyncio.create_task(supervisor.start("late", "polite"))
            while supervisor._starting.locked() is False:
                await asyncio.sleep(0)
        with pytest.raises((RuntimeError, OSError)):
            await late
        assert not any(is_running(child.pid) for child in supervisor.children.values())

    run(main())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_full_disk_does_not_stop_a_child(tmp_path: Path) -> None:
    """Where a log cannot be written the output is still read."""
    (tmp_path / "b.log").symlink_to("/dev/full")

    async def main() -> None:
        async with Supervisor(logs=tmp_path) as supervisor:
            child = await supervisor.start("b", "brief", "x" * 100_000 + ",end")
            assert await child.wait() == 3
            assert child.output[-1] == "end"

    run(main())


def test_misuse_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that runs, no name, a name that is a path, and a supervisor that is not entered."""

    async def main() -> None:
        supervisor = Supervisor(logs=tmp_path)
        with pytest.raises(RuntimeError, match="async with"):
            await supervisor.start("a", "polite")
        async with supervisor:
            await supervisor.start("a", "polite")
            with pytest.raises(ValueError, match="running child, not 'a'"):
                await supervisor.start("a", "polite")
            for name in ("", "..", "../a", "a/b"):
                with pytest.raises(ValueError, match="name of a file"):
                    await supervisor.start(name, "polite")
            for call in (supervisor.terminate, supervisor.kill, supervisor.restart):
                with pytest.raises(KeyError):
                    await call("unknown")
            monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
            with pytest.raises(FileNotFoundError):
                await supervisor.start("b", "polite")
        with pytest.raises(RuntimeError, match="async with"):
            await supervisor.start("a", "polite")

    run(main())


@pytest.mark.parametrize(
    "options", [{"grace": -1}, {"grace": float("nan")}, {"grace": float("inf")}, {"lines": 0}]
)
def test_impossible_limits_are_refused(options: dict[str, Any]) -> None:
    """The message names the argument and the value."""
    [(name, value)] = options.items()
    with pytest.raises(ValueError, match=f"{name} must be .*, not {value}"):
        Supervisor(**options)


@pytest.mark.parametrize("number", ["", "x", "-1", "٣", "1000000"])
def test_without_a_lifeline_a_process_lives_on_its_own(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the variable but the number of an open pipe is a lifeline, and it is taken out."""
    monkeypatch.setenv(LIFELINE, number)
    assert not hold_lifeline()
    assert LIFELINE not in os.environ


def test_another_file_under_the_number_is_no_lifeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor that was reused for a file is left alone."""
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setenv(LIFELINE, str(file.fileno()))
        assert not hold_lifeline()


def test_the_end_of_the_lifeline_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is ignored; the end of file is the end."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    monkeypatch.setenv(LIFELINE, str(reading))
    before = set(threading.enumerate())
    assert hold_lifeline()
    [thread] = set(threading.enumerate()) - before
    assert thread.daemon
    assert not os.get_inheritable(reading)
    os.write(writing, b"x")
    assert ended == []
    os.close(writing)
    thread.join(5)
    assert ended == [1]
    os.close(reading)
