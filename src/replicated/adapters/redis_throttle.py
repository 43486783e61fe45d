"""A throttle that N replicas share: the buckets stand in Valkey or Redis, and one Lua script decides there.

It decides when to ask and what to do without an answer; a client that talks to the server is passed in. A
decision is one round trip, on the server's clock, so the replicas' clocks need not agree. Each call names one
key, so a cluster can route it, and every key expires after its bucket is full and its block over, at the
latest ten seconds after as much time has passed again.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

from ..clock import Clock, monotonic
from ..throttle import Number, Quota, Throttle, Told
from .deadlines import Deadlines
from .redis_limit import Answer, RedisLimit
from .redis_line import AsyncLine, Line

__all__ = ["AsyncRedisThrottle", "Down", "RedisThrottle", "RedisThrottleStats"]

Down = Literal["open", "closed"] | Throttle
"""What decides while the server does not: everyone in, everyone out, or a throttle of this process."""

_What = Literal["take", "peek", "refund"]

_ONE = 1


@dataclass(frozen=True, slots=True)
class RedisThrottleStats:
    """What a shared throttle has seen in this process.

    Attributes:
        failures: Questions that the server did not answer, not in time, or with nonsense.
        fallbacks: Decisions made without it: those, and all until it is asked again.
        refused: Takes refused, or in shadow mode those that would have been, whoever decided.
        blocked: Blocks begun on the server.
    """

    failures: int
    fallbacks: int
    refused: int
    blocked: int


class _Options(TypedDict, total=False):
    block: Number
    shadow: bool
    down: Down
    prefix: str
    retry_every: float
    clock: Clock


class _Shared:
    """What the two fronts have in common: all but the waiting for an answer."""

    def __init__(
        self,
        rate: Number,
        burst: Number,
        *,
        block: Number = 0,
        shadow: bool = False,
        down: Down = "open",
        prefix: str = "throttle:",
        retry_every: float = 1.0,
        clock: Clock = monotonic,
    ) -> None:
        if not isinstance(down, Throttle) and down not in ("open", "closed"):
            raise ValueError(f"down must be 'open', 'closed' or a Throttle, not {down!r}")
        if not 0 < retry_every < math.inf:
            raise ValueError(f"retry_every must be seconds above zero, not {retry_every!r}")
        self._limit = RedisLimit(rate, burst, clock, block)
        self._block = block
        self._shadow = shadow
        self._down = down
        self._prefix = prefix.encode()
        self._retry_every = retry_every
        self._clock = clock
        self._ask_again: float | None = None  # while the server answers nobody asks what time it is
        self._failures = self._fallbacks = self._refused = self._blocks = 0

    def reconfigure(self, rate: Number, burst: Number) -> None:
        """Change the limit of every key from the next question on. O(1), and no round trip.

        What a key has left on the server is carried over when it is asked about, and never grows by it; so
        replicas that are changed one after the other, and for a while disagree, give nothing twice. A
        Throttle in ``down`` is not changed.

        Raises:
            ValueError: A number is out of its range; nothing has changed.
            TypeError: A number is of another type; nothing has changed.
        """
        self._limit = RedisLimit(rate, burst, self._clock, self._block)

    def stats(self) -> RedisThrottleStats:
        """Return the counts so far. O(1)."""
        return RedisThrottleStats(self._failures, self._fallbacks, self._refused, self._blocks)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._limit.gcra}>"

    def _name(self, key: Hashable) -> bytes:
        if type(key) is str:
            try:
                return self._prefix + key.encode()
            except UnicodeEncodeError:
                pass
        hash(key)
        # Encoded here: a client refuses a lone surrogate, and a key that fails would stop the asking for all.
        name = key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass")
        return self._prefix + name

    def _question(self, limit: RedisLimit, what: _What, key: Hashable, cost: Number) -> tuple[bytes, ...]:
        """Return the name on the server, and behind it what differs from the taking of one unit."""
        if cost is _ONE and what == "take":
            return (self._name(key),)
        return self._name(key), limit.ticks(cost), what.encode()

    def _asks(self) -> bool:
        if self._ask_again is None:
            return True
        now = self._clock()
        if now < self._ask_again:
            return False
        self._ask_again = now + self._retry_every  # one finds out, and the others do not wait for that
        return True

    def _failed(self) -> None:
        self._failures += 1
        self._ask_again = self._clock() + self._retry_every

    def _refuse(self, told: Answer) -> Told:
        self._refused += 1
        self._blocks += told.begins
        return told.overlooked() if self._shadow else told

    def _without(self, what: _What, key: Hashable, cost: Number) -> Told:
        self._fallbacks += 1
        down = self._down
        if not isinstance(down, Throttle):
            # What is left nobody knows.
            return Told(self._counted(what, 0.0 if down == "open" else self._retry_every))
        try:
            wait = getattr(down, what)(key, cost) or 0.0
        except ValueError:  # more than the local burst: nobody here can grant it
            wait = self._retry_every
        return _Locally(self._counted(what, wait), down, key)

    def _counted(self, what: _What, wait: float) -> float:
        if not wait or what != "take":
            return wait
        self._refused += 1
        return 0.0 if self._shadow else wait


class _Locally(Told):
    """What a throttle of this process has answered."""

    __slots__ = ("_key", "_throttle")

    _key: Hashable
    _throttle: Throttle

    def __new__(cls, seconds: float, throttle: Throttle, key: Hashable) -> _Locally:
        told = super().__new__(cls, seconds)
        told._throttle, told._key = throttle, key
        return told

    @property
    def quotas(self) -> tuple[Quota, ...]:
        return self._throttle.quotas(self._key)


def _without_retries(client: Any) -> dict[str, Any]:
    """Return what the client's connections are made with, where it tells."""
    pool = getattr(client, "connection_pool", None)
    made_with: dict[str, Any] = {}
    if pool is not None:
        made_with = pool.connection_kwargs
    elif hasattr(client, "get_connection_kwargs"):  # of a cluster
        made_with = client.get_connection_kwargs()
    retry = made_with.get("retry") or getattr(client, "retry", None)
    # Before redis-py 6, and in valkey-py, the number is not public.
    times = getattr(retry, "get_retries", lambda: getattr(retry, "_retries", 0))
    if times() > 0:
        # A retried take counts twice where the first one's answer was lost, and takes a multiple of the time.
        raise ValueError("client must not retry: make it with retry=Retry(NoBackoff(), 0)")
    return made_with


