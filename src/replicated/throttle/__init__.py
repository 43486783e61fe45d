"""The throttle room: who has had enough, decided exactly and in bounded memory."""

from __future__ import annotations

from .bucket import TokenBucket
from .keyed import Overflow, Throttle, ThrottleStats

__all__ = ["Overflow", "Throttle", "ThrottleStats", "TokenBucket"]
