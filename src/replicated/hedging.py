"""When a request that is late goes to a second replica as well, and how often at most.

Arithmetic over latencies and a budget: it sends nothing and keeps no timer. Dean and Barroso, *The Tail at
Scale* (2013), 2: hedged requests; Finagle's ``MethodBuilder.idempotent`` and gRFC A6 are the same idea.
"""

from __future__ import annotations

import math
from collections import deque

from .clock import Clock, monotonic
from .retries import RetryBudget

__all__ = ["Hedging"]

_LEAST = 32  # latencies below which a quantile says nothing
_WINDOW = 512  # latencies remembered: of these, 25 lie beyond the usual quantile
_EVERY = 0.1  # seconds between two looks at them, each of which sorts them all


class Hedging:
    """Says after how long a request is late, learnt from how long the last 512 took.

    Late is ``factor`` times the latency that the ``quantile`` of all stays below, over all replicas: one that
    is slow must not teach that slow is usual. Where everything is slow, nothing is late for long; and what
    the estimate gets wrong the budget bounds.

    Args:
        quantile: The fraction of requests that is taken for usual.
        factor: How many times that is late.
        least: Never late before so many seconds; below lie the pauses of any interpreter or kernel.
        unknown: Late after so many seconds while fewer than 32 latencies are known.
        ratio: Second attempts earned by one request.
        per_second: Second attempts earned by a second.
        reserve: The most that is saved up; also what there is at first.
        clock: Seconds, monotonic.

    Attributes:
        deposit: Call it without arguments to count a request that may be hedged.
        observe: Call it with the seconds that a request took which was answered.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument is not a number.
    """

    __slots__ = ("_clock", "_delay", "_latencies", "_looked", "budget", "deposit", "factor", "least",
                 "observe", "quantile")  # fmt: skip

    def __init__(
        self,
        *,
        quantile: float = 0.95,
        factor: float = 3.0,
        least: float = 0.02,
        unknown: float = 1.0,
        ratio: float = 0.02,
        per_second: float = 1.0,
        reserve: float = 10.0,
        clock: Clock = monotonic,
    ) -> None:
        named = ("quantile", quantile), ("factor", factor), ("least", least), ("unknown", unknown)
        for name, value in named:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, not {value!r}")
        if not 0 < quantile < 1:
            raise ValueError(f"quantile must be a fraction between 0 and 1, not {quantile!r}")
        if not 1 <= factor < math.inf:
            raise ValueError(f"factor must be finite and at least 1, not {factor!r}")
        for name, value in (("least", least), ("unknown", unknown)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be seconds above 0, finite, not {value!r}")
        self.quantile = quantile
        self.factor = factor
        self.least = least
        self.budget = RetryBudget(ratio, per_second, reserve)
        self._clock = clock
        self._delay = max(least, unknown)
        self._looked = -math.inf
        self._latencies: deque[float] = deque(maxlen=_WINDOW)
        # Both are called for every request, hence builtins; what they add up to is worked out now and then.
        self.deposit = self.budget.deposit
        self.observe = self._latencies.append

    def delay(self, now: float | None = None) -> float:
        """Return after how many seconds a request is late. O(1), but for ten times a second."""
        now = self._clock() if now is None else now
        if now - self._looked >= _EVERY:
            self._looked = now
            ordered = sorted(self._latencies)
            if len(ordered) >= _LEAST:
                usual = ordered[math.ceil(self.quantile * len(ordered)) - 1]
                self._delay = max(self.least, self.factor * usual)
        return self._delay

    def withdraw(self) -> bool:
        """Return whether one more request may be sent twice now, and count it when it may."""
        return self.budget.withdraw(self._clock())
