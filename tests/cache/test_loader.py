"""The loader under threads: one load a key, who waits, who is served, and what a failure means."""

from __future__ import annotations

import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import cachetools
import pytest

from replicated.cache import Cache, Loader
from replicated.cache.decisions import Flight
from replicated.cache.flights import Flights
from replicated.cache.freshness import Loaded, State, Terms, judge
from replicated.errors import LoadReentered


class Source:
    """What is loaded from: counts, fails on demand, and can be held."""

    def __init__(self):
        self.calls = []
        self.error = None
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, key):
        self.calls.append(key)
        self.entered.release()
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return f"{key}{len(self.calls)}"


@pytest.fixture
def source():
    return Source()


@pytest.fixture(params=["cache", "lfu", "rr", "dict"])
def store(request, clock):
    return {
        "cache": lambda: Cache(10, clock=clock),
        "lfu": lambda: cachetools.LFUCache(10),
        "rr": lambda: cachetools.RRCache(10),
        "dict": dict,
    }[request.param]()


def followers(loader, key, number):
    """Start threads that ask for a key, and wait until all of them wait for its flight."""
    answers = []

    def ask():
        try:
            answers.append(loader.get(key))
        except BaseException as error:
            answers.append(error)

    threads = [threading.Thread(target=ask) for _ in range(number)]
    for thread in threads:
        thread.start()
    flights = loader._flights
    while True:  # no sleep: joining is what is waited for, and every look gives the other threads a turn
        with flights._lock:
            flight = flights._flights.get(key)
            if flight is not None and len(flight.wakes) >= number - 1:
                return threads, answers


def finish(threads):
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_value_is_loaded_once(store, source):
    """A miss loads, a hit does not, over any mapping."""
    loader = Loader(store, source)
    assert [loader.get("a"), loader.get("a"), loader.get("b")] == ["a1", "a1", "b2"]
    assert (loader.loads, loader.failures) == (2, 0)
    assert store["a"] == "a1"


def test_concurrent_misses_load_once(source):
    """However many threads miss one key at once, it is loaded once."""
    loader = Loader(Cache(10), source)
    source.gate.clear()
    threads, answers = followers(loader, "a", 100)
    source.gate.set()
    finish(threads)
    assert source.calls == ["a"]
    assert answers == ["a1"] * 100


def test_another_key_is_not_held_up(source):
    """While one key is loaded, another can be."""
    loader = Loader(Cache(10), lambda key: source(key) if key == "slow" else key)
    source.gate.clear()
    threads, _ = followers(loader, "slow", 1)
    assert loader.get("quick") == "quick"
    source.gate.set()
    finish(threads)


def test_an_error_is_shared(source):
    """A load that raises runs once: its error is the answer of all who wait; the next caller tries again."""
    loader = Loader(Cache(10), source)
    source.error = OSError("down")
    source.gate.clear()
    threads, answers = followers(loader, "a", 20)
    source.gate.set()
    finish(threads)
    assert source.calls == ["a"]
    assert answers == [source.error] * 20
    source.error = None
    assert loader.get("a") == "a2"


@pytest.mark.parametrize(("error", "on_error"), [(OSError("down"), "elect"), (KeyboardInterrupt(), "share")])
def test_elections_are_bounded(source, error, on_error):
    """Where the next in line may load in turn, no more than `attempts` of them do."""
    loader = Loader(Cache(10), source, attempts=3, on_error=on_error)
    source.error = error
    source.gate.clear()
    threads, answers = followers(loader, "a", 20)
    source.gate.set()
    finish(threads)
    loads = len(source.calls)
    assert 2 <= loads <= 3  # fewer when a leader is quicker than those who wait line up again
    assert len(answers) == 20
    if on_error == "elect":
        assert answers == [error] * 20
    else:  # an interrupt is its own thread's; the others learn that nobody could load
        assert answers.count(error) == loads
        assert sum(isinstance(answer, RuntimeError) for answer in answers) == 20 - loads


def test_one_interrupted_leader_is_replaced(source):
    """When the leader is interrupted, one of those who wait loads, and all of them get it."""

    def load(key):
        value = source(key)
        if len(source.calls) == 1:
            raise KeyboardInterrupt
        return value

    loader = Loader(Cache(10), load)
    source.gate.clear()
    threads, answers = followers(loader, "a", 10)
    source.gate.set()
    finish(threads)
    assert len(source.calls) == 2
    assert answers.count("a2") == 9


