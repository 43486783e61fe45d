"""Where a key lives: tables that map a key to its owner and to its whole preference order."""

from . import layouts
from .arcs import Arc, Explanation
from .hash_ring import HashRing
from .jump import JumpHash, jump
from .keys import Key
from .layout import Layout
from .maglev import Maglev
from .rendezvous import Rendezvous
from .table import Table

__all__ = [
    "Arc",
    "Explanation",
    "HashRing",
    "JumpHash",
    "Key",
    "Layout",
    "Maglev",
    "Rendezvous",
    "Table",
    "jump",
    "layouts",
]
