"""The asynchronous loader under asyncio and trio: one load a key whoever is cancelled, in whatever loop."""

from __future__ import annotations

import asyncio
import builtins
import gc
import importlib
import threading

import anyio
import cachetools
import pytest
import trio

from replicated.adapters import async_loader
from replicated.adapters.async_loader import AsyncLoader
from replicated.cache import Cache
from replicated.errors import LoadReentered, MissingExtra


@pytest.fixture(params=["asyncio", "trio"])
def run(request):
    """Run a coroutine function to its end, or fail after ten seconds rather than hang."""

    def run(main, *arguments):
        async def bounded():
            with anyio.fail_after(10):
                return await main(*arguments)

        return anyio.run(bounded, backend=request.param)

    return run


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


class Source:
    """What is loaded from: it can be held, and told to fail."""

    def __init__(self):
        self.calls = []
        self.error = None
        self.held = False
        self.entered = anyio.Event()
        self.gate = anyio.Event()

    async def __call__(self, key):
        self.calls.append(key)
        number = len(self.calls)
        await anyio.lowlevel.checkpoint()
        if self.held:
            self.entered.set()
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return f"{key}{number}"


async def settled(condition):
    """Let the other tasks run until something is so."""
    while not condition():
        await anyio.lowlevel.checkpoint()


def waiting(loader, key):
    flight = loader._flights._flights.get(key)
    return len(flight.wakes) if flight is not None else 0


async def ask(loader, key, answers):
    try:
        answers.append(await loader.get(key))
    except Exception as error:
        answers.append(error)


def test_a_value_is_loaded_once(run):
    """A miss loads, a hit does not, also over a cache of cachetools."""

    async def main():
        for store in (Cache(10), cachetools.LFUCache(10), {}):
            source = Source()
            loader = AsyncLoader(store, source)
            assert [await loader.get("a"), await loader.get("a"), await loader.get("b")] == ["a1", "a1", "b2"]
            assert (loader.loads, loader.failures) == (2, 0)
            assert repr(loader).endswith("loads=2, failures=0)")

    run(main)


def test_concurrent_misses_load_once(run):
    """However many tasks miss one key at once, it is loaded once, also when the first is cancelled."""

    async def main(number=10_000):
        source = Source()
        source.held = True
        loader = AsyncLoader(Cache(10), source)
        answers = []
        async with anyio.create_task_group() as group:
            leader = anyio.CancelScope()

            async def lead():
                with leader:
                    await loader.get("a")

            group.start_soon(lead)
            await source.entered.wait()
            for _ in range(number):
                group.start_soon(ask, loader, "a", answers)
            await settled(lambda: waiting(loader, "a") == number + 1)
            leader.cancel()
            await settled(lambda: waiting(loader, "a") == number)
            source.gate.set()
        assert source.calls == ["a"]
        assert answers == ["a1"] * number

    run(main)


def test_all_callers_may_go_and_the_load_still_serves(run):
    """A load whose callers were all cancelled goes on, and its value is there for the next."""

    async def main():
        source = Source()
        source.held = True
        loader = AsyncLoader(Cache(10), source)
        async with anyio.create_task_group() as group:
            group.start_soon(loader.get, "a")
            await source.entered.wait()
            group.cancel_scope.cancel()
        source.gate.set()
        assert await loader.get("a") == "a1"
        assert source.calls == ["a"]

    run(main)


def test_cancellation_at_every_point(run):
    """Wherever a caller is cancelled, the next one gets the value, and no flight or waiter is left behind."""

    async def main():
        for steps in range(8):
            loader = AsyncLoader(Cache(10, 60), source := Source())
            async with anyio.create_task_group() as group:
                group.start_soon(loader.get, "a")
                group.start_soon(loader.get_many, ["a", "b"])
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            assert (await loader.get("a")).startswith("a")
            assert set(await loader.get_many(["a", "b"])) == {"a", "b"}
            assert source.calls.count("a") == 1
            assert source.calls.count("b") == 1
            assert loader._flights._flights == {}

    run(main)


def test_an_error_is_shared(run):
    """A load that raises runs once: its error is the answer of all who wait; the next caller tries again."""

    async def main():
        source = Source()
        source.held = True
        source.error = OSError("down")
        failed = []
        loader = AsyncLoader(Cache(10), source, on_failure=lambda *what: failed.append(what))
        answers = []
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(ask, loader, "a", answers)
            await settled(lambda: waiting(loader, "a") == 20)
            source.gate.set()
        assert answers == [source.error] * 20
        assert source.calls == ["a"]
        assert failed == [("a", source.error)]
        source.error = None
        assert await loader.get("a") == "a2"

    run(main)


def test_elections_are_bounded(run):
    """Where one of those who wait may load in turn, no more than `attempts` loads are made."""

    async def main():
        source = Source()
        source.error = OSError("down")
        loader = AsyncLoader(Cache(10), source, on_error="elect", attempts=3)
        answers = []
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(ask, loader, "a", answers)
        assert answers == [source.error] * 20
        assert len(source.calls) == 3

    run(main)