def test_reentry_is_refused():
    """A load that asks for its own key, also by way of another's, is told so and does not wait for ever."""
    other = Loader(Cache(10), lambda key: loader.get(key))
    loader = Loader(Cache(10), lambda key: loader.get(key) if key == "self" else other.get(key))
    with pytest.raises(LoadReentered, match="the load of 'self' asked for 'self'"):
        loader.get("self")
    with pytest.raises(LoadReentered, match="asked for"):
        loader.get("round")
    many = Loader(Cache(10), str, load_many=lambda keys: {key: many.get(key) for key in keys})
    with pytest.raises(LoadReentered):
        many.get_many(["a", "b"])


def test_two_loads_that_wait_for_each_other():
    """Two threads whose loads ask for each other's key do not deadlock: one of them is refused."""
    both = threading.Barrier(2, timeout=10)

    def load(key):
        if key in ("a", "b"):
            both.wait()
            return loader.get("b" if key == "a" else "a")
        return key

    loader = Loader(Cache(10), load)
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(loader.get, key) for key in ("a", "b")]
        assert all(isinstance(result.exception(10), LoadReentered) for result in results)


def test_a_load_may_ask_for_others():
    """A load may ask for any key that does not wait for it, one after the other and again."""
    loader = Loader(Cache(100), lambda n: n if n < 2 else loader.get(n - 1) + loader.get(n - 2))
    assert loader.get(30) == 832040
    assert loader.loads == 31


def test_grace(store, source, clock):
    """In its grace a stale value is served while one caller loads again; after it, callers wait."""
    loader = Loader(store, source, ttl=10, grace=5, clock=clock)
    assert loader.get("a") == "a1"
    clock.now += 12
    assert loader.get("a") == "a1"
    assert len(source.calls) == 2
    assert loader.get("a") == "a2"
    clock.now += 15
    assert loader.get("a") == "a3"


def test_grace_serves_the_others_while_one_loads(source, clock):
    """While the refresh runs elsewhere everyone is served the stale value, and nobody starts another."""
    spawned = []
    loader = Loader(Cache(10, 10, clock=clock), source, grace=5, spawn=spawned.append)
    loader.get("a")
    clock.now += 11
    assert [loader.get("a") for _ in range(5)] == ["a1"] * 5
    assert (len(spawned), len(source.calls)) == (1, 1)
    spawned[0]()
    assert loader.get("a") == "a2"


def test_a_spawn_that_refuses(source, clock):
    """When the refresh cannot be handed over, the stale value is served, and the next caller tries again."""

    def spawn(run):
        raise RuntimeError("shut down")

    failed = []
    loader = Loader(
        Cache(10, 10, clock=clock), source, grace=5, spawn=spawn, on_failure=lambda *what: failed.append(what)
    )
    loader.get("a")
    clock.now += 11
    assert [loader.get("a"), loader.get("a")] == ["a1", "a1"]
    assert len(failed) == 2

    def interrupted(run):
        raise KeyboardInterrupt

    loader._spawn = interrupted
    with pytest.raises(KeyboardInterrupt):
        loader.get("a")
    loader._spawn = None
    assert [loader.get("a"), loader.get("a")] == ["a1", "a2"]


def test_keep(store, source, clock):
    """A value that is kept answers when the load fails, for as long as it is kept and no longer."""
    failed = []
    loader = Loader(
        store, source, ttl=10, keep=20, clock=clock, on_failure=lambda key, error: failed.append((key, error))
    )
    loader.get("a")
    source.error = OSError("down")
    clock.now += 29
    assert loader.get("a") == "a1"
    assert failed == [("a", source.error)]
    clock.now += 1
    with pytest.raises(OSError, match="down"):
        loader.get("a")


def test_keep_ends_while_the_load_runs(source, clock):
    """A value whose time runs out while the load fails is not served."""

    def load(key):
        clock.now += 15
        return source(key)

    loader = Loader(Cache(10, 10, clock=clock), load, keep=20)
    loader.get("a")
    source.error = OSError("down")
    clock.now += 16
    with pytest.raises(OSError, match="down"):
        loader.get("a")


