"""A bucket a key, for as many keys as fit: who has had enough.

It decides by key alone; what a key is (an address, a path template, a token) and what a refusal looks like
to a client are not known here. An idle key, whose bucket is full again, cannot be told from one nobody has
seen, so forgetting it loses nothing; a key that still owes is never forgotten.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal

from ..clock import Clock, monotonic
from ..one_step import ATOMIC
from .bucket import TokenBucket
from .debts import Debts
from .gcra import LONG_AGO, Gcra, Number, rational
from .quota import DEFAULT, Quota, quota

__all__ = ["Overflow", "Throttle", "ThrottleStats"]

Overflow = Literal["refuse", "share"]
"""What happens to a new key while ``max_keys`` others still owe."""

_ONE = 1

TIDY_EVERY = 10**7
"""Nanoseconds from one time that a known key looks at another, in passing, to the next: looking costs as much
as five takes, and to compare with the time of the next is cheaper than to count."""


@dataclass(frozen=True, slots=True)
class ThrottleStats:
    """What a throttle has seen.

    Attributes:
        keys: Keys it remembers now; some may have become idle since the sweep passed them.
        refused: Takes refused, or in shadow mode those that would have been; those by overflow included.
        overflowed: Takes by a new key that found no place.
        dropped: Idle keys forgotten.
        blocked: Blocks begun.
    """

    keys: int
    refused: int
    overflowed: int
    dropped: int
    blocked: int


@dataclass(slots=True)
class _Plan:
    """A key's own limit, and when its bucket is full in the ticks of that."""

    gcra: Gcra
    full: int


