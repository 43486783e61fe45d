"""The throttle room: who has had enough, decided exactly and in bounded memory."""

from __future__ import annotations

from .admits import Admits, AdmitsLater, TellsQuotas
from .bucket import TokenBucket
from .gcra import Number
from .keyed import Overflow, Throttle, ThrottleStats
from .limits import OVERFLOW, Limit, Limits, Wait
from .paths import PathTemplates, normalized
from .quota import Quota, Told

__all__ = [
    "OVERFLOW",
    "Admits",
    "AdmitsLater",
    "Limit",
    "Limits",
    "Number",
    "Overflow",
    "PathTemplates",
    "Quota",
    "TellsQuotas",
    "Throttle",
    "ThrottleStats",
    "TokenBucket",
    "Told",
    "Wait",
    "normalized",
]
