"""What the store does beyond a mapping: expiry, reasons, tags, weights, bad input, threads."""

from __future__ import annotations

import gc
import math
import sys
import threading
import weakref
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicated.cache import Cache, Reason


def test_expired_is_never_served_and_leaves_first(clock):
    """An expired entry is a miss at the instant of its expiry, and makes room before a live one."""
    evicted = []
    cache = Cache(2, 10, clock=clock, on_evict=lambda *what: evicted.append(what))
    cache["old"] = 1
    cache.set("short", 2, ttl=1)
    clock.now += 1
    assert cache.get("short") is None
    assert "short" not in cache
    cache["new"] = 3
    assert evicted == [("short", 2, Reason.EXPIRED)]
    assert set(cache) == {"old", "new"}


def test_a_million_at_once_in_small():
    """However many expire at once, a write clears a bounded number of them, and all go in the end."""
    evicted = []
    now = 0.0
    cache = Cache(1000, 10, clock=lambda: now, on_evict=lambda *what: evicted.append(what))
    for key in range(1000):
        cache[key] = key
    now = 20.0
    most = 0
    for key in range(1000, 1080):
        before = len(evicted)
        cache[key] = key
        assert cache.get(key) == key
        most = max(most, len(evicted) - before)
    assert most == 16
    assert len(evicted) == 1000
    assert {reason for _, _, reason in evicted} == {Reason.EXPIRED}
    assert [key for key, _, _ in evicted] == list(range(1000))


def test_a_large_value_among_expired_ones_costs_no_live_one():
    """Room beyond what one sweep clears is taken from the expired too."""
    now = 0.0
    cache = Cache(100, clock=lambda: now, getsizeof=lambda value: value)
    for key in range(60):
        cache.set(key, 1, ttl=1)
    cache["live"] = 40
    now = 2.0
    cache["large"] = 60
    assert dict(cache) == {"live": 40, "large": 60}


def test_length_is_exact_up_to_its_bound():
    """`len` counts live entries exactly as long as no more than 256 expired are left, and else too many."""
    now = 0.0
    cache = Cache(1000, 10, clock=lambda: now)
    for key in range(300):
        cache[key] = key
    now = 20.0
    assert len(cache) == 44
    assert len(cache) == 0
    assert list(cache) == []


def test_mixed_ttls_expire_in_order(clock):
    """Entries with ttls of their own expire when theirs says, whatever the order they were set in."""
    cache = Cache(100, 50, clock=clock)
    for key, ttl in enumerate([30, 10, 20, None, 5, 40]):
        cache.set(key, key, ttl=ttl)
    for seconds, left in ((5, 5), (5, 4), (10, 3), (10, 2), (10, 1), (10, 0)):
        clock.now += seconds
        assert len(cache) == left


def test_the_clock_is_read_at_most_once_a_call(clock):
    """Every public call decides at one instant."""
    cache = Cache(2, 10, clock=clock)
    calls = (
        lambda: cache.set("a", 1),
        lambda: cache.set("b", 1),
        lambda: cache.set("c", 1, ttl=1),
        lambda: cache.get("c"),
        lambda: cache["c"],
        lambda: cache.peek("c"),
        lambda: "c" in cache,
        lambda: cache.ttl("c"),
        lambda: len(cache),
        lambda: [*iter(cache.items())],
        lambda: cache.pop("c"),
        lambda: cache.popitem(),
        lambda: cache.purge("tag"),
        lambda: cache.stats(),
    )
    for call in calls:
        before = clock.reads
        call()
        assert clock.reads <= before + 1


def test_a_cache_without_ttl_reads_no_clock_for_a_hit(clock):
    """What never expires is served without asking for the time."""
    cache = Cache(2, clock=clock)
    cache["a"] = 1
    clock.reads = 0
    assert (cache.get("a"), cache["a"], "a" in cache, cache.peek("a"), cache.ttl("a")) == (
        1,
        1,
        True,
        1,
        None,
    )
    assert clock.reads == 0


def test_tags(clock):
    """A purge removes what carries the tag now, live or not, and counts the live."""
    evicted = []
    cache = Cache(10, 10, clock=clock, on_evict=lambda *what: evicted.append(what))
    cache.set("a", 1, tags=["x", "y"])
    cache.set("b", 2, tags=["x"])
    cache.set("c", 3, tags=["x"], ttl=1)
    cache["d"] = 4
    cache.set("b", 5)  # written again without the tag
    clock.now += 1
    assert (cache.tagged("x"), cache.tagged("z")) == (["a", "c"], [])
    assert cache.purge("x") == 1
    assert evicted == [("a", 1, Reason.PURGED), ("c", 3, Reason.EXPIRED)]
    assert cache.purge("x") == cache.purge("y") == 0
    assert set(cache) == {"b", "d"}
    assert (cache.stats().purged, cache.stats().expired) == (1, 1)


