"""Who the members are, kept up to date from a source that is asked again and again.

A source says who is meant to be there, and for how long that holds; the loop asks it again in time and tells
the tracker. Whatever a source gets wrong, the last good members stay: an empty answer is far more often a
fault of whoever answered than a service without replicas. Who of them can serve is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from ..readiness import Event, ReadinessTracker
from ..replica import Replica

__all__ = [
    "Adopted",
    "Kept",
    "MembershipEvent",
    "MembershipLoop",
    "Reading",
    "Source",
    "StaticMembers",
]

_log = logging.getLogger("replicated.membership")


class Reading(NamedTuple):
    """What a source says.

    Attributes:
        replicas: Who the members are.
        wait: Seconds after which it should be asked again.
        fault: Why this is what it said before, and no news; empty where it is news.
    """

    replicas: tuple[Replica, ...]
    wait: float
    fault: str = ""


class Source(Protocol):
    """Says who the members are; its ``repr()`` is what events call it.

    Attributes:
        retry: Seconds after which one that failed is asked again.
        heeds_readiness: Whether what it says depends on who is ready, so that it is asked when that changes.
    """

    retry: float
    heeds_readiness: bool

    async def read(self, tracker: ReadinessTracker) -> Reading:
        """Return the members; at least one.

        Args:
            tracker: Whom they are for. A source may look at who is ready; it changes nothing there.

        Raises:
            Exception: Nothing useful could be learnt; the members stay as they are.
        """
        ...


@dataclass(frozen=True, slots=True)
class Adopted:
    """A source was heard, after other news or none: these are the members now."""

    source: str
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A source could not be used, for this reason; the members, that many, stay."""

    source: str
    reason: str
    members: int


MembershipEvent: TypeAlias = Adopted | Kept


class StaticMembers:
    """A list that is what it is.

    Raises:
        ValueError: It is empty.
    """

    retry = math.inf
    heeds_readiness = False

    def __init__(self, replicas: Iterable[Replica]) -> None:
        self.replicas = tuple(replicas)
        if not self.replicas:
            raise ValueError("replicas must name at least one")

    async def read(self, tracker: ReadinessTracker) -> Reading:
        """Return the list."""
        return Reading(self.replicas, math.inf)

    def __repr__(self) -> str:
        return f"a list of {len(self.replicas)}"


class MembershipLoop:
    """Keeps a tracker's members those of a source: ``async with MembershipLoop(tracker, source):``.

    The source is asked once before the block begins, so that a program starts with its members; it begins
    without them when that fails. Leaving the block ends the loop and leaves the members.

    Args:
        tracker: Whose members they are. One loop a tracker: each replaces all of them.
        source: Says who they are: ``StaticMembers``, ``FileMembers``, ``DnsMembers``, or your own.
        on_event: Hears ``Adopted`` and ``Kept``, each when it differs from the last one.

    Attributes:
        last: The last event; None before the first.
    """

    def __init__(
        self,
        tracker: ReadinessTracker,
        source: Source,
        *,
        on_event: Callable[[MembershipEvent], object] | None = None,
    ) -> None:
        self.tracker = tracker
        self.source = source
        self.last: MembershipEvent | None = None
        self._on_event = on_event
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._unsubscribe: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None

    async def refresh(self) -> float:
        """Ask the source now; return the seconds after which it should be asked again."""
        async with self._lock:  # of two answers the older must not come last
            try:
                reading = await self.source.read(self.tracker)
                if not reading.replicas:
                    raise ValueError("it names no replicas")
                self.tracker.replace(reading.replicas)
            except Exception as fault:
                reason = str(fault) or type(fault).__name__
                reading = Reading((), self.source.retry, reason)
            if reading.fault:
                self._tell(Kept(repr(self.source), reading.fault, len(self.tracker.members)))
            else:
                self._tell(Adopted(repr(self.source), reading.replicas))
            return reading.wait

    async def __aenter__(self) -> MembershipLoop:
        """Ask the source once, and start."""
        if self.source.heeds_readiness:
            loop = asyncio.get_running_loop()

            def hear(event: Event) -> None:
                with contextlib.suppress(RuntimeError):  # from any thread, and perhaps after the loop's end
                    loop.call_soon_threadsafe(self._changed.set)

            self._unsubscribe = self.tracker.subscribe(hear)
        try:
            wait = await self.refresh()
        except BaseException:
            self._unsubscribe()
            raise
        self._task = asyncio.create_task(self._run(wait))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop."""
        assert self._task is not None
        self._unsubscribe()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, wait: float) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if wait == math.inf else wait):
                    await self._changed.wait()
            self._changed.clear()
            wait = await self.refresh()

    def _tell(self, event: MembershipEvent) -> None:
        if event == self.last:
            return
        self.last = event
        if isinstance(event, Kept):
            _log.warning("%s: %s; the %d members stay", event.source, event.reason, event.members)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                _log.exception("on_event failed on %r", event)