def test_backoff(store, source, clock):
    """After a failure a kept value is served for a while without another try."""
    loader = Loader(store, source, ttl=10, keep=100, backoff=5, clock=clock)
    loader.get("a")
    source.error = OSError("down")
    clock.now += 11
    assert [loader.get("a") for _ in range(10)] == ["a1"] * 10
    assert len(source.calls) == 2
    clock.now += 5
    assert loader.get("a") == "a1"
    assert len(source.calls) == 3
    clock.now += 94
    with pytest.raises(OSError, match="down"):
        loader.get("a")


def test_negative(store, clock):
    """What does not exist is remembered as such, without its traceback, and for its own time."""
    calls = []

    def load(key):
        calls.append(key)
        raise KeyError(key)

    loader = Loader(store, load, ttl=10, keep=100, negative_ttl=2, clock=clock)
    for _ in range(3):
        with pytest.raises(KeyError, match="a"):
            loader.get("a")
    assert len(calls) == 1
    assert store["a"].error.__traceback__ is None or len(calls) == 1
    clock.now += 2
    with pytest.raises(KeyError):
        loader.get("a")
    assert len(calls) == 2


def test_an_absent_answer_is_no_failure(source, clock):
    """That a thing is gone is an answer: a value kept for failures does not stand in for it."""
    loader = Loader(Cache(10, 10, clock=clock), source, keep=100)
    loader.get("a")
    source.error = KeyError("a")
    clock.now += 11
    with pytest.raises(KeyError):
        loader.get("a")


def test_negative_of_an_exception_that_cannot_be_copied(clock):
    """An exception with an `__init__` of its own is remembered all the same."""

    class Missing(LookupError):
        def __init__(self, one, two):
            super().__init__("no")

    def load(key):
        raise Missing(1, 2)

    loader = Loader(Cache(10, clock=clock, getsizeof=len), load, negative_ttl=2)
    for _ in range(2):
        with pytest.raises(Missing, match="no"):
            loader.get("a")
    assert loader.loads == 1


def test_raising_often_does_not_lengthen_the_traceback(clock):
    """The error that many raise keeps the length of its traceback."""

    def load(key):
        raise KeyError(key)

    def length(error):
        trace, count = error.__traceback__, 0
        while trace is not None:
            trace, count = trace.tb_next, count + 1
        return count

    loader = Loader(Cache(10, clock=clock), load, negative_ttl=100)
    lengths = []
    for _ in range(5):
        with pytest.raises(KeyError) as caught:
            loader.get("a")
        lengths.append(length(caught.value))
    assert len(set(lengths[1:])) == 1


@pytest.mark.parametrize("jitter", [0.0, 0.25, 1.0])
def test_jitter_only_shortens(jitter, clock):
    """Jitter takes off at most its share of the ttl, differently a key, and never adds."""
    cache = Cache(1000, 100, clock=clock)
    loader = Loader(cache, str, jitter=jitter, rng=random.Random(1))
    ttls = [cache.ttl(key) for key in range(500) if loader.get(key)]
    assert all(100 * (1 - jitter) <= ttl <= 100.001 for ttl in ttls)
    if jitter:
        assert len({round(ttl, 6) for ttl in ttls}) > 400


def test_ttl_by_value(clock):
    """A function may say how long each value is fresh; None leaves it to the cache, 0 keeps nothing."""
    cache = Cache(10, 7, clock=clock)
    loader = Loader(cache, str, ttl=lambda key, value: {1: 3, 2: None, 3: 0}[key])
    assert [loader.get(key) for key in (1, 2, 3)] == ["1", "2", "3"]
    assert (cache.ttl(1), cache.ttl(2), 3 in cache) == (3, 7, False)


def test_early_refresh_follows_its_law(clock):
    """The share of early refreshes at some distance from the expiry is exp(-distance / (beta * cost))."""
    rng = random.Random(7)
    record = Loaded("v", fresh_until=100.0, grace_until=100.0, keep_until=100.0, cost=2.0)
    for distance, beta in ((1.0, 1.0), (4.0, 1.0), (4.0, 3.0)):
        early = sum(judge(record, 100 - distance, beta, rng) is State.EARLY for _ in range(4000))
        expected = math.exp(-distance / (beta * 2.0))
        # 4 standard deviations of a binomial share over 4,000 draws are at most 0.032.
        assert abs(early / 4000 - expected) < 0.032
    assert judge(record, 99.9, 0, rng) is State.FRESH


