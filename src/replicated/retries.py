"""How many second attempts there may be: a budget, so that retries never become the load that kills.

Knows no replica and no request, only how many of each kind there were.
"""

from __future__ import annotations

import math
from threading import Lock

__all__ = ["RetryBudget"]


class RetryBudget:
    """Allows retries in proportion to first attempts, plus a little a second for when there are few.

    In any span of ``w`` seconds with ``n`` first attempts at most ``reserve + per_second * w + ratio * n``
    retries are allowed, whatever the threads do. Finagle's default is 20 % and 10 a second; Envoy's 20 %
    of what is in flight.

    Args:
        ratio: Retries earned by one first attempt.
        per_second: Retries earned by a second, whatever the traffic.
        reserve: The most that is saved up; also what a new budget starts with.

    Raises:
        ValueError: An argument is negative, NaN or infinite, or ``reserve`` is below 1.
        TypeError: An argument is not a number.

    Attributes:
        firsts: First attempts so far, to be counted up by one for each; ``deposit`` does that.
    """

    __slots__ = ("_balance", "_counted", "_lock", "_seen", "firsts", "per_second", "ratio", "reserve")

    def __init__(self, ratio: float = 0.2, per_second: float = 10.0, reserve: float = 100.0) -> None:
        for name, value, least in (
            ("ratio", ratio, 0),
            ("per_second", per_second, 0),
            ("reserve", reserve, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if not least <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least {least}, not {value!r}")
        self.ratio = ratio
        self.per_second = per_second
        self.reserve = reserve
        # On the path of every request, hence a bare number: what first attempts earned is only worked out
        # when somebody wants to spend it. Adding one to it is a single step of CPython; an interpreter that
        # loses a count between threads allows a fifth of a retry less.
        self.firsts = 0
        self._counted = 0
        self._balance = float(reserve)
        self._seen: float | None = None
        self._lock = Lock()

    def deposit(self) -> None:
        """Count a first attempt."""
        self.firsts += 1

    def withdraw(self, now: float) -> bool:
        """Return whether one more retry may go out at ``now``, and count it when it may."""
        with self._lock:
            firsts = self.firsts
            balance = self._balance + (firsts - self._counted) * self.ratio
            self._counted = firsts
            if self._seen is None:
                self._seen = now
            elif now > self._seen:
                balance += (now - self._seen) * self.per_second
                self._seen = now
            balance = min(balance, self.reserve)
            allowed = balance >= 1
            self._balance = balance - 1 if allowed else balance
            return allowed