class Odd(BaseException):
    pass


@pytest.mark.parametrize("error", [Odd, asyncio.CancelledError])
def test_a_base_exception_of_the_load_ends_nothing_but_the_load(run, error):
    """What is no Exception does not take the loop with it: those who wait learn that nobody could load."""

    async def main():
        source = Source()
        source.error = error("odd")
        loader = AsyncLoader(Cache(10), source)
        with pytest.raises(RuntimeError, match="abandoned by 2 leaders") as caught:
            await loader.get("a")
        assert isinstance(caught.value.__cause__, error)
        source.error = None
        assert await loader.get("a") == "a3"
        gc.collect()

    run(main)


def test_reentry_is_refused(run):
    """A load that asks for its own key, also from a child task, is told so and does not wait for ever."""

    async def main():
        async def load(key):
            if key == "child":
                async with anyio.create_task_group() as group:
                    group.start_soon(loader.get, key)
            return await loader.get("a" if key == "b" else "b" if key == "a" else key)

        loader = AsyncLoader(Cache(10), load)
        for key in ("self", "a"):
            with pytest.raises(LoadReentered):
                await loader.get(key)
        with pytest.raises(ExceptionGroup):
            await loader.get("child")
        assert loader._flights._flights == {}

    run(main)


def test_a_load_may_ask_for_others(run):
    """A load may ask for any key that does not wait for it."""

    async def main():
        async def load(n):
            return n if n < 2 else await loader.get(n - 1) + await loader.get(n - 2)

        loader = AsyncLoader(Cache(100), load)
        assert await loader.get(20) == 6765
        assert loader.loads == 21

    run(main)


def test_grace_refreshes_in_the_background(run, clock):
    """In its grace a stale value is served at once to everyone, while one load runs behind them."""

    async def main():
        source = Source()
        loader = AsyncLoader(Cache(10, 10, clock=clock), source, grace=5)
        await loader.get("a")
        clock.now += 11
        source.held = True
        assert [await loader.get("a") for _ in range(5)] == ["a1"] * 5
        await source.entered.wait()
        assert len(source.calls) == 2
        source.gate.set()
        await settled(lambda: not loader._flights._flights)
        assert await loader.get("a") == "a2"

    run(main)


def test_keep(run, clock):
    """A kept value answers when the load fails, and a negative answer is remembered instead."""

    async def main():
        source = Source()
        loader = AsyncLoader(Cache(10, 10, clock=clock), source, keep=50, negative_ttl=5)
        await loader.get("a")
        source.error = OSError("down")
        clock.now += 11
        assert await loader.get("a") == "a1"
        source.error = KeyError("a")
        for _ in range(2):
            with pytest.raises(KeyError):
                await loader.get("a")
        assert len(source.calls) == 3

    run(main)


def test_timeout(run):
    """A load that never ends is cancelled and fails for all who wait; a quick one does not."""

    async def main():
        source = Source()
        source.held = True
        loader = AsyncLoader(Cache(10), source, timeout=0.2)  # long enough for all to ask
        answers = []
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask, loader, "a", answers)
        assert [str(answer) for answer in answers] == ["the load of 'a' took longer than 0.2 s"] * 3
        assert all(isinstance(answer, TimeoutError) for answer in answers)
        assert source.calls == ["a"]
        source.held = False
        assert await AsyncLoader(Cache(10), source, timeout=9).get("a") == "a2"

    run(main)


def test_a_loop_that_is_blocked(run):
    """Those who wait give up also when the loop of the load cannot time it."""

    async def main():
        loader = AsyncLoader(Cache(10), Source(), timeout=0.01)
        flight = loader._flights.decide("a").flight  # someone leads, somewhere
        with pytest.raises(TimeoutError):
            await loader._follow(flight, lambda: None)

    run(main)


def test_get_many(run):
    """A batch serves what is there, loads the rest at once, and leaves out what does not exist."""

    async def main():
        batches = []

        async def load_many(keys):
            batches.append(keys)
            return {key: key.upper() for key in keys if key != "none"}

        source = Source()
        loader = AsyncLoader(Cache(10), source, load_many=load_many, negative_ttl=10)
        await loader.get("b")
        assert await loader.get_many(["c", "b", "none", "a", "c"]) == {"c": "C", "b": "b1", "a": "A"}
        assert list(await loader.get_many(["c", "b", "none", "a"])) == ["c", "b", "a"]
        assert batches == [["c", "none", "a"]]
        assert await loader.get_many([]) == {}
        one_by_one = AsyncLoader(Cache(10), source)
        assert list(await one_by_one.get_many(["x", "y"])) == ["x", "y"]

    run(main)


