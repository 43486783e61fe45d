"""Loading on a miss, for tasks: every load runs in a task of its own, which no caller's cancellation reaches.

It decides nothing: it acts on what the flights say, under asyncio and trio, for callers in several threads
and event loops at once. It may not know what is loaded. A load runs in the loop of the caller that was told
to lead; when that loop ends before it, a caller that waits in another starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Mapping, MutableMapping
from typing import Any, Generic, Literal, TypeVar

from ..cache.bounds import not_negative
from ..cache.decisions import MISS, Flight, Follow, Lead, Refresh, Serve, Wake, loading
from ..cache.flights import Flights
from ..cache.freshness import Loaded, Terms
from ..clock import Clock
from ..errors import MissingExtra

try:
    import anyio
except ImportError as error:
    raise MissingExtra(__name__, "anyio") from error

__all__ = ["AsyncLoader", "wrap"]

K = TypeVar("K")
V = TypeVar("V")

# An event loop keeps only weak references to its tasks.
_tasks: set[asyncio.Task[None]] = set()


class AsyncLoader(Generic[K, V]):
    """Values by key, from a store or else loaded by a coroutine function: one load at a time a key.

    A load that was begun goes on when the caller that began it is cancelled, and all who wait for it, in
    whichever thread and loop, get what it brings.

    Args:
        cache: As in ``Loader``.
        load: Awaited as ``load(key)``, in a task of its own.
        load_many: Awaited as ``load_many(keys)`` by ``get_many``; returns a mapping that may lack some.
        ttl: As in ``Loader``, and so all the others down to ``backoff``. Refreshes run in the background.
        grace: See there.
        keep: See there.
        negative: See there.
        negative_ttl: See there.
        jitter: See there.
        early: See there.
        backoff: See there.
        timeout: Seconds after which a load is cancelled, and fails with TimeoutError; None for never.
        attempts: Loads that one flight of callers may see when the loop of its leader ends.
        on_error: As in ``Loader``.
        on_failure: As in ``Loader``.
        tags: As in ``Loader``.
        clock: As in ``Loader``.
        rng: As in ``Loader``.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A time is negative, NaN or infinite; ``jitter``, ``attempts`` or ``on_error`` cannot be.
    """

    def __init__(
        self,
        cache: MutableMapping[Any, Any],
        load: Callable[[K], Awaitable[V]],
        *,
        load_many: Callable[[list[K]], Awaitable[Mapping[K, V]]] | None = None,
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
        tags: Callable[[K, V], Iterable[Hashable]] | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not callable(load):
            raise TypeError(f"load must be callable, not {load!r}")
        terms = Terms(ttl, grace, keep, negative, negative_ttl, jitter, early, backoff)
        self._load = load
        self._load_many = load_many
        self._timeout = None if timeout is None else not_negative("timeout", timeout)
        self._on_failure = on_failure
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

    async def get(self, key: K) -> V:
        """Return the value of ``key``, loading it if need be.

        Raises:
            LoadReentered: The caller is inside the load that it would have to wait for.
            TimeoutError: The load took longer than ``timeout``.
            Exception: Whatever ``load`` raised, when nothing was kept for that case.
        """
        if self._find is not None:
            found = self._find(key, MISS)
            if type(found) is not Loaded:
                return found  # type: ignore[no-any-return]
        return await self._get(key, functools.partial(self._load, key), looked=self._find is not None)

    async def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of those keys that exist, in the order asked, loading the missing in one batch.

        Without ``load_many`` the missing are loaded at the same time, each by itself. What ``load_many``
        leaves out, and what ``load`` answers with a ``negative`` exception, is left out.

        Raises:
            Exception: As ``get``.
        """
        wanted = list(dict.fromkeys(keys))
        values: dict[K, V] = {}
        mine: list[Flight] = []
        awaited: list[Flight] = []
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
                            awaited.append(flight)
                        case Follow(flight):
                            awaited.append(flight)
        except BaseException as error:  # a key that cannot be asked for: nobody will run what was begun
            for flight in mine:
                self._flights.fail(flight, error, abandoned=True)
            raise
        if self._load_many is not None and mine:
            self._start(mine, functools.partial(self._run_many, mine, self._load_many))
        else:
            for flight in mine:
                self._start_one(flight, functools.partial(self._load, flight.key))
        try:
            for flight in awaited:
                with contextlib.suppress(*self._negative):
                    values[flight.key] = await self._follow(flight, functools.partial(self._load, flight.key))
        finally:
            for flight in awaited:
                self._flights.release(flight)
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

    async def _get(self, key: K, load: Callable[[], Awaitable[V]], *, looked: bool) -> V:
        match self._flights.decide(key, looked=looked):
            case Serve(value):
                return value  # type: ignore[no-any-return]
            case Refresh(value, flight):
                self._start_one(flight, load)
                return value  # type: ignore[no-any-return]
            case Lead(flight):
                self._start_one(flight, load)
                return await self._follow(flight, load)
            case Follow(flight):
                return await self._follow(flight, load)

    async def _follow(self, flight: Flight, load: Callable[[], Awaitable[V]]) -> V:
        try:
            while not flight.done:
                event = anyio.Event()
                wake = _waker(event)
                if self._flights.join(flight, wake):
                    try:
                        await self._wait(event, flight)
                    finally:
                        self._flights.leave(flight, wake)
                if self._flights.claim(flight):
                    self._start_one(flight, load)
        finally:
            self._flights.release(flight)
        return self._flights.result(flight)  # type: ignore[no-any-return]

    async def _wait(self, event: anyio.Event, flight: Flight) -> None:
        if self._timeout is None:
            await event.wait()
            return
        # The load is timed by its own loop; this wait is, because that loop may be blocked.
        with anyio.move_on_after(self._timeout) as scope:
            await event.wait()
        if scope.cancelled_caught and not flight.done and not flight.vacant:
            self._flights.fail(flight, self._late(flight.key), abandoned=False)

    def _late(self, key: object) -> TimeoutError:
        return TimeoutError(f"the load of {key!r} took longer than {self._timeout} s")

    def _start_one(self, flight: Flight, load: Callable[[], Awaitable[V]]) -> None:
        self._start([flight], functools.partial(self._run, flight, load))

    def _start(self, flights: list[Flight], run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        attempts = [(flight, flight.attempt) for flight in flights]

        def ended(task: asyncio.Task[None]) -> None:
            _tasks.discard(task)
            if not task.cancelled():
                task.exception()  # or asyncio would log that nobody asked for it
                return
            # Maybe before its first step, where it could not say so itself.
            for flight, attempt in attempts:
                if not flight.vacant and flight.attempt == attempt:
                    self._flights.fail(flight, asyncio.CancelledError(), abandoned=True)

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            _start_in_trio(run)
            return
        task = loop.create_task(run())
        _tasks.add(task)
        task.add_done_callback(ended)

    async def _run(self, flight: Flight, load: Callable[[], Awaitable[V]]) -> None:
        loading.set((flight,))
        try:
            value = await self._timed(load(), flight.key)
        except BaseException as error:
            self._failed([flight], error)
        else:
            self._flights.land(flight, value)

    async def _run_many(
        self, flights: list[Flight], load: Callable[[list[K]], Awaitable[Mapping[K, V]]]
    ) -> None:
        loading.set(tuple(flights))
        keys = [flight.key for flight in flights]
        try:
            found = await self._timed(load(keys), keys)
            if not isinstance(found, Mapping):
                raise TypeError(f"load_many must return a mapping, not {found!r}")
        except BaseException as error:
            self._failed(flights, error)
            return
        for flight in flights:
            if flight.key in found:
                self._flights.land(flight, found[flight.key])
            else:
                self._flights.fail(flight, KeyError(flight.key), abandoned=False)

    async def _timed(self, load: Awaitable[Any], key: object) -> Any:
        if not inspect.isawaitable(load):
            raise TypeError(f"load must return an awaitable, not {load!r}: Loader takes plain functions")
        if self._timeout is None:
            return await load
        value = None
        with anyio.move_on_after(self._timeout) as scope:
            value = await load
        if scope.cancelled_caught:
            raise self._late(key)
        return value

    def _failed(self, flights: list[Flight], error: BaseException) -> None:
        for flight in flights:
            self._flights.fail(flight, error, abandoned=not isinstance(error, Exception))
        if self._on_failure is not None:
            for flight in flights:
                self._on_failure(flight.key, error)
        if not isinstance(error, Exception):
            raise error


def _start_in_trio(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    trio = sys.modules["trio"]

    async def contained() -> None:
        try:
            await run()
        except trio.Cancelled:
            raise
        except BaseException:  # it would end the loop, and those who wait have been told
            pass

    trio.lowlevel.spawn_system_task(contained)


def _waker(event: anyio.Event) -> Wake:
    """Return what sets an event of the running loop, from whatever thread."""
    thread = threading.get_ident()
    try:
        soon: Callable[[Callable[[], object]], object] = asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        soon = sys.modules["trio"].lowlevel.current_trio_token().run_sync_soon

    def wake() -> None:
        # A loop that has ended says RuntimeError (trio's RunFinishedError is one): nobody waits there.
        with contextlib.suppress(RuntimeError):
            if threading.get_ident() == thread:
                event.set()
            else:
                soon(event.set)

    return wake


def wrap(
    function: Callable[..., Awaitable[Any]],
    store: MutableMapping[Any, Any],
    make_key: Callable[..., Hashable],
    options: dict[str, Any],
) -> Any:
    """Return the coroutine function that ``@cached`` makes of ``function``."""
    loader: AsyncLoader[Any, Any] = AsyncLoader(store, function, **options)
    find = loader._find

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        key = make_key(*args, **kwargs)
        if find is not None:
            found = find(key, MISS)
            if type(found) is not Loaded:
                return found
        load = functools.partial(function, *args, **kwargs)
        return await loader._get(key, load, looked=find is not None)

    wrapper.loader = loader  # type: ignore[attr-defined]
    return wrapper
