"""The replicated load-balanced service pattern: primitives of a serving tier, and their composition.

Everything named here is pure: it performs no I/O, starts nothing and reads no wall clock. What acts stands
in ``replicated.adapters``, one import away.
"""

from __future__ import annotations

from .affinity import Affinity, Facts
from .balance import (
    InFlight,
    LeastLoaded,
    PeakEwma,
    PowerOfTwo,
    RandomChoice,
    RingHash,
    RoundRobin,
    Strategy,
)
from .cache import Cache, Loader, cached
from .errors import (
    AlreadyFinished,
    EmptyRing,
    LoadReentered,
    MissingExtra,
    NoReplica,
    NotServed,
    Refused,
    ReplicatedError,
    StrategyError,
    UnknownReplica,
)
from .hedging import Hedging
from .outcome import Outcome, Verdict
from .readiness import OutlierDetector, ProbePolicy, ReadinessTracker, ReadySet, State
from .replica import Replica
from .retries import RetryBudget
from .ring import HashRing
from .throttle import Throttle, TokenBucket
from .tier import Decision, Forward, Hit, Lease, Refuse, Tier, Unavailable

__all__ = [
    "Affinity",
    "AlreadyFinished",
    "Cache",
    "Decision",
    "EmptyRing",
    "Facts",
    "Forward",
    "HashRing",
    "Hedging",
    "Hit",
    "InFlight",
    "Lease",
    "LeastLoaded",
    "LoadReentered",
    "Loader",
    "MissingExtra",
    "NoReplica",
    "NotServed",
    "Outcome",
    "OutlierDetector",
    "PeakEwma",
    "PowerOfTwo",
    "ProbePolicy",
    "RandomChoice",
    "ReadinessTracker",
    "ReadySet",
    "Refuse",
    "Refused",
    "Replica",
    "ReplicatedError",
    "RetryBudget",
    "RingHash",
    "RoundRobin",
    "State",
    "Strategy",
    "StrategyError",
    "Throttle",
    "Tier",
    "TokenBucket",
    "Unavailable",
    "UnknownReplica",
    "Verdict",
    "cached",
]
