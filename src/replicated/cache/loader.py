"""Loading on a miss, for threads: the caller that leads a load runs it, the others wait for it or are served.

It decides nothing of its own: it acts on what the flights say. It starts no thread and ends none; a refresh
may be handed to whatever the user gives as ``spawn``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, MutableMapping
from typing import Any, Generic, Literal, TypeVar

from ..clock import Clock
from .bounds import not_negative
from .decisions import MISS, Flight, Follow, Lead, Refresh, Serve, loading
from .flights import Flights
from .freshness import Loaded, Terms

__all__ = ["Loader"]

K = TypeVar("K")
V = TypeVar("V")


class Loader(Generic[K, V]):
    """Values by key, from a store or else loaded: one load at a time a key.

    Args:
        cache: A ``Cache``, or any mutable mapping such as cachetools' ``LFUCache``, used under a lock. With a
            ``grace``, ``keep`` or ``early``, and in a foreign mapping with a ``ttl``, it holds records; read
            them through the loader.
        load: Called as ``load(key)`` in the thread of one caller.
        load_many: Called as ``load_many(keys)`` by ``get_many``; returns a mapping that may lack some.
        ttl: Seconds that a value is fresh: a number, a function of key and value, or None for the cache's.
        grace: Seconds after it expired during which a value is served at once, while one caller loads again.
        keep: Seconds after it expired during which a value is served if that load fails.
        negative: The exceptions of ``load`` that mean "there is no such thing".
        negative_ttl: Seconds for which those are remembered, and raised without a load.
        jitter: The share of the ttl, from 0 to 1, that chance may take off.
        early: The beta of probabilistic early refresh (XFetch); 0 for none, 1 what its authors recommend.
        backoff: Seconds after a failed load during which a kept value is served without another try.
        timeout: Seconds that a caller waits for another's load, and after which a load under way no longer
            holds up new callers. A thread cannot be stopped: the leader itself is not timed.
        attempts: Loads that one flight of callers may see when its leader is interrupted.
        on_error: What an exception of ``load`` means to those who wait: ``"share"`` it is their answer too;
            ``"elect"`` one of them loads again, up to ``attempts`` loads.
        on_failure: Called as ``on_failure(key, error)`` for every load that failed, also unseen by callers.
        spawn: Called with a function to run a refresh elsewhere, such as ``executor.submit``; None lets the
            caller that finds a value stale load it while the others are served.
        tags: Called as ``tags(key, value)`` for the tags to store a value under; needs a ``Cache``.
        clock: Where the time comes from; by default the cache's.
        rng: Where chance comes from.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A time is negative, NaN or infinite; ``jitter``, ``attempts`` or ``on_error`` cannot be.
    """

    def __init__(
        self,
        cache: MutableMapping[Any, Any],
        load: Callable[[K], V],
        *,
        load_many: Callable[[list[K]], Mapping[K, V]] | None = None,
        ttl: float | Callable[[K, V], float | None] | None = None,
        grace: float = 0.0,
        keep: float = 0.0,
        negative: type[Exception] | tuple[type[Exception], ...] = LookupError,
        negative_ttl: float = 0.0,
        jitter: float = 0.0,
        early: float = 0.0,
        backoff: float = 0.0,
        timeout: float | None = None,
        attempts: int = 2,
        on_error: Literal["share", "elect"] = "share",
        on_failure: Callable[[K, BaseException], object] | None = None,
        spawn: Callable[[Callable[[], object]], object] | None = None,
        tags: Callable[[K, V], Iterable[Hashable]] | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not callable(load):
            raise TypeError(f"load must be callable, not {load!r}")
        if inspect.iscoroutinefunction(load):
            raise TypeError("load must not be a coroutine function: AsyncLoader takes those")
        terms = Terms(ttl, grace, keep, negative, negative_ttl, jitter, early, backoff)
        self._load = load
        self._load_many = load_many
        self._timeout = None if timeout is None else not_negative("timeout", timeout)
        self._on_failure = on_failure
        self._spawn = spawn
        self._negative = terms.negative if isinstance(terms.negative, tuple) else (terms.negative,)
        self._flights = Flights(
            cache,
            terms,
            clock=clock,
            rng=rng,
            attempts=attempts,
            on_error=on_error,
            overdue=timeout,
            tags=tags,
        )
        self._find = self._flights.find

    def get(self, key: K) -> V:
        """Return the value of ``key``, loading it if need be. A hit takes no lock.

        Raises:
            LoadReentered: The caller is inside the load that it would have to wait for.
            TimeoutError: Another caller's load took longer than ``timeout``.
            Exception: Whatever ``load`` raised, when nothing was kept for that case.
        """
        if self._find is not None:
            found = self._find(key, MISS)
            if type(found) is not Loaded:
                return found  # type: ignore[no-any-return]
        return self._get(key, functools.partial(self._load, key), looked=self._find is not None)

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of those keys that exist, in the order asked, loading the missing in one batch.

        Keys that others are loading are waited for, after the caller's own loads. What ``load_many`` leaves
        out, and what ``load`` answers with a ``negative`` exception, is left out.

        Raises:
            Exception: As ``get``.
        """
        wanted = list(dict.fromkeys(keys))
        values: dict[K, V] = {}
        mine: list[Flight] = []
        others: list[Flight] = []
        try:
            for key in wanted:
                with contextlib.suppress(*self._negative):
                    match self._flights.decide(key):
                        case Serve(value):
                            values[key] = value
                        case Refresh(value, flight):
                            values[key] = value
                            mine.append(flight)
                        case Lead(flight):
                            mine.append(flight)
                        case Follow(flight):
                            others.append(flight)
        except BaseException as error:  # a key that cannot be asked for: nobody will run what was begun
            for flight in mine:
                self._flights.fail(flight, error, abandoned=True)
            raise
        try:
            errors = self._run_many(mine)
        finally:
            for flight in mine:
                self._flights.release(flight)
        for flight in mine:
            if flight.key not in values:
                with contextlib.suppress(*self._negative):
                    values[flight.key] = self._flights.result(flight, errors.get(flight))
        for flight in others:
            with contextlib.suppress(*self._negative):
                values[flight.key] = self._follow(flight, functools.partial(self._load, flight.key))
        return {key: values[key] for key in wanted if key in values}

    def invalidate(self, key: K) -> None:
        """Forget ``key``, and keep out of the cache what a load under way will bring."""
        self._flights.invalidate(key)

    @property
    def loads(self) -> int:
        """Loads begun."""
        return self._flights.loads

    @property
    def failures(self) -> int:
        """Loads that failed."""
        return self._flights.failures

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._load!r}, loads={self.loads}, failures={self.failures})"

    def _get(self, key: K, load: Callable[[], V], *, looked: bool) -> V:
        match self._flights.decide(key, looked=looked):
            case Serve(value):
                return value  # type: ignore[no-any-return]
            case Refresh(value, flight):
                self._refresh(flight, load)
                return value  # type: ignore[no-any-return]
            case Lead(flight):
                return self._lead(flight, load)
            case Follow(flight):
                return self._follow(flight, load)

    def _run(self, flight: Flight, load: Callable[[], V]) -> BaseException | None:
        """Run the load of a flight that the caller leads; return the Exception that it raised, if any."""
        token = loading.set((flight,))
        try:
            value = _plain(load())
        except BaseException as error:
            self._failed([flight], error)
            if not isinstance(error, Exception):
                raise
            return error
        finally:
            loading.reset(token)
        self._flights.land(flight, value)
        return None

    def _run_many(self, flights: list[Flight]) -> dict[Flight, BaseException | None]:
        """Run the loads that the caller leads, in one batch if it can be; return what they raised."""
        if self._load_many is None or not flights:
            return self._run_each(flights)
        token = loading.set(tuple(flights))
        try:
            found = _batch(self._load_many([flight.key for flight in flights]))
        except BaseException as error:
            self._failed(flights, error)
            if not isinstance(error, Exception):
                raise
            return dict.fromkeys(flights, error)
        finally:
            loading.reset(token)
        for flight in flights:
            if flight.key in found:
                self._flights.land(flight, found[flight.key])
            else:
                self._flights.fail(flight, KeyError(flight.key), abandoned=False)
        return {}

    def _run_each(self, flights: list[Flight]) -> dict[Flight, BaseException | None]:
        errors: dict[Flight, BaseException | None] = {}
        try:
            for flight in flights:
                errors[flight] = None
                errors[flight] = self._run(flight, functools.partial(self._load, flight.key))
        except BaseException as error:
            for flight in flights[len(errors) :]:  # nobody will run what was begun
                self._flights.fail(flight, error, abandoned=True)
            raise
        return errors

    def _failed(self, flights: list[Flight], error: BaseException) -> None:
        for flight in flights:
            self._flights.fail(flight, error, abandoned=not isinstance(error, Exception))
        if self._on_failure is not None:
            for flight in flights:
                self._on_failure(flight.key, error)

    def _lead(self, flight: Flight, load: Callable[[], V]) -> V:
        try:
            error = self._run(flight, load)
        finally:
            self._flights.release(flight)
        return self._flights.result(flight, error)  # type: ignore[no-any-return]

    def _follow(self, flight: Flight, load: Callable[[], V]) -> V:
        try:
            while not flight.done:
                woken = threading.Event()
                if self._flights.join(flight, woken.set):
                    try:
                        if not woken.wait(self._timeout):
                            late = TimeoutError(
                                f"the load of {flight.key!r} took longer than {self._timeout} s"
                            )
                            return self._flights.result(flight, late)  # type: ignore[no-any-return]
                    finally:
                        self._flights.leave(flight, woken.set)
                if self._flights.claim(flight):
                    return self._lead(flight, load)
        finally:
            self._flights.release(flight)
        return self._flights.result(flight)  # type: ignore[no-any-return]

    def _refresh(self, flight: Flight, load: Callable[[], V]) -> None:
        if self._spawn is None:
            self._run(flight, load)
            return
        try:
            self._spawn(functools.partial(self._run, flight, load))
        except BaseException as error:  # nobody will run it: let the next caller try
            self._failed([flight], error)
            if not isinstance(error, Exception):
                raise


def _batch(found: Any) -> Any:
    if not isinstance(_plain(found), Mapping):
        raise TypeError(f"load_many must return a mapping, not {found!r}")
    return found


def _plain(value: Any) -> Any:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()  # or it would warn that nobody awaited it
        raise TypeError("load returned an awaitable, and this loader has no event loop: AsyncLoader has")
    return value