def test_a_key_that_the_caller_names_is_not_evicted(clock):
    """Replaced, deleted, popped and cleared entries are not announced: the caller knows."""
    evicted = []
    cache = Cache(10, 10, clock=clock, on_evict=lambda *what: evicted.append(what))
    cache.update(dict.fromkeys("abcd", 1))
    cache["a"] = 2
    del cache["a"]
    cache.pop("b")
    assert cache.delete("c") is True
    assert cache.delete("c") is False
    cache.popitem()
    cache["e"] = 1
    cache.clear()
    assert evicted == []


def test_on_evict_may_use_the_cache():
    """`on_evict` runs outside the lock and after the change."""
    cache = Cache(1, on_evict=lambda key, value, reason: seen.append((key, key in cache, len(cache))))
    seen = []
    cache["a"] = 1
    cache["b"] = 2
    assert seen == [("a", False, 1)]


def test_what_on_evict_raises_comes_out_after_the_change():
    """An error of `on_evict` reaches the caller, and the cache is whole."""

    def refuse(key, value, reason):
        raise RuntimeError("no")

    cache = Cache(1, on_evict=refuse)
    cache["a"] = 1
    with pytest.raises(RuntimeError, match="no"):
        cache["b"] = 2
    assert dict(cache) == {"b": 2}


def test_a_destructor_may_use_the_cache():
    """A value whose destructor comes back to the cache neither deadlocks nor breaks it."""

    class Value:
        def __del__(self):
            cache["from the destructor"] = 1

    cache = Cache(2)
    for key in range(5):
        cache[key] = Value()
    cache.clear()
    assert cache["from the destructor"] == 1
    assert len(cache) == 1


@pytest.mark.parametrize("policy", ["lru", "sieve"])
def test_a_hit_is_a_use(policy):
    """Under either policy, whichever way an entry is read, it outlives one that was not."""
    for read in (Cache.get, Cache.__getitem__, lambda cache, key: cache.at(key, 0.0, None)):
        cache = Cache(2, policy=policy)
        cache["a"] = 1
        cache["b"] = 1
        assert read(cache, "a") == 1
        cache["c"] = 1
        assert set(cache) == {"a", "c"}


def test_too_large_passes_through(clock):
    """`set` refuses what alone exceeds the bound, and leaves no older value behind as if it were true."""
    cache = Cache(10, getsizeof=len, clock=clock)
    assert cache.set("a", "xx") is True
    assert cache.set("b", "x") is True
    assert cache.set("a", "x" * 11) is False
    assert dict(cache) == {"b": "x"}
    assert cache.stats().refused == 1
    assert cache.set("b", "y", ttl=0) is False
    assert cache.set("c", "x", size=10) is True
    assert cache.currsize == 10


def test_a_changing_weight_is_asked_once(clock):
    """A `getsizeof` that lies later cannot unbalance the books."""
    weights = iter([3, 5])
    cache = Cache(10, getsizeof=lambda value: next(weights))
    cache["a"] = 1
    cache["b"] = 1
    assert cache.currsize == 8
    del cache["a"]
    del cache["b"]
    assert cache.currsize == 0


@pytest.mark.parametrize("policy", ["lru", "sieve"])
def test_weights_that_do_not_add_up(policy):
    """Weights that are floats leave no rest behind that would one day be room."""
    cache = Cache(0.3, getsizeof=lambda value: value, policy=policy)
    for key in range(100):
        cache[key] = 0.1
        cache[-key] = 0.2
        cache["all"] = 0.3
        assert dict(cache) == {"all": 0.3}
        del cache["all"]
        assert cache.currsize == 0


@pytest.mark.parametrize("policy", ["lru", "sieve"])
def test_cleared_values_are_free_at_once(policy):
    """What was cleared does not wait for the garbage collector."""

    class Value:
        pass

    cache = Cache(10, 60, policy=policy)
    values = [Value() for _ in range(5)]
    seen = [weakref.ref(value) for value in values]
    gc.disable()
    try:
        cache.update(enumerate(values))
        values.clear()
        cache.clear()
        assert [ref() for ref in seen] == [None] * 5
    finally:
        gc.enable()


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, True, "1", None])
def test_an_impossible_weight_changes_nothing(weight):
    """What `getsizeof` cannot mean is refused by name, and the old value stays."""
    cache = Cache(10, getsizeof=lambda value: value)
    cache["a"] = 1
    for write in (lambda: cache.set("a", weight), lambda: cache.__setitem__("a", weight)):
        with pytest.raises((TypeError, ValueError), match="getsizeof"):
            write()
    assert (dict(cache), cache.currsize) == ({"a": 1}, 1)


