"""What is left to a key under a limit: a reading of the same state that takes are decided by.

It reads and rounds; what the state is, and who is told, is not known here.
"""

from __future__ import annotations

from typing import NamedTuple

from .gcra import Gcra, seconds_for

__all__ = ["DEFAULT", "Quota", "Told", "quota", "remaining"]

DEFAULT = "default"
"""What a limit is called that nobody has named."""


class Quota(NamedTuple):
    """What is left of one limit. A snapshot: units come back as time goes, and others may take.

    Attributes:
        name: The limit's.
        burst: Whole units that can be taken at once when none is owed.
        window: Seconds in which a whole burst comes back.
        remaining: Whole units that can be taken now: a take of as many is admitted, and one of more is not.
        reset: Seconds after which the whole burst can be taken, if nobody takes any meanwhile.
        more: Seconds after which a unit more than ``remaining`` can be taken, if nobody takes any meanwhile;
            0.0 where no more ever can.
    """

    name: str
    burst: int
    window: float
    remaining: int
    reset: float
    more: float


class Told(float):
    """Seconds to wait, 0.0 meaning admitted, that also tell what is left, from the one answer to both.

    For throttles that are far away: to ask a second time would take as long again, and by then others have
    taken.
    """

    __slots__ = ()

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """What is left under each limit; nothing where that is not known."""
        return ()


def quota(name: str, gcra: Gcra, full: int, now: int, closed: float = 0.0) -> Quota:
    """Return what a bucket has left that is full again at ``full``, in the ticks of ``gcra``.

    Args:
        name: What the limit is called.
        gcra: The limit.
        full: As the bucket has it.
        now: As ``gcra`` has read it.
        closed: Seconds for which nothing is given whatever is left.
    """
    owed = min(max(full - now, 0), gcra.tolerance)
    whole, missing = remaining(owed, gcra.unit, gcra.tolerance, closed > 0)
    return Quota(
        name,
        gcra.tolerance // gcra.unit,
        seconds_for(-(-gcra.tolerance // gcra.scale)),
        whole,
        max(gcra.wait(now, owed) if owed else 0.0, closed),
        max(gcra.wait(now, missing) if missing else 0.0, closed),
    )


def remaining(owed: int, unit: int, tolerance: int, closed: bool) -> tuple[int, int]:
    """Return the whole units that can be taken now, and the ticks until there is one more.

    Args:
        owed: Ticks, at most the tolerance.
        unit: Ticks that a unit takes.
        tolerance: Ticks that the whole burst takes.
        closed: Whether nothing is given whatever is left.
    """
    free = tolerance - owed
    whole = 0 if closed else free // unit
    next_one = (whole + 1) * unit
    return whole, max(next_one - free, 0) if next_one <= tolerance else 0