def test_early_refresh_serves_the_fresh_value(source, clock):
    """Whoever is chosen to refresh early serves the value that is still fresh."""

    def load(key):
        clock.now += 1  # what a load costs
        return source(key)

    class Always(random.Random):
        def random(self):
            return 1 - 1e-16

    loader = Loader(Cache(10, 10, clock=clock), load, early=1.0, rng=Always())
    assert [loader.get("a"), loader.get("a"), loader.get("a")] == ["a1", "a1", "a2"]


def test_get_many(source):
    """A batch serves what is there, loads the rest at once, and leaves out what does not exist."""
    batches = []

    def load_many(keys):
        batches.append(keys)
        return {key: key.upper() for key in keys if key != "none"}

    loader = Loader(Cache(10), source, load_many=load_many, negative_ttl=10)
    assert loader.get("b") == "b1"
    assert loader.get_many(["c", "b", "none", "a", "c"]) == {"c": "C", "b": "b1", "a": "A"}
    assert list(loader.get_many(["c", "b", "none", "a"])) == ["c", "b", "a"]
    assert batches == [["c", "none", "a"]]
    assert loader.get_many([]) == {}


def test_get_many_one_by_one():
    """Without a batch load the keys are loaded one after the other; an error comes out when all is done."""
    seen = []

    def load(key):
        seen.append(key)
        if key == "none":
            raise KeyError(key)
        return 1 // key

    loader = Loader(Cache(10), load)
    assert loader.get_many([1, "none"]) == {1: 1}
    with pytest.raises(ZeroDivisionError):
        loader.get_many([0, 2])
    assert seen == [1, "none", 0, 2]
    assert loader.get_many([2]) == {2: 0}


@pytest.mark.parametrize("error", [OSError("down"), KeyboardInterrupt()])
def test_get_many_fails_together(error, clock):
    """When a batch fails its error comes out, no flight is left behind, and a kept value stands in."""

    def load_many(keys):
        raise error

    loader = Loader(Cache(10, 10, clock=clock), str, load_many=load_many, keep=10)
    loader.get(1)
    with pytest.raises(type(error)):
        loader.get_many([2, 3])
    assert loader._flights._flights == {}
    clock.now += 11
    if isinstance(error, Exception):
        assert loader.get_many([1]) == {1: "1"}
        with pytest.raises(OSError, match="down"):
            loader.get_many([1, 2])


def test_get_many_waits_for_others(source):
    """Keys that another caller loads are waited for after the own ones."""
    loader = Loader(Cache(10), source, load_many=lambda keys: dict.fromkeys(keys, "own"))
    source.gate.clear()
    threads, _ = followers(loader, "a", 1)
    result = {}
    thread = threading.Thread(target=lambda: result.update(loader.get_many(["a", "b"])))
    thread.start()
    while loader.get_many(["b"]) != {"b": "own"} or not loader._flights._flights["a"].wakes:
        pass
    source.gate.set()
    finish([*threads, thread])
    assert result == {"a": "a1", "b": "own"}


def test_get_many_of_a_stale_value_refreshes_it(clock):
    """A batch refreshes what is in its grace along with what is missing, and serves the stale value."""
    batches = []

    def load_many(keys):
        batches.append(keys)
        return dict.fromkeys(keys, "new")

    loader = Loader(Cache(10, 10, clock=clock), lambda key: "old", load_many=load_many, grace=5)
    loader.get("a")
    clock.now += 11
    assert loader.get_many(["a", "b"]) == {"a": "old", "b": "new"}
    assert batches == [["a", "b"]]
    assert loader.get_many(["a"]) == {"a": "new"}


def test_a_batch_with_a_key_that_cannot_be(source):
    """An unhashable key, or one whose load the caller is inside, leaves no flight behind."""
    loader = Loader(Cache(10), lambda key: loader.get_many(["b", key]) if key == "a" else key)
    with pytest.raises(LoadReentered):
        loader.get("a")
    with pytest.raises(TypeError):
        loader.get_many([[]])
    assert loader._flights._flights == {}
    assert loader.get("b") == "b"


def test_a_load_that_never_ends(source, clock):
    """Those who wait give up after `timeout`, and the key is open to a new load."""
    loader = Loader(Cache(10, clock=clock), source, timeout=0.0)
    source.gate.clear()
    threads = [threading.Thread(target=lambda: loader.get("a"))]
    threads[0].start()
    assert source.entered.acquire(timeout=10)
    loader._flights._overdue = None  # as long as it is not overdue
    with pytest.raises(TimeoutError, match="'a' took longer than"):
        loader.get("a")
    loader._flights._overdue = 5.0
    clock.now += 5
    source.gate.set()
    assert loader.get("a") in ("a1", "a2")
    finish(threads)
    assert len(source.calls) == 2


