"""One alarm for all who wait equally long: whoever is late is cancelled, and told from one who was cancelled.

``asyncio.timeout`` makes a timer for each wait and takes it back: a fifth of what a question to a server next
door costs. Where every wait may last as long, who began first is late first, so that one
timer does, set to the first. What is waited for is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["Deadlines"]

T = TypeVar("T")


class Deadlines:
    """Ends waits that last longer than ``seconds``; for one event loop after another.

    Args:
        seconds: How long each may last.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due: dict[asyncio.Task[object], float] = {}  # in the order of the deadlines
        self._late: set[asyncio.Task[object]] = set()
        self._alarm: asyncio.TimerHandle | None = None

    async def wait(self, awaited: Awaitable[T]) -> T:
        """Return what ``awaited`` does.

        Raises:
            TimeoutError: It took too long, and has been cancelled.
            asyncio.CancelledError: The caller was cancelled, whatever ``awaited`` has raised then.
        """
        task = asyncio.current_task()
        assert task is not None
        cancels = task.cancelling()
        self._begin(task)
        try:
            answer = await awaited
        except BaseException as error:
            late = self._ended(task)
            if task.cancelling() > cancels:
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise asyncio.CancelledError from error  # redis-py 8 under Python 3.11 has lost one
            if late:
                raise TimeoutError(f"no answer within {self.seconds} seconds") from error
            raise
        self._ended(task)
        return answer

    def _begin(self, task: asyncio.Task[object]) -> None:
        loop = task.get_loop()
        if loop is not self._loop:
            self._loop, self._alarm = loop, None
            self._due.clear()
        self._due[task] = due = loop.time() + self.seconds
        if self._alarm is None:
            self._alarm = loop.call_at(due, self._ring)

    def _ended(self, task: asyncio.Task[object]) -> bool:
        """Return whether the task was cancelled from here; if so that counts no longer."""
        self._due.pop(task, None)
        if task not in self._late:
            return False
        self._late.remove(task)
        task.uncancel()
        return True

    def _ring(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        self._alarm = None
        for task, due in list(self._due.items()):
            if due > now:
                self._alarm = self._loop.call_at(due, self._ring)
                break
            del self._due[task]
            self._late.add(task)
            task.cancel()
