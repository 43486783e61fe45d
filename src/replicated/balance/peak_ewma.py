"""How busy a replica is, by how long it takes to answer: a moving average that believes bad news at once.

The load of Finagle's ``PeakEwma`` balancer, read without a clock. It chooses nobody.
"""

from __future__ import annotations

import math
import threading

from ..clock import Clock, monotonic
from ..errors import AlreadyFinished
from ..outcome import Outcome, Verdict
from ..replica import Replica

__all__ = ["PeakEwma"]

_UNKNOWN = 1e200  # the load of one request on a replica that never answered: more than of any that did
_FAR = 64.0  # decay times after which the exponents are brought back to where floats are fine


class _Estimate:
    __slots__ = ("cost", "pending", "stamp")

    def __init__(self, now: float) -> None:
        self.cost = 0.0  # scaled: see PeakEwma
        self.stamp = now
        self.pending = 0


class _Loads(dict[str, float]):
    __slots__ = ()

    def __missing__(self, key: str) -> float:
        return 0.0


class PeakEwma:
    """Expected latency times the requests that wait for it, with a peak-sensitive moving average.

    A latency above the average becomes the average at once; one below moves it by ``1 - exp(-t/decay)`` after
    ``t`` seconds; and an average that hears nothing decays, so that a replica that was slow is tried again.
    A replica that never answered gets one request, and no second before it answers (Finagle
    ``PeakEwma.scala``, whose decay is 10 s as well).

    Failing fast attracts nothing: a failure counts as an answer ``failure_factor`` times slower than a usual
    success of the tier. A cancelled request says nothing about latency.

    Args:
        decay: Seconds in which what was heard loses all but 1/e of its say.
        failure_factor: How many usual latencies a failure stands for; of a second each before any success.
        clock: Seconds, monotonic; read once a request, when it finishes.

    Raises:
        ValueError: ``decay`` is not above 0, or ``failure_factor`` is below 1.
    """

    # All averages decay by the same factor exp(-t/decay), which a comparison at one moment cancels. So what
    # is stored is cost * exp(stamp/decay), and reading a load takes neither a clock nor an exponential: the
    # load of each replica stands in a dict, ready to be compared. `_epoch` keeps the exponents small.

    __slots__ = ("_clock", "_epoch", "_estimates", "_loads", "_lock", "_roomy", "_usual", "decay",
                 "failure_factor", "of")  # fmt: skip

    def __init__(
        self, decay: float = 10.0, *, failure_factor: float = 10.0, clock: Clock = monotonic
    ) -> None:
        if not 0 < decay < math.inf:
            raise ValueError(f"decay must be above 0 seconds and finite, not {decay!r}")
        if not 1 <= failure_factor < math.inf:
            raise ValueError(f"failure_factor must be 1 or more and finite, not {failure_factor!r}")
        self.decay = decay
        self.failure_factor = failure_factor
        self._clock = clock
        self._lock = threading.Lock()
        self._epoch = clock()
        self._estimates: dict[str, _Estimate] = {}
        self._loads = _Loads()
        self._usual = 0.0
        self._roomy = 1024
        self.of = self._loads.__getitem__

    def started(self, replica: Replica) -> None:
        """Count one more that waits on ``replica``."""
        id = replica.id
        with self._lock:
            estimate = self._estimates.get(id)
            if estimate is None:
                estimate = self._estimates[id] = _Estimate(self._epoch)
            estimate.pending += 1
            self._show(id, estimate)

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Take in how long it took, or that it failed. AlreadyFinished when nothing waits there."""
        id = replica.id
        now = self._clock()
        with self._lock:
            estimate = self._estimates.get(id)
            if estimate is None or not estimate.pending:
                raise AlreadyFinished(
                    f"nothing is in flight on {id!r}: it was finished more often than started"
                )
            estimate.pending -= 1
            latency = self._latency(outcome)
            if latency is not None:
                self._observe(estimate, latency, now)
            self._show(id, estimate)
            if len(self._estimates) > self._roomy:
                self._sweep(now)

    def latency(self, replica: Replica | str, now: float | None = None) -> float:
        """Return the average latency in seconds as it stands now; 0.0 for one that never answered."""
        now = self._clock() if now is None else now
        with self._lock:
            estimate = self._estimates.get(replica if isinstance(replica, str) else replica.id)
            return 0.0 if estimate is None else estimate.cost * math.exp(-(now - self._epoch) / self.decay)

    def _latency(self, outcome: Outcome) -> float | None:
        latency = outcome.latency
        if outcome.verdict is Verdict.OK:
            if latency is not None:
                # Of successes alone: were failures in it, each would make the next one dearer, without end.
                self._usual = self._usual + (latency - self._usual) / 16 if self._usual else latency
            return latency
        if outcome.verdict is Verdict.FAILED:
            return max(latency or 0.0, self.failure_factor * (self._usual or 1.0))
        return None

    def _observe(self, estimate: _Estimate, latency: float, now: float) -> None:
        now = max(now, estimate.stamp)
        if now - self._epoch > _FAR * self.decay:
            self._rebase(now)
        scale = math.exp((now - self._epoch) / self.decay)
        average = estimate.cost / scale
        if latency < average:
            # Of Finagle's two terms the old one has decayed by itself: average is old * exp(-t/decay).
            latency = average + latency * (1 - math.exp(-(now - estimate.stamp) / self.decay))
        estimate.cost, estimate.stamp = latency * scale, now

    def _rebase(self, now: float) -> None:
        shrink = math.exp(-(now - self._epoch) / self.decay)
        self._epoch = now
        for id, estimate in self._estimates.items():
            estimate.cost *= shrink
            self._show(id, estimate)

    def _show(self, id: str, estimate: _Estimate) -> None:
        waiting = estimate.pending
        self._loads[id] = estimate.cost * (waiting + 1) if estimate.cost else _UNKNOWN * waiting

    def _sweep(self, now: float) -> None:
        quiet = now - 20 * self.decay
        for id in [id for id, e in self._estimates.items() if not e.pending and e.stamp < quiet]:
            del self._estimates[id]
            del self._loads[id]
        self._roomy = max(1024, 2 * len(self._estimates))