def test_invalidate_keeps_a_load_under_way_out(source, clock):
    """What was read before an invalidation is given to those who wait for it, and is not kept."""
    cache = Cache(10, clock=clock)
    loader = Loader(cache, source)
    source.gate.clear()
    threads, answers = followers(loader, "a", 3)
    loader.invalidate("a")
    source.gate.set()
    finish(threads)
    assert answers == ["a1"] * 3
    assert "a" not in cache
    assert loader.get("a") == "a2"
    loader.invalidate("a")
    assert "a" not in cache
    foreign = Loader({}, source)
    foreign.get("b")
    foreign.invalidate("b")
    assert foreign._flights._store == {}


def test_too_large_passes_through(clock):
    """A value that no store can hold is served, and loaded again next time."""
    for store in (Cache(1, getsizeof=len, clock=clock), cachetools.LRUCache(1, getsizeof=len)):
        calls = []
        loader = Loader(store, lambda key, calls=calls: calls.append(key) or "long")
        assert [loader.get("a"), loader.get("a")] == ["long", "long"]
        assert len(calls) == 2
        assert len(store) == 0


def test_weights_are_those_of_the_value(clock):
    """Records weigh what their value weighs."""
    cache = Cache(100, 10, getsizeof=len, clock=clock)
    loader = Loader(cache, lambda key: "x" * 7, grace=5, tags=lambda key, value: [key])
    loader.get("a")
    assert cache.currsize == 7
    assert cache.purge("a") == 1


@pytest.mark.parametrize("part", ["getsizeof", "ttl", "tags"])
def test_a_users_function_that_raises(part, clock):
    """An error in storing a value is an error of the load for all who wait, and leaves nothing behind."""

    def broken(*arguments):
        raise OSError("broken")

    options = {"ttl": lambda key, value: broken()} if part == "ttl" else {}
    if part == "tags":
        options["tags"] = broken
    loader = Loader(Cache(10, getsizeof=broken if part == "getsizeof" else None, clock=clock), str, **options)
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            loader.get(1)
    assert loader._flights._flights == {}


@pytest.mark.parametrize("failing", [True, False])
def test_an_on_evict_that_raises_leaves_no_flight_behind(failing, clock):
    """An error of the store's own callback comes out, and the key can be asked for again."""

    def on_evict(key, value, reason):
        raise OSError("evict")

    def load(key):
        if failing:
            raise KeyError(key)
        return key

    cache = Cache(1, clock=clock, on_evict=on_evict)
    loader = Loader(cache, load, negative_ttl=5)
    cache["other"] = 1
    with pytest.raises((OSError, KeyError)):
        loader.get("a")
    assert loader._flights._flights == {}


def test_an_interrupted_batch_leaves_no_flight_behind(source):
    """When loads one after the other are interrupted, those not begun are open to the next caller."""
    loader = Loader(Cache(9), source)
    source.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        loader.get_many([1, 2, 3])
    assert source.calls == [1]
    assert loader._flights._flights == {}


def test_an_invalidated_value_is_not_kept_for_failures(source, clock):
    """What was invalidated while its refresh ran does not come back when that fails."""

    def load(key):
        if source.error is not None:
            loader.invalidate(key)
        return source(key)

    loader = Loader(Cache(9, 10, clock=clock), load, keep=100)
    loader.get("a")
    clock.now += 11
    source.error = OSError("down")
    with pytest.raises(OSError, match="down"):
        loader.get("a")


def test_a_kept_value_serves_when_leaders_go_away(clock):
    """A value kept for failures also serves those whose leaders all went away."""
    flights = Flights(Cache(9, 10, clock=clock), Terms(keep=100))
    flights.land(flights.decide("a").flight, "old")
    clock.now += 11
    flight = flights.decide("a").flight
    flights.fail(flight, KeyboardInterrupt(), abandoned=True)
    assert flights.result(flight) == "old"


