"""Taking out who fails requests, for a while and only if so many may be out, and letting it back.

It applies what the detector concludes. What a request met is counted there; how a state follows is the
member's own, and who hears of it the tracker's.
"""

from __future__ import annotations

from collections.abc import Callable

from .member import Member
from .outliers import OutlierDetector
from .roster import Roster
from .schedule import ProbeSchedule
from .state import State
from .timetable import Timetable

__all__ = ["Ejections"]


class Ejections:
    """The ejections of one tracker, which holds its lock and settles what follows."""

    __slots__ = ("_detector", "_probes", "_roster", "_settle", "_timers")

    def __init__(
        self,
        detector: OutlierDetector,
        roster: Roster,
        probes: ProbeSchedule | None,
        timers: Timetable[tuple[str, str]],
        settle: Callable[[Member, str], bool],
    ) -> None:
        self._detector = detector
        self._roster = roster
        self._probes = probes
        self._timers = timers
        self._settle = settle

    def suspect(self, member: Member, why: str, now: float) -> None:
        """Eject a member that deserves it, if so many may be out."""
        if member.state is not State.READY:
            return
        roster = self._roster
        members, fit, ejected = len(roster.members), len(roster.fit), len(roster.ejected)
        if self._detector.allows(members=members, fit=fit, ejected=ejected):
            self.eject(member, why, now)
        else:
            member.reason = f"{why}, but too few would be left without it"

    def eject(self, member: Member, why: str, now: float) -> None:
        """Take a member out."""
        until = self._roster.eject(member, self._detector.eject(member.replica.id, now))
        self._timers.set(("ejection", member.replica.id), until)
        if not self._settle(member, why):
            member.reason = why

    def end(self, member: Member, now: float) -> None:
        """Let a member back whose time is over: at once, or through a probe where there are probes."""
        if self._probes is None:
            self._roster.let_back(member)
            self._settle(member, "its ejection is over")
        elif member.state is State.EJECTED:
            # Back through one good probe, asked for at once, rather than through users' requests.
            self._probes.hasten(member, now)
            member.reason = "its ejection is over, and it returns with its next good probe"

    def end_window(self, now: float) -> None:
        """Judge the window that ends, where a rule wants windows."""
        if self._detector.rules:
            self._timers.set(("window", ""), now + self._detector.interval)
            for id, why in self._detector.judge().items():
                self.suspect(self._roster.by_id[id], why, now)