class Throttle:
    """A :class:`TokenBucket` for every key, in bounded memory and without a thread.

    At most ``max_keys`` keys are remembered, in about 80 bytes each beyond the key. A new key looks at four
    others, a refused one at one, a known one at one in ten milliseconds, and drops those that have been idle
    for ten seconds, or at all where there is no room; no call ever does more. While that finds no place the
    overflow policy decides: ``"refuse"`` refuses new keys, ``"share"`` lets them take from one bucket of the
    same rate and burst that they have in common. Known keys notice nothing of it: a flood of fresh keys
    changes nobody's allowance.

    With ``block``, a refused take blocks its key from that moment for so many seconds: whatever it asks is
    refused meanwhile, which takes nothing and does not prolong the block. Units come back as always, so
    after a long block the bucket is full. A key refused by overflow is not blocked.

    Safe for threads; what a clock that steps does is said at :class:`TokenBucket`.

    Args:
        rate: Units a second for each key, above zero. A float means the simplest fraction that is that float.
        burst: Units that a key may take at once, at least 1.
        max_keys: Keys remembered, at least 1. Keys with a plan of their own do not count.
        overflow: What happens to a new key while no place is found for it.
        block: Seconds that a refused key is blocked; 0 for none.
        shadow: Refuse nobody, and count in ``stats`` what would have been refused. ``peek`` tells the
            truth even so.
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
        block: Number = 0,
        shadow: bool = False,
        clock: Clock = monotonic,
    ) -> None:
        if overflow not in ("refuse", "share"):
            raise ValueError(f"overflow must be 'refuse' or 'share', not {overflow!r}")
        if rational("block", block) < 0:
            raise ValueError(f"block must not be negative, not {block!r}")
        self._clock = clock
        self._gcra = Gcra(rate, burst, clock)
        self._debts = Debts(self._gcra, max_keys)
        self._max_keys = max_keys
        self._shared = TokenBucket(rate, burst, clock=clock) if overflow == "share" else None
        self._block = math.ceil(rational("block", block) * 10**9)  # nanoseconds
        self._shadow = shadow
        self._plans: dict[Hashable, _Plan] = {}
        self._lock = threading.RLock()
        self._refused = self._overflowed = self._blocks = 0
        self._hot = self._at_hand()
        self._tidy_at: int = LONG_AGO

    def take(self, key: Hashable, cost: Number = 1) -> float:
        """Take ``cost`` units for ``key`` if it has them. O(1).

        Returns:
            0.0 when they were taken; else nothing was, and the seconds after which they can be, if nobody
            else takes any for that key. A key refused by overflow is told when there may be a place.

        Raises:
            ValueError: ``cost`` is not above zero, or above the burst, so that no wait would do.
            TypeError: ``cost`` is not a number, or ``key`` cannot be hashed.
        """
        read, plain, slack, unit = self._hot
        now = read()
        if cost is _ONE:  # the very object: True is equal to 1 and is not a number
            try:
                # One step from here to the store; TokenBucket.take says why that is exact. A key that is
                # new, blocked or has a plan is not in this table.
                full = plain[key]
            except KeyError:
                pass
            except TypeError:
                raise TypeError(f"key must be hashable, not {key!r}") from None
            else:
                if full > now:
                    if full <= now + slack:
                        plain[key] = full + unit
                        return 0.0
                else:
                    plain[key] = now + unit
                    if now > self._tidy_at:  # idle keys must go also where no new ones come
                        self._tidy()
                    return 0.0
        with self._lock:
            return self._take(key, cost, now if plain is self._hot[1] else self._gcra.read())

    def peek(self, key: Hashable, cost: Number = 1) -> float:
        """Return the wait that ``take(key, cost)`` would be told, and change nothing. O(1).

        Raises:
            ValueError: As ``take``.
            TypeError: As ``take``.
        """
        with self._lock:
            now = self._gcra.read()
            gcra, full = self._account(key)
            ticks = gcra.ticks(cost)
            if full is None:
                full = self._debts.floor
                place = self._debts.place()
                if place > now:
                    return self._shared.peek(cost) if self._shared else gcra.wait(now, place - now)
            return self._wait(key, gcra, full, ticks, now)

    def quotas(self, key: Hashable) -> tuple[Quota, ...]:
        """Return what ``key`` has left, as the one limit called ``default``, and change nothing. O(1).

        Nothing remains to a blocked key, nor to one without a place; in shadow mode too.

        Raises:
            TypeError: ``key`` cannot be hashed.
        """
        with self._lock:
            now = self._gcra.read()
            gcra, full = self._account(key)
            closed = self._blocked(key, now)
            if full is None:
                full = self._debts.floor
                place = self._debts.place()
                if place > now:
                    if self._shared:
                        return (self._shared.quota(),)
                    closed = gcra.wait(now, place - now)
            return (quota(DEFAULT, gcra, full, gcra.moved(now, self._gcra), closed),)

    def refund(self, key: Hashable, cost: Number = 1) -> None:
        """Give ``cost`` units back to ``key``; what would exceed the burst is lost. O(1).

        Raises:
            ValueError: As ``take``.
            TypeError: As ``take``.
        """
        with self._lock:
            now = int(self._gcra.read())  # it may be kept, and what a reading remembers need not be
            plan = self._plans.get(key)
            if plan is not None:
                here = plan.gcra.moved(now, self._gcra)
                plan.full = max(plan.full - plan.gcra.ticks(cost), min(plan.full, here))
                return
            ticks = self._gcra.ticks(cost)
            debts = self._debts.holding(key)
            if key in debts:
                full = debts[key]  # one step to the store
                if full > now:
                    full = full - ticks
                    debts[key] = full if full > now else now

    def reconfigure(self, rate: Number, burst: Number) -> None:
        """Change the limit of all keys without a plan of their own, while they are in use. O(1).

        What a key has left is carried over, in units, and never grows by it; from then on it grows at the new
        rate, up to the new burst. A key that owes nothing starts full, since nobody can tell it from one
        that has never come. Each key is carried over when it is next asked for; until then a take looks
        through the changes since. Blocks last as long as they were to.

        Raises:
            ValueError: ``rate`` or ``burst`` is out of its range, NaN or infinite; nothing has changed.
            TypeError: ``rate`` or ``burst`` is not a number; nothing has changed.
        """
        gcra = Gcra(rate, burst, self._clock)
        with self._lock:
            self._debts.change(gcra, self._gcra.read())
            self._gcra = gcra
            self._hot = self._at_hand()
            self._tidy_at = LONG_AGO  # whatever a tick is now
            if self._shared is not None:
                self._shared.reconfigure(rate, burst)

    def set_plan(self, key: Hashable, rate: Number, burst: Number) -> None:
        """Give ``key`` a limit of its own, now or while it is in use. O(1).

        What the key has left is carried over and never grows by it: one that has used up its burst has
        nothing under the new plan either. A key that has no plan and owes nothing starts full, since nobody
        can tell it from one that has never come.

        Raises:
            ValueError: ``rate`` or ``burst`` is out of its range, NaN or infinite.
            TypeError: ``rate`` or ``burst`` is not a number, or ``key`` cannot be hashed.
        """
        gcra = Gcra(rate, burst, self._clock)
        with self._lock:
            now = self._gcra.read()
            plan = self._plans.get(key)
            if plan is not None:
                plan.full = gcra.carried(plan.full, plan.gcra.moved(now, self._gcra), plan.gcra)
                plan.gcra = gcra
                return
            full = self._debts.remove(key)
            if full is not None and full > now:
                self._plans[key] = _Plan(gcra, gcra.carried(full, now, self._gcra))
            else:
                self._plans[key] = _Plan(gcra, LONG_AGO)

    def clear_plan(self, key: Hashable) -> None:
        """Put ``key`` back under the common limit, with what it has left. O(1).

        Nothing happens to a key without a plan.

        Raises:
            TypeError: ``key`` cannot be hashed.
        """
        with self._lock:
            now = self._gcra.read()
            plan = self._plans.pop(key, None)
            if plan is not None:
                here = plan.gcra.moved(now, self._gcra)
                self._debts.add(key, self._gcra.carried(plan.full, here, plan.gcra))

    def stats(self) -> ThrottleStats:
        """Return the counts so far. O(1)."""
        return ThrottleStats(len(self), self._refused, self._overflowed, self._debts.dropped, self._blocks)

    def __len__(self) -> int:
        """Return how many keys are remembered, without those that have a plan."""
        return len(self._debts)

    def __repr__(self) -> str:
        return f"<Throttle {self._gcra}: {len(self)} of {self._max_keys} keys>"

    def _tidy(self) -> None:
        with self._lock:
            gcra = self._gcra
            now = gcra.read()
            self._tidy_at = now + TIDY_EVERY * gcra.scale
            self._debts.tidy(now)

    def _at_hand(self) -> tuple[Callable[[], int], dict[Hashable, int], int, int]:
        """Return what the hot path needs, in one piece, so that it is of one limit."""
        gcra = self._gcra
        return gcra.read, self._debts.plain if ATOMIC else {}, gcra.slack, gcra.unit

    # Below, the lock is held.

    def _take(self, key: Hashable, cost: Number, now: int) -> float:
        plan = self._plans.get(key)
        if plan is not None:
            return self._take_planned(key, plan, cost, now)
        gcra, debts = self._gcra, self._debts
        ticks = gcra.ticks(cost)
        blocked = self._is_blocked(key, now)
        table = debts.holding(key)
        if key not in table:
            if debts.crowded(now):
                return self._overflow(cost, now)
            debts.floor = gcra.believed(debts.floor, now)
            table = debts.add(key, debts.floor)
        limit = now + gcra.tolerance - ticks
        full = table[key]  # one step to the store: others take as soon as the key stands there
        if full <= limit and not blocked:
            table[key] = (full if full > now else now) + ticks
            return 0.0
        believed = gcra.believed(full, now)
        debts.amend(key, full, believed)
        return self._refuse(key, gcra, believed, ticks, now)

    def _take_planned(self, key: Hashable, plan: _Plan, cost: Number, now: int) -> float:
        gcra = plan.gcra
        ticks = gcra.ticks(cost)
        here = gcra.moved(now, self._gcra)
        plan.full = gcra.believed(plan.full, here)
        if self._is_blocked(key, now) or plan.full > here + gcra.tolerance - ticks:
            return self._refuse(key, gcra, plan.full, ticks, now)
        plan.full = max(plan.full, here) + ticks
        return 0.0

    def _is_blocked(self, key: Hashable, now: int) -> bool:
        until = self._debts.blocked.get(key)
        if until is None:
            return False
        scale = self._gcra.scale
        here = now // scale
        if until > here + self._block:  # only where the clock has stepped back, or a thread was held up
            until = self._debts.blocked[key] = min(until, self._gcra.read() // scale + self._block)
        if until <= here:
            self._debts.unblock(key)
        return until > here

    def _refuse(self, key: Hashable, gcra: Gcra, full: int, ticks: int, now: int) -> float:
        self._refused += 1
        if self._block and key not in self._debts.blocked:
            self._blocks += 1
            self._debts.block(key, now // self._gcra.scale + self._block)
        self._debts.tidy(now)
        return 0.0 if self._shadow else self._wait(key, gcra, full, ticks, now)

    def _overflow(self, cost: Number, now: int) -> float:
        self._overflowed += 1
        if self._shared is not None:
            wait = self._shared.take(cost)
        else:
            # At least a tick: an idle key may stand where the next call looks and this one did not.
            wait = self._gcra.wait(now, max(self._debts.place() - now, 1))
        self._refused += wait > 0
        return 0.0 if self._shadow else wait

    def _account(self, key: Hashable) -> tuple[Gcra, int | None]:
        plan = self._plans.get(key)
        return (self._gcra, self._debts.find(key)) if plan is None else (plan.gcra, plan.full)

    def _wait(self, key: Hashable, gcra: Gcra, full: int, ticks: int, now: int) -> float:
        here = gcra.moved(now, self._gcra)
        owing = min(full - here, gcra.tolerance) + ticks - gcra.tolerance
        return max(gcra.wait(here, owing) if owing > 0 else 0.0, self._blocked(key, now))

    def _blocked(self, key: Hashable, now: int) -> float:
        until = self._debts.blocked.get(key)
        if until is None:
            return 0.0
        left = min(until - now // self._gcra.scale, self._block)
        return self._gcra.wait(now, left * self._gcra.scale) if left > 0 else 0.0
