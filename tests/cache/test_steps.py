"""What lets hits and common writes do without a lock holds on the interpreter that runs this."""

from __future__ import annotations

import copy
import dis
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicated.cache import Cache, shelf, store
from replicated.cache.order import Lru, Order
from replicated.cache.shelf import Shelf
from replicated.cache.sieve import Sieve
from replicated.one_step import ATOMIC, is_plain

LETS_IN = ("CALL", "PRECALL", "JUMP_BACKWARD", "RESUME", "FOR_ITER", "SEND", "YIELD", "IMPORT", "BEFORE_WITH")

one_step = pytest.mark.skipif(not ATOMIC, reason="this interpreter takes the lock")


@one_step
@pytest.mark.parametrize(
    ("function", "first"),
    [
        (Cache.get, "older"),
        (Cache.__getitem__, "older"),
        (Lru.touch, "older"),
        (Lru.pop, "root"),
        (Order.append, "root"),
        (Order.remove, "older"),
        (Sieve.append, "root"),
        (Sieve.remove, "older"),
        (Shelf.keep, "plain"),
    ],
)
def test_nobody_comes_in_between(function, first):
    """From the first look at what threads share to the last change of it no other thread is let in."""
    steps = list(dis.get_instructions(function))
    begin = next(n for n, step in enumerate(steps) if step.opname == "LOAD_ATTR" and step.argval == first)
    end = max(n for n, step in enumerate(steps) if step.opname == "STORE_ATTR" and step.argval == "older")
    assert begin < end
    assert [step.opname for step in steps[begin:end] if step.opname.startswith(LETS_IN)] == []


def state(cache):
    """Return all there is to see of a cache, in the order in which entries would leave."""
    held = [(entry.key, entry.value, entry.expires) for entry in cache._shelf.order]
    line = []
    entry = cache._shelf.schedule.root.after
    while entry is not cache._shelf.schedule.root:
        line.append(entry.key)
        assert entry.after.before is entry
        entry = entry.after
    return held, line, cache.stats()


def read(cache, key):
    try:
        return cache[key]
    except KeyError:
        return None


KEYS = st.one_of(st.integers(0, 9), st.tuples(st.integers(0, 3)), st.sampled_from("ab"))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), KEYS),
        st.tuples(st.just("keep"), KEYS),
        st.tuples(st.just("get"), KEYS),
        st.tuples(st.just("read"), KEYS),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, 4.0, -1.0])),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("set"), KEYS, st.sampled_from([None, 5.0, 2.0, 0]), st.sampled_from(["", "x"])),
        st.tuples(st.just("purge")),
        st.tuples(st.just("len")),
        st.tuples(st.just("clear")),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([5.0, None]), st.sampled_from([1, 3, 6.5]))
@settings(max_examples=150)
def test_one_step_does_what_the_lock_does(steps, ttl, maxsize):
    """Whatever is done, a store that writes in one step cannot be told from one that takes the lock."""
    now = 100.0
    quick = Cache(maxsize, ttl, clock=lambda: now)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "ATOMIC", False)
        patch.setattr(store, "ATOMIC", False)
        slow = Cache(maxsize, ttl, clock=lambda: now)
    assert (quick._shelf.plain, slow._shelf.plain) == (ATOMIC, False)
    for number, step in enumerate(steps):
        match step:
            case "keep", key:
                quick[key] = slow[key] = number
            case "get", key:
                assert quick.get(key) == slow.get(key)
            case "read", key:
                assert read(quick, key) == read(slow, key)
            case "wait", seconds:
                now += seconds
            case "delete", key:
                assert quick.delete(key) == slow.delete(key)
            case "set", key, seconds, tag:
                kept = [cache.set(key, number, seconds, tags=tuple(tag)) for cache in (quick, slow)]
                assert kept[0] == kept[1]
            case ("purge",):
                assert quick.purge("x") == slow.purge("x")
            case ("len",):
                assert len(quick) == len(slow)
            case ("clear",):
                quick.clear()
                slow.clear()
        assert state(quick) == state(slow)
        for cache in (quick, slow):
            assert {entry.key: entry for entry in cache._shelf.order} == cache._data


