"""What changes when something is kept or goes: the indexes of a store, under its one lock.

It decides what leaves: the expired before the live, then whom the policy names. It may not know who reads,
nor which ttl or weight a value should have. A reader goes straight to ``data`` and the order; so an entry
that becomes visible in ``data`` is whole, though it may not be in the order yet, and ``data`` and the order
stay the same objects for the store's life.

The common write takes no lock. As long as all that is held has plain keys, weighs one and got the store's own
ttl, a write changes a handful of links and one pair of places in a dict, without calls and without a loop,
which is one step (see the module on steps) if nobody is half-way through something longer. Who takes the lock
therefore says so in ``plain``, and who finds it said takes the lock too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Any

from ..clock import Clock
from ..one_step import ATOMIC, PLAIN, is_plain
from .entry import Entry
from .expiry import Schedule
from .order import Lru
from .sieve import Sieve
from .stats import Reason
from .tags import Tags

__all__ = ["NO_TAGS", "Shelf"]

# Expired entries that one write clears beyond the room it needs: it outruns any rate of writes, at about
# 10 us of work.
SWEEP = 16

NO_TAGS: frozenset[Hashable] = frozenset()

OnEvict = Callable[[Any, Any, Reason], object]


class Shelf:
    """The entries by key, by recency, by expiry and by tag; safe under threads.

    Use it as a context manager to hold its lock.

    Attributes:
        data: The entries by key, the expired ones that were not cleared yet included.
        order: Who leaves when.
        plain: Whether a write may be one step: all that is held is plain, and nobody holds the lock.
        size: What the entries weigh.
        crowded_out: How many left to make room.
        expired: How many left because they had expired.
        purged: How many left by tag.
    """

    __slots__ = ("clock", "crowded_out", "data", "depth", "expired", "lock", "maxsize", "on_evict",
                 "only_plain", "order", "plain", "purged", "schedule", "simple", "size", "tagged", "tags",
                 "ttl")  # fmt: skip

    order: Lru | Sieve

    def __init__(
        self,
        maxsize: float,
        ttl: float | None,
        clock: Clock,
        policy: str,
        on_evict: OnEvict | None,
        weighs: bool,
    ) -> None:
        self.maxsize = maxsize
        self.ttl = ttl
        self.clock = clock
        self.on_evict = on_evict
        self.data: dict[Any, Entry] = {}
        self.order = Lru() if policy == "lru" else Sieve()
        self.schedule = Schedule()
        self.tags = Tags()
        self.tagged = self.tags.of
        self.size: float = 0
        self.crowded_out = self.expired = self.purged = 0
        # Reentrant, because a destructor may run inside any allocation and come back here.
        self.lock = threading.RLock()
        self.depth = 0
        # SIEVE's hand walks, several entries may weigh what one does, and `on_evict` is called: no one step.
        ordinary = policy == "lru" and not weighs and on_evict is None and maxsize >= 1 and ttl != 0
        self.plain = self.only_plain = self.simple = ATOMIC and ordinary

    def __enter__(self) -> None:
        self.lock.acquire()
        self.depth += 1
        self.plain = False

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        self.plain = self.only_plain and not self.depth and not self.schedule.heap
        self.lock.release()

    def keep(self, key: Any, value: object) -> None:
        """``put`` with the store's own ttl, a weight of one and no tags, in one step if it can."""
        if type(key) not in PLAIN:
            self.put(key, value, self.ttl, 1, NO_TAGS)
            return
        now = self.clock()
        ttl = self.ttl
        entry = Entry()
        entry.key = key
        entry.value = value
        entry.size = 1
        entry.expires = expires = None if ttl is None else now + ttl
        # From here on nothing is called, so that it is one step.
        lane = self.schedule.root
        if (
            self.plain
            and now < lane.after.expires
            and (expires is None or lane.before.expires <= expires or lane.before is lane)
        ):
            data = self.data
            root = self.order.root
            gone = None  # what was kept under this key, or else whom the policy names if there is no room
            if key in data:
                gone = data[key]
                data[key] = entry
            else:
                data[key] = entry
                size = self.size + 1
                if size <= self.maxsize:
                    self.size = size
                else:
                    gone = root.newer
                    del data[gone.key]
                    self.crowded_out += 1
            if gone is not None:
                older = gone.older
                older.newer = newer = gone.newer
                newer.older = older
                gone.older = None
                if expires is not None:
                    before = gone.before
                    before.after = after = gone.after
                    after.before = before
            if expires is not None:
                entry.before = before = lane.before
                entry.after = lane
                before.after = lane.before = entry
            entry.older = older = root.older
            entry.newer = root
            older.newer = root.older = entry
            return
        self.put(key, value, ttl, 1, NO_TAGS, now)

    def put(
        self,
        key: Any,
        value: object,
        ttl: float | None,
        size: float,
        tags: frozenset[Hashable],
        read: float | None = None,
    ) -> bool:
        """Keep a value in place of what was there; return whether it fits. O(1) but for what it evicts.

        ``read`` is what the clock has said in this call already.
        """
        now = 0.0
        # These hold all that leaves until the lock is released, so that no destructor runs under it.
        evicted: list[Entry] = []
        before: object = None
        self.__enter__()
        try:
            data = self.data
            schedule = self.schedule
            if read is None or (ttl is not None and read + ttl < schedule.root.before.expires):
                # In the second case another thread has come in between, and time has passed.
                now = self.clock()
            else:
                now = read
            if schedule.root.after.expires <= now or (schedule.heap and schedule.heap[0].expires <= now):
                self.sweep(now, SWEEP, evicted)
            room = self.maxsize - size
            if room < 0 or ttl == 0:
                if (found := data.get(key)) is not None:
                    before = found, found.value
                    self.drop(found)
                return False
            entry = Entry()
            entry.key = key
            entry.value = value
            entry.size = size
            entry.expires = expires = None if ttl is None else now + ttl
            # Nearly every write is of a key that is not there: one look-up finds that out, and keeps it.
            found = data.setdefault(key, entry)
            if self.only_plain and (ttl != self.ttl or size != 1 or tags or not is_plain(key)):
                self.only_plain = False
            if found is not entry:
                before = found, found.value
                if size <= found.size:
                    self._overwrite(found, value, expires, size, tags)
                    return True
                # One that grows leaves first, lest it be chosen to make room for itself.
                self.drop(found)
                data[key] = entry
            while self.size > room:
                if evicted and self.sweep(now, 1, evicted):
                    continue  # more had expired than one sweep clears: they go before the policy is asked
                gone = self.order.pop()
                evicted.append(gone)
                self._forget(gone)
                self.crowded_out += 1
            if expires is not None:
                schedule.add(entry)
            if tags:
                self.tags.add(entry, tags)
            self.size += size
            self.order.append(entry)
            return True
        finally:
            self.__exit__()
            del before
            if evicted and self.on_evict is not None:
                self.announce(evicted, now)

    def touch(self, entry: Entry) -> None:
        """Note a use where moving an entry is not one step."""
        with self.lock:
            self.order.touch(entry)

    def take(self, key: Any) -> Entry | None:
        """Remove ``key`` and return its entry if it was live. O(1)."""
        with self:
            now = self.clock()
            entry = self.data.get(key)
            if entry is None:
                return None
            self.drop(entry)
            if entry.expires is None or now < entry.expires:
                return entry
            self.expired += 1
        self.announce([entry], now)
        return None

    def take_next(self) -> Entry | None:
        """Remove and return the live entry that the policy lets go next. O(1) but for what has expired."""
        evicted: list[Entry] = []
        with self:
            now = self.clock()
            self.sweep(now, len(self.data), evicted)
            found: Entry | None = None
            if self.data:
                found = self.order.pop()
                self._forget(found)
        self.announce(evicted, now)
        return found

    def take_tagged(self, tag: Hashable) -> int:
        """Remove what carries ``tag`` and return how many were live. O(their number)."""
        with self:
            now = self.clock()
            tagged = self.tags.tagged(tag)
            live = 0
            for entry in tagged:
                self.drop(entry)
                live += entry.expires is None or now < entry.expires
            self.purged += live
            self.expired += len(tagged) - live
        self.announce(tagged, now, Reason.PURGED)
        return live

    def take_expired(self, most: int) -> None:
        """Remove what has expired, up to ``most`` entries."""
        evicted: list[Entry] = []
        with self:
            now = self.clock()
            self.sweep(now, most, evicted)
        self.announce(evicted, now)

    def take_all(self) -> None:
        """Remove everything. O(n)."""
        with self:
            held = list(self.data.values())
            self.data.clear()
            self.schedule = Schedule()
            self.tags.clear()
            self.size = 0
            # Neighbours hold each other: without this they would wait for a full collection. One by one,
            # because a hit may still be about to move one of them.
            for entry in held:
                self.order.remove(entry)
                entry.before = entry.after = None
            self.only_plain = self.simple

    def add_oldest_first(self, key: Any, value: object, expires: float | None, size: float) -> Entry:
        """Restore an entry of a copy, whose weight and order are known; nobody else may use the store yet."""
        entry = Entry()
        entry.key = key
        entry.value = value
        entry.expires = expires
        entry.size = size
        if expires is not None:
            self.schedule.add(entry)
        self.size += size
        self.order.append(entry)
        self.data[key] = entry
        return entry

    def in_order(self) -> list[Entry]:
        """Return all entries, those first that leave first; with the lock held. O(n)."""
        # Hits go on, and may lead the walk astray: it is bounded, and whom it has missed was just used.
        walked = islice(self.order, len(self.data))
        return list(dict.fromkeys([*walked, *self.data.values()]))

    def sweep(self, now: float, most: int, evicted: list[Entry]) -> bool:
        """Remove what has expired, up to ``most``; say whether there was any; with the lock held."""
        already = len(evicted)
        while most and (entry := self.schedule.due(now)) is not None:
            self.drop(entry)
            self.expired += 1
            evicted.append(entry)
            most -= 1
        return len(evicted) > already

    def drop(self, entry: Entry) -> None:
        """Take an entry out of everything; with the lock held."""
        self.order.remove(entry)
        self._forget(entry)

    def announce(self, evicted: list[Entry], now: float, reason: Reason = Reason.CAPACITY) -> None:
        """Tell ``on_evict`` who left and why; with the lock released."""
        if self.on_evict is not None:
            for entry in evicted:
                expired = entry.expires is not None and entry.expires <= now
                self.on_evict(entry.key, entry.value, Reason.EXPIRED if expired else reason)

    def _forget(self, entry: Entry) -> None:
        """Take an entry that has left the order out of everything else."""
        del self.data[entry.key]
        if entry.expires is not None:
            before = entry.before
            if before is not None:
                before.after = after = entry.after
                after.before = before
            else:
                self.schedule.remove(entry)
        if entry in self.tagged:
            self.tags.remove(entry)
        # Weights may be floats, whose sums leave a rest: nothing weighs nothing. (An entry that is being kept
        # is in `data` already, and neither counted nor in the order yet.)
        root = self.order.root
        self.size = self.size - entry.size if root.newer is not root else 0

    def _overwrite(
        self, entry: Entry, value: object, expires: float | None, size: float, tags: frozenset[Hashable]
    ) -> None:
        """Let an entry hold another value; it keeps its place under SIEVE and is the last used under LRU."""
        if entry in self.tagged:
            self.tags.remove(entry)
        if entry.expires is not None:
            self.schedule.remove(entry)
        # The value before the expiry, which readers read in the other order: no value is ever served by the
        # permission of another that was set later.
        entry.value = value
        entry.expires = expires
        if expires is not None:
            self.schedule.add(entry)
        if tags:
            self.tags.add(entry, tags)
        self.size += size - entry.size
        entry.size = size
        self.order.touch(entry)
