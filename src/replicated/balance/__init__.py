"""Which of the ready replicas serves next: one interface, and a file a strategy."""

from .capped import Capped
from .homes import Homes
from .least_loaded import LeastLoaded
from .load import InFlight, Load, Summed
from .peak_ewma import PeakEwma
from .power_of_two import PowerOfTwo
from .prefer_zone import PreferZone
from .random_choice import RandomChoice
from .ring_hash import RingHash
from .round_robin import RoundRobin
from .strategy import Key, Pick, Strategy, as_strategy
from .subset import Subset

__all__ = [
    "Capped",
    "Homes",
    "InFlight",
    "Key",
    "LeastLoaded",
    "Load",
    "PeakEwma",
    "Pick",
    "PowerOfTwo",
    "PreferZone",
    "RandomChoice",
    "RingHash",
    "RoundRobin",
    "Strategy",
    "Subset",
    "Summed",
    "as_strategy",
]
