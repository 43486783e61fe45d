"""The arithmetic of a limit: rate and burst as whole numbers of ticks, readings of a clock, and waits.

It is the generic cell rate algorithm (ITU-T I.371, annex A) on one integer a bucket: ``full``, the time at
which the bucket is full again. A bucket without debt has ``full <= now``; one that owes its whole burst has
``full == now + tolerance``. What is taken, by whom and from which bucket is not known here.

A tick is a nanosecond, or the part of one that makes the time a unit takes a whole number: at 3/s a unit
takes 333333333 1/3 ns, which is 10**9 ticks of a third of a nanosecond. So nothing is ever rounded from one
unit to the next, and a caller who saturates a limit gets the configured rate and not one drop less. The price
is a few bytes on integers that Python keeps at any width; time itself is read in whole nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from time import monotonic_ns

from ..clock import Clock, monotonic

__all__ = ["LONG_AGO", "Gcra", "Number", "rational", "seconds_for"]

Number = int | float | Fraction
"""What a rate, a burst and a cost may be; never a bool, NaN or infinity."""

LONG_AGO = -(1 << 200)
"""Before any reading of any clock, in any ticks."""

_NS = 10**9


class Gcra:
    """One limit, bound to one clock. Immutable.

    Args:
        rate: Units a second, above zero. A float means the simplest fraction that is that float, so
            that ``500 / 3600`` is 500 an hour exactly, and 0.1 a tenth.
        burst: Units that may be taken at once, at least 1.
        clock: Seconds.

    Attributes:
        rate: The rate as a fraction.
        burst: The burst as a fraction.
        scale: Ticks a nanosecond.
        unit: Ticks that one unit takes.
        tolerance: Ticks that the whole burst takes.
        slack: ``tolerance - unit``: a unit may be taken while ``full <= now + slack``.
        read: Reads the clock, in ticks.

    Raises:
        ValueError: A number is not finite or out of its range.
        TypeError: A number is none, or ``clock`` cannot be called.
    """

    __slots__ = ("_clock", "burst", "rate", "read", "scale", "slack", "tolerance", "unit")

    def __init__(self, rate: Number, burst: Number, clock: Clock) -> None:
        if not callable(clock):
            raise TypeError(f"clock must be a function that answers seconds, not {clock!r}")
        self.rate = _simplest(rate) if isinstance(rate, float) else rational("rate", rate)
        self.burst = rational("burst", burst)
        if self.rate <= 0:
            raise ValueError(f"rate must be above zero, not {rate!r}")
        if self.burst < 1:
            raise ValueError(f"burst must be at least 1, or nobody could ever take a unit, not {burst!r}")
        interval = _NS / self.rate
        self.scale: int = interval.denominator
        self.unit: int = interval.numerator
        self.tolerance: int = math.floor(self.burst * self.unit)
        self.slack: int = self.tolerance - self.unit
        try:
            # Twice the time of a burst: a wait can be no longer, so none can fail to fit a float.
            _ = 2 * self.tolerance / (self.scale * _NS)
        except OverflowError:
            raise ValueError(
                f"rate must refill the burst in a time that fits a float, not {rate!r}"
            ) from None
        self._clock = clock
        self.read: Callable[[], int] = self._reader()

    def _reader(self) -> Callable[[], int]:
        scale, clock = self.scale, self._clock
        if clock is not monotonic:
            return lambda: _Reading(clock(), scale)
        if scale == 1:
            return monotonic_ns  # no Python frame between a take and the clock
        return lambda: monotonic_ns() * scale

    def ticks(self, cost: Number) -> int:
        """Return the ticks that ``cost`` units take, rounded up where a fraction of a tick is asked for.

        Raises:
            ValueError: ``cost`` is not above zero or above the burst: no wait would ever be enough.
            TypeError: ``cost`` is not a number.
        """
        ticks = cost * self.unit if type(cost) is int else math.ceil(rational("cost", cost) * self.unit)
        if not 0 < ticks <= self.tolerance:
            raise ValueError(f"cost must be above zero and at most the burst of {self.burst}, not {cost!r}")
        return ticks

    def moved(self, now: int, other: Gcra) -> int:
        """Return what ``other`` read as ``now``, in ticks of this limit."""
        if isinstance(now, _Reading):
            return _Reading(now.seconds, self.scale)
        return now // other.scale * self.scale

    def carried(self, full: int, now: int, other: Gcra) -> int:
        """Return when a bucket of this limit is full that has no more left than one of ``other`` has.

        Units are carried over and not times, rounded against the taker: a change of limits never gives a
        unit. What the burst here cannot hold is lost.
        """
        left = Fraction(max(other.tolerance - max(full - now, 0), 0), other.unit)
        here = self.moved(now, other)
        return here + self.tolerance - min(math.floor(left * self.unit), self.tolerance)

    def believed(self, full: int, now: int) -> int:
        """Return ``full``, or a tolerance from now where the clock has stepped back since it was stored.

        Then the bucket counts as empty: nothing is given, and nobody waits for the clock to catch up. Only
        a clock that stepped back can make ``full`` further off than a tolerance, or another thread that took
        after ``now`` was read; a second reading, later than the store, tells the two apart.
        """
        limit = now + self.tolerance
        return full if full <= limit else min(full, self.read() + self.tolerance)

    def wait(self, now: int, ticks: int) -> float:
        """Return the seconds after which a clock that read ``now`` reads at least ``ticks`` more.

        Rounded up to the nanosecond, then to a float that is not below it; so waiting this long is always
        enough, and a nanosecond less never is. With a clock of one's own it is also enough where the
        clock's floats are coarser than a nanosecond: adding the wait to the reading reaches the time.
        """
        nanoseconds = -(-ticks // self.scale)
        seconds = seconds_for(nanoseconds)
        if isinstance(now, _Reading):
            due = now // self.scale + nanoseconds
            while round((now.seconds + seconds) * _NS) < due:
                seconds = max(
                    math.nextafter(seconds, math.inf),
                    math.nextafter(now.seconds + seconds, math.inf) - now.seconds,
                )
        return seconds

    def __repr__(self) -> str:
        return f"{float(self.rate):g}/s, burst {float(self.burst):g}"


class _Reading(int):
    """Ticks that remember the seconds they were read as, which a wait that is enough depends on.

    Rounded to the nearest nanosecond: the float of a whole nanosecond is a hair below it half of the time,
    and so are sums of waits; cutting would take a nanosecond from each.
    """

    seconds: float

    def __new__(cls, seconds: float, scale: int) -> _Reading:
        self = int.__new__(cls, round(seconds * _NS) * scale)
        self.seconds = seconds
        return self


def seconds_for(nanoseconds: int) -> float:
    """Return the seconds, as the smallest float that is not less."""
    seconds = nanoseconds / _NS
    numerator, denominator = seconds.as_integer_ratio()
    return seconds if numerator * _NS >= nanoseconds * denominator else math.nextafter(seconds, math.inf)


def rational(name: str, value: Number) -> Fraction:
    """Return ``value`` exactly.

    Raises:
        ValueError: It is NaN or infinite; the message calls it ``name``.
        TypeError: It is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction):
        raise TypeError(f"{name} must be an int, float or Fraction, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    return Fraction(value)


def _simplest(rate: float) -> Fraction:
    exact = rational("rate", rate)
    simple = exact.limit_denominator(10**6)
    return simple if float(simple) == rate else exact
