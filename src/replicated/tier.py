"""The composition: what to do with one request, and what to learn from how it ended.

``Tier`` asks the rooms in the order of the pattern (throttle, cache, balance) and answers with one of a
closed set of values; it never waits, sleeps or performs I/O. The way back is as important: every
``Forward`` is finished exactly once, and then the loads, passive health and the cache are told.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from .balance import PowerOfTwo, Strategy, as_strategy
from .balance.load import tally
from .balance.strategy import is_faithful, is_untimed
from .clock import Clock, monotonic
from .decision import Decision, Forward, Hit, Refuse, Unavailable, new_tuple
from .errors import AlreadyFinished, StrategyError, UnknownReplica
from .lease import Lease, Throttled, Way, WayBack
from .outcome import Outcome
from .pins import Pin
from .readiness import ReadinessTracker, ReadySet, State
from .replica import Replica
from .retries import RetryBudget

if TYPE_CHECKING:
    from .balance import Pick
    from .cache import Cache
    from .throttle import Admits

__all__ = ["Decision", "Forward", "Hit", "Lease", "Refuse", "Tier", "Unavailable"]

MISSING = object()


class Tier:
    """N replicas behind one decision.

    Args:
        replicas: The members. Those that ``readiness`` does not know yet join it.
        strategy: Who of the ready serves next: a ``Strategy``, or a function ``(ready, key)``.
        readiness: Who can serve; by default everyone, at once.
        throttle: Who has had enough; by default nobody. Anything whose ``take(key, cost)`` returns the wait.
        cache: What need not be served; by default nothing.
        retries: How many second attempts there may be.
        max_attempts: Attempts that one request may have, the first included.
        clock: Seconds, monotonic; read once a public call.

    Raises:
        ValueError: Two replicas have one id, or ``max_attempts`` is below 1.
        TypeError: ``strategy`` is neither of the two, or a member is not a ``Replica``.
    """

    def __init__(
        self,
        replicas: Iterable[Replica] = (),
        *,
        strategy: Strategy | Pick | None = None,
        readiness: ReadinessTracker | None = None,
        throttle: Admits | None = None,
        cache: Cache[Hashable, object] | None = None,
        retries: RetryBudget | None = None,
        max_attempts: int = 3,
        clock: Clock = monotonic,
    ) -> None:
        if isinstance(max_attempts, bool) or not isinstance(max_attempts, int) or max_attempts < 1:
            raise ValueError(f"max_attempts must be an integer of at least 1, not {max_attempts!r}")
        self.strategy: Final[Strategy] = PowerOfTwo() if strategy is None else as_strategy(strategy)
        self.readiness = ReadinessTracker(clock=clock) if readiness is None else readiness
        self.throttle = throttle
        self.cache: Final = cache
        self.retries: Final = RetryBudget() if retries is None else retries
        self.max_attempts = max_attempts
        self._clock = clock
        # Looked up once: on the way of every request each costs what a clock costs to read. For the same
        # reason they are called by a local name, which CPython 3.11 does faster than by an attribute.
        self._choose: Pick = self.strategy.pick if is_faithful(self.strategy.pick) else self._checked
        self._started: Callable[[Replica], None] = self.strategy.started
        self._finished: Callable[[Replica, Outcome], None] = self.strategy.finished
        self._one_clock = cache is not None and cache.clock is clock
        # Adding to and removing from a set of identities are single steps of the interpreter, so a Forward
        # is finished once whatever the threads do, without a lock.
        self._open: set[Forward | Lease] = set()
        self._untimed = is_untimed(self._finished) and self.readiness.outliers is None
        counts = tally(self.strategy)
        if counts is not None:
            self.readiness.watch(counts.forget)
        self._way: Way = (self.readiness, clock, self.retries, self._choose, counts, self._open.add)
        alone = counts if self._untimed else None
        self._way_back: WayBack = (self._open.remove, alone, self.readiness.leaving)
        self.readiness.watch(self.in_flight_of)
        known = self.readiness.members
        new = [replica for replica in replicas if replica not in known]
        if new:
            self.readiness.replace([*known, *new])

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The members, ready or not."""
        return self.readiness.members

    def now(self) -> float:
        """Return the tier's clock, in seconds."""
        return self._clock()

    @property
    def in_flight(self) -> int:
        """How many Forwards and leases are not finished yet."""
        return len(self._open)

    def in_flight_of(self, replica: Replica | str) -> int:
        """Return how many Forwards and leases on a replica are not finished yet. O(in_flight)."""
        id = replica if isinstance(replica, str) else replica.id
        return sum([one.replica.id == id for one in self._open.copy()])

    def decide(
        self,
        key: str | bytes | None = None,
        *,
        throttle_key: Hashable = None,
        cache_key: Hashable = None,
        cost: float = 1,
        pin: Pin | None = None,
    ) -> Decision:
        """Decide about one request.

        Args:
            key: What the request is to be kept on one replica by; None where nothing is.
            throttle_key: Whom the request counts against; None for nobody.
            cache_key: What the answer is stored under; None when it may not be cached.
            cost: Units that the request takes of the allowance.
            pin: Where its session is to stay, while that replica is ready or draining.

        Raises:
            ValueError: ``cost`` is more than the throttle ever admits.
            StrategyError: The strategy picked a replica that is not ready.
        """
        if throttle_key is not None and (throttle := self.throttle) is not None:
            wait = throttle.take(throttle_key, cost)
            if wait > 0:
                return Refuse(wait, throttle_key)
        readiness, clock, choose, started = self.readiness, self._clock, self._choose, self._started
        now = clock()
        if cache_key is not None and (cache := self.cache) is not None:
            # `at`, which a miss leaves in a quarter of the time that it takes `get`.
            value = cache.at(cache_key, now if self._one_clock else cache.clock(), MISSING)
            if value is not MISSING:
                return Hit(value, cache_key)
        if not now < readiness.wakes:  # an attribute, where a call would cost as much as the random number
            readiness.tick(now)
        ready = readiness.ready
        self.retries.firsts += 1
        replica = None if pin is None else ready.keeps(pin.replica_id)
        if replica is None:
            if pin is None or not pin.hard:
                replica = choose(ready, key)
            if replica is None:
                return self._unavailable(now, (), pin)
        forward = new_tuple(Forward, (replica, 1, key, cache_key, now, ready, (), self, pin))
        started(replica)
        self._open.add(forward)
        return forward

    def admit(self, throttle_key: Hashable, cost: float = 1) -> Refuse | None:
        """Ask the throttle alone; None means admitted."""
        if self.throttle is None:
            return None
        wait = self.throttle.take(throttle_key, cost)
        return Refuse(wait, throttle_key) if wait > 0 else None

    def retry(self, forward: Forward, *, unseen: bool = False) -> Forward | Unavailable:
        """Decide where a request goes whose attempt ``forward`` was finished and failed.

        The next of the same preference order, unless the attempts or the retry budget are used up. Where all
        who are ready have failed, one that is ejected is asked: nobody can be worse than nobody.

        Args:
            forward: The attempt that failed.
            unseen: The replica saw nothing of the request, as when no connection came about. Then the next
                attempt is no load on top of the first, and takes nothing of the budget.

        Raises:
            AlreadyFinished: Never for a finished one; a Forward still open cannot be retried.
        """
        if forward in self._open:
            raise AlreadyFinished("finish a Forward before it is retried: it is still in flight")
        return self._again(forward, unseen, desperate=True)

    def hedge(self, forward: Forward) -> Forward | Unavailable:
        """Decide where a request goes as well whose attempt ``forward`` is late, but still open.

        Another replica, under the retry budget as a retry is; nobody where the request is kept on one. Both
        Forwards are to be finished. After that, what ``hedge`` returned is the one to ``retry``.

        Raises:
            AlreadyFinished: ``forward`` is over: retry it.
        """
        if forward not in self._open:
            raise AlreadyFinished("a Forward that was finished is retried, not hedged")
        if forward.key is not None or forward.pin is not None:
            return Unavailable(1.0, reason="it is kept where what it needs is remembered")
        return self._again(forward, False, desperate=False)

    def _again(self, forward: Forward, unseen: bool, *, desperate: bool) -> Forward | Unavailable:
        if forward.attempt >= self.max_attempts:
            return Unavailable(1.0, reason=f"all {self.max_attempts} attempts failed")
        if forward.pin is not None and forward.pin.hard:
            return Unavailable(1.0, reason=f"it is pinned to {forward.pin.replica_id}, which failed")
        now = self._clock()
        self.readiness.tick(now)
        _, attempt, key, cache_key, _, _, tried, _, _ = forward
        tried = (*tried, forward.replica.id)
        everybody = self.readiness.ready
        ready = everybody.without(tried)
        if desperate and not ready:
            ready = ReadySet.of(everybody.members, self._ejected().difference(tried), everybody.version)
        if ready and not unseen and not self.retries.withdraw(now):
            return Unavailable(1.0, reason="the retry budget is used up")
        replica = self._choose(ready, key)
        if replica is None:
            return self._unavailable(now, tried, None)
        again = Forward(replica, attempt + 1, key, cache_key, now, ready, tried, self, None)
        self._started(replica)
        self._open.add(again)
        return again

    def _ejected(self) -> set[str]:
        found = set[str]()
        for member in self.readiness.members:
            with contextlib.suppress(UnknownReplica):  # it may leave just now
                if self.readiness.state(member) is State.EJECTED:
                    found.add(member.id)
        return found

    def lease(
        self, key: str | bytes | None = None, *, throttle_key: Hashable = None, cost: float = 1
    ) -> Lease:
        """Borrow a replica for the length of a ``with`` block, which gives it back whatever happens."""
        # Filled from here, since an __init__ would be one more frame of Python.
        lease = Lease() if throttle_key is None else Throttled(throttle_key, cost)
        lease._tier = self
        lease._key = key
        return lease

    def finish(self, forward: Forward, outcome: Outcome) -> None:
        """Say how a Forward ended: to the loads, to passive health and to the cache.

        Raises:
            AlreadyFinished: It has been finished before, or is not of this tier; nothing changes.
        """
        try:
            self._open.remove(forward)
        except KeyError:
            raise AlreadyFinished(f"attempt {forward.attempt} on {forward.replica.id} is not open") from None
        self._conclude(forward.replica, outcome, forward.cache_key)

    def _conclude(self, replica: Replica, outcome: Outcome, cache_key: Hashable = None) -> None:
        # Whoever raises, the others are told: a count that never goes down again is worse than any error.
        try:
            self._finished(replica, outcome)
        finally:
            try:
                if self.readiness.outliers is not None:
                    self._tell_of(replica, outcome)
            finally:
                if cache_key is not None and outcome.ok:
                    self._store(cache_key, outcome)
                if self.readiness.leaving:
                    self._see_off(replica)

    def _checked(self, ready: Sequence[Replica], key: str | bytes | None) -> Replica | None:
        """Pick by a strategy of unknown manners: it need not bear an empty set, and may pick no stranger."""
        replica = self.strategy.pick(ready, key) if ready else None
        if replica is not None:
            assert isinstance(ready, ReadySet)
            known = ready.by_id.get(replica.id)
            if known is not replica and known != replica:
                raise StrategyError(f"{self.strategy!r} picked {replica!r}, which is not in the ready set")
        return replica

    def _see_off(self, replica: Replica) -> None:
        if replica.id in self.readiness.leaving:
            self.readiness.ended(replica)

    def _tell_of(self, replica: Replica, outcome: Outcome) -> None:
        try:  # once a request: `suppress` takes as long as all that is heard
            self.readiness.observe_outcome(replica, outcome)
        except UnknownReplica:
            return  # a stream may outlast the memory of who left

    def _store(self, cache_key: Hashable, outcome: Outcome) -> None:
        if self.cache is not None and outcome.value is not None:
            self.cache.set(cache_key, outcome.value, ttl=outcome.ttl)

    def _unavailable(self, now: float, tried: tuple[str, ...], pin: Pin | None) -> Unavailable:
        due = self.readiness.next_due()
        wait = 1.0 if due is None else max(0.0, min(due - now, 30.0))
        reasons = [(name, "failed an earlier attempt") for name in tried]
        reasons += [r for r in self.reasons(self.readiness.ready) if r[0] not in tried]
        found = Unavailable(wait if math.isfinite(wait) else 1.0, tuple(reasons))
        if pin is None or not pin.hard:
            return found
        return found._replace(reason=f"it is pinned to {pin.replica_id}, which cannot serve")

    def reasons(self, ready: ReadySet) -> list[tuple[str, str]]:
        """Say of every member that is not in ``ready``, and of those that are leaving, why not."""
        found = []
        for id in [*[member.id for member in self.readiness.members], *self.readiness.leaving.copy()]:
            if id not in ready.by_id:
                with contextlib.suppress(UnknownReplica):  # it has left in this moment
                    found.append((id, str(self.readiness.explain(id))))
        return found
