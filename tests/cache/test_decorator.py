"""`@cached` on functions, methods and coroutine functions."""

from __future__ import annotations

import sys

import anyio
import cachetools
import pytest
from cachetools.keys import methodkey, typedkey

from replicated.cache import Cache, cached


def test_a_function_is_computed_once_for_its_arguments():
    """The same arguments are computed once, however often asked; others are not mixed up with them."""
    calls = []

    @cached(ttl=10)
    def function(a, b=0, **more):
        """Say it."""
        calls.append((a, b, more))
        return a, b, more

    assert function(1) == function(1) == (1, 0, {})
    assert function(1, 2) == function(1, 2) == (1, 2, {})
    assert function(1, c=3) == function(1, c=3) == (1, 0, {"c": 3})
    assert len(calls) == 3
    assert (function.__name__, function.__doc__) == ("function", "Say it.")
    function.invalidate(1)
    assert function(1) == (1, 0, {})
    assert len(calls) == 4
    function.cache_clear()
    assert len(function.cache) == 0


def test_bare():
    """`@cached` alone is `@cached()`."""
    calls = []

    @cached
    def function(a):
        calls.append(a)

    assert function(1) is function(1) is None
    assert calls == [1]
    assert function.cache.maxsize == 1024


@pytest.mark.parametrize("store", [Cache(10), cachetools.LFUCache(10), {}])
def test_any_cache(store):
    """Any mapping keeps the results, and is the one given even when it is empty."""
    calls = []

    @cached(store, grace=5, ttl=60)
    def function(a):
        calls.append(a)
        return a

    assert function(1) == function(1) == 1
    assert calls == [1]
    assert function.cache is store
    assert len(store) == 1


def test_methods():
    """Two instances do not share results unless the key leaves them out."""
    calls = []

    class Thing:
        @cached
        def own(self, a):
            calls.append(a)
            return id(self), a

        @cached(key=methodkey)
        def shared(self, a):
            calls.append(a)
            return a

    one, two = Thing(), Thing()
    assert one.own(1) == one.own(1) != two.own(1)
    assert one.shared(2) == two.shared(2)
    assert calls == [1, 1, 2]


def test_keys_are_cachetools():
    """A cache filled by one decorator is read by the other, and its key functions serve both."""
    store = Cache(10)
    ours = cached(store)(lambda a, b=0: "ours")
    theirs = cachetools.cached(store)(lambda a, b=0: "theirs")
    assert (ours(1), theirs(1), theirs(2, b=3), ours(2, b=3)) == ("ours", "ours", "theirs", "theirs")
    typed = cached(key=typedkey)(lambda a: type(a))
    assert (typed(1), typed(1.0)) == (int, float)


def test_recursion():
    """A function may call itself for other arguments; for the same it is refused."""

    @cached
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert fibonacci(60) == 1548008755920


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("grace", [0, 5])
def test_coroutine_functions(backend, grace):
    """A coroutine function is computed once for its arguments, also when many tasks ask at once."""
    calls = []

    @cached(ttl=60, grace=grace)
    async def function(a, b=0):
        calls.append((a, b))
        await anyio.lowlevel.checkpoint()
        return a, b

    async def main():
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(function, 1)
        assert await function(1) == (1, 0)
        assert await function(1, b=2) == (1, 2)

    anyio.run(main, backend=backend)
    assert calls == [(1, 0), (1, 2)]
    function.invalidate(1)
    assert len(function.cache) == 1


def test_importing_the_room_loads_no_event_loop():
    """A program without coroutine functions pays for no event loop."""
    import subprocess

    code = "import sys, replicated.cache; print(any(m in sys.modules for m in ('asyncio', 'anyio', 'trio')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
