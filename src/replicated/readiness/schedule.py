"""When each replica is to be probed next: the policy's periods, spread by jitter.

It keeps times and decides nobody's state. What a probe asks, and who performs it, it does not know.
"""

from __future__ import annotations

import random

from ..replica import Replica
from .member import Member
from .probe import ProbePolicy
from .timetable import Timetable

__all__ = ["ProbeSchedule"]


class ProbeSchedule:
    """The next probe of every member; of nobody without a policy. Its owner holds a lock."""

    __slots__ = ("_policy", "_rng", "_times")

    def __init__(self, policy: ProbePolicy | None, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._times: Timetable[str] = Timetable()

    def begin(self, member: Member, now: float) -> None:
        """Schedule the first probe of one that joined, or started anew."""
        policy = self._policy
        if policy is not None:
            phase = policy.jitter * policy.period * self._rng.random() if policy.jitter else 0.0
            self._times.set(member.replica.id, now + policy.initial_delay + phase)

    def hasten(self, member: Member, now: float) -> None:
        """Have it probed now, unless a probe is under way."""
        if not member.awaited:
            self._times.set(member.replica.id, now)

    def drop(self, id: str) -> None:
        """Probe it no more."""
        self._times.drop(id)

    def take(self, now: float) -> list[str]:
        """Return the ids due now, longest due first, and unschedule them."""
        return self._times.take(now)

    def asked(self, member: Member, now: float) -> Replica:
        """Note that a probe begins, and return whom to ask.

        Unless its result comes, it is lost after its timeout and its period.
        """
        member.probed, member.awaited = now, True
        if self._policy is not None:
            self._times.set(member.replica.id, now + max(self._policy.timeout, self._interval(member)))
        return member.replica

    def answered(self, member: Member, now: float) -> None:
        """Note that a result came: the period counts from the start of its probe."""
        began = member.probed if member.awaited else now
        member.awaited = False
        self._times.set(member.replica.id, max(now, began + self._interval(member)))

    def next(self) -> float | None:
        """Return when the first probe is due, or None."""
        return self._times.next()

    def at(self, id: str) -> float | None:
        """Return when the next probe of one is due, or None."""
        return self._times.at(id)

    def _interval(self, member: Member) -> float:
        assert self._policy is not None
        assert member.health is not None
        interval, jitter = member.health.interval, self._policy.jitter
        return interval * (1 + jitter * (self._rng.random() - 0.5)) if jitter else interval
