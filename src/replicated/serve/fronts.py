"""Runs fronts on sockets in a process of their own, and stops them so that nothing is lost.

What the fronts answer, and what runs beside them, is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..adapters.engine.event_loop import loop_factory
from ..adapters.front.front import Front
from .stopping import StopSequence

__all__ = ["bind", "run_fronts"]

BACKLOG = 2048
GRACE = 30.0
"""Seconds that requests in flight may take to end, as a pod's terminationGracePeriodSeconds."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket on ``host`` and ``port``; port 0 takes any that is free.

    Raises:
        OSError: The address is in use, or not of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # from now on a second process is told that the address is in use
    except BaseException:
        listener.close()
        raise
    return listener


def run_fronts(
    fronts: Sequence[tuple[Front, socket.socket]],
    *,
    beside: AbstractAsyncContextManager[object] | None = None,
    on_start: Callable[[], None] | None = None,
    on_drain: Callable[[], None] | None = None,
    drain_delay: float = 0.0,
    grace: float = GRACE,
    last: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    Args:
        fronts: Each with a socket that listens. One that has two sockets comes twice.
        beside: Entered before the first request, and left after the last.
        on_start: Called when requests are answered, and signals heard.
        on_drain: Called at the signal, to turn readiness off.
        drain_delay: Seconds from SIGTERM until the listeners close. A second signal ends the wait, and the
            waiting for what is in flight.
        grace: Seconds that what is in flight may take after that.
        last: The process ends with this, so that signals after it are ignored.
    """
    raise_descriptor_limit()
    running = Running(fronts, on_drain, grace)
    stop = StopSequence(drain_delay, drain=running.drain, leave=running.leave, hurry=running.hurry)

    async def serve() -> None:
        async with beside or contextlib.nullcontext():
            for front, listener in fronts:
                front.start(listener)
            stop.begin()
            if on_start is not None:
                on_start()
            await running.over()

    with stop.heard(last=last), asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(serve())
        finally:
            for _, listener in fronts:
                listener.close()
    return 0


class Running:
    """Some fronts, and how far their stop has come."""

    def __init__(
        self,
        fronts: Sequence[tuple[Front, socket.socket]],
        on_drain: Callable[[], None] | None,
        grace: float,
    ) -> None:
        self.fronts = list(dict.fromkeys(front for front, _ in fronts))
        self.on_drain = on_drain
        self.grace = grace
        self.left = asyncio.Event()
        self.hurried = asyncio.Event()

    def drain(self) -> None:
        """Turn readiness off, and have connections closed one by one."""
        if self.on_drain is not None:
            self.on_drain()
        for front in self.fronts:
            front.drain()

    def leave(self) -> None:
        """Close the listeners."""
        self.left.set()

    def hurry(self) -> None:
        """Wait for nobody."""
        self.left.set()
        self.hurried.set()

    async def over(self) -> None:
        """Wait for the stop, and for its end."""
        await self.left.wait()
        ends = [asyncio.ensure_future(front.stop(self.grace)) for front in self.fronts]
        everybody = asyncio.ensure_future(asyncio.wait(ends))
        hurried = asyncio.ensure_future(self.hurried.wait())
        await asyncio.wait((everybody, hurried), return_when=asyncio.FIRST_COMPLETED)
        tasks: list[asyncio.Future[Any]] = [*ends, everybody, hurried]
        for task in tasks:
            task.cancel()  # a front that is stopping cuts what is still open
        await asyncio.gather(*tasks, return_exceptions=True)


def raise_descriptor_limit() -> None:
    """Take as many file descriptors as there are: a proxy needs two a connection, and a shell gives 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
