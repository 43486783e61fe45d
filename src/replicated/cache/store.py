"""What the store says: a mapping bounded by count or by weight, whose entries expire.

It checks what callers give and reads; what changes, it asks of the shelf. It may not know where values come
from, nor start anything: all work happens inside the caller's call.

Why a hit takes no lock. A hit is one look-up in a plain ``dict``, which guards itself while a key's own
``__eq__`` runs, and under LRU a few links that change hands: one step for other threads (see the module on
steps; where it is none, the move takes the lock). All that a hit may meet is an entry removed since it was
looked up: it has no place in the order any more, and the value that was live at the look-up is served. The
expiry is read before the value, and written after it. The counters may miss a count under threads, on
interpreters that switch within ``+=``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, ItemsView, Iterable, Iterator, MutableMapping, ValuesView
from typing import Any, Literal, TypeVar, overload

from ..clock import Clock, monotonic
from ..one_step import ATOMIC
from .bounds import not_negative
from .entry import Entry
from .shelf import NO_TAGS, Shelf
from .stats import Reason, Stats
from .views import Items, Values

__all__ = ["Cache"]

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

# Expired entries that `len` clears, so that a small cache counts exactly.
SWEEP = 256

_REQUIRED: Any = object()


class Cache(MutableMapping[K, V]):
    """A bounded mapping with a time to live, which several threads may use at once.

    Anything written for cachetools can use it; ``cache[key] = value`` raises ``ValueError`` as those do when
    one value alone exceeds ``maxsize``, while ``set`` lets such a value pass through and answers False.

    Args:
        maxsize: How much it holds: entries, or the unit of ``getsizeof``. With 0 it holds nothing.
        ttl: Seconds that an entry is served unless ``set`` says otherwise; None for no limit.
        getsizeof: What a value weighs; None counts entries. Asked once, when the value is set.
        clock: Where the time comes from; read at most once a call.
        policy: Who leaves when there is no room: ``"lru"`` the least recently used; ``"sieve"`` by SIEVE,
            which keeps popular entries through scans.
        on_evict: Called as ``on_evict(key, value, reason)`` for what leaves without its key being named by
            the caller, after the change and outside the lock, in the thread whose call evicted it. What it
            raises comes out of that call.

    Raises:
        TypeError: ``maxsize`` or ``ttl`` is not a number, ``getsizeof`` or ``on_evict`` cannot be called.
        ValueError: ``maxsize`` or ``ttl`` is negative, NaN or infinite, or ``policy`` is unknown.

    A hit is O(1). A write is O(1) amortised over what was set before, O(log n) where ttls differ, and clears
    at most 16 expired entries beyond the room it needs: a million that expire at once are no stall.
    """

    __slots__ = ("__weakref__", "_clock", "_data", "_getsizeof", "_hits", "_misses", "_refused", "_root",
                 "_settings", "_shelf", "_touch", "_ttl")  # fmt: skip

    def __init__(
        self,
        maxsize: float,
        ttl: float | None = None,
        getsizeof: Callable[[V], float] | None = None,
        clock: Clock = monotonic,
        *,
        policy: Literal["lru", "sieve"] = "lru",
        on_evict: Callable[[K, V, Reason], object] | None = None,
    ) -> None:
        not_negative("maxsize", maxsize)
        self._ttl = None if ttl is None else not_negative("ttl", ttl)
        for name, function in (("getsizeof", getsizeof), ("on_evict", on_evict)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable, not {function!r}")
        if policy not in ("lru", "sieve"):
            raise ValueError(f"policy must be 'lru' or 'sieve', not {policy!r}")
        self._getsizeof = getsizeof
        self._clock = clock
        self._settings = (policy, on_evict)
        self._hits = self._misses = self._refused = 0
        self._shelf = shelf = Shelf(maxsize, self._ttl, clock, policy, on_evict, getsizeof is not None)
        self._data: dict[K, Any] = shelf.data
        # How a hit notes the use: by moving the entry in the ring of this root, by a call, or by a flag.
        self._root = shelf.order.root if policy == "lru" and ATOMIC else None
        self._touch = shelf.touch if policy == "lru" and not ATOMIC else None

    @overload
    def get(self, key: K) -> V | None: ...
    @overload
    def get(self, key: K, default: V | D) -> V | D: ...
    def get(self, key: K, default: object = None) -> object:
        """Return the value of ``key`` if it is live, else ``default``. O(1), without a lock."""
        # By `[]` and not by the `get` of the dict: a hit takes 35 ns less so. A miss takes 200 more, and is
        # followed by what takes longer.
        try:
            entry = self._data[key]
        except KeyError:
            pass
        else:
            expires = entry.expires
            if expires is None or self._clock() < expires:
                root = self._root
                if root is not None:
                    # Lru.touch, written out: a call would cost a sixth of a hit.
                    older = entry.older
                    if older is not None:
                        older.newer = newer = entry.newer
                        newer.older = older
                        entry.older = last = root.older
                        entry.newer = root
                        last.newer = root.older = entry
                elif self._touch is None:
                    entry.visited = True
                else:
                    self._touch(entry)
                self._hits += 1
                return entry.value
        self._misses += 1
        return default

    def __getitem__(self, key: K) -> V:
        # `get` once more, because a call from here to there would cost a fifth of a hit.
        try:
            entry = self._data[key]
        except KeyError:
            pass
        else:
            expires = entry.expires
            if expires is None or self._clock() < expires:
                root = self._root
                if root is not None:
                    older = entry.older
                    if older is not None:
                        older.newer = newer = entry.newer
                        newer.older = older
                        entry.older = last = root.older
                        entry.newer = root
                        last.newer = root.older = entry
                elif self._touch is None:
                    entry.visited = True
                else:
                    self._touch(entry)
                self._hits += 1
                return entry.value  # type: ignore[no-any-return]
        self._misses += 1
        return self.__missing__(key)

    def at(self, key: K, now: float, default: object = None) -> Any:
        """Do what ``get`` does at ``now``, an instant of the cache's clock that was read already."""
        entry = self._data.get(key)
        if entry is None or (entry.expires is not None and entry.expires <= now):
            self._misses += 1
            return default
        (self._touch or self._shelf.order.touch)(entry)
        self._hits += 1
        return entry.value

    def peek(self, key: K, default: object = None, *, now: float | None = None) -> Any:
        """Return the live value of ``key``, else ``default``; no use that a policy or a counter notes.

        Args:
            key: What is asked for.
            default: The answer when there is no live entry.
            now: An instant of the cache's clock that was read already.
        """
        entry = self._data.get(key)
        if entry is None:
            return default
        expires = entry.expires
        if expires is not None and expires <= (self._clock() if now is None else now):
            return default
        return entry.value

    def __missing__(self, key: K) -> V:
        """Answer ``cache[key]`` for a key that is not there: a subclass may compute it, as in cachetools."""
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        entry = self._data.get(key)  # type: ignore[arg-type]
        return entry is not None and (entry.expires is None or self._clock() < entry.expires)

    def ttl(self, key: K) -> float | None:
        """Return the seconds that ``key`` has left, or None when it does not expire.

        Raises:
            KeyError: There is no live entry.
        """
        entry = self._data.get(key)
        if entry is not None:
            expires: float | None = entry.expires
            if expires is None:
                return None
            left = expires - self._clock()
            if left > 0:
                return left
        raise KeyError(key)

    def __len__(self) -> int:
        """Count the live entries: exact unless more than 256 have expired and were not cleared yet."""
        self._shelf.take_expired(SWEEP)
        return len(self._data)

    def __iter__(self) -> Iterator[K]:
        return (entry.key for entry in self._entries())

    def items(self) -> ItemsView[K, V]:
        """Return the live pairs; going through them is no use that a policy counts."""
        return Items(self)

    def values(self) -> ValuesView[V]:
        """Return the live values; going through them is no use that a policy counts."""
        return Values(self)

    def _entries(self) -> list[Entry]:
        """Return the live entries."""
        now = self._clock()
        # Copied in one step in C, so that no writer can disturb it.
        return [e for e in list(self._data.values()) if e.expires is None or now < e.expires]

    def set(
        self,
        key: K,
        value: V,
        ttl: float | None = None,
        *,
        tags: Iterable[Hashable] = (),
        size: float | None = None,
    ) -> bool:
        """Keep ``value`` under ``key``, in place of what was there.

        Args:
            key: Hashable.
            value: Anything.
            ttl: Seconds to serve it; None for the cache's own. With 0 nothing is kept.
            tags: Names under which ``purge`` finds it.
            size: What it weighs; None asks ``getsizeof``.

        Returns:
            Whether it was kept. False when it alone exceeds ``maxsize`` or ``ttl`` is 0: it passes through,
            and what was there before is gone, since it is no longer true.

        Raises:
            TypeError: ``key`` or a tag is not hashable; ``ttl`` or what ``getsizeof`` said is not a number.
            ValueError: ``ttl`` or what ``getsizeof`` said is negative, NaN or infinite.
        """
        ttl = self._ttl if ttl is None else not_negative("ttl", ttl)
        if isinstance(tags, str | bytes):
            raise TypeError(f"tags must be an iterable of names, not the single name {tags!r}")
        size = self._weigh(value) if size is None else not_negative("size", size)
        names = frozenset(tags)
        shelf = self._shelf
        if shelf.plain and size == 1 and ttl == self._ttl and not names:
            shelf.keep(key, value)
            return True
        self._refused += size > shelf.maxsize
        return shelf.put(key, value, ttl, size, names)

    def __setitem__(self, key: K, value: V) -> None:
        shelf = self._shelf
        if shelf.plain:
            shelf.keep(key, value)
            return
        size = 1 if self._getsizeof is None else self._weigh(value)
        if size > shelf.maxsize:
            raise ValueError(f"value too large: it weighs {size!r}, and maxsize is {shelf.maxsize!r}")
        shelf.put(key, value, self._ttl, size, NO_TAGS)

    def setdefault(self, key: K, default: V = None) -> V:  # type: ignore[assignment]
        """Return the live value of ``key``, keeping ``default`` there first if there is none; in one step."""
        with self._shelf:
            found = self.get(key, _REQUIRED)
            if found is _REQUIRED:
                self[key] = found = default
            return found

    def delete(self, key: K) -> bool:
        """Remove ``key`` and return whether it was live. ``on_evict`` is not called: the caller named it."""
        return self._shelf.take(key) is not None

    def __delitem__(self, key: K) -> None:
        if self._shelf.take(key) is None:
            raise KeyError(key)

    @overload
    def pop(self, key: K) -> V: ...
    @overload
    def pop(self, key: K, default: V | D) -> V | D: ...
    def pop(self, key: K, default: object = _REQUIRED) -> object:
        """Remove ``key`` and return its live value, or ``default``; KeyError without one."""
        entry = self._shelf.take(key)
        if entry is not None:
            return entry.value
        if default is _REQUIRED:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[K, V]:
        """Remove and return the live pair that the policy would evict next; KeyError when there is none."""
        entry = self._shelf.take_next()
        if entry is None:
            raise KeyError(f"{type(self).__name__} is empty")
        return entry.key, entry.value

    def clear(self) -> None:
        """Remove everything; the counters stay. ``on_evict`` is not called."""
        self._shelf.take_all()

    def purge(self, tag: Hashable) -> int:
        """Evict every entry that carries ``tag`` and return how many were live. O(their number)."""
        return self._shelf.take_tagged(tag)

    def tagged(self, tag: Hashable) -> list[K]:
        """Return the keys of what carries ``tag``. O(their number)."""
        with self._shelf:
            return [entry.key for entry in self._shelf.tags.tagged(tag)]

    @property
    def maxsize(self) -> float:
        """How much it may hold."""
        return self._shelf.maxsize

    @property
    def currsize(self) -> float:
        """How much it holds."""
        self._shelf.take_expired(SWEEP)
        return self._shelf.size

    @property
    def default_ttl(self) -> float | None:
        """Seconds that an entry is served unless ``set`` says otherwise; None for no limit."""
        return self._ttl

    @property
    def clock(self) -> Clock:
        """Where the time comes from."""
        return self._clock

    def getsizeof(self, value: V) -> float:
        """Return what ``value`` weighs."""
        return 1 if self._getsizeof is None else self._getsizeof(value)

    def _weigh(self, value: V) -> float:
        return not_negative("getsizeof(value)", self.getsizeof(value))

    def stats(self) -> Stats:
        """Return the counters at this instant."""
        shelf = self._shelf
        with shelf:
            return Stats(
                hits=self._hits,
                misses=self._misses,
                expired=shelf.expired,
                capacity=shelf.crowded_out,
                purged=shelf.purged,
                refused=self._refused,
                entries=len(shelf.data),
                size=shelf.size,
                maxsize=shelf.maxsize,
            )

    def __repr__(self) -> str:
        size = f"maxsize={self._shelf.maxsize!r}, currsize={self._shelf.size!r}"
        return f"{type(self).__name__}({size}, ttl={self._ttl!r}, policy={self._settings[0]!r})"

    # A copy or a pickle holds the rows in the order in which they would leave, with the seconds that they
    # have left, because an instant means nothing on another machine's clock.

    def __getstate__(self) -> dict[str, Any]:
        shelf = self._shelf
        with shelf:
            now = self._clock()
            rows = [
                (e.key, e.value, None if e.expires is None else e.expires - now, e.size, shelf.tags.of.get(e))
                for e in shelf.in_order()
                if e.expires is None or now < e.expires
            ]
        return {
            "arguments": (shelf.maxsize, self._ttl, self._getsizeof, self._clock),
            "settings": self._settings,
            "rows": rows,
            "more": dict(getattr(self, "__dict__", {})),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        policy, on_evict = state["settings"]
        Cache.__init__(self, *state["arguments"], policy=policy, on_evict=on_evict)
        now = self._clock()
        for key, value, left, size, tags in state["rows"]:
            entry = self._shelf.add_oldest_first(key, value, None if left is None else now + left, size)
            if tags:
                self._shelf.tags.add(entry, tags)
        for name, value in state["more"].items():
            setattr(self, name, value)
