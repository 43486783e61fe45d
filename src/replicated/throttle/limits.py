"""Several limits at once, all or nothing: 10 a second and 500 an hour and so much work a minute.

It decides for one key by all limits together, at one reading of the clock, and names the one that binds.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..clock import Clock, monotonic
from .debts import Debts
from .gcra import Gcra, Number
from .quota import Quota, quota

__all__ = ["OVERFLOW", "Limit", "Limits", "Wait"]

OVERFLOW = "overflow"
"""What binds where a new key finds no place."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One of several limits.

    Args:
        name: What an answer calls it; unique among them.
        rate: Units a second, above zero. A float means the simplest fraction that is that float.
        burst: Units that may be taken at once, at least 1.
        counts: What a unit is: ``"cost"`` for the cost of a take, ``"takes"`` for one a take whatever it
            costs.

    Raises:
        ValueError: ``name`` is empty or ``"overflow"``, or ``counts`` is neither of the two.
    """

    name: str
    rate: Number
    burst: Number
    counts: Literal["cost", "takes"] = "cost"

    def __post_init__(self) -> None:
        if not self.name or self.name == OVERFLOW:
            raise ValueError(f"name must be a word other than {OVERFLOW!r}, not {self.name!r}")
        if self.counts not in ("cost", "takes"):
            raise ValueError(f"counts must be 'cost' or 'takes', not {self.counts!r}")


class Wait(float):
    """Seconds to wait, 0.0 meaning admitted, that also say for what.

    Attributes:
        limit: The name of the limit that asks for the longest wait; ``"overflow"`` where there is no place
            for the key, ``""`` when admitted.
    """

    __slots__ = ("limit",)

    limit: str

    def __new__(cls, seconds: float, limit: str) -> Wait:
        """Make one of ``seconds``."""
        self = super().__new__(cls, seconds)
        self.limit = limit
        return self


_ADMITTED = Wait(0.0, "")


class _Ledger:
    """One limit, and what every key owes to it. Used under the lock of the limits."""

    def __init__(self, limit: Limit, max_keys: int, clock: Clock) -> None:
        self.name = limit.name
        self.by_cost = limit.counts == "cost"
        self.gcra = Gcra(limit.rate, limit.burst, clock)
        self.debts = Debts(self.gcra, max_keys)

    def ticks(self, cost: Number) -> int:
        return self.gcra.ticks(cost) if self.by_cost else self.gcra.unit

    def owed(self, key: Hashable, now: int) -> int:
        full = self.debts.find(key)
        return self.gcra.believed(self.debts.floor if full is None else full, now)

    def quota(self, key: Hashable, now: int) -> Quota:
        place = self.debts.place() if self.debts.find(key) is None else now
        closed = self.gcra.wait(now, place - now) if place > now else 0.0
        return quota(self.name, self.gcra, self.owed(key, now), now, closed)

    def believe(self, key: Hashable, now: int) -> None:
        full = self.debts.find(key)
        if full is None:
            self.debts.floor = self.gcra.believed(self.debts.floor, now)
        else:
            self.debts.amend(key, full, self.gcra.believed(full, now))

    def put(self, key: Hashable, full: int) -> None:
        table = self.debts.holding(key)
        if key in table:
            table[key] = full
        else:
            self.debts.add(key, full)


class Limits:
    """A bucket a key for each of several limits; a take is admitted by all of them or costs none anything.

    It answers as a throttle does, so it goes wherever one goes; the answer also names the limit that binds.
    Memory and sweep are those of a :class:`Throttle` for each limit. A new key without a place is refused.

    Args:
        limits: At least one.
        max_keys: Keys remembered by each limit, at least 1.
        clock: Seconds.

    Raises:
        ValueError: There is no limit, two have one name, or a number is out of its range, NaN or infinite.
        TypeError: A number is of another type, or ``clock`` cannot be called.
    """

    def __init__(self, *limits: Limit, max_keys: int = 100_000, clock: Clock = monotonic) -> None:
        names = [limit.name for limit in limits]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"limits must be at least one, each with a name of its own, not {names!r}")
        self._clock = clock
        self._ledgers = [_Ledger(limit, max_keys, clock) for limit in limits]
        self._lock = threading.Lock()
        self._refused = dict.fromkeys([*names, OVERFLOW], 0)

    def take(self, key: Hashable, cost: Number = 1) -> Wait:
        """Take for ``key`` from every limit if all of them let it. O(limits).

        Returns:
            A float: 0.0 when taken; else nothing was, and the seconds after which it can be, if nobody else
            takes any for that key. Its ``limit`` names the one with the longest wait.

        Raises:
            ValueError: ``cost`` is not above zero, or above a burst that counts cost.
            TypeError: ``cost`` is not a number, or ``key`` cannot be hashed.
        """
        with self._lock:
            bill = self._bill(cost)
            for ledger, _, now in bill:
                ledger.believe(key, now)
                if ledger.debts.find(key) is None and ledger.debts.crowded(now):
                    self._refused[OVERFLOW] += 1
                    return Wait(ledger.gcra.wait(now, max(ledger.debts.place() - now, 1)), OVERFLOW)
            wait = self._longest(key, bill)
            if wait:
                self._refused[wait.limit] += 1
                for ledger, _, now in bill:
                    ledger.debts.tidy(now)
                return wait
            for ledger, ticks, now in bill:
                ledger.put(key, max(ledger.owed(key, now), now) + ticks)
            return wait

    def peek(self, key: Hashable, cost: Number = 1) -> Wait:
        """Return what ``take(key, cost)`` would, and change nothing. O(limits).

        Raises:
            ValueError: As ``take``.
            TypeError: As ``take``.
        """
        with self._lock:
            bill = self._bill(cost)
            for ledger, _, now in bill:
                place = ledger.debts.place()
                if ledger.debts.find(key) is None and place > now:
                    return Wait(ledger.gcra.wait(now, place - now), OVERFLOW)
            return self._longest(key, bill)

    def quotas(self, key: Hashable) -> tuple[Quota, ...]:
        """Return what ``key`` has left under each limit, in their order, and change nothing. O(limits).

        Raises:
            TypeError: ``key`` cannot be hashed.
        """
        with self._lock:
            first = self._ledgers[0].gcra
            now = first.read()
            return tuple(ledger.quota(key, ledger.gcra.moved(now, first)) for ledger in self._ledgers)

    def refund(self, key: Hashable, cost: Number = 1) -> None:
        """Give every limit back what a take of ``cost`` takes; what would exceed a burst is lost. O(limits).

        Raises:
            ValueError: As ``take``.
            TypeError: As ``take``.
        """
        with self._lock:
            for ledger, ticks, now in self._bill(cost):
                full = ledger.debts.find(key)
                if full is not None and full > now:
                    ledger.put(key, max(full - ticks, now))

    def reconfigure(self, name: str, rate: Number, burst: Number) -> None:
        """Change one of the limits while it is in use, as ``Throttle.reconfigure`` does. O(limits).

        Raises:
            ValueError: No limit has that name, or a number is out of its range; nothing has changed.
            TypeError: A number is of another type; nothing has changed.
        """
        gcra = Gcra(rate, burst, self._clock)
        with self._lock:
            for ledger in self._ledgers:
                if ledger.name == name:
                    ledger.debts.change(gcra, ledger.gcra.read())
                    ledger.gcra = gcra
                    return
        raise ValueError(f"name must be one of {[each.name for each in self._ledgers]}, not {name!r}")

    def refused(self) -> Mapping[str, int]:
        """Return how many takes each limit has refused, by name; ``"overflow"`` for want of a place."""
        return MappingProxyType(dict(self._refused))

    def __len__(self) -> int:
        """Return how many keys are remembered by the limit that remembers the most."""
        return max(len(ledger.debts) for ledger in self._ledgers)

    def __repr__(self) -> str:
        return f"<Limits {', '.join(f'{ledger.name}: {ledger.gcra}' for ledger in self._ledgers)}>"

    def _bill(self, cost: Number) -> list[tuple[_Ledger, int, int]]:
        """Return each ledger with what it is asked for and the one reading of the clock, in its own ticks."""
        ticks = [ledger.ticks(cost) for ledger in self._ledgers]
        first = self._ledgers[0].gcra
        now = first.read()
        return [
            (ledger, each, ledger.gcra.moved(now, first))
            for ledger, each in zip(self._ledgers, ticks, strict=True)
        ]

    @staticmethod
    def _longest(key: Hashable, bill: list[tuple[_Ledger, int, int]]) -> Wait:
        longest = _ADMITTED
        for ledger, ticks, now in bill:
            over = ledger.owed(key, now) + ticks - ledger.gcra.tolerance - now
            if over > 0 and (wait := ledger.gcra.wait(now, over)) > longest:
                longest = Wait(wait, ledger.name)
        return longest
