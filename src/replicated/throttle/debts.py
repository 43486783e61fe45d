"""What many keys owe: one integer a key, in bounded memory, and forgotten once nothing is owed.

It keeps, finds, drops and blocks; whether a take is admitted is not decided here. Nothing here starts a
thread or walks the whole table: the sweep is a clock hand that calls turn by a few keys each, and when the
limit changes a key is carried over when it is asked for or the hand comes by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

from ..one_step import ATOMIC, is_plain
from .gcra import LONG_AGO, Gcra

__all__ = ["LOOKS", "PATIENCE", "Debts"]

LOOKS = 4
"""Keys looked at for a new one: the hand has been round before a quarter of the table is added."""

PATIENCE = 10
"""Seconds for which an idle key is kept while there is room: to drop one that comes back and to take it in
again costs ten times what finding it costs, and a client that asks every few seconds is idle each time."""


class Former(NamedTuple):
    """Debts as they were noted under a limit that has changed since.

    Attributes:
        plain: As in :class:`Debts`.
        guarded: As in :class:`Debts`.
        gcra: The limit, in the ticks of which they are.
        at: When it changed, as it has read the clock.
    """

    plain: dict[Hashable, int]
    guarded: dict[Hashable, int]
    gcra: Gcra
    at: int


class Debts:
    """The times at which the buckets of up to ``max_keys`` keys are full, in the ticks of ``gcra``.

    All but ``plain`` is used under its owner's lock only.

    Attributes:
        plain: Keys for which a read, a decision and a write are one step: their debts are also read and
            overwritten without the lock, while only the holder adds and removes them.
        guarded: The other keys: those whose hash is written in Python, and blocked ones.
        blocked: Guarded keys that are blocked, and until when, in nanoseconds: no limit changes that.
        floor: What is unknown was full at this time: the latest at which a dropped key can have become so.
            It lies ahead of the clock only where that stepped back, and then nobody may come back full.
        dropped: Idle keys forgotten so far.

    Raises:
        ValueError: ``max_keys`` is below 1.
        TypeError: ``max_keys`` is not an int.
    """

    __slots__ = (
        "_absent",
        "_former",
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
        self._former: deque[Former] = deque()  # the oldest first, each until it is empty
        self.plain: dict[Hashable, int] = {}
        self.guarded: dict[Hashable, int] = {}
        self.blocked: dict[Hashable, int] = {}
        self._order: deque[Hashable] = deque()  # every key once, in the order in which the hand comes by
        self._absent: set[Hashable] = set()  # keys in _order that were removed, until the hand comes by
        self.floor = LONG_AGO
        self.dropped = 0

    def __len__(self) -> int:
        former = sum(len(each.plain) + len(each.guarded) for each in self._former)
        return len(self.plain) + len(self.guarded) + former

    def change(self, gcra: Gcra, now: int) -> None:
        """Go on under another limit, from ``now`` on, as the former one reads it. O(1).

        A key that owes has as much left as before, in units, if the new burst holds it. One that owes
        nothing is full under the new limit: it cannot be told from one that nobody has seen.
        """
        self.floor = LONG_AGO if self.floor <= now else gcra.carried(self.floor, now, self._gcra)
        # The tables go as they are: whoever is about to write into them without the lock is not lost.
        self._former.append(Former(self.plain, self.guarded, self._gcra, now))
        self.plain, self.guarded = {}, {}
        self._gcra = gcra
        self._patience = PATIENCE * 10**9 * gcra.scale

    def holding(self, key: Hashable) -> dict[Hashable, int]:
        """Return the table that a key stands in; an unknown one is in neither."""
        if self._former and key not in self.plain and key not in self.guarded:
            self._carry_over(key)
        return self.plain if key in self.plain else self.guarded

    def find(self, key: Hashable) -> int | None:
        """Return when the key's bucket is full, or None for a key that is unknown."""
        full = self.plain.get(key)
        if full is None:
            full = self.guarded.get(key)
        if full is None and self._former:
            for number, former in enumerate(self._former):
                full = former.plain.get(key, former.guarded.get(key))
                if full is not None:
                    return self._carried(full, number)
        return full

    def _carry_over(self, key: Hashable) -> None:
        """Bring a key from where it was noted under a former limit. O(changes since then)."""
        for number, former in enumerate(self._former):
            full = former.plain.pop(key, None)  # in one step: a write without the lock comes before or fails
            if full is None:
                full = former.guarded.pop(key, None)
            if full is not None:
                home = self.guarded if key in self.blocked else self._home(key)
                home[key] = self._carried(full, number)
                break
        while self._former and not self._former[0].plain and not self._former[0].guarded:
            self._former.popleft()

    def _carried(self, full: int, number: int) -> int:
        limits = [former.gcra for former in self._former] + [self._gcra]
        for former, gcra in list(zip(self._former, limits[1:], strict=True))[number:]:
            full = LONG_AGO if full <= former.at else gcra.carried(full, former.at, former.gcra)
        return full

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
        full = self.holding(key).pop(key, None)
        if full is not None:
            self._absent.add(key)
        return full

    def amend(self, key: Hashable, full: int, believed: int) -> None:
        """Replace what the key owes, unless another thread did so since ``full`` was read."""
        debts = self.holding(key)
        if key in debts and debts[key] == full:  # one step from the comparison to the store
            debts[key] = believed

    def block(self, key: Hashable, until: int) -> None:
        """Block a known key until so many nanoseconds, out of the reach of those who do not look here."""
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
        if full is None:
            return LONG_AGO
        until = self.blocked.get(key)
        return full if until is None else max(full, until * self._gcra.scale)

    def tidy(self, now: int) -> None:
        """Turn the hand by a key, and drop that if it has been idle for a while."""
        self._turn(now, now - self._patience, 1)

    def _turn(self, now: int, before: int, looks: int) -> None:
        """Turn the hand by ``looks`` keys, and drop those whose bucket was full ``before``. O(looks)."""
        order, plain, guarded, blocked = self._order, self.plain, self.guarded, self.blocked
        nanoseconds = now // self._gcra.scale
        for _ in range(min(looks, len(order))):
            key = order.popleft()
            if self._former:
                self._carry_over(key)
            if key in plain:
                table = plain
            elif key in guarded:
                table = guarded
            else:
                self._absent.discard(key)
                continue
            full = table[key]  # one step to the removal
            if full <= before and (key not in blocked or blocked[key] <= nanoseconds):
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
