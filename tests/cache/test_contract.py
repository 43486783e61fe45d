"""The contract that cachetools' tests hold its caches to, as a mapping, over both policies."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import cachetools
import pytest

from replicated.cache import Cache


@pytest.fixture(params=["lru", "sieve"])
def make(request):
    return partial(Cache, policy=request.param)


def test_defaults(make):
    """An empty cache says its size, weighs values at one, and shows its class."""
    cache = make(maxsize=1)
    assert (len(cache), cache.maxsize, cache.currsize, cache.getsizeof(None)) == (0, 1, 0, 1)
    assert repr(cache).startswith("Cache(")


def test_insert(make):
    """A full cache takes another entry and lets one go."""
    cache = make(maxsize=2)
    cache.update({1: 1, 2: 2})
    assert (len(cache), cache[1], cache[2]) == (2, 1, 2)
    cache[3] = 3
    assert len(cache) == 2
    assert cache[3] == 3
    assert (1 in cache) != (2 in cache)
    cache[4] = 4
    assert len(cache) == 2
    assert cache[4] == 4
    assert sum(key in cache for key in (1, 2, 3)) == 1


def test_update(make):
    """Writing what is there again evicts nothing."""
    cache = make(maxsize=2)
    cache.update({1: 1, 2: 2})
    cache.update({1: "a", 2: "b"})
    assert dict(cache) == {1: "a", 2: "b"}


def test_delete(make):
    """`del` removes one key, and says KeyError for one that is not there."""
    cache = make(maxsize=2)
    cache.update({1: 1, 2: 2})
    del cache[2]
    assert dict(cache) == {1: 1}
    with pytest.raises(KeyError):
        del cache[2]
    del cache[1]
    assert len(cache) == 0
    with pytest.raises(KeyError):
        del cache[1]


def test_pop(make):
    """`pop` hands the value over once, and takes a default."""
    cache = make(maxsize=2)
    cache.update({1: 1, 2: 2})
    assert cache.pop(2) == 2
    assert cache.pop(1) == 1
    assert len(cache) == 0
    for key in (0, 1, 2):
        with pytest.raises(KeyError):
            cache.pop(key)
        assert cache.pop(key, None) is None
        assert cache.pop(key, default="x") == "x"


def test_popitem(make):
    """`popitem` hands pairs over until the cache is empty, then says KeyError with no error behind it."""
    cache = make(maxsize=2)
    cache.update({1: 1, 2: 2})
    assert {cache.popitem(), cache.popitem()} == {(1, 1), (2, 2)}
    with pytest.raises(KeyError) as caught:
        cache.popitem()
    assert caught.value.__context__ is None
    assert len(cache) == 0


def test_clear(make):
    """`clear` leaves a cache that works."""
    cache = make(maxsize=2, ttl=10)
    cache.update({1: 1, 2: 2})
    cache.clear()
    assert (len(cache), cache.currsize, list(cache)) == (0, 0, [])
    cache.update({1: 1, 2: 2, 3: 3})
    assert len(cache) == 2


@pytest.mark.parametrize("getsizeof", [None, lambda value: value])
def test_missing(make, getsizeof):
    """A subclass's `__missing__` answers `[]`, and nothing else."""

    class Default(Cache):
        def __missing__(self, key):
            self[key] = key
            return key

    cache = Default(2, getsizeof=getsizeof, policy=make.keywords["policy"])
    assert cache.get(2, 42) == 42
    assert 2 not in cache
    assert cache.pop(2, None) is None
    assert cache[1] == 1
    assert 1 in cache
    assert cache.setdefault(1, 5) == 1
    assert cache.pop(1) == 1
    assert isinstance(pickle.loads(pickle.dumps(make(2))), Cache)


def test_getsizeof(make):
    """A cache bounded by weight evicts until a value fits, and refuses what never will without changing."""
    cache = make(maxsize=3, getsizeof=lambda value: value)
    cache.update({1: 1, 2: 2})
    assert (len(cache), cache.currsize) == (2, 3)
    cache[1] = 2
    assert (dict(cache), cache.currsize) == ({1: 2}, 2)
    cache.update({1: 1, 2: 2})
    assert cache.currsize == 3
    cache[3] = 3
    assert (dict(cache), cache.currsize) == ({3: 3}, 3)
    with pytest.raises(ValueError, match="too large"):
        cache[3] = 4
    with pytest.raises(ValueError, match="too large"):
        cache[4] = 4
    assert (dict(cache), cache.currsize) == ({3: 3}, 3)


@pytest.mark.parametrize("ttl", [None, 60])
def test_pickle_and_copy(make, ttl):
    """A pickle and a copy hold the same entries, have the same bounds, and live on apart."""
    source = make(maxsize=2, ttl=ttl)
    source.set(1, 1, tags=["odd"])
    source[2] = 2
    for other in (pickle.loads(pickle.dumps(source)), copy.copy(source)):
        assert other == source
        assert (other.maxsize, other.currsize, other.default_ttl) == (2, 2, ttl)
        assert other.purge("odd") == 1
        other.update({3: 3, 4: 4, 5: 5})
        assert len(other) == 2
        assert other != source
    assert dict(source) == {1: 1, 2: 2}


def test_a_pickled_subclass_keeps_its_attributes():
    """What a subclass adds survives a copy."""

    class Named(Cache):
        pass

    named = Named(3)
    named.name = "n"
    assert copy.copy(named).name == "n"


def test_least_recently_used_goes_first():
    """Under LRU, reading and writing an entry both count as its use, `in` and going through it do not."""
    cache = Cache(3)
    cache.update({1: 1, 2: 2, 3: 3})
    cache[1]
    cache.get(2)
    assert 3 in cache
    assert list(cache.values()) == [1, 2, 3]
    assert list(cache.items()) == [(1, 1), (2, 2), (3, 3)]
    assert cache.peek(3) == 3
    cache[4] = 4
    assert set(cache) == {1, 2, 4}
    cache[1] = 9
    cache[5] = 5
    assert set(cache) == {1, 4, 5}
    assert cache.popitem() == (4, 4)


def test_cachetools_decorator(make):
    """It serves as the cache of `cachetools.cached`, also when it can hold nothing."""
    for maxsize, calls in ((0, 4), (10, 2)):
        seen = []
        cache = make(maxsize=maxsize, ttl=60)

        @cachetools.cached(cache=cache)
        def function(key, seen=seen):
            seen.append(key)
            return key

        assert [function(1), function(1), function(2), function(2)] == [1, 1, 2, 2]
        assert len(seen) == calls
        assert function.cache is cache


def test_unhashable(make):
    """An unhashable key is a TypeError everywhere, and changes nothing."""
    cache = make(maxsize=2)
    cache[1] = 1
    for action in (
        lambda: cache.get([]),
        lambda: cache[[]],
        lambda: cache.set([], 1),
        lambda: cache.pop([], None),
        lambda: [] in cache,
    ):
        with pytest.raises(TypeError):
            action()
    assert dict(cache) == {1: 1}
