"""What need not be served again: a bounded store with times to live, and a loader that never stampedes."""

from .decorator import CachedFunction, cached
from .loader import Loader
from .stats import Reason, Stats
from .store import Cache

__all__ = ["Cache", "CachedFunction", "Loader", "Reason", "Stats", "cached"]