def test_a_getsizeof_that_raises_changes_nothing():
    """The error of `getsizeof` comes out, and the old value stays."""

    def getsizeof(value):
        return 1 // value

    cache = Cache(10, getsizeof=getsizeof)
    cache["a"] = 1
    with pytest.raises(ZeroDivisionError):
        cache["a"] = 0
    assert dict(cache) == {"a": 1}


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"maxsize": -1}, ValueError, "maxsize"),
        ({"maxsize": math.nan}, ValueError, "maxsize"),
        ({"maxsize": math.inf}, ValueError, "maxsize"),
        ({"maxsize": True}, TypeError, "maxsize"),
        ({"maxsize": "9"}, TypeError, "maxsize"),
        ({"maxsize": 9, "ttl": -1}, ValueError, "ttl"),
        ({"maxsize": 9, "ttl": math.nan}, ValueError, "ttl"),
        ({"maxsize": 9, "ttl": "1"}, TypeError, "ttl"),
        ({"maxsize": 9, "getsizeof": 1}, TypeError, "getsizeof"),
        ({"maxsize": 9, "on_evict": 1}, TypeError, "on_evict"),
        ({"maxsize": 9, "policy": "lfu"}, ValueError, "policy"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments, error, word):
    """A bad argument is an error that names it."""
    with pytest.raises(error, match=word):
        Cache(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"ttl": -1}, ValueError),
        ({"ttl": math.nan}, ValueError),
        ({"ttl": True}, TypeError),
        ({"size": -1}, ValueError),
        ({"tags": "name"}, TypeError),
        ({"tags": [[]]}, TypeError),
    ],
)
def test_a_bad_set_changes_nothing(arguments, error):
    """A refused `set` leaves what was there."""
    cache = Cache(9)
    cache["a"] = 1
    with pytest.raises(error):
        cache.set("a", 2, **arguments)
    assert dict(cache) == {"a": 1}


def test_stats(clock):
    """The counters tell hits, misses and evictions by reason."""
    cache = Cache(2, 10, clock=clock)
    assert cache.stats().hit_ratio == 0
    cache["a"] = 1
    cache.get("a")
    cache.get("b")
    cache["a"]
    with pytest.raises(KeyError):
        cache["b"]
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.hit_ratio, stats.entries, stats.size) == (2, 2, 0.5, 1, 1)
    cache.update({"b": 1, "c": 1})
    clock.now += 10
    cache["d"] = 1
    stats = cache.stats()
    assert (stats.capacity, stats.expired, stats.maxsize) == (1, 2, 2)


@given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 20))
@settings(max_examples=50)
def test_lru_is_the_reference_to_the_hit(requests, maxsize):
    """On any sequence the hits are those of a textbook LRU."""
    cache = Cache(maxsize)
    reference: OrderedDict[int, None] = OrderedDict()
    for key in requests:
        assert (cache.get(key) is not None) == (key in reference)
        if key in reference:
            reference.move_to_end(key)
        else:
            cache[key] = key
            reference[key] = None
            if len(reference) > maxsize:
                reference.popitem(last=False)


class Slow:
    """A key whose comparison is Python code, in which threads change over."""

    def __init__(self, number):
        self.number = number

    def __hash__(self):
        return hash(self.number % 7)

    def __eq__(self, other):
        return isinstance(other, Slow) and self.number == other.number


@pytest.mark.parametrize("policy", ["lru", "sieve"])
@pytest.mark.parametrize("make_key", [int, Slow])
def test_threads(policy, make_key, switch_often):
    """Four threads that read, write, remove and purge at once see no error, and the books are right."""
    cache = Cache(40, 0.001, policy=policy)
    errors = []

    def work(seed):
        try:
            for step in range(1200):
                number = (step * 31 + seed * 17) % 90
                key = make_key(number)
                cache.set(
                    key, number, ttl=None if step % 3 else 0.0005, tags=[number % 3] if step % 5 == 0 else ()
                )
                found = cache.get(make_key((number + 1) % 90))
                assert found in (None, (number + 1) % 90)
                if step % 7 == 0:
                    cache.pop(key, None)
                if step % 97 == 0:
                    cache.purge(step % 3)
                    list(cache.items())
                    len(cache)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    shelf = cache._shelf
    assert shelf.size == len(shelf.data) == len(list(shelf.order)) <= 40


@pytest.fixture
def switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_an_entry_that_left_since_it_was_looked_up_is_served(clock):
    """A reader that meets a removal half-way serves the value that was live when it looked."""
    cache = Cache(2, 10, clock=clock)
    cache["a"] = 1
    for read in (lambda: cache.get("a"), lambda: cache["a"], lambda: cache.at("a", clock.now, None)):
        cache.set("a", 1)
        entry = cache._data["a"]
        cache._shelf.order.remove(entry)
        assert read() == 1
        cache._shelf.order.append(entry)
