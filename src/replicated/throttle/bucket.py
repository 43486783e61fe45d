"""One bucket: whether a unit may be taken now, and if not, after how many seconds.

It decides for one caller or for all of them together; who they are, and buckets by key, are not known here.
"""

from __future__ import annotations

import threading

from ..clock import Clock, monotonic
from ..one_step import one_step
from .gcra import LONG_AGO, Gcra, Number
from .quota import DEFAULT, Quota, quota

__all__ = ["TokenBucket"]

_ONE = 1


class TokenBucket:
    """A limit of ``rate`` units a second, of which ``burst`` may be taken at once.

    It starts full. In no window of w seconds are more than ``rate * w + burst`` units taken, and a caller
    who always waits as told gets the whole rate. The algorithm is that of :class:`Gcra`, exact at any rate.

    Safe for threads. A clock that steps back never gives a unit, and never keeps anyone out for longer
    than the burst takes to refill; one that jumps ahead refills the bucket, at most.

    Args:
        rate: Units a second, above zero. A float means the simplest fraction that is that float.
        burst: Units that may be taken at once, at least 1.
        clock: Seconds.

    Raises:
        ValueError: ``rate`` or ``burst`` is out of its range, NaN or infinite.
        TypeError: ``rate`` or ``burst`` is not a number, or ``clock`` cannot be called.
    """

    __slots__ = ("_clock", "_full", "_gcra", "_lock")

    def __init__(self, rate: Number, burst: Number, *, clock: Clock = monotonic) -> None:
        self._clock = clock
        self._gcra = Gcra(rate, burst, clock)
        self._full = LONG_AGO
        self._lock = threading.RLock()  # used by one_step, where it is needed

    @one_step
    def take(self, cost: Number = 1) -> float:
        """Take ``cost`` units if they are there. O(1).

        Returns:
            0.0 when they were taken; else nothing was, and the seconds after which they can be, if nobody
            else takes any.

        Raises:
            ValueError: ``cost`` is not above zero, or above the burst, so that no wait would do.
            TypeError: ``cost`` is not a number.
        """
        gcra = self._gcra
        if cost is _ONE:  # the very object: True is equal to 1 and is not a number
            unit, slack = gcra.unit, gcra.slack
        else:
            unit = gcra.ticks(cost)
            slack = gcra.tolerance - unit
        read = gcra.read
        now = read()
        # From here to the store nothing is called, so that it is one step (see one_step.py). A thread that
        # was held up after reading the clock compares with an older time, and that can only refuse: of n
        # units taken at readings within w, the first starts no earlier than its reading and the last ends
        # within a tolerance of its own, so n * unit <= w + tolerance in whatever order they are stored.
        full = self._full
        if gcra is self._gcra:  # else the limit has changed since, and with it the ticks
            if full <= now + slack:
                self._full = (full if full > now else now) + unit
                return 0.0
        else:
            return self.take(cost)
        believed = gcra.believed(full, now)
        if gcra is self._gcra and self._full == full:  # one step from the comparison to the store
            self._full = believed
        return gcra.wait(now, believed - slack - now)

    def peek(self, cost: Number = 1) -> float:
        """Return what ``take(cost)`` would, and change nothing. O(1).

        Raises:
            ValueError: As ``take``.
            TypeError: As ``take``.
        """
        gcra = self._gcra
        slack = gcra.tolerance - gcra.ticks(cost)
        now = gcra.read()
        full = self._full
        if gcra is not self._gcra:
            return self.peek(cost)
        full = min(full, now + gcra.tolerance)
        return gcra.wait(now, full - slack - now) if full > now + slack else 0.0

    def quota(self, name: str = DEFAULT) -> Quota:
        """Return what is left, and change nothing. O(1)."""
        gcra = self._gcra
        now = gcra.read()
        full = self._full
        return quota(name, gcra, full, now) if gcra is self._gcra else self.quota(name)

    @one_step
    def refund(self, cost: Number = 1) -> None:
        """Give ``cost`` units back; what would exceed the burst is lost. O(1).

        Raises:
            ValueError: As ``take``.
            TypeError: As ``take``.
        """
        gcra = self._gcra
        unit = gcra.ticks(cost)
        now = gcra.read()
        full = self._full  # one step again, as in take
        if gcra is self._gcra:
            if full > now:
                full = full - unit
                self._full = full if full > now else now
        else:
            self.refund(cost)

    def reconfigure(self, rate: Number, burst: Number) -> None:
        """Change the limit while it is in use. O(1).

        What is left is carried over, in units, and never grows by it: from then on it grows at the new rate,
        up to the new burst.

        Raises:
            ValueError: ``rate`` or ``burst`` is out of its range, NaN or infinite; nothing has changed.
            TypeError: ``rate`` or ``burst`` is not a number; nothing has changed.
        """
        gcra = Gcra(rate, burst, self._clock)
        with self._lock:
            while True:
                former = self._gcra
                full = self._full
                carried = gcra.carried(full, former.read(), former)
                if self._full == full:  # one step to the stores: nobody has taken since
                    self._gcra = gcra
                    self._full = carried
                    return

    def __repr__(self) -> str:
        return f"<TokenBucket {self._gcra}>"
