"""Child processes by name: started, watched, stopped in time, and never left behind.

It decides how a process ends: first asked, then after a grace period made to; with its supervisor, whatever
ends that. Every child holds the reading end of a pipe, its lifeline, whose only writing end is the
supervisor's: the kernel closes it even when the supervisor dies by SIGKILL, the child reads the end of file
and goes too. What the children do, and whether they are ready, is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from .lifeline import LIFELINE, hold_lifeline

__all__ = ["LIFELINE", "Child", "Supervisor", "hold_lifeline"]

_CHUNK = 65536
_LONGEST_LINE = 8192
# How long after a child's end its output is waited for, in seconds: all of it is in the pipe by then, unless
# a grandchild holds the pipe open.
_LAST_WORDS = 0.5


class Child:
    """One running or finished process. `Supervisor.start` makes them.

    Attributes:
        name: What the supervisor calls it.
        command: The program and its arguments.
        environment: The variables that it has and the supervisor has not, or has otherwise.
        output: The last lines it wrote to standard output and standard error, without their ends.
    """

    def __init__(
        self,
        name: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        process: asyncio.subprocess.Process,
        stream: asyncio.StreamReader,
        pipe: asyncio.ReadTransport,
        lines: int,
        log: IO[bytes] | None,
        on_line: Callable[[str, str], object] | None,
    ) -> None:
        self.name = name
        self.command = command
        self.environment = dict(environment)
        self.output: deque[str] = deque(maxlen=lines)
        self._process = process
        self._stream = stream
        self._pipe = pipe
        self._log = log
        self._on_line = on_line
        self._reader = asyncio.create_task(self._read(), name=f"output of {name}")

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"ended with {self.returncode}"
        return f"<Child {self.name!r} {self.pid} {state}>"

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, the negative number of the signal that ended it, or None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end, and for the last of the output; return the exit status."""
        status = await self._process.wait()
        await asyncio.wait([self._reader], timeout=_LAST_WORDS)
        return status

    def send(self, number: int) -> None:
        """Send a signal; a process that is gone does not mind."""
        if self.returncode is None:
            # It may have ended without the event loop having heard of it. Not asyncio's own send_signal: that
            # polls, which takes the status away from asyncio's watcher, and then it makes up 255.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self, grace: float, number: int = signal.SIGTERM) -> int:
        """Send SIGTERM or another signal, after ``grace`` seconds SIGKILL; return the exit status.

        Cancelled, it kills at once.
        """
        self.send(number)
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()
        return await self.wait()

    async def _read(self) -> None:
        rest = b""
        while chunk := await self._stream.read(_CHUNK):
            if self._log is not None:
                # A full disk must not stop the reading: the child would hang on a full pipe.
                with contextlib.suppress(OSError):
                    self._log.write(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(line[:_LONGEST_LINE])
            rest = rest[:_LONGEST_LINE]
        if rest:
            self._take(rest)

    def _take(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        self.output.append(text)
        if self._on_line is not None:
            self._on_line(self.name, text)

    def kill(self) -> None:
        """Send SIGKILL, to the processes that it started as well: it leads a group of its own."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _abandon(self) -> None:
        """Stop listening: nobody reads any more what a grandchild may still write."""
        self._reader.cancel()
        self._pipe.close()
        if self._log is not None:
            self._log.close()


class Supervisor:
    """The processes of one service, all of which end with it.

    Use it as an asynchronous context manager in the one event loop that it belongs to::

        async with Supervisor() as supervisor:
            child = await supervisor.start("app-1", "replicated.serve.pydocs", "--id", "app-1")
            await supervisor.terminate("app-1")

    On the way out, by whatever exception, every process is asked to end, the latest started first, and after
    ``grace`` seconds made to. Children get a session of their own, so that a Ctrl-C in the terminal
    reaches the supervisor alone and the order is its own. A child that starts processes itself has to see
    to them, unless it is made to end: then they are as well.

    Args:
        grace: Seconds between SIGTERM and SIGKILL, unless a call says otherwise.
        lines: How many lines of output are remembered of each child.
        logs: A directory for whole logs, one file a name, appended to; made where it is missing.
        on_line: Told a child's name and each line that it writes.
        directory: Where children run; by default where the supervisor does.

    Raises:
        ValueError: ``grace`` is negative or not finite, or ``lines`` is not positive.
    """

    def __init__(
        self,
        *,
        grace: float = 10.0,
        lines: int = 200,
        logs: Path | None = None,
        on_line: Callable[[str, str], object] | None = None,
        directory: Path | None = None,
    ) -> None:
        if not 0 <= grace < math.inf:
            raise ValueError(f"grace must be seconds, finite and not negative, not {grace!r}")
        if lines < 1:
            raise ValueError(f"lines must be positive, not {lines!r}")
        self._grace = grace
        self._lines = lines
        self._logs = logs
        self._on_line = on_line
        self._directory = directory
        self._children: dict[str, Child] = {}
        self._lifeline: tuple[int, int] | None = None
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        # Neither end is inheritable (PEP 446): the reading end goes to children by name, the other to nobody.
        self._lifeline = os.pipe()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # At once, so that nothing starts from here on; what is starting right now sees it afterwards.
        lifeline, self._lifeline = self._lifeline, None
        assert lifeline is not None
        try:
            await self.stop()
        finally:
            # Cancelled while stopping, some have not been killed yet.
            for child in self._children.values():
                child.kill()
            try:
                await asyncio.gather(*(child.wait() for child in self._children.values()))
            finally:
                for child in self._children.values():
                    child._abandon()
                for end in lifeline:
                    os.close(end)

    @property
    def children(self) -> Mapping[str, Child]:
        """The children by name, in the order in which they were started; the finished ones, too."""
        return self._children.copy()

    def __getitem__(self, name: str) -> Child:
        return self._children[name]

    async def start(
        self, name: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> Child:
        """Start `python -m module arguments` under a name that no running child has.

        Args:
            name: What to call it; also the name of its log.
            module: The module to run, with this interpreter.
            arguments: Its arguments.
            environment: Variables to add to the supervisor's own.

        Raises:
            RuntimeError: The supervisor is not entered, or is closed.
            ValueError: A child of that name is running, or the name cannot be that of a file.
            OSError: The process or its log cannot be created.
        """
        return await self.run(name, sys.executable, "-m", module, *arguments, environment=environment)

    async def run(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> Child:
        """Start a command under a name that no running child has; what goes for ``start`` goes for this.

        A program that does not hold its lifeline is put on a leash: `replicated.serve.leash`.
        """
        async with self._starting:
            return await self._start(name, command, environment or {})

    async def _start(self, name: str, command: tuple[str, ...], environment: Mapping[str, str]) -> Child:
        lifeline = self._lifeline
        if lifeline is None:
            raise RuntimeError("a supervisor starts processes only inside its `async with`")
        if not name or name != os.path.basename(name) or name in {".", ".."}:
            raise ValueError(f"name must be usable as the name of a file, not {name!r}")
        before = self._children.get(name)
        if before is not None and before.returncode is None:
            raise ValueError(f"name must not be that of a running child, not {name!r}")
        log = self._log(name)
        # A pipe of our own, since with asyncio's the end of a process is not told before its output is
        # closed, and a grandchild may hold that open (CPython 3.11).
        reading, writing = os.pipe()
        stream = asyncio.StreamReader()
        source = os.fdopen(reading, "rb", 0)
        pipe: asyncio.ReadTransport | None = None
        try:
            pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(stream), source
            )
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                cwd=self._directory,
                start_new_session=True,
                pass_fds=(lifeline[0],),
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment, LIFELINE: str(lifeline[0])},
            )
        except BaseException:
            (pipe or source).close()
            if log is not None:
                log.close()
            raise
        finally:
            os.close(writing)
        if before is not None:
            before._abandon()
            del self._children[name]  # it goes to the end of the order
        child = Child(name, command, environment, process, stream, pipe, self._lines, log, self._on_line)
        self._children[name] = child
        if self._lifeline is not lifeline:
            child.kill()
            await child.wait()
            child._abandon()
            raise RuntimeError(f"the supervisor was closed while {name!r} started")
        return child

    def _log(self, name: str) -> IO[bytes] | None:
        if self._logs is None:
            return None
        self._logs.mkdir(parents=True, exist_ok=True)
        return open(self._logs / f"{name}.log", "ab", buffering=0)

    async def terminate(self, name: str, grace: float | None = None) -> int:
        """Ask a child to end, make it after ``grace`` seconds, and return its exit status.

        Raises:
            KeyError: There is no child of that name.
        """
        return await self._children[name].stop(self._grace if grace is None else grace)

    async def kill(self, name: str) -> int:
        """End a child at once with SIGKILL, and return its exit status once it is gone.

        Raises:
            KeyError: There is no child of that name.
        """
        child = self._children[name]
        child.kill()
        return await child.wait()

    async def restart(self, name: str, grace: float | None = None) -> Child:
        """End a child as `terminate` does, unless it has ended, and start the same command again.

        Raises:
            KeyError: There is no child of that name.
        """
        child = self._children[name]
        await self.terminate(name, grace)
        async with self._starting:
            return await self._start(name, child.command, child.environment)

    async def wait_all(self) -> dict[str, int]:
        """Wait until no child runs; return the exit statuses by name."""
        children = list(self._children.values())
        statuses = await asyncio.gather(*(child.wait() for child in children))
        return {child.name: status for child, status in zip(children, statuses, strict=True)}

    async def stop(self, grace: float | None = None) -> dict[str, int]:
        """End every child as `terminate` does, all at the same time; return the exit statuses by name."""
        wait = self._grace if grace is None else grace
        children = list(reversed(self._children.values()))
        statuses = await asyncio.gather(*(child.stop(wait) for child in children))
        return {child.name: status for child, status in zip(children, statuses, strict=True)}