class RedisThrottle(_Shared):
    """A throttle for threads that all who use the same server and prefix share.

    It answers as a local :class:`Throttle` does, exact to the microsecond for all of its users together.
    When the server fails to answer, ``down`` decides, and nobody asks again for ``retry_every`` seconds. A
    take whose answer was lost may have been counted: then a client gets less, never more. With a Throttle
    for ``down``, memory stays bounded, and N replicas that lost the server grant N times its rate. A server
    whose clock is set back gives no unit to a key that it still holds, and locks nobody out; one that had
    expired has its burst again. A block stands on the server with what is owed, so that all refuse the key;
    replicas that disagree about ``block`` believe one for as long as their own lasts, at most.

    Args:
        client: A client of redis-py or valkey-py, without retries, and with a ``socket_timeout``, which is
            the deadline of a decision.
        rate: Units a second for each key, above zero.
        burst: Units that a key may take at once, at least 1.
        block: As a ``Throttle`` has it: seconds that a refused key is blocked; 0 for none. A Throttle in
            ``down`` has its own, and knows nothing of who is blocked on the server.
        shadow: As a ``Throttle`` has it: refuse nobody, whoever decides, and count in ``stats`` what would
            have been refused.
        down: What decides while the server does not.
        prefix: What its keys begin with there.
        retry_every: Seconds after a failure until the server is asked again.
        clock: Seconds, for that alone.

    Raises:
        ValueError: A number is out of its range, or ``client`` has no socket timeout or does retry.
        TypeError: A number is of another type.
    """

    def __init__(self, client: Any, rate: Number, burst: Number, **options: Unpack[_Options]) -> None:
        if _without_retries(client).get("socket_timeout", 1) is None:
            raise ValueError("client must have a socket_timeout: it is the deadline of a decision")
        super().__init__(rate, burst, **options)
        self._line = Line(client)

    def take(self, key: Hashable, cost: Number = 1) -> Told:
        """Take ``cost`` units for ``key`` if it has them. One round trip.

        Args:
            key: A str or bytes, or what has a str of its own.
            cost: Units.

        Returns:
            A float: 0.0 when they were taken; else nothing was, and the seconds after which they can be. Its
            ``quotas`` are what is left by the same answer; none where ``down`` has said so by itself.

        Raises:
            ValueError: ``cost`` is not above zero, or above the burst.
            TypeError: ``cost`` is not a number, or ``key`` cannot be hashed.
        """
        return self._ask("take", key, cost)

    def peek(self, key: Hashable, cost: Number = 1) -> Told:
        """Return what ``take`` would, and change nothing. One round trip; raises as ``take``."""
        return self._ask("peek", key, cost)

    def quotas(self, key: Hashable) -> tuple[Quota, ...]:
        """Return what ``key`` has left, and change nothing. One round trip, which a take's answer saves."""
        return self._ask("peek", key, 1).quotas

    def refund(self, key: Hashable, cost: Number = 1) -> None:
        """Give ``cost`` units back, up to the burst. One round trip; raises as ``take``."""
        self._ask("refund", key, cost)

    def _ask(self, what: _What, key: Hashable, cost: Number) -> Told:
        limit = self._limit
        question = self._question(limit, what, key, cost)
        if self._asks():
            try:
                told = limit.told(self._line.ask(limit, question), *question[1:2])
            except Exception:  # whatever a client raises: a request never fails for the throttle's sake
                self._failed()
            else:
                self._ask_again = None
                return self._refuse(told) if told and what == "take" else told
        return self._without(what, key, cost)


