"""`@cached`: a function's results by its arguments. It makes keys and picks a loader, which does the rest.

The keys are cachetools' (``cachetools.keys``), so a cache can be filled by one decorator and read by another.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from cachetools.keys import hashkey

from ..clock import Clock, monotonic
from .decisions import MISS
from .freshness import Loaded
from .loader import Loader
from .store import Cache

__all__ = ["CachedFunction", "cached"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class CachedFunction(Protocol[P, R_co]):
    """What ``@cached`` makes of a function.

    Attributes:
        cache: Where the results are.
        loader: What loads them.
        cache_key: Makes a key of the arguments.
    """

    cache: MutableMapping[Any, Any]
    loader: Any
    cache_key: Callable[..., Hashable]
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Return the result for these arguments, computing it once."""
        ...

    @overload
    def __get__(self, instance: None, owner: type, /) -> CachedFunction[P, R_co]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[Any, Q], R_co], instance: object, owner: type | None = None, /
    ) -> Callable[Q, R_co]: ...

    def cache_clear(self) -> None:
        """Forget every result."""
        ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result for these arguments, and keep out of the cache one that is being computed."""
        ...


@overload
def cached(function: Callable[P, R], /) -> CachedFunction[P, R]: ...
@overload
def cached(
    cache: MutableMapping[Any, Any] | None = None,
    /,
    *,
    maxsize: float = 1024,
    ttl: float | None = None,
    key: Callable[..., Hashable] = hashkey,
    clock: Clock = monotonic,
    **options: Any,
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]: ...
def cached(
    cache: MutableMapping[Any, Any] | Callable[..., Any] | None = None,
    /,
    *,
    maxsize: float = 1024,
    ttl: float | None = None,
    key: Callable[..., Hashable] = hashkey,
    clock: Clock = monotonic,
    **options: Any,
) -> Any:
    """Keep what a function returns, by its arguments; concurrent calls with the same ones compute it once.

    Functions, methods and coroutine functions. On a method the instance is part of the key, and is kept alive
    by it; give ``key=cachetools.keys.methodkey`` to leave it out.

    Args:
        cache: Where to keep the results, also any of cachetools' caches; None makes a ``Cache``. Functions
            that share one need keys that tell them apart.
        maxsize: The size of the ``Cache`` that is made.
        ttl: The ttl of the ``Cache`` that is made, or of the results in the one given.
        key: Makes a hashable key of the arguments.
        clock: The clock of the ``Cache`` that is made.
        **options: Those of ``Loader``, or of ``AsyncLoader`` for a coroutine function.

    Raises:
        MissingExtra: A coroutine function needs anyio, which is not installed.
    """
    if callable(cache) and not isinstance(cache, MutableMapping):
        return cached()(cache)

    def decorate(function: Callable[P, R]) -> CachedFunction[P, R]:
        store: MutableMapping[Any, Any]
        if cache is None:
            store = Cache(maxsize, ttl, clock=clock)
        else:
            store = cache
            options.setdefault("ttl", ttl)
        if inspect.iscoroutinefunction(function):
            # By name, at the last moment: this room knows no event loop; who decorates a coroutine function
            # has one.
            adapter = importlib.import_module("replicated.adapters.async_loader")
            wrapper = adapter.wrap(function, store, key, options)
        else:
            wrapper = _wrap(function, store, key, options)
        wrapper.cache = store
        wrapper.cache_key = key
        wrapper.cache_clear = store.clear
        wrapper.invalidate = lambda *args, **kwargs: wrapper.loader.invalidate(key(*args, **kwargs))
        return cast("CachedFunction[P, R]", functools.update_wrapper(wrapper, function))

    return decorate


def _wrap(
    function: Callable[..., Any],
    store: MutableMapping[Any, Any],
    make_key: Callable[..., Hashable],
    options: dict[str, Any],
) -> Any:
    loader: Loader[Any, Any] = Loader(store, function, **options)
    find = loader._find
    get = loader._get
    plain = make_key is hashkey

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # cachetools' key of positional arguments is their tuple: one call less in every hit.
        key = args if plain and not kwargs else make_key(*args, **kwargs)
        if find is None:
            return get(key, functools.partial(function, *args, **kwargs), looked=False)
        found = find(key, MISS)
        if type(found) is not Loaded:
            return found
        return get(key, functools.partial(function, *args, **kwargs), looked=True)

    wrapper.loader = loader  # type: ignore[attr-defined]
    return wrapper