def test_get_many_fails_together_and_refreshes(run, clock):
    """The error of a batch comes out and no flight is left; what is in its grace is refreshed along."""

    async def main():
        error = OSError("down")

        async def load_many(keys):
            if error is not None:
                raise error
            return dict.fromkeys(keys, "new")

        async def load(key):
            return "old"

        loader = AsyncLoader(Cache(10, 10, clock=clock), load, load_many=load_many, grace=5)
        with pytest.raises(OSError, match="down"):
            await loader.get_many(["a", "b"])
        assert loader._flights._flights == {}
        error = None
        await loader.get("a")
        clock.now += 11
        assert await loader.get_many(["a", "b"]) == {"a": "old", "b": "new"}
        assert await loader.get_many(["a"]) == {"a": "new"}

    run(main)


def test_a_batch_with_a_key_that_cannot_be(run):
    """A key that cannot be asked for leaves no load behind that nobody runs; a batch load must map."""

    async def main():
        async def load(key):
            return await loader.get_many(["b", key]) if key == "a" else key

        async def load_many(keys):
            return None

        loader = AsyncLoader(Cache(10), load)
        with pytest.raises(LoadReentered):
            await loader.get("a")
        assert loader._flights._flights == {}
        assert await loader.get("b") == "b"
        with pytest.raises(TypeError, match="load_many"):
            await AsyncLoader(Cache(10), load, load_many=load_many).get_many(["c"])

    run(main)


def test_invalidate(run):
    """What was read before an invalidation is given to those who wait, and is not kept."""

    async def main():
        source = Source()
        source.held = True
        loader = AsyncLoader(Cache(10), source)
        answers = []
        async with anyio.create_task_group() as group:
            group.start_soon(ask, loader, "a", answers)
            await source.entered.wait()
            loader.invalidate("a")
            source.gate.set()
        assert answers == ["a1"]
        assert await loader.get("a") == "a2"

    run(main)


def test_a_plain_function_is_refused(run):
    """A load that returns no awaitable is a TypeError that says what to use."""

    async def main():
        with pytest.raises(TypeError, match="Loader takes plain functions"):
            await AsyncLoader(Cache(1), str).get(1)

    run(main)
    with pytest.raises(TypeError, match="load"):
        AsyncLoader(Cache(1), 1)


@pytest.mark.parametrize(
    ("backends", "each"),
    [(("asyncio",) * 4, 100), (("trio",) * 4, 100), (("asyncio", "trio") * 2, 2_500)],
)
def test_threads_with_loops_of_their_own(backends, each):
    """Ten thousand tasks in four threads, each with its own loop, share one load."""
    gate = threading.Event()
    calls = []

    async def load(key):
        calls.append(key)
        while not gate.is_set():
            await anyio.lowlevel.checkpoint()
        return "value"

    loader = AsyncLoader(Cache(10), load)
    answers = []

    async def main():
        async with anyio.create_task_group() as group:
            for _ in range(each):
                group.start_soon(ask, loader, "a", answers)

    threads = [threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": b}) for b in backends]
    for thread in threads:
        thread.start()
    while waiting(loader, "a") < 4 * each:
        threads[0].join(0.01)  # the loops need the interpreter more than this one
    gate.set()
    for thread in threads:
        thread.join(10)
    assert calls == ["a"]
    assert answers == ["value"] * 4 * each


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("started", [True, False])
def test_a_loop_that_ends_hands_its_load_over(backend, started):
    """When the loop that runs a load ends, a caller that waits in another thread loads in its place."""
    loader = AsyncLoader(Cache(10), lambda key: load(key))
    calls = []
    begun = threading.Event()
    answers = []

    async def load(key):
        calls.append(key)
        if len(calls) == 1 and started:
            begun.set()
            await anyio.sleep_forever()
        return "value"

    async def brief():
        decision = loader._flights.decide("a")
        begun.set()
        while waiting(loader, "a") < 1:
            if started:
                await anyio.lowlevel.checkpoint()
        loader._start_one(decision.flight, lambda: load("a"))
        if started:
            await settled(lambda: calls)

    def late():
        begun.wait(10)
        answers.append(anyio.run(loader.get, "a"))

    thread = threading.Thread(target=late)
    thread.start()
    anyio.run(brief, backend=backend)
    thread.join(10)
    assert answers == ["value"]
    assert len(calls) == (2 if started else len(calls))


def test_waking_a_loop_that_is_gone():
    """A caller whose loop has ended is not waited for, nor an error for those who end the flight."""
    wakes = []

    async def main():
        event = anyio.Event()
        wakes.append(async_loader._waker(event))

    for backend in ("asyncio", "trio"):
        anyio.run(main, backend=backend)
    for wake in wakes:
        wake()
        thread = threading.Thread(target=wake)
        thread.start()
        thread.join(10)


def test_without_anyio(monkeypatch):
    """Without anyio the import says which extra is missing."""
    real = builtins.__import__

    def refuse(name, *arguments):
        if name == "anyio":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtra, match="anyio"):
        importlib.reload(async_loader)
    monkeypatch.undo()
    importlib.reload(async_loader)
    assert trio.__name__ == "trio"