class AsyncRedisThrottle(_Shared):
    """As :class:`RedisThrottle`, for coroutines under asyncio and a client of ``redis.asyncio``.

    Args:
        client: Without retries.
        rate: Units a second for each key, above zero.
        burst: Units that a key may take at once, at least 1.
        deadline: Seconds that a decision may take before ``down`` decides.
        options: ``block``, ``shadow``, ``down``, ``prefix``, ``retry_every`` and ``clock``, as there.

    Raises:
        ValueError: A number is out of its range, or ``client`` does retry.
        TypeError: A number is of another type.
    """

    def __init__(
        self, client: Any, rate: Number, burst: Number, *, deadline: float = 0.1, **options: Any
    ) -> None:
        if not 0 < deadline < math.inf:
            raise ValueError(f"deadline must be seconds above zero, not {deadline!r}")
        _without_retries(client)
        super().__init__(rate, burst, **options)
        self._line = AsyncLine(client)
        self._deadlines = Deadlines(deadline)

    async def take(self, key: Hashable, cost: Number = 1) -> Told:
        """As the threads' ``take``."""
        return await self._ask("take", key, cost)

    async def peek(self, key: Hashable, cost: Number = 1) -> Told:
        """As the threads' ``peek``."""
        return await self._ask("peek", key, cost)

    async def quotas(self, key: Hashable) -> tuple[Quota, ...]:
        """As the threads' ``quotas``."""
        return (await self._ask("peek", key, 1)).quotas

    async def refund(self, key: Hashable, cost: Number = 1) -> None:
        """As the threads' ``refund``."""
        await self._ask("refund", key, cost)

    async def _ask(self, what: _What, key: Hashable, cost: Number) -> Told:
        limit = self._limit
        question = self._question(limit, what, key, cost)
        if self._asks():
            try:
                answer = await self._deadlines.wait(self._line.ask(limit, question))
                told = limit.told(answer, *question[1:2])
            except Exception:
                self._failed()
            else:
                self._ask_again = None
                return self._refuse(told) if told and what == "take" else told
        return self._without(what, key, cost)
