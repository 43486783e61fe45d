"""What many keys owe: one integer a key, in bounded memory, and forgotten once nothing is owed.

It keeps, finds, drops and blocks; whether a take is admitted is not decided here. Nothing here starts a
thread or walks the whole table: the sweep is a clock hand that calls turn by a few keys each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from .atomic import ATOMIC, is_plain
from .gcra import LONG_AGO, Gcra

__all__ = ["LOOKS", "PATIENCE", "Debts"]

LOOKS = 4
"""Keys looked at for a new one: the hand has been round before a quarter of the table is added."""

PATIENCE = 10
"""Seconds for which an idle key is kept while there is room: to drop one that comes back and to take it in
again costs ten times what finding it costs, and a client that asks every few seconds is idle each time."""


class Debts:
    """The times at which the buckets of up to ``max_keys`` keys are full, in the ticks of ``gcra``.

    All but ``plain`` is used under its owner's lock only.

    Attributes:
        plain: Keys for which a read, a decision and a write are one step: their debts are also read and
            overwritten without the lock, while only the holder adds and removes them.
        guarded: The other keys: those whose hash is written in Python, and blocked ones.
        blocked: Guarded keys that are blocked, and until when.
        floor: What is unknown was full at this time: the latest at which a dropped key can have become so.
            It lies ahead of the clock only where that stepped back, and then nobody may come back full.
        dropped: Idle keys forgotten so far.

    Raises:
        ValueError: ``max_keys`` is below 1.
        TypeError: ``max_keys`` is not an int.
    """

    __slots__ = (
        "_absent",
        "_gcra",
        "_max_keys",
        "_order",
        "_patience",
        "blocked",
        "dropped",
        "floor",
        "guarded",
        "plain",
    )

    def __init__(self, gcra: Gcra, max_keys: int) -> None:
        if isinstance(max_keys, bool) or not isinstance(max_keys, int):
            raise TypeError(f"max_keys must be an int, not {max_keys!r}")
        if max_keys < 1:
            raise ValueError(f"max_keys must be at least 1, not {max_keys!r}")
        self._gcra = gcra
        self._max_keys = max_keys
        self._patience = PATIENCE * 10**9 * gcra.scale
        self.plain: dict[Hashable, int] = {}
        self.guarded: dict[Hashable, int] = {}
        self.blocked: dict[Hashable, int] = {}
        self._order: deque[Hashable] = deque()  # every key once, in the order in which the hand comes by
        self._absent: set[Hashable] = set()  # keys in _order that were removed, until the hand comes by
        self.floor = LONG_AGO
        self.dropped = 0

    def __len__(self) -> int:
        return len(self.plain) + len(self.guarded)

    def holding(self, key: Hashable) -> dict[Hashable, int]:
        """Return the table that a key stands in; an unknown one is in neither."""
        return self.plain if key in self.plain else self.guarded

    def find(self, key: Hashable) -> int | None:
        """Return when the key's bucket is full, or None for a key that is unknown."""
        full = self.plain.get(key)
        return self.guarded.get(key) if full is None else full

    def add(self, key: Hashable, full: int) -> dict[Hashable, int]:
        """Put a key that is unknown, however many there are, and return the table that it stands in."""
        if key in self._absent:
            self._absent.remove(key)
        else:
            self._order.append(key)
        home = self.guarded if key in self.blocked else self._home(key)
        home[key] = full
        return home

    def remove(self, key: Hashable) -> int | None:
        """Take a key out and return what ``find`` would. A block stays on it."""
        full = self.plain.pop(key, None)
        if full is None:
            full = self.guarded.pop(key, None)
        if full is not None:
            self._absent.add(key)
        return full

    def amend(self, key: Hashable, full: int, believed: int) -> None:
        """Replace what the key owes, unless another thread did so since ``full`` was read."""
        debts = self.holding(key)
        if key in debts and debts[key] == full:  # one step from the comparison to the store
            debts[key] = believed

    def block(self, key: Hashable, until: int) -> None:
        """Block a key that is known: out of the reach of those who do not look here."""
        full = self.plain.pop(key, None)
        if full is not None:
            self.guarded[key] = full
        self.blocked[key] = until

    def unblock(self, key: Hashable) -> None:
        """End the block of a key."""
        del self.blocked[key]
        if key in self.guarded:
            self._home(key)[key] = self.guarded.pop(key)

    def crowded(self, now: int) -> bool:
        """Turn the hand for a new key, and return whether there is no place for it even so."""
        full = len(self._order) >= self._max_keys
        self._turn(now, now if full else now - self._patience, LOOKS)
        return full and len(self._order) >= self._max_keys

    def place(self) -> int:
        """Return when a new key has a place: when the first that it will look at can be dropped."""
        if len(self._order) < self._max_keys:
            return LONG_AGO
        return min(self._held(self._order[i]) for i in range(min(LOOKS, len(self._order))))

    def _held(self, key: Hashable) -> int:
        full = self.find(key)
        return LONG_AGO if full is None else max(full, self.blocked.get(key, full))

    def tidy(self, now: int) -> None:
        """Turn the hand by a key, and drop that if it has been idle for a while."""
        self._turn(now, now - self._patience, 1)

    def _turn(self, now: int, before: int, looks: int) -> None:
        """Turn the hand by ``looks`` keys, and drop those whose bucket was full ``before``. O(looks)."""
        order, plain, guarded, blocked = self._order, self.plain, self.guarded, self.blocked
        for _ in range(min(looks, len(order))):
            key = order.popleft()
            if key in plain:
                table = plain
            elif key in guarded:
                table = guarded
            else:
                self._absent.discard(key)
                continue
            full = table[key]  # one step to the removal
            if full <= before and (key not in blocked or blocked[key] <= now):
                del table[key]
                blocked.pop(key, None)
                self.dropped += 1
                if before > self.floor:
                    self.floor = before
                continue
            order.append(key)
            believed = self._gcra.believed(full, now)
            if believed != full:
                self.amend(key, full, believed)

    def _home(self, key: Hashable) -> dict[Hashable, int]:
        return self.plain if ATOMIC and is_plain(key) else self.guarded
