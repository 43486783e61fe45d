"""A bucket a key, for as many keys as fit: who has had enough.

It decides by key alone; what a key is (an address, a path template, a token) and what a refusal looks like
to a client are not known here. An idle key, whose bucket is full again, cannot be told from one nobody has
seen, so forgetting it loses nothing; a key that still owes is never forgotten.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from ..clock import Clock, monotonic
from .atomic import ATOMIC, is_plain
from .bucket import TokenBucket
from .gcra import Gcra, Number

__all__ = ["Overflow", "Throttle", "ThrottleStats"]

Overflow = Literal["refuse", "share"]
"""What happens to a new key while ``max_keys`` others still owe."""

_ONE = 1
_LONG_AGO = -(1 << 200)
_SWEEP = 4  # keys looked at for each new one: the hand goes around while a quarter of the table is added


@dataclass(frozen=True, slots=True)
class ThrottleStats:
    """What a throttle has seen.

    Attributes:
        keys: Keys it remembers now; those that have become idle since the sweep passed are among them.
        refused: Takes refused, those by overflow among them.
        overflowed: Takes by a new key that found no place.
        dropped: Idle keys forgotten.
    """

    keys: int
    refused: int
    overflowed: int
    dropped: int


class Throttle:
    """A :class:`TokenBucket` for every key, in bounded memory and without a thread.

    At most ``max_keys`` keys are remembered, in about 85 bytes each beyond the key. A new key looks at four
    others, a refused one at one, and drops those that are idle; no call ever does more. While that finds no
    place the overflow policy decides: ``"refuse"`` refuses new keys, ``"share"``
    lets them take from one bucket of the same rate and burst that they have in common. Known keys notice
    nothing of it: a flood of fresh keys changes nobody's allowance.

    Safe for threads; what a clock that steps does is said at :class:`TokenBucket`.

    Args:
        rate: Units a second for each key, above zero. A float means the simplest fraction that is that float.
        burst: Units that a key may take at once, at least 1.
        max_keys: Keys remembered, at least 1.
        overflow: What happens to a new key while no place is found for it.
        clock: Seconds.

    Raises:
        ValueError: A number is out of its range, NaN or infinite, or ``overflow`` is neither of the two.
        TypeError: A number is of another type, or ``clock`` cannot be called.
    """

    def __init__(
        self,
        rate: Number,
        burst: Number,
        *,
        max_keys: int = 100_000,
        overflow: Overflow = "refuse",
        clock: Clock = monotonic,
    ) -> None:
        if isinstance(max_keys, bool) or not isinstance(max_keys, int):
            raise TypeError(f"max_keys must be an int, not {max_keys!r}")
        if max_keys < 1:
            raise ValueError(f"max_keys must be at least 1, not {max_keys!r}")
        if overflow not in ("refuse", "share"):
            raise ValueError(f"overflow must be 'refuse' or 'share', not {overflow!r}")
        self._gcra = Gcra(rate, burst, clock)
        self._max_keys = max_keys
        self._shared = TokenBucket(rate, burst, clock=clock) if overflow == "share" else None
        # Keys for which a read, a decision and a write are one step stand in _table and are taken from
        # without a lock; the others in _guarded. Only the holder of the lock adds or removes either.
        self._table: dict[Hashable, int] = {}
        self._guarded: dict[Hashable, int] = {}
        self._order: deque[Hashable] = deque()  # every key once; the sweep turns it
        self._lock = threading.RLock()
        # What is unknown was full at this time: the latest reading at which something was dropped. It lies
        # ahead of the clock only where that stepped back, and then a dropped key must not come back full.
        self._floor = _LONG_AGO
        self._refused = self._overflowed = self._dropped = 0

    def take(self, key: Hashable, cost: Number = 1) -> float:
        """Take ``cost`` units for ``key`` if it has them. O(1).

        Returns:
            0.0 when they were taken; else nothing was, and the seconds after which they can be, if nobody
            else takes any for that key. A key refused by overflow is told when a place may be free.

        Raises:
            ValueError: ``cost`` is not above zero, or above the burst, so that no wait would do.
            TypeError: ``cost`` is not a number, or ``key`` cannot be hashed.
        """
        gcra = self._gcra
        if cost is _ONE:  # the very object: True is equal to 1 and is not a number
            unit, slack = gcra.unit, gcra.slack
        else:
            unit = gcra.ticks(cost)
            slack = gcra.tolerance - unit
        table = self._table
        read = gcra.read
        now = read()
        try:
            # One step from here to the store; TokenBucket.take says why that is exact.
            full = table[key]
            if full <= now + slack:
                if full > now:
                    table[key] = full + unit
                    return 0.0
                table[key] = now + unit
                if not now & 31:  # sometimes, so that idle keys go also where no new ones come
                    self._tidy(now, 1)
                return 0.0
        except KeyError:
            return self._take_guarded(key, cost, unit, now)
        except TypeError:
            raise TypeError(f"key must be hashable, not {key!r}") from None
        return self._refuse(table, key, full, slack, now)

    def peek(self, key: Hashable, cost: Number = 1) -> float:
        """Return what ``take(key, cost)`` would, and change nothing. O(1).

        Raises:
            ValueError: As ``take``.
            TypeError: As ``take``.
        """
        gcra = self._gcra
        slack = gcra.tolerance - gcra.ticks(cost)
        with self._lock:
            now = gcra.read()
            full = self._debt(key)
            if full is None:
                full = self._floor
                if len(self._order) >= self._max_keys:
                    place = self._place()
                    if place > now:
                        return self._shared.peek(cost) if self._shared else gcra.wait(now, place - now)
            full = min(full, now + gcra.tolerance)
        return gcra.wait(now, full - slack - now) if full > now + slack else 0.0

    def refund(self, key: Hashable, cost: Number = 1) -> None:
        """Give ``cost`` units back to ``key``; what would exceed the burst is lost. O(1).

        Raises:
            ValueError: As ``take``.
            TypeError: As ``take``.
        """
        gcra = self._gcra
        unit = gcra.ticks(cost)
        with self._lock:
            for debts in (self._table, self._guarded):
                if key in debts:
                    now = gcra.read()
                    full = debts[key]  # one step to the store
                    if full > now:
                        full = full - unit
                        debts[key] = full if full > now else now
                    return

    def stats(self) -> ThrottleStats:
        """Return the counts so far. O(1)."""
        return ThrottleStats(len(self._order), self._refused, self._overflowed, self._dropped)

    def __len__(self) -> int:
        """Return how many keys are remembered."""
        return len(self._order)

    def __repr__(self) -> str:
        return f"<Throttle {self._gcra}: {len(self._order)} of {self._max_keys} keys>"

    def _take_guarded(self, key: Hashable, cost: Number, unit: int, now: int) -> float:
        """Take for a key that is new, or whose operations are not one step without the lock."""
        slack = self._gcra.tolerance - unit
        with self._lock:
            debts = self._table if ATOMIC and is_plain(key) else self._guarded
            if key not in debts:
                self._tidy(now, _SWEEP)
                if len(self._order) >= self._max_keys:
                    return self._overflow(cost, now)
                self._floor = self._gcra.believed(self._floor, now)
                self._order.append(key)
                debts[key] = self._floor
            limit = now + slack
            full = debts[key]  # one step to the store: others may take as soon as the key stands there
            if full <= limit:
                debts[key] = (full if full > now else now) + unit
                return 0.0
            return self._refuse(debts, key, full, slack, now)

    def _refuse(self, debts: dict[Hashable, int], key: Hashable, full: int, slack: int, now: int) -> float:
        self._refused += 1
        believed = self._gcra.believed(full, now)
        if believed != full:
            self._amend(debts, key, full, believed)
        self._tidy(now, 1)
        return self._gcra.wait(now, believed - slack - now)

    def _overflow(self, cost: Number, now: int) -> float:
        self._overflowed += 1
        if self._shared is not None:
            wait = self._shared.take(cost)
            self._refused += wait > 0
            return wait
        self._refused += 1
        # At least a nanosecond: an idle key may stand where the next call looks and this one did not.
        return self._gcra.wait(now, max(self._place() - now, 1))

    def _place(self) -> int:
        """Return when the first of the keys that the next new key looks at is full."""
        order = self._order
        return min(self._debt(order[i]) or 0 for i in range(min(_SWEEP, len(order))))

    def _debt(self, key: Hashable) -> int | None:
        full = self._table.get(key)
        return self._guarded.get(key) if full is None else full

    def _tidy(self, now: int, looks: int) -> None:
        """Look at the next keys of the round, and drop those whose bucket is full."""
        with self._lock:
            order = self._order
            for _ in range(min(looks, len(order))):
                key = order.popleft()
                debts = self._table if key in self._table else self._guarded
                full = debts[key]  # one step to the removal
                if full <= now:
                    del debts[key]
                    self._dropped += 1
                    if now > self._floor:
                        self._floor = now
                    continue
                order.append(key)
                believed = self._gcra.believed(full, now)
                if believed != full:
                    self._amend(debts, key, full, believed)

    def _amend(self, debts: dict[Hashable, int], key: Hashable, full: int, believed: int) -> None:
        with self._lock:
            if key in debts and debts[key] == full:  # one step from the comparison to the store
                debts[key] = believed
