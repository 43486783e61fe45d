"""Who wants to hear of events, and telling them: all of them, whatever one of them does with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from .state import Event

__all__ = ["Announcer", "Subscriber"]

Subscriber = Callable[[Event], object]

_log = logging.getLogger("replicated.readiness")


class Announcer:
    """The subscribers: an immutable tuple swapped whole, so that telling takes no lock."""

    __slots__ = ("_entries", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: tuple[tuple[Subscriber], ...] = ()

    def add(self, subscriber: Subscriber) -> Callable[[], None]:
        """Tell ``subscriber`` from now on; return what ends that. TypeError when it cannot be called."""
        if not callable(subscriber):
            raise TypeError(f"subscriber must be a function of an event, not {subscriber!r}")
        # Equal functions may subscribe twice: an entry of its own tells them apart when one leaves.
        entry = (subscriber,)
        with self._lock:
            self._entries = (*self._entries, entry)

        def unsubscribe() -> None:
            with self._lock:
                self._entries = tuple([other for other in self._entries if other is not entry])

        return unsubscribe

    def tell(self, events: Iterable[Event]) -> None:
        """Call every subscriber with every event; what one raises is logged and goes no further."""
        for event in events:
            for (subscriber,) in self._entries:
                try:
                    subscriber(event)
                except Exception:
                    _log.exception("a subscriber failed on %r", event)
