"""What a clock is here: a function without arguments that answers seconds, and never steps back.

Everything that needs the time takes ``clock=monotonic``. A public call reads it once and hands ``now``
down, so that all it decides is decided at one instant. The wall clock is never one: it is set back by
operators and by NTP, and then limits refuse and entries live for as long as it was set back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Clock", "monotonic"]

Clock: TypeAlias = Callable[[], float]
"""Seconds since an arbitrary start, as a float; monotonic."""

monotonic: Clock = time.monotonic
