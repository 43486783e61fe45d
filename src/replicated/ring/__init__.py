"""Where a key lives: tables that map a key to its owner and to its whole preference order."""

from .hash_ring import HashRing
from .keys import Key
from .table import Table

__all__ = ["HashRing", "Key", "Table"]
