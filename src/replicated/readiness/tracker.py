"""Who can serve, kept up to date: probes, an operator's word and what traffic meets, made into one ready set.

It decides when which replica is to be probed, what the answers change, and swaps one immutable snapshot for
the next. It performs no probe, starts nothing, sleeps never: a driver asks ``due`` and tells ``observe``. It
does not know who picks from the ready set, nor why.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable, Iterable

from ..clock import Clock, monotonic
from ..errors import UnknownReplica
from ..outcome import Outcome, Verdict
from ..replica import Replica
from .arguments import fraction, seconds
from .member import Member
from .outliers import OutlierDetector
from .probe import ProbePolicy
from .ready_set import ReadySet
from .slow_start import SlowStart
from .state import Event, Explanation, Joined, Left, PanicChanged, State, StateChanged
from .timetable import Timetable

__all__ = ["ReadinessTracker"]

_REMEMBERED = 4096  # of those who left, so that what was in flight is told from a mistake

_log = logging.getLogger("replicated.readiness")


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
            they never were ready. 0, the default: never. What traffic concludes has a threshold of its own in
            the detector.
        replicas: The first members.
        clock: Seconds, monotonic.
        rng: Where jitter comes from.

    Attributes:
        ready: The snapshot. Read it once a decision.
        members: Everyone, in the order of joining.

    Raises:
        ValueError: ``panic_threshold`` is no fraction, or two replicas share an id.
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
        fraction("panic_threshold", panic_threshold)
        self.policy = policy
        self.outliers = outliers
        self.slow_start = slow_start
        self.panic_threshold = panic_threshold
        self.members: tuple[Replica, ...] = ()
        self.ready = ReadySet()
        self._clock = clock
        self._rng = random.Random() if rng is None else rng
        self._lock = threading.Lock()
        self._now = -math.inf
        self._by_id: dict[str, Member] = {}
        self._left: dict[str, None] = {}
        self._fit: set[str] = set()
        self._warming: dict[str, float] = {}  # since when, of those that warm up
        self._probes: Timetable[str] = Timetable()
        self._timers: Timetable[tuple[str, str]] = Timetable()
        self._wake = math.inf  # the first of the timers: what lets `tick` return at once
        self._subscribers: tuple[Callable[[Event], object], ...] = ()
        if replicas := tuple(replicas):
            self.replace(replicas)

    # Membership

    def add(self, replica: Replica) -> None:
        """Make ``replica`` a member, the last in order. O(n). ValueError when its id already is one."""

        def appended(members: tuple[Replica, ...]) -> tuple[Replica, ...]:
            if _id(replica) in self._by_id:
                raise ValueError(f"replica {replica.id!r} is a member already: replace() changes one")
            return (*members, replica)

        self._change(appended)

    def remove(self, replica: Replica | str) -> None:
        """Let a member go, at once; what it has in flight is not touched. UnknownReplica for a stranger."""

        def less(members: tuple[Replica, ...]) -> tuple[Replica, ...]:
            gone = self._member(replica).replica.id
            return tuple([r for r in members if r.id != gone])

        self._change(less)

    def replace(self, replicas: Iterable[Replica]) -> None:
        """Make ``replicas`` the whole membership, in one swap. O(n).

        Who stays keeps its state, also with another weight or zone. With another ``url`` or ``incarnation``
        it is another process, of which nothing is known: it starts anew, but an operator's word on it stays.

        Raises:
            ValueError: Two of them share an id; nothing has changed then.
        """
        wanted = tuple(replicas)
        for replica in wanted:
            if not isinstance(replica, Replica):
                raise TypeError(f"replicas must be of Replica, not {replica!r}")
        self._change(lambda members: wanted)

    def _change(self, wanted: Callable[[tuple[Replica, ...]], tuple[Replica, ...]]) -> None:
        events: list[Event] = []
        now = self._clock()
        with self._lock:
            now = self._advance(now, events)
            members = wanted(self.members)
            by_id = {replica.id: replica for replica in members}
            if len(by_id) < len(members):
                twice = next(r.id for i, r in enumerate(members) if r.id in {m.id for m in members[:i]})
                raise ValueError(f"replicas must have ids of their own, but {twice!r} stands there twice")
            if members != self.members:
                version = self.ready.version + 1
                for gone in self._by_id.keys() - by_id.keys():
                    events.append(Left(self._by_id[gone].replica, now, version))
                    self._forget(gone)
                    del self._by_id[gone]
                    self._left[gone] = None
                    if len(self._left) > _REMEMBERED:
                        del self._left[next(iter(self._left))]
                for replica in members:
                    self._admit(replica, now, version, events)
                self.members = members
                self._by_id = {id: self._by_id[id] for id in by_id}
                self._publish(now, events)
        self._tell(events)

    def _admit(self, replica: Replica, now: float, version: int, events: list[Event]) -> None:
        member = self._by_id.get(replica.id)
        if member is not None and not member.is_another(replica):
            member.replica = replica
            return
        if member is None:
            member = self._by_id[replica.id] = Member(replica, self.policy, now)
            self._left.pop(replica.id, None)
            events.append(Joined(replica, now, version))
        else:
            old = member.state
            self._forget(replica.id)
            member.begin(replica, self.policy, now)
            reason = f"it is another process now ({replica.incarnation or replica.url})"
            events.append(StateChanged(replica, old, member.state, reason, now, version))
        self._begin_probing(member, now)
        self._enter(member, now)

    def _forget(self, id: str) -> None:
        self._fit.discard(id)
        self._warming.pop(id, None)
        self._probes.drop(id)
        self._timers.drop(("ejection", id))
        self._timers.drop(("drain", id))
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
        self._operate(replica, State.MAINTENANCE, "an operator took it out")

    def undrain(self, replica: Replica | str) -> None:
        """Take back ``drain`` or ``maintain``. After maintenance nothing is known of it: it starts anew."""
        self._operate(replica, None, "an operator put it back")

    def _operate(
        self, replica: Replica | str, word: State | None, reason: str, deadline: float | None = None
    ) -> None:
        events: list[Event] = []
        now = self._clock()
        with self._lock:
            member = self._member(replica)
            now = self._advance(now, events)
            id = member.replica.id
            before, member.operator = member.operator, word
            member.ends = None if deadline is None else now + deadline
            self._timers.drop(("drain", id))
            if member.ends is not None:
                self._set_timer("drain", id, member.ends)
            if word is State.MAINTENANCE:
                self._probes.drop(id)
            elif before is State.MAINTENANCE:
                old = member.state
                self._forget(id)
                member.begin(member.replica, self.policy, now)
                member.state = old
                self._begin_probing(member, now)
            self._settle(member, reason, now, events)
            self._publish(now, events)
        self._tell(events)

    # Probes

    def due(self, now: float | None = None) -> tuple[Replica, ...]:
        """Return the replicas to probe now, those longest due first.

        One that was returned is not returned again until its result was observed, or its timeout and its
        period have passed without one: then the probe is lost, which is not held against the replica.
        """
        events: list[Event] = []
        with self._lock:
            now = self._advance(self._clock() if now is None else now, events)
            replicas = []
            for id in self._probes.take(now):
                member = self._by_id[id]
                member.probed, member.awaited = now, True
                assert self.policy is not None
                assert member.health is not None
                self._probes.set(id, now + max(self.policy.timeout, self._jittered(member.health.interval)))
                replicas.append(member.replica)
        self._tell(events)
        return tuple(replicas)

    def next_due(self) -> float | None:
        """Return when ``due`` should be asked again, by the tracker's clock; None: not before a change."""
        with self._lock:
            times = [at for at in (self._probes.next(), self._timers.next()) if at is not None]
        return min(times, default=None)

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
        events: list[Event] = []
        with self._lock:
            member = self._heard(replica)
            now = self._advance(self._clock() if now is None else now, events)
            if member is not None and member.operator is not State.MAINTENANCE:
                self._judge(member, ok, reason, decisive, now, events)
        self._tell(events)

    def _judge(
        self, member: Member, ok: bool, reason: str, decisive: bool, now: float, events: list[Event]
    ) -> None:
        if member.health is None:
            return
        began = member.probed if member.awaited else now
        member.awaited = False
        member.health.observe(ok, decisive=decisive)
        self._probes.set(member.replica.id, max(now, began + self._jittered(member.health.interval)))
        why = str(member.health) + (f" ({reason})" if reason else "")
        if member.ejected_until is not None and member.ejected_until <= now:
            if ok:
                self._let_back(member)
            elif self.outliers is not None:
                self._eject(member, now)
                member.reason = f"on its return, {why}"
        if self._settle(member, why, now, events):
            self._publish(now, events)
        elif member.state is not State.EJECTED and member.operator is None:
            member.reason = why

    # What traffic meets

    def observe_outcome(self, replica: Replica | str, outcome: Outcome, now: float | None = None) -> None:
        """Take in how a request ended. O(1), and without a lock for a success after successes.

        Outcomes of a replica that left, or of its former process, are ignored as in ``observe``.
        """
        detector = self.outliers
        if detector is None:
            return
        known = self._by_id.get(_id(replica))
        if known is not None and not known.on_trial and not detector.is_news(known.replica.id, outcome):
            return
        events: list[Event] = []
        with self._lock:
            member = self._heard(replica)
            now = self._advance(self._clock() if now is None else now, events)
            if member is not None and outcome.verdict is not Verdict.CANCELLED:
                self._weigh(member, outcome, detector, now, events)
        self._tell(events)

    def _weigh(
        self, member: Member, outcome: Outcome, detector: OutlierDetector, now: float, events: list[Event]
    ) -> None:
        why = detector.observe(member.replica.id, outcome)
        if member.on_trial:
            member.on_trial = False
            if why is None and detector.failed(outcome):
                why = "it failed the first request after its ejection"
        if why is None or member.state is not State.READY:
            return
        ejected = sum([m.ejected_until is not None for m in self._by_id.values()])
        if detector.allows(members=len(self.members), fit=len(self._fit), ejected=ejected):
            self._eject(member, now)
            self._settle(member, why, now, events)
            self._publish(now, events)
        else:
            member.reason = f"{why}, but too few would be left without it"

    def _eject(self, member: Member, now: float) -> None:
        assert self.outliers is not None
        member.ejected_until = self.outliers.eject(member.replica.id, now)
        self._set_timer("ejection", member.replica.id, member.ejected_until)

    def _let_back(self, member: Member) -> None:
        member.ejected_until, member.on_trial = None, True

    # Time

    def tick(self, now: float | None = None) -> None:
        """Let pass what time alone changes: ejections that end, replicas that warm up, deadlines.

        For who reads ``ready`` without asking ``due``. O(1), and without a lock, when nothing is to change.
        """
        if now is None:
            now = self._clock()
        if now < self._wake:
            return
        events: list[Event] = []
        with self._lock:
            self._advance(now, events)
        self._tell(events)

    def _advance(self, now: float, events: list[Event]) -> float:
        """Let time come to ``now``, and return it: never before what it already was."""
        if not math.isfinite(now):
            raise ValueError(f"now must be finite seconds, not {now!r}")
        self._now = now = max(now, self._now)
        if now < self._wake:
            return now
        for kind, id in self._timers.take(now):
            if kind == "ejection":
                member = self._by_id[id]
                if member.operator is State.MAINTENANCE:
                    continue
                if self.policy is None:
                    self._let_back(member)
                    self._settle(member, "its ejection is over", now, events)
                else:
                    # Back through one good probe, asked for at once, rather than through users' requests.
                    if not member.awaited:
                        self._probes.set(id, now)
                    member.reason = "its ejection is over, and it returns with its next good probe"
        self._publish(now, events)
        return now

    def _set_timer(self, kind: str, id: str, at: float) -> None:
        self._timers.set((kind, id), at)
        self._wake = min(self._wake, at)

    # The snapshot

    def _settle(self, member: Member, reason: str, now: float, events: list[Event]) -> bool:
        old = member.settle(reason, now)
        if old is None:
            return False
        events.append(StateChanged(member.replica, old, member.state, reason, now, self.ready.version + 1))
        self._enter(member, now)
        return True

    def _enter(self, member: Member, now: float) -> None:
        id = member.replica.id
        if member.state is not State.READY:
            self._fit.discard(id)
            self._warming.pop(id, None)
        elif id not in self._fit:
            self._fit.add(id)
            if self.slow_start is not None:
                self._warming[id] = now

    def _publish(self, now: float, events: list[Event]) -> None:
        """Swap the snapshot for one of what is true now."""
        fit, all_members = len(self._fit), len(self.members)
        let_in: set[State] = set()
        if self.outliers is not None and self.outliers.panics(members=all_members, fit=fit):
            let_in = {State.EJECTED}
        if fit < self.panic_threshold * all_members:
            let_in = {State.EJECTED, State.UNREADY}
        ids: set[str] = self._fit
        if let_in:
            ids = ids | {id for id, member in self._by_id.items() if member.state in let_in}
        panic = len(ids) > fit
        version = self.ready.version + 1
        if panic is not self.ready.panic:
            events.append(PanicChanged(panic, fit, all_members, now, version))
        self.ready = ReadySet.of(
            self.members,
            ids if len(ids) < all_members else None,
            version,
            ramp=self._ramp(now, len(ids)),
            draining=tuple(
                [
                    m.replica
                    for m in self._by_id.values()
                    if m.operator is State.DRAINING
                    and (m.health is None or m.health.ready)
                    and (m.ends is None or now < m.ends)
                ]
            ),
            panic=panic,
        )
        self._wake = math.inf if (at := self._timers.next()) is None else at

    def _ramp(self, now: float, serving: int) -> dict[str, float]:
        slow, warming = self.slow_start, self._warming
        if slow is None or not warming:
            return {}
        for id in [id for id, since in warming.items() if slow.fraction(now - since) >= 1]:
            del warming[id]
        fractions = {id: slow.fraction(now - since) for id, since in warming.items()}
        if fractions:
            steps = [since + (math.floor((now - since) / slow.step + 1e-9) + 1) * slow.step
                     for since in warming.values()]  # fmt: skip
            self._set_timer("ramp", "", min(steps))
            if len(fractions) == serving:
                # Weights are relative: when all warm up at once, nobody is spared by sparing everybody.
                top = max(fractions.values())
                fractions = {id: f / top for id, f in fractions.items() if f < top}
        return fractions

    # What can be asked

    def state(self, replica: Replica | str) -> State:
        """Return the state of a member. UnknownReplica for a stranger."""
        return self._member(replica).state

    def explain(self, replica: Replica | str, now: float | None = None) -> Explanation:
        """Return what a member is, why, since when, and when that can change; its str() is a sentence."""
        with self._lock:
            member = self._member(replica)
            now = max(self._clock() if now is None else now, self._now)
            changes_in = member.changes_in(now, self._probes.at(member.replica.id))
            ready = self.ready
        id = member.replica.id
        return Explanation(
            replica=member.replica,
            state=member.state,
            reason=member.reason,
            age=now - member.since,
            changes_in=changes_in,
            serves=id in ready.by_id,
            weight=ready.ramp.get(id, 1.0),
        )

    def subscribe(self, subscriber: Callable[[Event], object]) -> Callable[[], None]:
        """Call ``subscriber`` with every event, from the thread that caused it; return what ends that.

        It is called without a lock held, so it may use the tracker. What it raises is logged, and neither
        keeps other subscribers from hearing nor undoes the change.
        """
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple([s for s in self._subscribers if s is not subscriber])

        return unsubscribe

    def __repr__(self) -> str:
        return (
            f"<ReadinessTracker {len(self.ready)} of {len(self.members)} ready, version {self.ready.version}>"
        )

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            for subscriber in self._subscribers:
                try:
                    subscriber(event)
                except Exception:
                    _log.exception("a subscriber failed on %r", event)

    def _begin_probing(self, member: Member, now: float) -> None:
        policy = self.policy
        if policy is not None and member.operator is not State.MAINTENANCE:
            phase = policy.jitter * policy.period * self._rng.random() if policy.jitter else 0.0
            self._probes.set(member.replica.id, now + policy.initial_delay + phase)

    def _jittered(self, interval: float) -> float:
        assert self.policy is not None
        jitter = self.policy.jitter
        return interval * (1 + jitter * (self._rng.random() - 0.5)) if jitter else interval

    def _member(self, replica: Replica | str) -> Member:
        member = self._by_id.get(_id(replica))
        if member is None:
            raise UnknownReplica(f"{_id(replica)!r} is not a member")
        return member

    def _heard(self, replica: Replica | str) -> Member | None:
        """Return the member that news are about; None when they are about one that is gone."""
        id = _id(replica)
        member = self._by_id.get(id)
        if member is None:
            if id in self._left:
                return None
            raise UnknownReplica(f"{id!r} is not a member, and was not one lately")
        return None if isinstance(replica, Replica) and member.is_another(replica) else member


def _id(replica: Replica | str) -> str:
    if isinstance(replica, Replica):
        return replica.id
    if isinstance(replica, str):
        return replica
    raise TypeError(f"replica must be a Replica or its id, not {replica!r}")
