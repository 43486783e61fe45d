"""The throttle room: who has had enough, decided exactly and in bounded memory."""

from __future__ import annotations

from .bucket import TokenBucket
from .gcra import Number
from .keyed import Overflow, Throttle, ThrottleStats
from .limits import OVERFLOW, Limit, Limits, Wait
from .paths import PathTemplates, normalized

__all__ = [
    "OVERFLOW",
    "Limit",
    "Limits",
    "Number",
    "Overflow",
    "PathTemplates",
    "Throttle",
    "ThrottleStats",
    "TokenBucket",
    "Wait",
    "normalized",
]
