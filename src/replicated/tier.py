"""The composition: what to do with one request, and what to learn from how it ended.

``Tier`` asks the rooms in the order of the pattern (throttle, cache, balance) and answers with one of a
closed set of values; it never waits, sleeps or performs I/O. The way back is as important: every
``Forward`` is finished exactly once, and then the loads, passive health and the cache are told.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Hashable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from .balance import PowerOfTwo, Strategy, as_strategy
from .clock import Clock, monotonic
from .decision import Decision, Forward, Hit, Refuse, Unavailable, new_forward
from .errors import AlreadyFinished, NoReplica, NotServed, Refused, StrategyError, UnknownReplica
from .outcome import Outcome, Verdict
from .pins import Pin
from .readiness import ReadinessTracker, ReadySet
from .replica import Replica
from .retries import RetryBudget

if TYPE_CHECKING:
    from .balance import Pick
    from .cache import Cache
    from .throttle import Admits

__all__ = ["Decision", "Forward", "Hit", "Lease", "Refuse", "Tier", "Unavailable"]

MISSING = object()

new_outcome = functools.partial(tuple.__new__, Outcome)
"""Makes an outcome that needs no checking, without a frame of Python."""


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
        self.strategy: Strategy = PowerOfTwo() if strategy is None else as_strategy(strategy)
        self.readiness = ReadinessTracker(clock=clock) if readiness is None else readiness
        self.throttle = throttle
        self.cache = cache
        self.retries = RetryBudget() if retries is None else retries
        self.max_attempts = max_attempts
        self._clock = clock
        # Adding to and removing from a set of identities are single steps of the interpreter, so a Forward
        # is finished once whatever the threads do, without a lock.
        self._open: set[Forward] = set()
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
        """How many Forwards are not finished yet."""
        return len(self._open)

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
        if throttle_key is not None and (refusal := self.admit(throttle_key, cost)) is not None:
            return refusal
        if cache_key is not None and self.cache is not None:
            value = self.cache.get(cache_key, MISSING)
            if value is not MISSING:
                return Hit(value, cache_key)
        return self._pick(key, cache_key, None, pin)

    def admit(self, throttle_key: Hashable, cost: float = 1) -> Refuse | None:
        """Ask the throttle alone; None means admitted."""
        if self.throttle is None:
            return None
        wait = self.throttle.take(throttle_key, cost)
        return Refuse(wait, throttle_key) if wait > 0 else None

    def retry(self, forward: Forward, *, unseen: bool = False) -> Forward | Unavailable:
        """Decide where a request goes whose attempt ``forward`` was finished and failed.

        The next of the same preference order, unless the attempts or the retry budget are used up.

        Args:
            forward: The attempt that failed.
            unseen: The replica saw nothing of the request, as when no connection came about. Then the next
                attempt is no load on top of the first, and takes nothing of the budget.

        Raises:
            AlreadyFinished: Never for a finished one; a Forward still open cannot be retried.
        """
        if forward in self._open:
            raise AlreadyFinished("finish a Forward before it is retried: it is still in flight")
        return self._again(forward, unseen)

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
        return self._again(forward, False)

    def _again(self, forward: Forward, unseen: bool) -> Forward | Unavailable:
        if forward.attempt >= self.max_attempts:
            return Unavailable(1.0, reason=f"all {self.max_attempts} attempts failed")
        if forward.pin is not None and forward.pin.hard:
            return Unavailable(1.0, reason=f"it is pinned to {forward.pin.replica_id}, which failed")
        return self._pick(forward.key, forward.cache_key, forward, unseen=unseen)

    def lease(
        self, key: str | bytes | None = None, *, throttle_key: Hashable = None, cost: float = 1
    ) -> Lease:
        """Borrow a replica for the length of a ``with`` block, which finishes the Forward in the end."""
        return Lease(self, key, throttle_key, cost)

    def finish(self, forward: Forward, outcome: Outcome) -> None:
        """Say how a Forward ended: to the loads, to passive health and to the cache.

        Raises:
            AlreadyFinished: It has been finished before, or is not of this tier; nothing changes.
        """
        try:
            self._open.remove(forward)
        except KeyError:
            raise AlreadyFinished(f"attempt {forward.attempt} on {forward.replica.id} is not open") from None
        # Whoever raises, the others are told: a count that never goes down again is worse than any error.
        try:
            self.strategy.finished(forward.replica, outcome)
        finally:
            try:
                if self.readiness.outliers is not None:
                    self._tell_of(forward.replica, outcome)
            finally:
                if forward.cache_key is not None and outcome.ok:
                    self._store(forward.cache_key, outcome)

    def _pick(
        self,
        key: str | bytes | None,
        cache_key: Hashable,
        failed: Forward | None = None,
        pin: Pin | None = None,
        *,
        unseen: bool = False,
    ) -> Forward | Unavailable:
        """Pick for a first attempt, or for the one after ``failed``."""
        readiness = self.readiness
        now = self._clock()
        if not now < readiness.wakes:  # an attribute, where a call would cost as much as the random number
            readiness.tick(now)
        ready = readiness.ready
        tried: tuple[str, ...] = ()
        attempt = 1
        if failed is None:
            self.retries.deposit()
        else:
            tried = (*failed.tried, failed.replica.id)
            attempt = failed.attempt + 1
            ready = ready.without(tried)
            if ready and not unseen and not self.retries.withdraw(now):
                return Unavailable(1.0, reason="the retry budget is used up")
        strategy = self.strategy
        replica = None if pin is None else ready.keeps(pin.replica_id)
        if replica is None:
            if ready and (pin is None or not pin.hard):
                replica = strategy.pick(ready, key)
            if replica is None:
                return self._unavailable(now, tried, pin)
            known = ready.by_id.get(replica.id)
            if known is not replica and known != replica:
                raise StrategyError(f"{strategy!r} picked {replica!r}, which is not in the ready set")
        forward = new_forward((replica, attempt, key, cache_key, now, ready, tried, self, pin))
        strategy.started(replica)
        self._open.add(forward)
        return forward

    def _tell_of(self, replica: Replica, outcome: Outcome) -> None:
        with contextlib.suppress(UnknownReplica):  # a stream may outlast the memory of who left
            self.readiness.observe_outcome(replica, outcome)

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
        """Say of every member that is not in ``ready`` why it cannot serve now."""
        outside = [member for member in self.readiness.members if member.id not in ready.by_id]
        return [(member.id, str(self.readiness.explain(member))) for member in outside]


class Lease:
    """A replica, borrowed: ``with tier.lease(key) as lease: call(lease.replica.url)``.

    Leaving the block finishes the Forward: an ``Exception`` as the replica's failure, anything else that
    breaks out (a cancelled task, Ctrl-C) as the caller's own leaving. ``finish`` says otherwise.
    """

    __slots__ = ("_cost", "_key", "_throttle_key", "_tier", "forward")

    def __init__(self, tier: Tier, key: str | bytes | None, throttle_key: Hashable, cost: float) -> None:
        self._tier = tier
        self._key = key
        self._throttle_key = throttle_key
        self._cost = cost
        self.forward: Forward | None = None

    @property
    def replica(self) -> Replica:
        """Who was lent."""
        if self.forward is None:
            raise AlreadyFinished("the lease has not begun: use it in a with statement")
        return self.forward.replica

    def finish(self, outcome: Outcome) -> None:
        """Say early how it ended; leaving the block then adds nothing.

        Raises:
            AlreadyFinished: It has ended before.
        """
        if self.forward is None:
            raise AlreadyFinished("the lease has not begun: use it in a with statement")
        self._tier.finish(self.forward, outcome)

    def __enter__(self) -> Lease:
        """Borrow.

        Raises:
            Refused: The throttle said no.
            NoReplica: Nobody can serve.
        """
        tier = self._tier
        throttle_key = self._throttle_key
        decision: Decision | None = None if throttle_key is None else tier.admit(throttle_key, self._cost)
        if decision is None:
            decision = tier._pick(self._key, None)
        if type(decision) is Forward:
            self.forward = decision
            return self
        raise not_lent(decision)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tier, forward = self._tier, self.forward
        if forward not in tier._open:
            return  # finished within the block
        assert forward is not None
        if error is None:
            latency = tier._clock() - forward.started
            outcome = new_outcome((Verdict.OK, latency if latency > 0 else 0.0, None, None, ""))
        elif isinstance(error, Exception):
            outcome = Outcome.failure(f"{type(error).__name__}: {error}")
        else:
            outcome = Outcome.cancelled(type(error).__name__)
        tier.finish(forward, outcome)


def not_lent(decision: Decision) -> NotServed:
    """Return the exception for a decision that lends nothing."""
    if isinstance(decision, Refuse):
        return Refused(decision.explain(), decision.retry_after)
    assert isinstance(decision, Unavailable), decision
    return NoReplica(decision.explain(), decision.retry_after)
