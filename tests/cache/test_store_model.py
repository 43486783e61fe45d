"""The store against slow obvious models, under a clock that is moved by hand."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from replicated.cache import Cache, Reason

KEYS = st.integers(0, 9)  # fewer than one write clears, so that the model may clear all that expired
MAXSIZE = 12


class Model:
    """Rows [key, value, expires, tags, visited], oldest first."""

    def __init__(self, policy):
        self.policy = policy
        self.rows = []
        self.hand = None  # the key at which SIEVE looks next
        self.evicted = []

    def find(self, key):
        return next((row for row in self.rows if row[0] == key), None)

    def live(self, key, now):
        row = self.find(key)
        return row if row is not None and now < row[2] else None

    def remove(self, row):
        index = self.rows.index(row)
        if self.hand == row[0]:
            self.hand = self.rows[index + 1][0] if index + 1 < len(self.rows) else None
        del self.rows[index]

    def use(self, row):
        row[4] = True
        if self.policy == "lru":
            self.rows.remove(row)
            self.rows.append(row)

    def clear_expired(self, now):
        for row in [row for row in self.rows if row[2] <= now]:
            self.remove(row)
            self.evicted.append((row[0], row[1], Reason.EXPIRED))

    def victim(self):
        if self.policy == "lru":
            return self.rows[0]
        index = 0 if self.hand is None else self.rows.index(self.find(self.hand))
        while self.rows[index][4]:
            self.rows[index][4] = False
            index = (index + 1) % len(self.rows)
        self.hand = self.rows[index][0]
        return self.rows[index]

    def set(self, key, size, ttl, tags, now):
        self.clear_expired(now)
        row = self.find(key)
        if row is not None and size <= row[1] and ttl != 0:
            row[1:4] = [size, now + ttl, tags]
            self.use(row)
            return True
        if row is not None:
            self.remove(row)
        if size > MAXSIZE or ttl == 0:
            return False
        while sum(row[1] for row in self.rows) + size > MAXSIZE:
            row = self.victim()
            self.remove(row)
            self.evicted.append((row[0], row[1], Reason.CAPACITY))
        self.rows.append([key, size, now + ttl, tags, False])
        return True


class StoreMachine(RuleBasedStateMachine):
    policy = "lru"

    @initialize()
    def start(self):
        self.now = 0.0
        self.evicted = []
        self.cache = Cache(
            MAXSIZE,
            5.0,
            lambda value: value,
            lambda: self.now,
            policy=self.policy,
            on_evict=lambda *what: self.evicted.append(what),
        )
        self.model = Model(self.policy)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0]))
    def advance(self, seconds):
        self.now += seconds

    @rule(
        key=KEYS,
        size=st.integers(0, MAXSIZE + 1),
        ttl=st.sampled_from([None, 0, 0.5, 1, 2, 4, 7, 20]),
        tags=st.frozensets(st.sampled_from("ab")),
    )
    def set(self, key, size, ttl, tags):
        kept = self.cache.set(key, size, ttl, tags=tags)
        assert kept == self.model.set(key, size, 5.0 if ttl is None else ttl, tags, self.now)

    @rule(key=KEYS)
    def get(self, key):
        row = self.model.live(key, self.now)
        assert self.cache.get(key, "none") == (row[1] if row else "none")
        if row:
            self.model.use(row)

    @rule(key=KEYS)
    def peek_contains_ttl(self, key):
        row = self.model.live(key, self.now)
        assert (key in self.cache) == bool(row)
        assert self.cache.peek(key, "none") == (row[1] if row else "none")
        if row:
            assert self.cache.ttl(key) == row[2] - self.now
        else:
            with pytest.raises(KeyError):
                self.cache.ttl(key)

    @rule(key=KEYS)
    def delete(self, key):
        row = self.model.find(key)
        live = self.model.live(key, self.now)
        assert self.cache.delete(key) == bool(live)
        if row:
            self.model.remove(row)
            if not live:
                self.model.evicted.append((row[0], row[1], Reason.EXPIRED))

    @rule()
    def popitem(self):
        self.model.clear_expired(self.now)
        if not self.model.rows:
            with pytest.raises(KeyError):
                self.cache.popitem()
            return
        row = self.model.victim()
        self.model.remove(row)
        assert self.cache.popitem() == (row[0], row[1])

    @rule(tag=st.sampled_from("ab"))
    def purge(self, tag):
        tagged = [row for row in self.model.rows if tag in row[3]]
        live = [row for row in tagged if self.now < row[2]]
        for row in tagged:
            self.model.remove(row)
            self.model.evicted.append((row[0], row[1], Reason.PURGED if row in live else Reason.EXPIRED))
        assert self.cache.purge(tag) == len(live)

    @rule()
    def count(self):
        self.model.clear_expired(self.now)
        assert len(self.cache) == len(self.model.rows)
        assert self.cache.currsize == sum(row[1] for row in self.model.rows)

    @invariant()
    def same(self):
        assert dict(self.cache.items()) == {row[0]: row[1] for row in self.model.rows if self.now < row[2]}
        assert sorted(self.evicted, key=repr) == sorted(self.model.evicted, key=repr)
        stats = self.cache.stats()
        assert stats.size <= stats.maxsize
        assert stats.entries == len(self.model.rows)


class SieveMachine(StoreMachine):
    policy = "sieve"


TestLru = StoreMachine.TestCase
TestSieve = SieveMachine.TestCase
TestLru.settings = TestSieve.settings = settings(max_examples=40, stateful_step_count=40)
