"""Asking a Redis or Valkey server from threads, within a deadline: helpers ask, and callers wait or leave.

A client for threads has timeouts of its own, but they count from byte to byte, begin anew with each retry,
and know of no name that is slow to resolve. So a helper asks, and the caller waits no longer than it wants
to. It does not know what is asked.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

from ..clock import Clock
from .arguments import seconds_above_zero
from .redis_link import answers_bytes, is_answer

__all__ = ["BlockingLink", "Helpers"]

MOST_HELPERS = 8
"""Threads that ask. They wait more than they compute, but all of them share one interpreter."""
MOST_WAITING = 1000
"""Questions that wait for a thread to ask them; where it is more, all threads are stuck."""
Work: TypeAlias = "queue.SimpleQueue[Callable[[], None] | None]"
FORKED = threading.Lock()


class Helpers:
    """Threads that do what is handed to them; begun as they are needed.

    Args:
        most: How many at once.
    """

    def __init__(self, most: int = MOST_HELPERS) -> None:
        self.most = most
        self.reset()

    def reset(self) -> None:
        """Begin without threads: a process that was forked has none of its parent's."""
        self.lock = threading.Lock()
        self.work: Work = queue.SimpleQueue()
        self.threads = self.free = self.waiting = 0
        self.process = os.getpid()

    def do(self, work: Callable[[], None]) -> bool:
        """Have ``work`` done, which raises nothing; return False where too much waits already."""
        if self.process != os.getpid():
            with FORKED:
                if self.process != os.getpid():
                    self.reset()
        with self.lock:
            if self.free:
                self.free -= 1
            elif self.threads < self.most:
                # Daemons, since one that waits for a server must not keep the process from ending.
                thread = threading.Thread(target=self.run, args=(self.work,), name="redis-level", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # there may be no more threads
                    return False
                self.threads += 1
            elif self.waiting < MOST_WAITING:
                self.waiting += 1
            else:
                return False
            self.work.put(work)
        return True

    def end(self) -> None:
        """Let the threads end once they have done what waits; others are begun when there is more."""
        with self.lock:
            work, threads = self.work, self.threads
            self.work = queue.SimpleQueue()
            self.threads = self.free = self.waiting = 0
        for _ in range(threads):
            work.put(None)

    def run(self, work: Work) -> None:
        while True:
            what = work.get()
            if what is None:
                return
            what()
            del what  # while it waits for more it must not keep alive what it has helped
            with self.lock:
                if work is not self.work:
                    continue
                if self.waiting:
                    self.waiting -= 1  # one that was handed over to nobody in particular
                else:
                    self.free += 1


class BlockingLink:
    """A server that is asked within a deadline, and left alone for a while once it has failed.

    Args:
        client: A client of redis-py or valkey-py for threads, that answers bytes.
        deadline: Seconds that the server has to answer.
        retry_every: Seconds after a failure until it is asked again, by one caller at first.
        clock: Seconds, for ``retry_every``.

    Attributes:
        failures: Commands that the server did not carry out in time.

    Raises:
        ValueError: A number is not above zero and finite, or ``client`` decodes its answers.
        TypeError: A number is of another type.
    """

    def __init__(self, client: Any, *, deadline: float, retry_every: float, clock: Clock) -> None:
        seconds_above_zero(deadline=deadline, retry_every=retry_every)
        answers_bytes(client)
        self.client = client
        self.deadline = min(deadline, threading.TIMEOUT_MAX)
        self.retry_every = retry_every
        self.clock = clock
        self.helpers = Helpers()
        weakref.finalize(self, self.helpers.end)
        self.lock = threading.Lock()
        self.ask_again: float | None = None  # while the server answers nobody asks what time it is
        self.failures = 0

    @property
    def up(self) -> bool:
        """Whether it is worth asking: it did not fail just now."""
        return self.ask_again is None or self.clock() >= self.ask_again

    def admitted(self) -> bool:
        """Return whether this caller may ask: after a failure one does, and the others do not wait for it."""
        if self.ask_again is None:
            return True
        with self.lock:
            if not self.up:
                return False
            self.ask_again = self.clock() + self.retry_every
            return True

    def ask(self, command: Callable[[], Any]) -> Any:
        """Return what ``command`` brings, or None where it brings nothing in time."""
        question = Question(command)
        if not self.helpers.do(question.put) or not question.ended.acquire(timeout=self.deadline):
            question.given_up = True
            self.failed()
            return None
        if question.error is not None and not is_answer(question.error):
            self.failed()
            return None
        self.ask_again = None  # who answers in time is well, even if it answers with an error
        if question.error is not None:
            self.failed(down=False)
        return question.answer

    def failed(self, *, down: bool = True) -> None:
        """Count a failure; after one without an answer the server is left alone."""
        with self.lock:
            self.failures += 1
            if down:
                self.ask_again = self.clock() + self.retry_every


class Question:
    """A command, and what has come of it; somebody waits for that, or does no longer."""

    __slots__ = ("answer", "command", "ended", "error", "given_up")

    def __init__(self, command: Callable[[], Any]) -> None:
        self.command = command
        self.answer: Any = None
        self.error: BaseException | None = None
        self.given_up = False
        self.ended = threading.Lock()
        self.ended.acquire()

    def put(self) -> None:
        """Ask, in a helper; not where the caller has gone before that."""
        try:
            if not self.given_up:
                self.answer = self.command()
        except BaseException as error:  # whatever a client raises: no load fails for the sake of a cache
            self.error = error
        self.ended.release()
