"""Who can serve: probes, operators and traffic, made into one immutable set of ready replicas."""

from .outlier_window import FailureShare, SuccessRate, WindowRule
from .outliers import OutlierDetector
from .probe import ProbePolicy
from .ready_set import ReadySet
from .slow_start import SlowStart
from .state import Event, Explanation, Joined, Left, PanicChanged, State, StateChanged
from .tracker import ReadinessTracker

__all__ = [
    "Event",
    "Explanation",
    "FailureShare",
    "Joined",
    "Left",
    "OutlierDetector",
    "PanicChanged",
    "ProbePolicy",
    "ReadinessTracker",
    "ReadySet",
    "SlowStart",
    "State",
    "StateChanged",
    "SuccessRate",
    "WindowRule",
]
