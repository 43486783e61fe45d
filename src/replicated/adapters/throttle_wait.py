"""Waiting for the throttle instead of being refused, for threads and for coroutines.

It decides who waits, in which order and until when; whether a take is admitted the throttle decides. Those
who wait for one key stand in one line: the first asks and sleeps as it is told, and nobody who comes later is
served before. Who takes from the throttle directly, past the line, is not held up by it.

A throttle whose ``take`` is a coroutine is asked from within the line, by one at a time: of two questions
under way the later might be answered first.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from inspect import iscoroutinefunction
from typing import Protocol, TypeVar, cast

from ..clock import Clock, monotonic
from ..errors import MissingExtra, Refused
from ..throttle import Admits, Number, TokenBucket

try:
    import anyio
except ImportError as error:
    raise MissingExtra(__name__, "anyio") from error

__all__ = ["AsyncWaiter", "Takes", "TakesLater", "Waiter"]


class Takes(Admits, Protocol):
    """What threads can wait for: a Throttle, Limits, or what answers as they do."""

    def peek(self, key: Hashable, cost: Number = 1) -> float:
        """Return what ``take`` would, and change nothing."""
        ...


class TakesLater(Protocol):
    """What coroutines can wait for besides: a throttle that answers by coroutines, as AsyncRedisThrottle."""

    async def take(self, key: Hashable, cost: Number = 1) -> float:
        """Return the seconds to wait, 0.0 meaning taken."""
        ...

    async def refund(self, key: Hashable, cost: Number = 1) -> None:
        """Give back what was taken for one who is not there any more."""
        ...


T = TypeVar("T", bound="Admits | TakesLater")


class _Single:
    """A bucket, which knows no keys, as a throttle of which everyone has the same key."""

    def __init__(self, bucket: TokenBucket) -> None:
        self._bucket = bucket

    def take(self, key: Hashable, cost: Number = 1) -> float:
        return self._bucket.take(cost)

    def peek(self, key: Hashable, cost: Number = 1) -> float:
        return self._bucket.peek(cost)


def _checked(throttle: T | TokenBucket, max_waiting: int) -> T | _Single:
    if isinstance(max_waiting, bool) or not isinstance(max_waiting, int):
        raise TypeError(f"max_waiting must be an int, not {max_waiting!r}")
    if max_waiting < 1:
        raise ValueError(f"max_waiting must be at least 1, not {max_waiting!r}")
    return _Single(throttle) if isinstance(throttle, TokenBucket) else throttle


def _seconds(timeout: float | None) -> float:
    if timeout is None:
        return math.inf
    if not timeout >= 0:
        raise ValueError(f"timeout must be seconds and not negative, not {timeout!r}")
    return timeout


class Waiter:
    """Lets threads wait for a throttle.

    Args:
        throttle: A Throttle, Limits or TokenBucket.
        max_waiting: Threads that may wait for one key; who comes when there are as many is refused.
        clock: Seconds, for timeouts.
        sleep: Called with an event and seconds; returns when either the event is set or they are over.

    Raises:
        ValueError: ``max_waiting`` is below 1.
        TypeError: ``max_waiting`` is not an int.
    """

    def __init__(
        self,
        throttle: Takes | TokenBucket,
        *,
        max_waiting: int = 100,
        clock: Clock = monotonic,
        sleep: Callable[[threading.Event, float | None], object] = threading.Event.wait,
    ) -> None:
        self._throttle: Takes = _checked(throttle, max_waiting)
        self._max_waiting = max_waiting
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._lines: dict[Hashable, deque[threading.Event]] = {}
        self._closed = False

    def take(self, key: Hashable = None, cost: Number = 1, *, timeout: float | None = None) -> None:
        """Return once ``cost`` units were taken for ``key``.

        Args:
            key: Whose; leave it out for a TokenBucket.
            cost: Units.
            timeout: Seconds to wait at most; a wait that is known to be longer is not begun.

        Raises:
            Refused: The line is full, the timeout too short, or the waiter closed; nothing was taken.
            ValueError: As the throttle's ``take``, or ``timeout`` is negative.
            TypeError: As the throttle's ``take``.
        """
        deadline = self._clock() + _seconds(timeout)
        if key not in self._lines and not self._closed and not self._throttle.take(key, cost):
            return
        turn = self._join(key, cost)
        try:
            while not turn.is_set():
                left = deadline - self._clock()
                self._sleep(turn, None if left == math.inf else max(left, 0.0))
                if not turn.is_set() and self._clock() >= deadline:
                    raise Refused("the line is longer than the timeout", self._throttle.peek(key, cost))
            turn.clear()
            while not self._closed:
                wait = self._throttle.take(key, cost)
                if not wait:
                    return
                if self._clock() + wait > deadline:
                    raise Refused("the wait is longer than the timeout", wait)
                self._sleep(turn, wait)
            raise Refused("the waiter was closed", self._throttle.peek(key, cost))
        finally:
            self._leave(key, turn)

    def close(self) -> None:
        """Refuse everyone who waits, and whoever comes. Threads that sleep are woken."""
        with self._lock:
            self._closed = True
            for line in self._lines.values():
                for turn in line:
                    turn.set()

    def waiting(self, key: Hashable = None) -> int:
        """Return how many threads wait for ``key``."""
        return len(self._lines.get(key, ()))

    def _join(self, key: Hashable, cost: Number) -> threading.Event:
        turn = threading.Event()
        with self._lock:
            line = self._lines.setdefault(key, deque())
            if len(line) < self._max_waiting:
                line.append(turn)
                if line[0] is turn or self._closed:
                    turn.set()
                return turn
        raise Refused("too many wait already", self._throttle.peek(key, cost))

    def _leave(self, key: Hashable, turn: threading.Event) -> None:
        with self._lock:
            line = self._lines[key]
            first = line[0] is turn
            line.remove(turn)
            if not line:
                del self._lines[key]
            elif first:
                line[0].set()


class _Line:
    """Coroutines that wait for one key: the lock, which is fair, is the head of the line."""

    __slots__ = ("due", "head", "length")

    def __init__(self, due: float) -> None:
        self.head = anyio.Lock()
        self.length = 0
        self.due = due  # when the first asks again


class AsyncWaiter:
    """Lets coroutines of one event loop wait for a throttle, under asyncio or trio; each may be cancelled.

    Who is cancelled has taken nothing, and the next in line moves up. A question to a throttle far away that
    is under way when its asker is cancelled or has waited too long runs to its end first: what it has
    taken is given back, which nobody could do who did not know the answer. So a cancellation may take
    as long as a take and a refund may, which that throttle's own deadline bounds.

    Args:
        throttle: A Throttle, Limits or TokenBucket; or one whose ``take`` and ``refund`` are coroutine
            functions, as those of AsyncRedisThrottle.
        max_waiting: Coroutines that may wait for one key; who comes when there are as many is refused. One
            whose question is under way waits.
        clock: Seconds, by which ``sleep`` sleeps, for timeouts; by default the event loop's.
        sleep: Awaited with the seconds to sleep.

    Raises:
        ValueError: ``max_waiting`` is below 1.
        TypeError: ``max_waiting`` is not an int.
    """

    def __init__(
        self,
        throttle: Admits | TakesLater | TokenBucket,
        *,
        max_waiting: int = 100,
        clock: Clock = anyio.current_time,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
    ) -> None:
        found = _checked(throttle, max_waiting)
        self._at_once: Admits | None = None
        if iscoroutinefunction(found.take):
            self._later = cast(TakesLater, found)
        else:
            self._at_once = cast(Admits, found)
        self._max_waiting = max_waiting
        self._clock = clock
        self._sleep = sleep
        self._lines: dict[Hashable, _Line] = {}

    async def take(self, key: Hashable = None, cost: Number = 1, *, timeout: float | None = None) -> None:
        """Return once ``cost`` units were taken for ``key``; cancelled while it waits, it has taken nothing.

        Args:
            key: Whose; leave it out for a TokenBucket.
            cost: Units.
            timeout: Seconds to wait at most; a wait that is known to be longer is not begun. A question to a
                throttle far away is part of the wait.

        Raises:
            Refused: The line is full, or the timeout too short; nothing was taken.
            ValueError: As the throttle's ``take``, or ``timeout`` is negative.
            TypeError: As the throttle's ``take``.
        """
        begun = self._clock()
        deadline = begun + _seconds(timeout)
        if self._at_once is not None and key not in self._lines and not self._at_once.take(key, cost):
            return
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(begun)
        if line.length >= self._max_waiting:
            raise Refused("too many wait already", self._left(line))
        line.length += 1
        try:
            with anyio.move_on_after(deadline - self._clock()):
                async with line.head:
                    await self._served(line, key, cost, deadline)
                    return
            raise Refused("the line is longer than the timeout", self._left(line))
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[key]

    async def _served(self, line: _Line, key: Hashable, cost: Number, deadline: float) -> None:
        # Between the take that admits and the return nothing is awaited, so no cancellation loses a unit.
        while (
            wait := await self._asked(key, cost) if self._at_once is None else self._at_once.take(key, cost)
        ):
            line.due = self._clock() + wait
            if line.due > deadline:
                raise Refused("the wait is longer than the timeout", wait)
            await self._sleep(wait)

    async def _asked(self, key: Hashable, cost: Number) -> float:
        answers: list[float] = []

        async def ask() -> None:
            answers.append(await self._later.take(key, cost))

        try:
            await _to_the_end(ask)
        except anyio.get_cancelled_exc_class():
            if answers and not answers[0]:
                with contextlib.suppress(Exception):  # a throttle that fails must not undo the cancellation
                    await _to_the_end(lambda: self._later.refund(key, cost))
            raise
        return answers[0]

    def _left(self, line: _Line) -> float:
        return max(line.due - self._clock(), 0.0)

    def waiting(self, key: Hashable = None) -> int:
        """Return how many coroutines wait for ``key``."""
        line = self._lines.get(key)
        return line.length if line else 0


async def _to_the_end(call: Callable[[], Awaitable[object]]) -> None:
    """Await ``call`` in a task of its own, which goes on when this one is cancelled; that waits for it."""
    errors: list[Exception] = []

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            try:
                await call()
            except Exception as error:  # by hand, since a group of tasks wraps what it raises
                errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
    if errors:
        raise errors[0]
