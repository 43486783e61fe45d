"""What those who ask a throttle may rely on, whichever it is: one call to take, and where it tells, the rest.

Contracts alone; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Hashable
from typing import Protocol, runtime_checkable

from .gcra import Number
from .quota import Quota

__all__ = ["Admits", "AdmitsLater", "TellsQuotas"]


class Admits(Protocol):
    """Whatever decides who has had enough: a Throttle, Limits, or one that replicas share."""

    def take(self, key: Hashable, cost: Number = 1) -> float:
        """Take ``cost`` units for ``key`` if it has them.

        Returns:
            0.0 when they were taken; else nothing was, and the seconds after which they can be.
        """
        ...


class AdmitsLater(Protocol):
    """As :class:`Admits`, for coroutines."""

    def take(self, key: Hashable, cost: Number = 1) -> Awaitable[float]:
        """As ``Admits.take``."""
        ...


@runtime_checkable
class TellsQuotas(Admits, Protocol):
    """A throttle that knows what a key has left."""

    def quotas(self, key: Hashable) -> tuple[Quota, ...]:
        """Return what ``key`` has left under each limit, and change nothing."""
        ...