@one_step
def test_what_is_not_common_takes_the_lock():
    """Once a ttl or a weight of its own, a tag or an odd key is held, writes take the lock until a clear."""

    class Key:
        pass

    for put in (
        lambda cache: cache.set("a", 1, ttl=3),
        lambda cache: cache.set("a", 1, size=2),
        lambda cache: cache.set("a", 1, tags=["x"]),
        lambda cache: cache.__setitem__(Key(), 1),
    ):
        cache = Cache(5, 10)
        cache["b"] = 1
        cache.set("c", 1, ttl=10)
        cache[("d", 1)] = 1
        cache.set("e", 1, ttl=0)
        assert cache._shelf.plain
        put(cache)
        assert not cache._shelf.plain
        cache.clear()
        assert cache._shelf.plain
    for cache in (
        Cache(0),
        Cache(5, 0),
        Cache(5, policy="sieve"),
        Cache(5, getsizeof=len),
        Cache(5, on_evict=print),
    ):
        assert not cache._shelf.plain


@one_step
def test_who_holds_the_lock_is_not_disturbed():
    """While somebody is half-way through something longer, no write is one step."""
    cache = Cache(5)
    with cache._shelf:
        assert not cache._shelf.plain
        with cache._shelf:
            cache["a"] = 1
        assert not cache._shelf.plain
        cache["b"] = 2
    assert cache._shelf.plain
    assert dict(cache) == {"a": 1, "b": 2}


def test_a_write_clears_what_has_expired(clock):
    """Of many that expire at once a common write clears 16 and no live one, at one reading of the clock."""
    cache = Cache(100, 10, clock=clock)
    cache.update(dict.fromkeys(range(100), 0))
    clock.now += 10
    for written in range(1, 4):
        before = clock.reads
        cache[-written] = 0
        assert clock.reads == before + 1
        assert cache.stats().entries == 100 - 16 * written + written
    assert (cache.stats().expired, cache.stats().capacity) == (48, 0)


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda cache: cache.__setitem__("other", 1),
        lambda cache: cache.set("other", 1, tags=["x"]),
        lambda cache: cache.__setitem__("a", "older"),
        lambda cache: cache.clear(),
    ],
)
@pytest.mark.parametrize("wait", [3, 30])
def test_another_thread_between_the_clock_and_the_write(meanwhile, wait):
    """A write whose reading of the clock was overtaken is kept in its turn, and whole."""

    def clock():
        nonlocal now, armed
        read = now
        if armed:
            armed = False
            now += wait
            meanwhile(cache)
        return read

    now, armed = 0.0, False
    cache = Cache(3, 20, clock=clock)
    cache["first"] = 1
    now, armed = 1.0, True
    cache["a"] = "newer"
    assert cache._data["a"].value == "newer"
    assert cache._data["a"].expires in (1.0 + 20, now + 20)
    assert cache._shelf.schedule.heap == []
    held, line, _ = state(cache)
    assert sorted(key for key, _, _ in held) == sorted(line) == sorted(cache._data)


@pytest.mark.parametrize("atomic", [True, False])
def test_plain_threads(atomic, monkeypatch):
    """Four threads that only read, write and remove see no error, and every link is whole afterwards."""
    if not atomic:
        monkeypatch.setattr(shelf, "ATOMIC", False)
        monkeypatch.setattr(store, "ATOMIC", False)
    cache = Cache(40, 0.002)
    errors = []

    def work(seed):
        try:
            for step in range(2500):
                key = (step * 31 + seed * 17) % 90
                cache[key] = key
                near = (key + step % 5) % 90
                assert cache.get(near, near) == near
                if step % 50 == 0:
                    cache.pop(near, None)
                    copy.copy(cache)
                if step % 400 == 0:
                    len(cache)
                if step % 900 == 0:
                    cache.clear()
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    held, line, stats = state(cache)
    assert len(held) == len(line) == len(cache._data) == stats.size <= 40
    assert {entry.key: entry for entry in cache._shelf.order} == cache._data
    assert cache._shelf.plain == (atomic and ATOMIC)


@pytest.mark.parametrize("policy", ["lru", "sieve"])
def test_a_copy_leaves_in_the_same_order(policy):
    """A copy lets its entries go in the order of its source, also where a hit has led the walk astray."""
    source = Cache(5, policy=policy)
    source.update(zip("abcde", range(5), strict=True))
    other = copy.copy(source)
    assert [other.popitem()[0] for _ in range(5)] == list("abcde")
    source._shelf.order.remove(source._data["c"])
    assert {entry.key for entry in source._shelf.in_order()} == set("abcde")


@pytest.mark.parametrize("key", ["a", b"a", 1, 1.5, True, None, ("a", 1), ()])
def test_plain(key):
    """Keys made of built-in values run no Python code when they are hashed and compared."""
    assert is_plain(key)


@pytest.mark.parametrize("key", [object(), type("S", (str,), {})("a"), ("a", ("b",)), frozenset("a")])
def test_not_plain(key):
    """Whatever might run Python code is not taken for plain."""
    assert not is_plain(key)
