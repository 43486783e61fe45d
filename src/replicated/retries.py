"""How many second attempts there may be: a budget, so that retries never become the load that kills.

Knows no replica and no request, only how many of each kind there were.
"""

from __future__ import annotations

import math

__all__ = ["RetryBudget"]


class RetryBudget:
    """Allows retries in proportion to first attempts, plus a little a second for when there are few.

    In any span of ``w`` seconds with ``n`` first attempts at most ``reserve + per_second * w + ratio * n``
    retries are allowed. Finagle's default is 20 % and 10 a second; Envoy's 20 % of what is in flight.

    Args:
        ratio: Retries earned by one first attempt.
        per_second: Retries earned by a second, whatever the traffic.
        reserve: The most that is saved up; also what a new budget starts with.

    Raises:
        ValueError: An argument is negative, NaN or infinite, or ``reserve`` is below 1.
    """

    __slots__ = ("balance", "per_second", "ratio", "reserve", "seen")

    def __init__(self, ratio: float = 0.2, per_second: float = 10.0, reserve: float = 100.0) -> None:
        for name, value in (("ratio", ratio), ("per_second", per_second)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, not {value!r}")
        if not 1 <= reserve < math.inf:
            raise ValueError(f"reserve must be finite and at least 1, not {reserve!r}")
        self.ratio = ratio
        self.per_second = per_second
        self.reserve = reserve
        self.balance = reserve
        self.seen = -math.inf

    def deposit(self) -> None:
        """Count a first attempt."""
        # Read, add, write: two threads may lose a deposit between them, never mint one.
        balance = self.balance + self.ratio
        self.balance = balance if balance < self.reserve else self.reserve

    def withdraw(self, now: float) -> bool:
        """Return whether one more retry may go out at ``now``, and count it when it may."""
        elapsed = now - self.seen
        if elapsed > 0:
            self.seen = now
            self.balance = min(self.reserve, self.balance + elapsed * self.per_second)
        if self.balance < 1:
            return False
        self.balance -= 1
        return True
