"""When a replica is probed and how many answers make up a mind: a value, with others' habits as presets.

It decides nothing by itself and performs no probe: it is what an operator writes down. What the results of
probes add up to, and when the next one is due, is worked out from it elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .arguments import count, fraction, seconds

__all__ = ["ProbePolicy"]


@dataclass(frozen=True, slots=True)
class ProbePolicy:
    """How a replica is probed, with the defaults of a Kubernetes ``readinessProbe``.

    Args:
        period: Seconds from the start of one probe to the start of the next.
        timeout: Seconds after which a probe without an answer has failed.
        initial_delay: Seconds from joining to the first probe.
        success_threshold: Good results needed to become ready: in a row, or among the last ``window``.
        failure_threshold: Bad results in a row that make a ready replica unready. Unused with a window.
        window: Judge by the last so many results rather than by results in a row: ready while at least
            ``success_threshold`` of them are good (Varnish's ``.window`` and ``.threshold``).
        jitter: Fraction of the period by which probes are spread. The first comes up to so much later, a
            phase of the replica's own; every interval after it is longer or shorter by at most half of it.
        pending_period: The period while results speak for a change that is not yet made (HAProxy's
            ``fastinter``, Envoy's edge intervals). None: ``period``.
        unready_period: The period while unready and nothing is pending (HAProxy's ``downinter``, Envoy's
            ``unhealthy_interval``). None: ``period``.
        startup_period: Probe at this period until the first good result, which begins the replica's life but
            does not count for its readiness (a Kubernetes ``startupProbe``). None: there is no such phase.
        startup_failure_threshold: Bad results in the startup phase after which the replica is called stuck.
        starts_ready: Serve before the first result (HAProxy) rather than not (everybody else).
        first_result_decides: The first result takes effect at once, whatever the thresholds (Envoy, HAProxy).
        initial_successes: Good results credited at the start (Varnish's ``.initial``).

    Raises:
        ValueError: A duration or a count is out of its range, or two of them contradict each other.
        TypeError: One of them is not a number.
    """

    period: float = 10.0
    timeout: float = 1.0
    initial_delay: float = 0.0
    success_threshold: int = 1
    failure_threshold: int = 3
    window: int | None = None
    jitter: float = 0.0
    pending_period: float | None = None
    unready_period: float | None = None
    startup_period: float | None = None
    startup_failure_threshold: int = 30
    starts_ready: bool = False
    first_result_decides: bool = False
    initial_successes: int = 0

    def __post_init__(self) -> None:
        for name in ("period", "timeout", "pending_period", "unready_period", "startup_period"):
            value = getattr(self, name)
            if value is not None or name in ("period", "timeout"):
                seconds(name, value, above=True)
        seconds("initial_delay", self.initial_delay, above=False)
        for name in ("success_threshold", "failure_threshold", "startup_failure_threshold"):
            count(name, getattr(self, name), least=1)
        count("initial_successes", self.initial_successes, least=0)
        fraction("jitter", self.jitter)
        if self.window is not None:
            count("window", self.window, least=1)
            if self.success_threshold > self.window:
                raise ValueError(
                    f"success_threshold must be at most window ({self.window}), not {self.success_threshold}"
                )
        for name in ("starts_ready", "first_result_decides"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, not {getattr(self, name)!r}")

    @classmethod
    def kubernetes(cls, **changes: Any) -> ProbePolicy:
        """Return a ``readinessProbe`` as Kubernetes defaults it; the same as ``ProbePolicy()``.

        Every 10 s, 1 s to answer, 1 good result to become ready, 3 bad in a row to stop; not ready at first.
        """
        return replace(cls(), **changes)

    @classmethod
    def haproxy(cls, **changes: Any) -> ProbePolicy:
        """Return a server's ``check`` as HAProxy defaults it: ``inter 2s rise 2 fall 3``.

        A server is up before its first check, and the first result decides: ``fall`` failures take down only
        one that has once passed. A check has ``inter`` to answer.
        """
        defaults = cls(
            period=2.0,
            timeout=2.0,
            success_threshold=2,
            failure_threshold=3,
            starts_ready=True,
            first_result_decides=True,
        )
        return replace(defaults, **changes)

    @classmethod
    def envoy(cls, **changes: Any) -> ProbePolicy:
        """Return an active health check as Envoy runs it.

        Envoy has no default for the interval, the timeout and the thresholds: 5 s, 1 s, 2 good and 3 bad are
        chosen here. Its own are that a host starts unhealthy and that its first success is enough. An answer
        that says no, unlike silence, takes the host out at once: ``observe(..., decisive=True)``.
        """
        defaults = cls(period=5.0, success_threshold=2, failure_threshold=3, first_result_decides=True)
        return replace(defaults, **changes)

    @classmethod
    def varnish(cls, **changes: Any) -> ProbePolicy:
        """Return a backend's ``.probe`` as Varnish defaults it: healthy while 3 of the last 8 are good.

        Every 5 s, 2 s to answer; ``.initial`` is one less than the threshold, so one good probe is enough.
        """
        threshold = changes.get("success_threshold", 3)
        initial = max(0, threshold - 1) if isinstance(threshold, int) else 0
        defaults = cls(period=5.0, timeout=2.0, success_threshold=3, window=8, initial_successes=initial)
        return replace(defaults, **changes)
