"""What is known of one member, and the state that follows from it: an operator before a probe before traffic.

Facts and one rule. It does not know the other members, hence neither the cap on ejections nor a panic.
"""

from __future__ import annotations

from ..replica import Replica
from .health import ProbeHealth
from .probe import ProbePolicy
from .ready_set import ReadySet
from .state import Explanation, State

__all__ = ["Member"]


class Member:
    """One member's facts; its tracker writes them under its lock.

    Attributes:
        replica: The value as last given.
        health: What its probes add up to; None where nobody is probed.
        operator: DRAINING or MAINTENANCE where an operator said so.
        ends: When its sessions must have ended, if it drains with a deadline.
        ejected_until: When its ejection is over; None while it is not ejected.
        on_trial: It came back from an ejection, and nothing has been heard of it since.
        awaited: Whether a probe is under way.
        probed: When the last probe began.
        state: What follows from the above; since when; and why.
    """

    __slots__ = (
        "awaited",
        "ejected_until",
        "ends",
        "health",
        "on_trial",
        "operator",
        "probed",
        "reason",
        "replica",
        "served",
        "since",
        "state",
    )

    def __init__(self, replica: Replica, policy: ProbePolicy | None, now: float) -> None:
        self.operator: State | None = None
        self.ends: float | None = None
        self.begin(replica, policy, now)

    def begin(self, replica: Replica, policy: ProbePolicy | None, now: float) -> None:
        """Start as one of whom nothing is known; only what an operator said of the id stays."""
        self.replica = replica
        self.health = None if policy is None else ProbeHealth(policy)
        self.ejected_until: float | None = None
        self.on_trial = False
        self.awaited = False
        self.probed = now
        self.since = now
        self.reason = "nobody is probed" if policy is None else "no probe has been answered yet"
        self.served = False
        self.state = self.follows()
        self.served = self.state is State.READY

    def follows(self) -> State:
        """Return the state that follows from the facts."""
        if self.operator is not None:
            return self.operator
        if self.health is not None and not self.health.ready:
            return State.UNREADY if self.served else State.STARTING
        return State.READY if self.ejected_until is None else State.EJECTED

    def settle(self, reason: str, now: float) -> State | None:
        """Take on the state that follows; return the one left behind, or None when nothing changed."""
        old, new = self.state, self.follows()
        if new is old:
            return None
        self.state, self.since, self.reason = new, now, reason
        self.served = self.served or new is State.READY
        return old

    def is_another(self, replica: Replica) -> bool:
        """Return whether ``replica`` is another process of the same id: elsewhere, or restarted."""
        mine = self.replica
        return replica.url != mine.url or replica.incarnation != mine.incarnation

    def keeps_sessions(self, now: float) -> bool:
        """Return whether one that drains may go on with the sessions it has."""
        return (self.health is None or self.health.ready) and (self.ends is None or now < self.ends)

    def explain(self, now: float, due: float | None, ready: ReadySet) -> Explanation:
        """Return why it is what it is, the next probe being due at ``due``."""
        serves, weight = self.replica.id in ready.by_id, ready.ramp.get(self.replica.id, 1.0)
        return Explanation(
            self.replica,
            self.state,
            self.reason,
            now - self.since,
            self._changes_in(now, due),
            serves,
            weight,
        )

    def _changes_in(self, now: float, due: float | None) -> float | None:
        if self.operator is not None or (self.health is None and self.ejected_until is None):
            return None
        wait = 0.0 if self.awaited or due is None else max(0.0, due - now)
        if self.state is State.EJECTED and self.ejected_until is not None:
            left = self.ejected_until - now
            return left if left > 0 else wait
        assert self.health is not None
        return wait + (self.health.missing - 1) * self.health.pending_interval
