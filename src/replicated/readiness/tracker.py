"""Who can serve, kept up to date: probes, an operator's word and what traffic meets, made into one ready set.

It decides when which replica is to be probed, what the answers change, and swaps one immutable snapshot for
the next. It performs no probe, starts nothing, sleeps never: a driver asks ``due`` and tells ``observe``. It
does not know who picks from the ready set, nor why.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ..clock import Clock, monotonic
from ..outcome import Outcome, Verdict
from ..replica import Replica
from .announcer import Announcer, Subscriber
from .arguments import seconds
from .departures import Departure, Departures, InFlightOf
from .ejections import Ejections
from .member import Member
from .membership import Membership
from .outliers import OutlierDetector
from .probe import ProbePolicy
from .ready_set import ReadySet
from .roster import Roster, id_of
from .schedule import ProbeSchedule
from .slow_start import SlowStart
from .state import Event, Explanation, Joined, Left, PanicChanged, State, StateChanged
from .timetable import Timetable

__all__ = ["ReadinessTracker"]


class ReadinessTracker:
    """The members of a tier and which of them can serve.

    Every method that takes a replica takes a ``Replica`` or its id. Every method that takes ``now`` reads the
    clock when it is left out; time that goes back counts as time standing still. Threads may share a tracker:
    readers of ``ready`` and ``members`` take no lock, and subscribers are called without one.

    Args:
        policy: How replicas are probed. None: nobody is, and everyone is ready at once, as in Kubernetes a
            container without a readiness probe is.
        outliers: What traffic itself may conclude; None: nothing. One detector a tracker.
        slow_start: How a replica that became ready warms up; None: it gets its full weight at once.
        panic_threshold: The fraction of the members below which those whose probes fail serve as well, unless
            they never were ready. 0, the default: never. The detector has a threshold of its own.
        replicas: The first members.
        clock, rng: The time, and where jitter comes from.

    Attributes:
        ready: The snapshot, to be read once a decision.
        leaving: By id, those that were removed while requests were in flight there. Not to be changed.
        wakes: Until then, by the tracker's clock, ``tick`` has nothing to do.
    """

    def __init__(
        self,
        policy: ProbePolicy | None = None,
        *,
        outliers: OutlierDetector | None = None,
        slow_start: SlowStart | None = None,
        panic_threshold: float = 0.0,
        replicas: Iterable[Replica] = (),
        clock: Clock = monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.policy = policy
        self.outliers = outliers
        self.ready = ReadySet()
        self._clock = clock
        self._lock = threading.Lock()
        self._now = -math.inf
        self._departures = Departures()
        self.leaving: dict[str, Departure] = self._departures.leaving
        self._roster = Roster(outliers, slow_start, panic_threshold)
        self._probes = ProbeSchedule(policy, random.Random() if rng is None else rng)
        self._timers: Timetable[tuple[str, str]] = Timetable()
        self._ejections: Ejections | None = None
        if outliers is not None:
            probes = self._probes if policy is not None else None
            self._ejections = Ejections(outliers, self._roster, probes, self._timers, self._settle)
        self.wakes = math.inf
        self._announcer = Announcer()
        self._news: list[Event] = []
        self._stale = False
        self.replace(replicas)
        if self._ejections is not None:
            with self._changing():
                self._ejections.end_window(self._now)

    @property
    def members(self) -> tuple[Replica, ...]:
        """Everyone, ready or not, in the order of joining; the same object until the membership changes."""
        return self.ready.members

    # Membership

    def add(self, replica: Replica) -> None:
        """Make ``replica`` a member, the last in order. O(n). ValueError when its id already is one."""
        with self._changing():
            self._become(Membership.checked((*self.members, replica)))

    def remove(self, replica: Replica | str) -> None:
        """Let a member go: LEAVING while requests are in flight to it. UnknownReplica for a stranger."""
        with self._changing():
            gone = self._roster.find(replica).replica.id
            self._become(Membership([other for other in self.members if other.id != gone]))

    def replace(self, replicas: Iterable[Replica]) -> None:
        """Make ``replicas`` the whole membership, in one swap. O(n).

        Who stays keeps its state, also with another weight or zone. With another ``url`` or ``incarnation``
        it is another process, of which nothing is known: it starts anew, but an operator's word on it stays.
        ValueError when two of them share an id; nothing has changed then.
        """
        members = Membership.checked(replicas)
        with self._changing():
            self._become(members)

    def _become(self, members: Membership) -> None:
        roster = self._roster
        if members == roster.members:
            return
        wanted = set(members.ids)
        for gone in [id for id in roster.by_id if id not in wanted]:
            self._depart(roster.remove(gone))
            self._forget(gone)
            self._timers.drop(("drain", gone))
        for replica in members:
            self._admit(replica)
        roster.order(members)
        self._stale = True

    def _depart(self, gone: Member) -> None:
        if self._departures.begin(gone.replica, self._now):
            old, gone.state = gone.state, State.LEAVING
            self._tell_of_state(gone, old, "it was removed")
        else:
            self._news.append(Left(gone.replica, self._now, self.ready.version + 1))

    def watch(self, in_flight_of: InFlightOf) -> None:
        """Have removals wait for what this counts, as a tier does; whoever counts calls ``ended``."""
        with self._lock:
            self._departures.watch(in_flight_of)

    def ended(self, replica: Replica | str) -> None:
        """Hear that a request ended on a replica that is in ``leaving``: perhaps it was the last one."""
        with self._changing():
            if (left := self._departures.end(id_of(replica))) is not None:
                self._news.append(Left(left, self._now, self.ready.version))

    def _admit(self, replica: Replica) -> None:
        member = self._roster.by_id.get(replica.id)
        if member is not None and not member.is_another(replica):
            member.replica = replica
            return
        if member is None:
            member = Member(replica, self.policy, self._now)
            self.leaving.pop(replica.id, None)  # it is back, and what is in flight there is a member's
            self._roster.add(member, self._now)
            self._probes.begin(member, self._now)
            self._news.append(Joined(replica, self._now, self.ready.version + 1))
        else:
            member.replica = replica
            self._restart(member, f"it is another process, {replica.incarnation or replica.url}".rstrip(", "))

    def _restart(self, member: Member, reason: str) -> None:
        """Forget what is known of a member: it starts anew, and cold."""
        old = member.state
        self._forget(member.replica.id)
        member.begin(member.replica, self.policy, self._now)
        self._roster.sort(member, self._now)
        if member.operator is not State.MAINTENANCE:
            self._probes.begin(member, self._now)
        self._tell_of_state(member, old, reason)

    def _forget(self, id: str) -> None:
        self._roster.forget(id)
        self._probes.drop(id)
        self._timers.drop(("ejection", id))
        if self.outliers is not None:
            self.outliers.forget(id)

    # An operator's word

    def drain(self, replica: Replica | str, *, deadline: float | None = None) -> None:
        """Send a member no new session; those it has may stay, for ``deadline`` seconds if that is given."""
        if deadline is not None:
            seconds("deadline", deadline, above=False)
        self._operate(replica, State.DRAINING, "an operator drains it", deadline)

    def maintain(self, replica: Replica | str) -> None:
        """Take a member out for maintenance: no sessions, no probes, until ``undrain``."""
        self._operate(replica, State.MAINTENANCE, "an operator took it out", None)

    def undrain(self, replica: Replica | str) -> None:
        """Take back ``drain`` or ``maintain``. After maintenance nothing is known of it: it starts anew."""
        self._operate(replica, None, "an operator put it back", None)

    def _operate(
        self, replica: Replica | str, word: State | None, reason: str, deadline: float | None
    ) -> None:
        with self._changing():
            member = self._roster.find(replica)
            id = member.replica.id
            before, member.operator = member.operator, word
            self._stale = True
            self._timers.drop(("drain", id))
            member.ends = None if deadline is None else self._now + deadline
            if member.ends is not None:
                self._timers.set(("drain", id), member.ends)
            if word is State.MAINTENANCE:
                self._probes.drop(id)
            if before is State.MAINTENANCE and word is not before:
                self._restart(member, reason)
            else:
                self._settle(member, reason)

    # Probes

    def due(self, now: float | None = None) -> tuple[Replica, ...]:
        """Return the replicas to probe now, those longest due first.

        One that was returned is not returned again until it is observed, or until its timeout and its period
        have passed: then the probe is lost, which is not held against the replica.
        """
        with self._changing(now):
            members = [self._roster.by_id[id] for id in self._probes.take(self._now)]
            return tuple([self._probes.asked(member, self._now) for member in members])

    def next_due(self) -> float | None:
        """Return when ``due`` should be asked again, by the tracker's clock; None: not before a change."""
        with self._lock:
            times = self._probes.next(), self._timers.next()
        return min([at for at in times if at is not None], default=None)

    def observe(
        self,
        replica: Replica | str,
        ok: bool,
        *,
        reason: str = "",
        decisive: bool = False,
        now: float | None = None,
    ) -> None:
        """Take in the result of one probe.

        A result is ignored when the replica left meanwhile, is in maintenance, or when ``replica`` is a
        Replica with another url or incarnation than the member's: such things happen during a probe.

        Args:
            replica: Who was probed.
            ok: Whether it answered, in time, that it can serve.
            reason: What it answered, in a few words, for ``explain``.
            decisive: A failure that no threshold delays, as in Envoy when the replica answers and says no.
            now: When the result came.

        Raises:
            UnknownReplica: It never was a member, or left thousands of departures ago.
            TypeError: ``ok`` is not a bool.
        """
        if not isinstance(ok, bool):
            raise TypeError(f"ok must be a bool, not {ok!r}")
        with self._changing(now):
            member = self._roster.heard(replica)
            if member is None or member.health is None or member.operator is State.MAINTENANCE:
                return
            # Also where an operator's word hides it: one that drains keeps sessions only while it is well.
            self._stale |= member.health.observe(ok, decisive=decisive)
            self._probes.answered(member, self._now)
            why = f"{member.health}" + (f" ({reason})" if reason else "")
            if member.ejected_until is not None and member.ejected_until <= self._now:
                if ok or not member.health.ready or self._ejections is None:
                    self._roster.let_back(member)  # or to its probes, which then keep it out by themselves
                else:
                    self._ejections.eject(member, f"on its return, {why}", self._now)
            if not self._settle(member, why) and member.state in (State.STARTING, State.UNREADY, State.READY):
                member.reason = why

    # What traffic meets

    def observe_outcome(self, replica: Replica | str, outcome: Outcome, now: float | None = None) -> None:
        """Take in how a request ended. O(1), and without a lock for a success after successes.

        Outcomes of a replica that left, or of its former process, are ignored as in ``observe``, and for a
        stranger UnknownReplica is raised; without a detector nothing is looked at.
        """
        detector = self.outliers
        if detector is None:
            return
        member = self._roster.get(replica)
        if member is not None and not member.on_trial and not detector.is_news(member.replica.id, outcome):
            return
        # Asked before the lock is taken, since it is the user's function.
        failed = outcome.verdict is not Verdict.CANCELLED and detector.failed(outcome)
        with self._changing(now):
            member = self._roster.heard(replica)
            if member is None or outcome.verdict is Verdict.CANCELLED:
                return
            why = detector.count(member.replica.id, failed, outcome.reason)
            if member.on_trial:
                member.on_trial = False
                if failed:
                    why = why or "it failed the first request after its ejection"
            if why is not None and self._ejections is not None:
                self._ejections.suspect(member, why, self._now)

    def tick(self, now: float | None = None) -> None:
        """Let pass what time alone changes: ejections that end, replicas that warm up, deadlines.

        For who reads ``ready`` without asking ``due``. O(1), and without a lock, when nothing is to change.
        """
        now = self._clock() if now is None else now
        if not now < self.wakes:  # NaN is not, and is refused
            with self._changing(now):
                pass

    @contextmanager
    def _changing(self, now: float | None = None) -> Iterator[None]:
        """Hold the lock, bring time up to ``now``, and afterwards publish and tell what changed."""
        now = self._clock() if now is None else now
        if not math.isfinite(now):
            raise ValueError(f"now must be finite seconds, not {now!r}")
        news = list[Event]()
        try:
            with self._lock:
                self._now = max(now, self._now)
                try:
                    for kind, id in self._timers.take(self._now):
                        self._ring(kind, id)
                    self._publish()
                    yield
                finally:
                    self._publish()
                    self.wakes = math.inf if (at := self._timers.next()) is None else at
                    news, self._news = self._news, news
        finally:
            self._announcer.tell(news)

    def _ring(self, kind: str, id: str) -> None:
        if kind in ("drain", "step"):
            self._stale = True
        elif self._ejections is not None:
            if kind == "window":
                self._ejections.end_window(self._now)
            else:
                self._ejections.end(self._roster.by_id[id], self._now)

    def _settle(self, member: Member, reason: str) -> bool:
        old = member.settle(reason, self._now)
        if old is None:
            return False
        self._roster.sort(member, self._now)
        self._tell_of_state(member, old, reason)
        return True

    def _publish(self) -> None:
        if not self._stale:
            return
        before, self._stale = self.ready, False
        self.ready = now_ready = self._roster.snapshot(self._now, before.version + 1)
        if self._roster.next_step is not None:
            self._timers.set(("step", ""), self._roster.next_step)
        if now_ready.panic is not before.panic:
            fit, total, at = len(self._roster.fit), len(now_ready.members), self._now
            self._news.append(PanicChanged(now_ready.panic, fit, total, at, now_ready.version))

    def _tell_of_state(self, member: Member, old: State, reason: str) -> None:
        self._stale, version = True, self.ready.version + 1
        self._news.append(StateChanged(member.replica, old, member.state, reason, self._now, version))

    def state(self, replica: Replica | str) -> State:
        """Return the state of a member, or of one that is leaving. UnknownReplica for a stranger."""
        return State.LEAVING if id_of(replica) in self.leaving else self._roster.find(replica).state

    def explain(self, replica: Replica | str, now: float | None = None) -> Explanation:
        """Return what a member is, why, since when, and when that can change; its str() is a sentence."""
        with self._changing(now):
            if (leaving := self._departures.explain(id_of(replica), self._now)) is not None:
                return leaving
            member = self._roster.find(replica)
            return member.explain(self._now, self._probes.at(member.replica.id), self.ready)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with every event, from the thread that caused it; return what ends that.

        It is called without a lock held, so it may use the tracker. What it raises is logged, and neither
        keeps other subscribers from hearing nor undoes the change.
        """
        return self._announcer.add(subscriber)

    def __repr__(self) -> str:
        return f"<ReadinessTracker {len(self.ready)} of {len(self.members)} ready, v{self.ready.version}>"
