"""Who is fit, who warms up, who drains: the members sorted by state, and the ready set that follows.

It applies the one rule over all causes: when too few are fit, some of the unfit serve as well. How a member
came to its state is not its business, and it keeps no time: it is told.
"""

from __future__ import annotations

import math

from ..errors import UnknownReplica
from ..replica import Replica
from .arguments import fraction
from .member import Member
from .membership import Membership
from .outliers import OutlierDetector
from .ready_set import ReadySet
from .slow_start import SlowStart
from .state import State

__all__ = ["Roster", "id_of"]

_REMEMBERED = 4096  # of those who left, so that news of what was under way is told from a mistake


class Roster:
    """The members by id, sorted by what they are. Its owner holds a lock.

    Attributes:
        by_id: Every member, in the order of joining.
        fit: The ids of those that are READY.
        ejected: The ids of those that are out through ejection, whatever else may keep them out.
        next_step: When a replica that warms up takes its next step; None while nobody does.
    """

    __slots__ = ("_draining", "_left", "_outliers", "_panic_threshold", "_slow_start", "_warming", "by_id",
                 "ejected", "fit", "members", "next_step")  # fmt: skip

    def __init__(
        self, outliers: OutlierDetector | None, slow_start: SlowStart | None, panic_threshold: float
    ) -> None:
        fraction("panic_threshold", panic_threshold)
        self._outliers = outliers
        self._slow_start = slow_start
        self._panic_threshold = panic_threshold
        self.members = Membership()
        self.by_id: dict[str, Member] = {}
        self.fit: set[str] = set()
        self.ejected: set[str] = set()
        self._draining: set[str] = set()
        self._warming: dict[str, float] = {}  # since when
        self._left: dict[str, None] = {}
        self.next_step: float | None = None

    def get(self, replica: Replica | str) -> Member | None:
        """Return the member of that id, or None. TypeError for what is neither a Replica nor an id."""
        return self.by_id.get(id_of(replica))

    def find(self, replica: Replica | str) -> Member:
        """Return the member of that id, or raise UnknownReplica."""
        member = self.get(replica)
        if member is None:
            raise UnknownReplica(f"{id_of(replica)!r} is not a member")
        return member

    def heard(self, replica: Replica | str) -> Member | None:
        """Return the member that news are about; None when they are about one that is gone."""
        id = id_of(replica)
        member = self.by_id.get(id)
        if member is None:
            if id in self._left:
                return None
            raise UnknownReplica(f"{id!r} is not a member, and was not one lately")
        return None if isinstance(replica, Replica) and member.is_another(replica) else member

    def add(self, member: Member, now: float) -> None:
        """Take in one that joins."""
        self.by_id[member.replica.id] = member
        self._left.pop(member.replica.id, None)
        self.sort(member, now)

    def remove(self, id: str) -> Member:
        """Let one go; of the last thousands to go it is remembered that they were here."""
        self.forget(id)
        self._left[id] = None
        if len(self._left) > _REMEMBERED:
            del self._left[next(iter(self._left))]
        return self.by_id.pop(id)

    def order(self, members: Membership) -> None:
        """Make ``members`` the membership, all of whom were added before."""
        self.by_id = {id: self.by_id[id] for id in members.ids}
        self.members = members

    def eject(self, member: Member, until: float) -> float:
        """Note that a member is out until then, whatever else may keep it out; return the time."""
        member.ejected_until = until
        self.ejected.add(member.replica.id)
        return until

    def let_back(self, member: Member) -> None:
        """End an ejection; the first that is heard of the member from now on decides whether that lasts."""
        member.ejected_until, member.on_trial = None, True
        self.ejected.discard(member.replica.id)

    def sort(self, member: Member, now: float) -> None:
        """Put a member where its state says it belongs. O(1)."""
        id = member.replica.id
        if member.state is State.DRAINING:
            self._draining.add(id)
        else:
            self._draining.discard(id)
        if member.state is not State.READY:
            self.fit.discard(id)
            self._warming.pop(id, None)
        elif id not in self.fit:
            self.fit.add(id)
            if self._slow_start is not None:
                self._warming[id] = now

    def forget(self, id: str) -> None:
        """Take a member out of all the sets, to be sorted anew or to be gone."""
        self.fit.discard(id)
        self.ejected.discard(id)
        self._draining.discard(id)
        self._warming.pop(id, None)

    def snapshot(self, now: float, version: int) -> ReadySet:
        """Return the ready set of this moment. O(n), in C for all but those that warm up or drain."""
        serving = self._serving()
        return ReadySet.of(
            self.members,
            serving if len(serving) < len(self.members) else None,
            version,
            ramp=self._ramp(now, len(serving)),
            draining=self._keeping(now),
            panic=len(serving) > len(self.fit),
        )

    def _serving(self) -> set[str]:
        fit, total = len(self.fit), len(self.members)
        let_in: tuple[State, ...] = ()
        if fit < self._panic_threshold * total:
            let_in = (State.EJECTED, State.UNREADY)
        elif self._outliers is not None and self._outliers.panics(members=total, fit=fit):
            let_in = (State.EJECTED,)
        if not let_in:
            return self.fit
        return self.fit | {id for id, member in self.by_id.items() if member.state in let_in}

    def _keeping(self, now: float) -> tuple[Replica, ...]:
        if not self._draining:
            return ()
        draining = [member for id, member in self.by_id.items() if id in self._draining]
        return tuple([member.replica for member in draining if member.keeps_sessions(now)])

    def _ramp(self, now: float, serving: int) -> dict[str, float]:
        slow, warming = self._slow_start, self._warming
        self.next_step = None
        if slow is None or not warming:
            return {}
        fractions = {id: slow.fraction(now - since) for id, since in warming.items()}
        for id in [id for id, part in fractions.items() if part >= 1]:
            del fractions[id], warming[id]
        if warming:
            steps = [math.floor((now - since) / slow.step + 1e-9) + 1 for since in warming.values()]
            begins = list(warming.values())
            self.next_step = min([begin + n * slow.step for begin, n in zip(begins, steps, strict=True)])
        if len(fractions) == serving and fractions:
            # Weights are relative: when all warm up at once, sparing everybody spares nobody.
            top = max(fractions.values())
            fractions = {id: part / top for id, part in fractions.items() if part < top}
        return fractions


def id_of(replica: Replica | str) -> str:
    """Return the id of what is a Replica or its id. TypeError for anything else."""
    if isinstance(replica, Replica):
        return replica.id
    if isinstance(replica, str):
        return replica
    raise TypeError(f"replica must be a Replica or its id, not {replica!r}")
