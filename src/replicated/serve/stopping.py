"""When a server stops: signals in, the steps of a stop out, in order and each once.

The order of a graceful stop: readiness turns false while requests go on being served, the balancer in front
notices, the listener closes, what is in flight ends. A second signal skips what is left of it. What each step
does is the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["StopSequence"]


class StopSequence:
    """Hears SIGTERM and SIGINT, and carries out a stop.

    Args:
        delay: Seconds from SIGTERM until ``leave``: as long as the balancer in front needs to notice.
        drain: Turns readiness off.
        leave: Closes the listener, and waits for what is in flight.
        hurry: Ends what is still waited for.
    """

    def __init__(
        self,
        delay: float,
        *,
        drain: Callable[[], None],
        leave: Callable[[], None],
        hurry: Callable[[], None],
    ) -> None:
        self.delay = delay
        self.drain = drain
        self.leave = leave
        self.hurry = hurry
        self.loop: asyncio.AbstractEventLoop | None = None
        self.early: list[int] = []
        self.stopping = False

    @contextlib.contextmanager
    def heard(self, *, last: bool = False) -> Iterator[None]:
        """Hear signals from here on; they are kept until ``begin``. In the main thread only.

        Args:
            last: The process ends with this: a signal that comes after it asks for what happens anyway, and
                is not to spoil the exit status.
        """
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if last else handler)

    def begin(self) -> None:
        """Act on signals in the running loop, first on those that came while nobody was there to."""
        self.loop = asyncio.get_running_loop()
        for number in self.early:
            self.handle(number, None)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Begin the stop; a second signal hastens it."""
        if self.loop is None:
            self.early.append(number)
        elif not self.loop.is_closed():
            # Ctrl-C comes from a person in front of whom no balancer has to notice anything.
            delay = self.delay if number == signal.SIGTERM else 0.0
            self.loop.call_soon_threadsafe(self.stop, delay)

    def stop(self, delay: float) -> None:
        """Stop in order, or what is left of it at once."""
        if self.stopping:
            self.hurry()
            return
        self.stopping = True
        self.drain()
        asyncio.get_running_loop().call_later(delay, self.leave)