def test_a_late_value_does_not_replace_a_newer_one(clock):
    """A load that was given up as overdue brings its callers a value, and the store none."""
    cache = Cache(9, clock=clock)
    flights = Flights(cache, Terms(), overdue=5)
    late = flights.decide("a").flight
    clock.now += 5
    newer = flights.decide("a").flight
    flights.land(newer, "newer")
    flights.land(late, "late")
    assert (flights.result(late), cache["a"]) == ("late", "newer")


def test_a_batch_that_is_no_mapping():
    """A batch load that returns something else is a TypeError, and leaves no flight behind."""
    loader = Loader(Cache(1), str, load_many=lambda keys: None)
    with pytest.raises(TypeError, match="load_many"):
        loader.get_many([1, 2])
    assert loader._flights._flights == {}


def test_negative_answers_have_no_tags(clock):
    """The function that tags values is not asked about what does not exist."""
    cache = Cache(10, clock=clock)
    loader = Loader(cache, {}.__getitem__, negative_ttl=5, tags=lambda key, value: [value.name])
    for _ in range(2):
        with pytest.raises(KeyError):
            loader.get("a")
    assert loader.loads == 1


def test_a_ttl_of_zero_keeps_nothing(clock):
    """A value that may not be kept is not kept for its grace either."""
    cache = Cache(10, clock=clock)
    loader = Loader(cache, str, ttl=0, grace=60)
    assert [loader.get(1), loader.get(1)] == ["1", "1"]
    assert loader.loads == 2
    assert len(cache) == 0


def test_a_coroutine_is_refused():
    """A loader for threads says so when its load is for an event loop."""

    async def load(key):
        return key

    with pytest.raises(TypeError, match="AsyncLoader"):
        Loader(Cache(1), load)
    with pytest.raises(TypeError, match="AsyncLoader"):
        Loader(Cache(1), lambda key: load(key)).get(1)

    class Awaitable:
        def __await__(self):
            yield

    with pytest.raises(TypeError, match="AsyncLoader"):
        Loader(Cache(1), lambda key: Awaitable()).get(1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": -1}, ValueError),
        ({"grace": math.nan}, ValueError),
        ({"keep": math.inf}, ValueError),
        ({"keep": True}, TypeError),
        ({"negative_ttl": -1}, ValueError),
        ({"negative": KeyboardInterrupt}, TypeError),
        ({"negative": (KeyError, 1)}, TypeError),
        ({"jitter": 1.5}, ValueError),
        ({"early": "1"}, TypeError),
        ({"backoff": -1}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"attempts": 0}, ValueError),
        ({"attempts": True}, TypeError),
        ({"on_error": "no"}, ValueError),
    ],
)
def test_what_cannot_be_is_refused_by_name(options, error):
    """A bad option is an error that names it."""
    with pytest.raises(error, match=next(iter(options))):
        Loader(Cache(1), str, **options)


def test_a_bad_store_or_load_is_refused():
    """What is no mapping, cannot be called, or has no tags is refused."""
    with pytest.raises(TypeError, match="load"):
        Loader(Cache(1), 1)
    with pytest.raises(TypeError, match="cache"):
        Loader([], str)
    with pytest.raises(TypeError, match="tags"):
        Loader({}, str, tags=lambda key, value: [])
    assert repr(Loader(Cache(1), str)) == "Loader(<class 'str'>, loads=0, failures=0)"


def test_a_vacant_flight_is_claimed_once():
    """Of those who find a leader gone, one leads; a flight that is done cannot be claimed or ended again."""
    flights = Flights(Cache(10), Terms())
    flight = flights.decide("a").flight
    assert flights.join(flight, lambda: None)
    flights.fail(flight, KeyboardInterrupt(), abandoned=True)
    assert flight.vacant
    assert not flights.join(flight, lambda: None)
    assert flights.claim(flight)
    assert not flights.claim(flight)
    flights.land(flight, 1)
    assert not flights.claim(flight)
    flights.land(flight, 2)
    flights.fail(flight, OSError(), abandoned=False)
    assert flights.result(flight) == 1
    assert isinstance(flight, Flight)


def test_a_newcomer_takes_a_vacant_flight():
    """When the leader went away and nobody who waits took over yet, the next caller leads."""
    flights = Flights(Cache(10), Terms())
    flight = flights.decide("a").flight
    flights.join(flight, lambda: None)
    flights.fail(flight, KeyboardInterrupt(), abandoned=True)
    assert flights.decide("a").flight is flight
    assert not flight.vacant
