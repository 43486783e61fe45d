"""Who loads a key, who waits for whom, and what all get: the decisions of every loader, without its I/O.

It decides, for a look-up, between serving, refreshing, leading a load and following one; and, when a load
ends, what is stored and what those who waited get. It may not know whether callers are threads or tasks: a
driver runs the load and waits, and hands in a function that wakes it.

A flight is one key's load, under way. Its leader may go away (cancelled, interrupted, its loop closed): then
it is vacant, and the first to claim it of those who wait loads in its place, a bounded number of times. One
that raises is not tried again by all the others in turn: by default its error is everyone's answer.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Hashable, Iterable, MutableMapping
from typing import Any, Literal

from ..clock import Clock, monotonic
from ..errors import LoadReentered
from .decisions import MISS, Decision, Flight, Follow, Lead, Refresh, Serve, Wake, loading
from .freshness import Loaded, State, Terms, judge
from .store import Cache

__all__ = ["Flights"]

# Guards who awaits whom, over all loaders, since one's load may ask another. Only loads that ask take it.
_awaiting = threading.Lock()


class Flights:
    """The loads under way over one store. Safe under threads; no lock is held while anything is loaded.

    Args:
        store: A ``Cache``, or any mutable mapping, of which every use is then under one lock.
        terms: How long values are used.
        clock: Where the time comes from; None takes the store's.
        rng: Where chance comes from.
        attempts: How many leaders a flight may have, when they go away.
        on_error: ``"elect"`` lets a load that raised count as one whose leader went away.
        overdue: Seconds after which a load under way no longer holds up new callers; None for never.
        tags: The tags of a value, from key and value; needs a ``Cache``.

    Attributes:
        find: Looks a key up at the least cost, where records are the exception; else None.
        loads: Attempts begun.
        failures: Attempts that failed.
    """

    def __init__(
        self,
        store: MutableMapping[Any, Any],
        terms: Terms,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        attempts: int = 2,
        on_error: Literal["share", "elect"] = "share",
        overdue: float | None = None,
        tags: Callable[[Any, Any], Iterable[Hashable]] | None = None,
    ) -> None:
        own = store if isinstance(store, Cache) else None
        if not isinstance(store, MutableMapping):
            raise TypeError(f"cache must be a mutable mapping, not {store!r}")
        if isinstance(attempts, bool) or not isinstance(attempts, int):
            raise TypeError(f"attempts must be an int, not {attempts!r}")
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {attempts!r}")
        if on_error not in ("share", "elect"):
            raise ValueError(f"on_error must be 'share' or 'elect', not {on_error!r}")
        if tags is not None and own is None:
            raise TypeError(f"tags needs a Cache, and a {type(store).__name__} has none")
        self._store = store
        self._own = own
        self._terms = terms
        self._clock = clock or (monotonic if own is None else own.clock)
        self._rng = rng or random.Random()
        self._attempts = attempts
        self._elect = on_error == "elect"
        self._overdue = overdue
        self._tags = tags
        self.find = None if own is None or terms.windowed else own.get
        self._flights: dict[Any, Flight] = {}
        self._lock = threading.RLock()
        self.loads = self.failures = 0

    def decide(self, key: Any, *, looked: bool = False) -> Decision:
        """Return what the caller should do to get ``key``; raise the error kept for it, if that is it.

        Args:
            key: What is asked for.
            looked: Whether the caller has just looked it up in a ``Cache``, without finding a plain value.

        Raises:
            LoadReentered: The caller is inside the load that it would have to wait for.
        """
        now = self._clock()
        own = self._own
        if own is not None and not looked:  # a Cache needs no lock to be read: most calls end here
            found = own.at(key, now, MISS)
            if self._judge(found, now) is State.FRESH:
                return Serve(_answer(found))
        with self._lock:
            # Once more, because a flight may have landed since: its value is stored before it leaves.
            found = own.peek(key, MISS, now=now) if own is not None else self._store.get(key, MISS)
            state = self._judge(found, now)
            if state is State.FRESH:
                return Serve(_answer(found))
            flight = self._flights.get(key)
            if flight is not None and self._overdue is not None and now - flight.started >= self._overdue:
                flight.detached = True
                flight = None
            servable = state in (State.EARLY, State.GRACE)
            if flight is not None and not flight.vacant:
                if servable:
                    return Serve(found.value)
                self._await(flight)
                return Follow(flight)
            if flight is None:
                kept = found if state is not State.GONE else None
                self._flights[key] = flight = Flight(key, kept, now)
            if not servable:
                self._await(flight)
            self._lead(flight, now)
            return Refresh(found.value, flight) if servable else Lead(flight)

    def _judge(self, found: object, now: float) -> State:
        if type(found) is not Loaded:
            return State.FRESH
        if found is MISS:
            return State.GONE
        return judge(found, now, self._terms.early, self._rng)

    def _lead(self, flight: Flight, now: float) -> None:
        flight.vacant = False
        flight.started = now
        flight.attempt += 1
        self.loads += 1

    def claim(self, flight: Flight) -> bool:
        """Lead a flight whose leader went away; False when it is done, or someone was faster."""
        now = self._clock()
        with self._lock:
            if flight.done or not flight.vacant:
                return False
            self._lead(flight, now)
            return True

    def join(self, flight: Flight, wake: Wake) -> bool:
        """Ask to be woken when the flight is done or vacant; False when it is already."""
        with self._lock:
            if flight.done or flight.vacant:
                return False
            flight.wakes[wake] = None
            return True

    def leave(self, flight: Flight, wake: Wake) -> None:
        """Wait no more for a flight."""
        with self._lock:
            flight.wakes.pop(wake, None)

    def land(self, flight: Flight, value: object) -> None:
        """End a flight by its value: store it, and give it to all who wait."""
        if flight.done:  # given up meanwhile
            return
        now = self._clock()
        error: Exception | None = None
        stored = not flight.detached
        try:  # outside the lock: the user's functions run in here
            if stored:
                self._keep(flight, value, now)
        except Exception as broken:  # a `ttl`, `tags`, `getsizeof` or `on_evict` of the user's
            error = broken
        finally:
            self._finish(flight, value, error)
            if stored and flight.detached:
                # It was invalidated while it was being stored. What goes may be newer: that costs a load.
                self._remove(flight.key)

    def fail(self, flight: Flight, error: BaseException, *, abandoned: bool) -> None:
        """End an attempt by what it raised.

        Args:
            flight: The flight whose leader the caller is.
            error: What was raised.
            abandoned: Whether the leader went away, which says nothing about the key.
        """
        now = self._clock()
        negative = isinstance(error, self._terms.negative)
        with self._lock:
            if flight.done:
                return
            self.failures += 1
            again = abandoned or (self._elect and not negative)
            if again and flight.wakes and flight.attempt < self._attempts:
                flight.vacant = True
                _wake(flight)
                return
            if abandoned:  # in one step, or who comes now would wait for nobody
                self._finish(flight, None, error)
                return
        try:
            if not flight.detached:
                self._remember(flight, error, now)
        except Exception as broken:  # as when a value is stored
            error = broken
        finally:
            self._finish(flight, None, error)

    def result(self, flight: Flight, error: BaseException | None = None) -> Any:
        """Return what a flight brought, or what was kept for when it fails, or raise its error.

        Args:
            flight: A flight that is done, unless ``error`` is given.
            error: What the caller itself met: it does not wait for those who lead in its place.
        """
        error = flight.error if error is None else error
        if error is None:
            return flight.value
        kept = flight.kept
        if (
            kept is not None
            and not isinstance(error, self._terms.negative)
            and self._clock() < kept.keep_until
        ):
            return kept.value
        if not isinstance(error, Exception):
            times = f"{flight.attempt} leader{'s' * (flight.attempt > 1)}"
            raise RuntimeError(f"the load of {flight.key!r} was abandoned by {times}") from error
        # Several raise the one exception: with its first traceback, which each raise would lengthen for all.
        raise error.with_traceback(flight.trace if error is flight.error else error.__traceback__)

    def release(self, flight: Flight) -> None:
        """Note that the load which the caller runs awaits ``flight`` no more."""
        if mine := loading.get():
            with _awaiting:
                for outer in mine:
                    outer.awaits.discard(flight)

    def invalidate(self, key: Any) -> None:
        """Forget ``key``, and what a load under way brings: those who wait get it, the store does not."""
        with self._lock:
            flight = self._flights.pop(key, None)
            if flight is not None:
                flight.detached = True
                flight.kept = None
        self._remove(key)

    def _await(self, flight: Flight) -> None:
        mine = loading.get()
        if not mine:
            return
        with _awaiting:
            seen = {flight}
            front = [flight]
            while front:
                reached = front.pop()
                if reached in mine:
                    chain = "" if reached is flight else f", which waits for {reached.key!r}"
                    raise LoadReentered(f"the load of {reached.key!r} asked for {flight.key!r}{chain}")
                front.extend(reached.awaits - seen)
                seen |= reached.awaits
            for outer in mine:
                outer.awaits.add(flight)

    def _finish(self, flight: Flight, value: object, error: BaseException | None) -> None:
        with self._lock:
            if flight.done:
                return
            flight.value = value
            flight.error = error
            flight.trace = None if error is None else error.__traceback__
            flight.done = True
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            _wake(flight)

    def _keep(self, flight: Flight, value: object, now: float) -> None:
        terms = self._terms
        key = flight.key
        own = self._own
        default = None if own is None else own.default_ttl
        ttl = terms.lifetime(key, value, default, self._rng)
        if ttl == 0:
            self._remove(key)
            return
        lasting = ttl is None or (own is not None and not terms.windowed)
        kept = value if lasting else terms.record(value, ttl, now, now - flight.started)  # type: ignore[arg-type]
        self._put(key, kept, value, ttl, now)

    def _remember(self, flight: Flight, error: BaseException, now: float) -> None:
        terms = self._terms
        kept = flight.kept
        if isinstance(error, terms.negative):
            if terms.negative_ttl:
                self._put(flight.key, terms.absent(error, now), None, None, now)
        elif kept is not None and terms.backoff:
            until = min(now + terms.backoff, kept.keep_until)
            again = Loaded(kept.value, until, max(until, kept.grace_until), kept.keep_until, kept.cost)
            self._put(flight.key, again, kept.value, None, now)

    def _put(self, key: Any, kept: Any, value: object, ttl: float | None, now: float) -> None:
        own = self._own
        if own is None:
            with self._lock:
                try:
                    self._store[key] = kept
                except ValueError:  # cachetools' word for a value too large: it passes through
                    self._store.pop(key, None)
            return
        record = type(kept) is Loaded
        if record:
            ttl = kept.keep_until - now
        if record and kept.error is not None:
            # What a negative answer weighs, in a unit that is the user's: as much as the mean entry.
            own.set(key, kept, ttl, size=max(1, own.currsize // max(1, len(own))))
        else:
            tags = () if self._tags is None else self._tags(key, value)
            own.set(key, kept, ttl, tags=tags, size=own.getsizeof(value))

    def _remove(self, key: Any) -> None:
        if self._own is not None:
            self._own.delete(key)
        else:
            with self._lock:
                self._store.pop(key, None)


def _answer(found: Any) -> Any:
    """Return the value that was found, or raise the error that was."""
    if type(found) is not Loaded:
        return found
    if found.error is not None:
        raise found.error.with_traceback(None)
    return found.value


def _wake(flight: Flight) -> None:
    wakes, flight.wakes = flight.wakes, {}
    for wake in list(wakes):
        wake()
