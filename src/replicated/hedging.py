"""When a request that is late goes to a second replica as well, and how often at most.

Arithmetic over latencies and a budget: it sends nothing and keeps no timer. Dean and Barroso, *The Tail at
Scale* (2013), 2: hedged requests; Finagle's ``MethodBuilder.idempotent`` and gRFC A6 are the same idea.
"""

from __future__ import annotations

import math
from math import frexp

from .clock import Clock, monotonic
from .retries import RetryBudget

__all__ = ["Hedging"]

# A histogram of eight linear steps an octave, from a microsecond to four minutes: an error of an eighth.
_LOWEST, _STEPS, _SLOTS = 20, 8, 29 * 8
_WINDOW = 1024  # observations after which each has lost half its say
_FIRST, _EVERY = 32, 256  # observations before the first look at it, and between two: each costs a hundred


class Hedging:
    """Says after how long a request is late, learnt from how long the others took.

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
        delay: Seconds after which a request is late.
        deposit: Call it without arguments to count a request that may be hedged.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument is not a number.
    """

    __slots__ = ("_clock", "_counts", "_due", "_seen", "budget", "delay", "deposit", "factor", "least",
                 "quantile")  # fmt: skip

    def __init__(
        self,
        *,
        quantile: float = 0.95,
        factor: float = 3.0,
        least: float = 0.02,
        unknown: float = 1.0,
        ratio: float = 0.05,
        per_second: float = 1.0,
        reserve: float = 10.0,
        clock: Clock = monotonic,
    ) -> None:
        for name, value in (
            ("quantile", quantile),
            ("factor", factor),
            ("least", least),
            ("unknown", unknown),
        ):
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
        self.delay = max(least, unknown)
        self.budget = RetryBudget(ratio, per_second, reserve)
        self.deposit = self.budget.deposit
        self._clock = clock
        self._counts = [0] * _SLOTS
        self._seen = 0
        self._due = _FIRST

    def observe(self, latency: float) -> None:
        """Take in how many seconds a request took that was answered. O(1), amortised."""
        if latency > 0:
            mantissa, exponent = frexp(latency)
            slot = (exponent + _LOWEST) * _STEPS + int(mantissa * 2 * _STEPS) - _STEPS
            slot = 0 if slot < 0 else slot if slot < _SLOTS else _SLOTS - 1
        else:
            slot = 0
        # No lock: what threads that meet here lose is one observation among many.
        self._counts[slot] += 1
        self._seen = seen = self._seen + 1
        if seen >= self._due:
            self._due = seen + min(seen, _EVERY)
            self._estimate()

    def withdraw(self) -> bool:
        """Return whether one more request may be sent twice now, and count it when it may."""
        return self.budget.withdraw(self._clock())

    def _estimate(self) -> None:
        counts = self._counts
        total = sum(counts)
        left = total * (1 - self.quantile)
        slot = _SLOTS
        while slot and left >= 0:
            slot -= 1
            left -= counts[slot]
        octave, step = divmod(slot, _STEPS)
        upper = math.ldexp((_STEPS + step + 1) / (2 * _STEPS), octave - _LOWEST)
        self.delay = max(self.least, self.factor * upper)
        if total >= _WINDOW:
            self._counts = [count >> 1 for count in counts]
