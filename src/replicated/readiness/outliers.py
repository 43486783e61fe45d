"""What traffic itself says about a replica: whether its failures are enough to stop sending it requests.

Passive health: counts of outcomes, for how long a replica deserves to be out, and how many may be out at all.
It takes nobody out by itself, and knows neither probes nor operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from ..outcome import Outcome, Verdict
from ..replica import Replica
from .arguments import count, fraction, seconds
from .outlier_window import WindowRule

__all__ = ["OutlierDetector"]


def replica_failed(outcome: Outcome) -> bool:
    """Say whether an outcome speaks against its replica: a FAILED one does, and a 4xx never is one."""
    return outcome.verdict is Verdict.FAILED


class OutlierDetector:
    """Ejection of replicas that fail requests, with Envoy's defaults, and its cap.

    Give one to a ``ReadinessTracker``, which feeds it and applies what it says; each tracker its own.

    Args:
        consecutive_failures: Failures in a row, without a success between, that eject (Envoy's
            ``consecutive_5xx``: 5).
        base: Seconds that the first ejection lasts. Each further one doubles, and every ``base`` seconds of
            good behaviour halve the next.
        longest: Seconds that an ejection lasts at most.
        max_ejected: The fraction of the members that may be out at once through ejection; at least one may.
        panic_threshold: The fraction of the members that must stay fit, whatever took the others out: an
            ejection that would leave fewer is not made, and when fewer are left for other reasons the ejected
            ones serve again.
        min_ready: No ejection leaves fewer fit replicas than this.
        rules: What else makes one stand out, judged over the window: ``FailureShare()``, ``SuccessRate()``.
        interval: Seconds a window; Envoy's 10.
        failed: Which outcomes speak against the replica. CANCELLED ones are never shown to it.

    Raises:
        ValueError: One of them is out of its range.
    """

    __slots__ = ("_counts", "_levels", "_runs", "base", "consecutive_failures", "failed", "interval",
                 "longest", "max_ejected", "min_ready", "panic_threshold", "rules")  # fmt: skip

    def __init__(
        self,
        consecutive_failures: int = 5,
        *,
        base: float = 30.0,
        longest: float = 300.0,
        max_ejected: float = 0.1,
        panic_threshold: float = 0.5,
        min_ready: int = 1,
        rules: Iterable[WindowRule] = (),
        interval: float = 10.0,
        failed: Callable[[Outcome], bool] = replica_failed,
    ) -> None:
        for name, value in (("consecutive_failures", consecutive_failures), ("min_ready", min_ready)):
            count(name, value, least=1)
        seconds("base", base, above=True)
        seconds("longest", longest, above=True)
        seconds("interval", interval, above=True)
        if longest < base:
            raise ValueError(f"longest must be at least base ({base} s), not {longest!r}")
        for name, share in (("max_ejected", max_ejected), ("panic_threshold", panic_threshold)):
            fraction(name, share)
        if not callable(failed):
            raise TypeError(f"failed must be a function of an Outcome, not {failed!r}")
        self.consecutive_failures = consecutive_failures
        self.base = base
        self.longest = longest
        self.max_ejected = max_ejected
        self.panic_threshold = panic_threshold
        self.min_ready = min_ready
        self.rules = tuple(rules)
        self.interval = interval
        self.failed = failed
        self._counts: dict[str, tuple[int, int]] = {}  # good and bad in this window, where a rule wants them
        self._runs: dict[str, int] = {}  # failures in a row, of those that have any
        self._levels: dict[str, tuple[int, float]] = {}  # ejections so far, and when the last one ended

    def is_news(self, replica_id: str, outcome: Outcome) -> bool:
        """Return whether ``observe`` would take anything in: not for a success after successes."""
        if outcome.verdict is Verdict.CANCELLED:
            return False
        trivial = outcome.verdict is Verdict.OK and self.failed is replica_failed and not self.rules
        return not trivial or replica_id in self._runs

    def observe(self, replica: Replica | str, outcome: Outcome) -> str | None:
        """Take in how a request ended; return why its replica should be ejected, or None. O(1)."""
        if outcome.verdict is Verdict.CANCELLED:
            return None
        id = replica if isinstance(replica, str) else replica.id
        return self.count(id, self.failed(outcome), outcome.reason)

    def count(self, replica_id: str, failed: bool, reason: str = "") -> str | None:
        """Take in an outcome that was judged already; return as ``observe`` does."""
        if self.rules:
            good, bad = self._counts.get(replica_id, (0, 0))
            self._counts[replica_id] = (good, bad + 1) if failed else (good + 1, bad)
        if not failed:
            self._runs.pop(replica_id, None)
            return None
        run = self._runs[replica_id] = self._runs.get(replica_id, 0) + 1
        if run < self.consecutive_failures:
            return None
        what = "a request failed" if run == 1 else f"{run} requests in a row failed"
        return what + (f" ({reason})" if reason else "")

    def judge(self) -> dict[str, str]:
        """End the window and return who stood out in it, each with why, by the first rule that says so."""
        counts, self._counts = self._counts, {}
        outliers: dict[str, str] = {}
        for rule in self.rules:
            for id, why in rule.outliers(counts).items():
                outliers.setdefault(id, why)
        return outliers

    def allows(self, *, members: int, fit: int, ejected: int) -> bool:
        """Return whether one more may go, of ``fit`` among ``members``, when ``ejected`` are out already."""
        if ejected >= max(1, math.floor(self.max_ejected * members + 1e-9)):
            return False
        return fit - 1 >= self.min_ready and not self.panics(members=members, fit=fit - 1)

    def panics(self, *, members: int, fit: int) -> bool:
        """Return whether ``fit`` replicas among ``members`` are too few to leave the others out."""
        return fit < self.panic_threshold * members

    def eject(self, replica_id: str, now: float) -> float:
        """Count an ejection that begins now and return the time at which it ends."""
        self._runs.pop(replica_id, None)
        level, ended = self._levels.get(replica_id, (0, now))
        level = max(0, level - int(max(0.0, now - ended) / self.base))
        # The exponent is bounded by what `longest` can use, so that 2.0 ** level never overflows.
        until = now + min(self.longest, self.base * 2.0 ** min(level, 64))
        self._levels[replica_id] = (level + 1, until)
        return until

    def forget(self, replica_id: str) -> None:
        """Drop all that is known of a replica: it left, or started anew."""
        self._runs.pop(replica_id, None)
        self._levels.pop(replica_id, None)
        self._counts.pop(replica_id, None)
