"""What the results of one replica's probes add up to: ready or not. Counts only, no time.

It reproduces, on the same sequence of results, what Kubernetes, HAProxy, Envoy and Varnish conclude from it.
When to probe, and what an operator or live traffic has to say, is not its business.
"""

from __future__ import annotations

from .probe import ProbePolicy

__all__ = ["ProbeHealth"]


class ProbeHealth:
    """The verdict over one replica's probes, kept up to date by ``observe``. O(1) a result.

    Attributes:
        ready: The verdict.
        started: False only in a startup phase.
        seen: Results observed since the start.
        run: How many of the last results were alike.
        last: The last result; None before the first.
    """

    __slots__ = ("_good", "_history", "_policy", "last", "ready", "run", "seen", "started")

    def __init__(self, policy: ProbePolicy) -> None:
        self._policy = policy
        self.started = policy.startup_period is None
        self.seen = 0
        self.last: bool | None = None
        self.run = 0
        # The window is the low bits of one int, newest lowest, as in Varnish: counting is one C call.
        initial = policy.initial_successes
        self._history = (1 << min(initial, policy.window)) - 1 if policy.window else 0
        if initial and not policy.window:
            self.last, self.run = True, initial
        enough = initial >= policy.success_threshold
        self.ready = policy.starts_ready or enough

    def observe(self, ok: bool, *, decisive: bool = False) -> bool:
        """Take in one result and return whether the verdict changed.

        Args:
            ok: Whether the probe was answered as it should be.
            decisive: A failure that no threshold delays: the replica answered, and said no.
        """
        policy = self._policy
        self.run = self.run + 1 if ok is self.last else 1
        self.last = ok
        if not self.started:
            # The good result that ends the startup phase belongs to it: readiness counts from the next one.
            self.seen += 1
            if ok:
                self.started, self.seen, self.last, self.run = True, 0, None, 0
            return False
        first = self.seen == 0
        self.seen += 1
        before = self.ready
        if policy.window is not None:
            self._history = (self._history << 1 | ok) & (1 << policy.window) - 1
            self.ready = self._history.bit_count() >= policy.success_threshold
            if decisive and not ok:
                self._history, self.ready = 0, False
        else:
            at_once = (first and policy.first_result_decides) or (decisive and not ok)
            if at_once or self.run >= (policy.success_threshold if ok else policy.failure_threshold):
                self.ready = ok
        return self.ready is not before

    @property
    def pending(self) -> bool:
        """Whether the last result speaks against the verdict: more of the same will change it."""
        return self.started and self.last is not None and self.last is not self.ready

    @property
    def missing(self) -> int:
        """How many results in a row, all unlike the verdict, would change it."""
        policy = self._policy
        if not self.started:
            return 1
        if policy.window is None:
            need = policy.failure_threshold if self.ready else policy.success_threshold
            if self.seen == 0 and policy.first_result_decides:
                return 1
            return need - self.run if self.pending else need
        history, mask, count = self._history, (1 << policy.window) - 1, 0
        while (history.bit_count() >= policy.success_threshold) is self.ready:
            history = (history << 1 | (not self.ready)) & mask
            count += 1
        return count

    @property
    def interval(self) -> float:
        """Seconds from this probe to the next, before jitter."""
        policy = self._policy
        if not self.started:
            return policy.startup_period or policy.period
        if self.pending:
            return policy.pending_period or policy.period
        return policy.period if self.ready else policy.unready_period or policy.period

    @property
    def pending_interval(self) -> float:
        """Seconds from one probe to the next while a change is pending, before jitter."""
        return self._policy.pending_period or self._policy.period

    @property
    def stuck(self) -> bool:
        """Whether the startup phase failed more often than the policy has patience for."""
        return not self.started and not self.last and self.run >= self._policy.startup_failure_threshold

    def __str__(self) -> str:
        policy = self._policy
        if not self.started:
            failed = 0 if self.last is None else self.run
            advice = "; whoever started it should start it again" if self.stuck else ""
            return f"has not started: {failed} startup probes in a row failed{advice}"
        if self.seen == 0:
            return "no probe has been answered yet"
        if policy.window is not None:
            return f"{self._history.bit_count()} of the last {policy.window} probes were good"
        word = "succeeded" if self.last else "failed"
        return f"the last probe {word}" if self.run == 1 else f"the last {self.run} probes {word}"
