"""What changes when something is kept or goes: the indexes of a store, under its one lock.

It decides what leaves: the expired before the live, then whom the policy names. It may not know who reads,
nor which ttl or weight a value should have. A reader goes straight to ``data`` and ``touch``; so an entry
that becomes visible in ``data`` is whole, though it may not be in the order yet, and ``data`` and the order
stay the same objects for the store's life.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from ..clock import Clock
from .entry import Entry
from .expiry import Schedule
from .sieve import Sieve, SieveEntry
from .stats import Reason
from .tags import Tags

__all__ = ["Shelf"]

# Expired entries that one write clears beyond the room it needs: it outruns any rate of writes, at about
# 10 us of work.
SWEEP = 16

OnEvict = Callable[[Any, Any, Reason], object]


class Shelf:
    """The entries by key, by recency, by expiry and by tag; safe under threads.

    Attributes:
        data: The entries by key, the expired ones that were not cleared yet included.
        touch: Notes the use of an entry; KeyError when it has left, which means nothing. None under SIEVE,
            where a use is one flag of the entry.
        size: What the entries weigh.
        crowded_out: How many left to make room.
        expired: How many left because they had expired.
        purged: How many left by tag.
    """

    __slots__ = ("acquire", "clock", "crowded_out", "data", "expired", "lock", "make", "maxsize", "on_evict",
                 "order", "purged", "release", "schedule", "size", "tagged", "tags", "touch")  # fmt: skip

    make: Callable[..., Any]
    order: Any  # OrderedDict[Entry, None] | Sieve: what they share has no common type

    def __init__(self, maxsize: float, clock: Clock, policy: str, on_evict: OnEvict | None) -> None:
        self.maxsize = maxsize
        self.clock = clock
        self.on_evict = on_evict
        self.data: dict[Any, Entry] = {}
        # Both policies are the mapping that keeps the order: only a hit has a branch for either.
        self.order, self.make = (OrderedDict(), Entry) if policy == "lru" else (Sieve(), SieveEntry)
        self.touch: Callable[[Any], None] | None = self.order.move_to_end if policy == "lru" else None
        self.schedule = Schedule()
        self.tags = Tags()
        self.tagged = self.tags.of
        self.size: float = 0
        self.crowded_out = self.expired = self.purged = 0
        # Reentrant, because a destructor may run inside any allocation and come back here.
        self.lock = threading.RLock()
        self.acquire, self.release = self.lock.acquire, self.lock.release

    def put(self, key: Any, value: object, ttl: float | None, size: float, tags: frozenset[Hashable]) -> bool:
        """Keep a value in place of what was there; return whether it fits. O(1) but for what it evicts."""
        # Written out where a call would be natural, for all that runs in every write to a full store: calls
        # were half of its time. `acquire` and `release` take half of what `with` takes on a C lock.
        now = 0.0
        evicted: list[Entry] = []
        before: object = None
        self.acquire()
        try:
            now = self.clock()
            data = self.data
            schedule = self.schedule
            root = schedule.root
            if root.after.expires <= now or (schedule.heap and schedule.heap[0].expires <= now):
                self.sweep(now, SWEEP, evicted)
            room = self.maxsize - size
            if room < 0 or ttl == 0:
                if (found := data.get(key)) is not None:
                    before = found, found.value
                    self.drop(found)
                return False
            entry = self.make()
            entry.key = key
            entry.value = value
            entry.size = size
            entry.expires = expires = None if ttl is None else now + ttl
            # Nearly every write is of a key that is not there: one look-up finds that out, and keeps it.
            found = data.setdefault(key, entry)
            if found is not entry:
                before = found, found.value
                if size <= found.size:
                    self._overwrite(found, value, expires, size, tags)
                    return True
                # One that grows leaves first, lest it be chosen to make room for itself.
                self.drop(found)
                data[key] = entry
            order = self.order
            while self.size > room:
                if evicted and self.sweep(now, 1, evicted):
                    continue  # more had expired than one sweep clears: they go before the policy is asked
                gone, _ = order.popitem(False)
                evicted.append(gone)
                del data[gone.key]
                if gone.expires is not None:
                    last = gone.before
                    if last is not None:
                        last.after = after = gone.after
                        after.before = last
                    else:
                        schedule.remove(gone)
                if gone in self.tagged:
                    self.tags.remove(gone)
                # Weights may be floats, whose sums leave a rest: nothing weighs nothing, when the new entry,
                # which is not counted yet, is alone.
                self.size = self.size - gone.size if len(data) > 1 else 0
                self.crowded_out += 1
            if expires is not None:
                last = root.before
                if last is root or last.expires <= expires:
                    entry.before = last
                    entry.after = root
                    root.before = last.after = entry
                else:
                    schedule.add(entry)
            if tags:
                self.tags.add(entry, tags)
            self.size += size
            order[entry] = None
            return True
        finally:
            self.release()
            # Until here these locals held all that left, so that no destructor ran under the lock.
            del before
            if evicted and self.on_evict is not None:
                self.announce(evicted, now)

    def take(self, key: Any) -> Entry | None:
        """Remove ``key`` and return its entry if it was live. O(1)."""
        with self.lock:
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
        with self.lock:
            now = self.clock()
            self.sweep(now, len(self.data), evicted)
            found: Entry | None = None
            if self.data:
                entry, _ = self.order.popitem(False)
                self._forget(entry)
                found = entry
        self.announce(evicted, now)
        return found

    def take_tagged(self, tag: Hashable) -> int:
        """Remove what carries ``tag`` and return how many were live. O(their number)."""
        with self.lock:
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
        with self.lock:
            now = self.clock()
            self.sweep(now, most, evicted)
        self.announce(evicted, now)

    def take_all(self) -> None:
        """Remove everything. O(n)."""
        with self.lock:
            held = list(self.data.values())
            self.data.clear()
            self.order.clear()
            self.schedule = Schedule()
            self.tags.clear()
            self.size = 0
        for entry in held:  # neighbours hold each other: without this they would wait for a full collection
            entry.before = entry.after = None

    def add_oldest_first(self, key: Any, value: object, expires: float | None, size: float) -> Entry:
        """Restore an entry of a copy, whose weight and order are known; nobody else may use the store yet."""
        entry: Entry = self.make()
        entry.key = key
        entry.value = value
        entry.expires = expires
        entry.size = size
        if expires is not None:
            self.schedule.add(entry)
        self.size += size
        self.order[entry] = None
        self.data[key] = entry
        return entry

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
        del self.order[entry]
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
        self.size = self.size - entry.size if self.order else 0

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
        if self.touch is None:
            entry.visited = True  # type: ignore[attr-defined]
        else:
            self.touch(entry)
