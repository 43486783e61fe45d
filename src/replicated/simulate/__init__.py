"""What a tier would do: its own objects under virtual time, thousands of replicas on a laptop."""

from .incidents import Become, Incident, Restart, rolling
from .report import Report
from .server import Behaviour
from .simulation import MakeTier, Simulation
from .workload import (
    Arrivals,
    Keys,
    Service,
    bursts,
    constant,
    exponential,
    lognormal,
    poisson,
    recorded,
    trace,
    zipf,
)

__all__ = [
    "Arrivals",
    "Become",
    "Behaviour",
    "Incident",
    "Keys",
    "MakeTier",
    "Report",
    "Restart",
    "Service",
    "Simulation",
    "bursts",
    "constant",
    "exponential",
    "lognormal",
    "poisson",
    "recorded",
    "rolling",
    "trace",
    "zipf",
]
