"""Races: a second attempt is set against one that is late, the first good answer wins, the other is stopped.

When a request is late, and whether there may be a second attempt, is decided by ``Hedging`` and the tier;
what an attempt is, by who makes them. Here are the timer, the tasks, and what the loser is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeAlias

from ...decision import Forward
from ...errors import UpstreamError
from ...hedging import Hedging
from ...http.message import RETRIED, Headers, Request, Response
from ...outcome import Outcome
from ...tier import Tier
from ..engine.upstream import Underway

__all__ = ["SAFE", "Race", "Racing"]

SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
"""Methods that may be under way twice at once: of two DELETEs the one that comes second says 404."""
STALL = 0.005
"""Seconds that the timer may be late before it is this loop, and not a replica, that is held to be slow."""


class Race:
    """One request, whose first attempt may get company. Made for every request, hence lean.

    Attributes:
        request: What is asked.
        headers: As they go to a replica.
        since: The tier's clock at the request's first attempt, of which this may be a later one.
        task: Runs the first attempt.
        underway: The first attempt, where it was sent before there was a task.
        last: The Forward to retry after, when all have failed.
        due: What the delay is counted from, by the tier's clock.
        late: Whether it was late before there was a task.
        running: Whether the first attempt is.
        rival: The second attempt; when it joined; and whether it has made its first step.
        lost: How the first attempt ended, where the rival was faster; and how often its task had been
            cancelled before that.
    """

    rival: asyncio.Task[Response] | None = None
    joined = 0.0
    late = False
    begun = False
    running = True
    lost: Outcome | None = None
    cancelled = 0

    def __init__(
        self,
        request: Request,
        headers: Headers,
        since: float,
        forward: Forward,
        task: asyncio.Task[Any],
        underway: Underway | None = None,
    ) -> None:
        self.request = request
        self.headers = headers
        self.since = since
        self.first = self.last = forward
        self.task = task
        self.underway = underway
        self.due = forward.started

    def outcome(self, forward: Forward, error: BaseException) -> Outcome | None:
        """Return how an attempt ended that was stopped because the other one won; None for any other end."""
        return self.lost if forward is self.first and isinstance(error, asyncio.CancelledError) else None

    def verdict(self, now: float) -> Outcome:
        """Say what it tells of the first replica that the second one was faster.

        It is to blame where the very same request took the other less time than it had had before that one
        was asked: so an answer that takes long anywhere is held against nobody.
        """
        began = self.first.started
        if now - self.joined < self.joined - began:
            return Outcome.failure("another replica answered long before", now - began)
        return Outcome.cancelled("another replica answered first")


class Late(Protocol):
    """An attempt that has no task yet."""

    due: float

    def overdue(self) -> None:
        """Hear that it is late: a race is to be made of it."""


Attempt: TypeAlias = Callable[..., Coroutine[Any, Any, Response]]


class Racing:
    """Watches the attempts that wait. Belongs to one event loop.

    One timer serves all, since they are late in the order in which they came: a request that is answered in
    time costs an entry in a dict, and neither a timer nor a task.

    Args:
        tier: Lends second replicas.
        hedging: Says when a request is late.
        attempt: Makes one.
        drop: Gives back what an answer holds that nobody will read.
    """

    def __init__(
        self, tier: Tier, hedging: Hedging, attempt: Attempt, drop: Callable[[Response], None]
    ) -> None:
        self.tier = tier
        self.hedging = hedging
        self.attempt = attempt
        self.drop = drop
        self.waiting: dict[Race | Late, None] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.wakes = 0.0  # when the timer is to, by the tier's clock

    def enter(self, entrant: Race | Late) -> None:
        """Watch a first attempt, which is the caller's to take out again."""
        self.hedging.deposit()
        self.watch(entrant)

    def watch(self, entrant: Race | Late) -> None:
        """Watch a first attempt that was counted before."""
        self.waiting[entrant] = None
        if self.timer is None:
            self.sleep(asyncio.get_running_loop(), entrant.due, self.hedging.delay(entrant.due))

    async def run(self, race: Race) -> Response:
        """Return the first good answer, or else the last bad one.

        Raises:
            UpstreamError: No attempt came to an answer.
        """
        if race.underway is None:
            self.hedging.deposit()  # else it was counted when it was sent
        if race.late:
            self.begin(race, now := self.tier.now())
            if self.timer is None and self.waiting:
                self.sleep(race.task.get_loop(), now, self.hedging.delay(now))
        else:
            self.watch(race)
        try:
            answer = await self.attempt(
                race.first, race.request, race.headers, race.since, race, race.underway
            )
            if race.rival is None:
                return answer
            if answer.status not in RETRIED:
                self.stop(race)
                return answer
        except UpstreamError:
            if race.rival is None:
                raise
        except BaseException as error:
            ours = race.lost is not None and isinstance(error, asyncio.CancelledError)
            # The rival has won, unless somebody else wants this stopped as well: as asyncio.timeout tells it.
            if ours and race.task.uncancel() <= race.cancelled and race.rival is not None:
                return race.rival.result()
            self.stop(race)
            raise
        finally:
            race.running = False
            self.waiting.pop(race, None)
        try:
            return await race.rival
        except asyncio.CancelledError:
            self.stop(race)
            raise

    def tick(self) -> None:
        """Set a second attempt against each that is late, and come back when the next one may be."""
        self.timer = None
        waiting = self.waiting
        if not waiting:
            return
        race = next(iter(waiting))
        loop = asyncio.get_running_loop()
        now = self.tier.now()
        if now - self.wakes > STALL:
            # This loop was held up, and the answers may lie unread in their sockets: they are read first.
            self.sleep(loop, now, 0.0)
            return
        late_after = self.hedging.delay(now)
        while (wait := race.due + late_after - now) <= 0:
            del waiting[race]
            if isinstance(race, Race):
                self.begin(race, now)
            else:
                race.overdue()
            if not waiting:
                return
            race = next(iter(waiting))
        self.sleep(loop, now, wait)

    def sleep(self, loop: asyncio.AbstractEventLoop, now: float, wait: float) -> None:
        # Not below a millisecond, which is what uvloop rounds times to: it would wake up before the time.
        wait = max(wait, 0.001)
        self.wakes = now + wait
        self.timer = loop.call_later(wait, self.tick)

    def begin(self, race: Race, now: float) -> None:
        """Set a second attempt against one that is late; or later, when the budget may have room."""
        try:
            joined = self.join(race, now)
        except Exception as error:  # of a strategy of somebody's own: the first attempt is under way
            message = "no second attempt could be made"
            race.task.get_loop().call_exception_handler({"message": message, "exception": error})
            return
        if not joined:
            race.due = now
            self.waiting[race] = None

    def join(self, race: Race, now: float) -> bool:
        """Send the request to a second replica, if there may be one."""
        if not self.hedging.withdraw():
            return False
        decision = self.tier.hedge(race.first)
        if not isinstance(decision, Forward):
            return False
        race.last = decision
        race.joined = now
        race.rival = race.task.get_loop().create_task(self.second(race, decision))
        race.rival.add_done_callback(lambda rival: self.arrived(race, rival))
        return True

    async def second(self, race: Race, forward: Forward) -> Response:
        race.begun = True
        return await self.attempt(forward, race.request, race.headers, race.since, race)

    def arrived(self, race: Race, rival: asyncio.Task[Response]) -> None:
        """Stop the first attempt if the second one has an answer that is good."""
        if rival.cancelled() and not race.begun:
            # Stopped before its first step, so that nobody else can finish what was lent for it.
            self.tier.finish(race.last, Outcome.cancelled("another replica answered first"))
        if rival.cancelled() or rival.exception() is not None or not race.running:
            return
        status = rival.result().status
        if status < 500 or status == 501:
            race.lost = race.verdict(self.tier.now())
            race.running = False
            race.cancelled = race.task.cancelling()
            race.task.cancel()

    def stop(self, race: Race) -> None:
        """Give up the second attempt, however far it has come."""
        rival = race.rival
        if rival is not None:
            rival.cancel()
            rival.add_done_callback(self.drop_answer)

    def drop_answer(self, rival: asyncio.Task[Response]) -> None:
        if not rival.cancelled() and rival.exception() is None:
            self.drop(rival.result())
