"""A throttle that N replicas share: the buckets stand in Valkey or Redis, and one Lua script decides there.

It decides what to ask and what to do without an answer; the arithmetic is that of the local throttle, and a
client that talks to the server is passed in. A decision is one round trip, on the server's clock, so the
replicas' clocks need not agree. Each call names one key, so a cluster can route it, and every key expires
after its bucket is full, at the latest when as much time has passed again.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Hashable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypedDict, Unpack

from ..clock import Clock, monotonic
from ..throttle import Number, Throttle
from ..throttle.gcra import Gcra, seconds_for

__all__ = ["SCRIPT", "AsyncRedisThrottle", "Down", "RedisThrottle", "RedisThrottleStats"]

Down = Literal["open", "closed"] | Throttle
"""What decides while the server does not: everyone in, everyone out, or a throttle of this process."""

_What = Literal["take", "peek", "refund"]

# State is the time at which the bucket is full, as microseconds and the ticks beyond them: numbers in Lua
# are doubles, and the two together would not fit one. They are packed, as text takes the script longer than
# all else. A debt beyond the tolerance is believed to be the tolerance, since only a server clock that
# stepped back makes one; so is a state that is not ours.
#
# To give a key a time to live costs as much as all else in the script. So it is given one of twice its debt,
# which stands in the state too, and until the debt would outlive that the state is overwritten in place.
SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cost, what = tonumber(ARGV[1]), ARGV[2] or 'take'
local tolerance, scale = TOLERANCE, SCALE
local state = redis.call('GET', KEYS[1])
local debt, amend, wait, lives = 0, what == 'refund', 0, 0
if state then
  debt = tolerance + 1
  if #state == 24 then
    local full, rest, dies = struct.unpack('>ddd', state)
    if full > 1e15 and rest >= 0 then
      debt, lives = (full - now) * scale + rest, dies
    end
  end
end
if what == 'refund' then
  debt = debt - cost
end
if debt > tolerance then
  debt, amend = tolerance, true
elseif debt < 0 then
  debt = 0
end
local over = debt + cost - tolerance
if what ~= 'refund' and over > 0 then
  wait = math.ceil(over / scale)
elseif what == 'take' then
  debt, amend = debt + cost, true
end
if amend and what ~= 'peek' then
  if debt == 0 then
    redis.call('DEL', KEYS[1])
  else
    local owed = math.floor(debt / scale)
    if now + owed <= lives and lives <= now + 2 * tolerance / scale then
      redis.call('SETRANGE', KEYS[1], 0, struct.pack('>dd', now + owed, debt % scale))
    else
      state = struct.pack('>ddd', now + owed, debt % scale, now + 2 * owed)
      redis.call('SET', KEYS[1], state, 'PX', math.ceil(owed / 500) + 1)
    end
  end
end
return wait
"""

_ONE = 1
_EXACT = 2**51  # a debt and a cost together must be whole in a double


@dataclass(frozen=True, slots=True)
class RedisThrottleStats:
    """What a shared throttle has seen in this process.

    Attributes:
        failures: Questions that the server did not answer, not in time, or with nonsense.
        fallbacks: Decisions made without it: those, and all until it is asked again.
    """

    failures: int
    fallbacks: int


class _Options(TypedDict, total=False):
    down: Down
    prefix: str
    retry_every: float
    clock: Clock


class _Shared:
    """What the two fronts have in common: all but the waiting for an answer."""

    def __init__(
        self,
        client: Any,
        rate: Number,
        burst: Number,
        *,
        down: Down = "open",
        prefix: str = "throttle:",
        retry_every: float = 1.0,
        clock: Clock = monotonic,
    ) -> None:
        if not isinstance(down, Throttle) and down not in ("open", "closed"):
            raise ValueError(f"down must be 'open', 'closed' or a Throttle, not {down!r}")
        if not 0 < retry_every < math.inf:
            raise ValueError(f"retry_every must be seconds above zero, not {retry_every!r}")
        self._client = client
        self._gcra = Gcra(rate, burst, clock)
        self._scale, self._unit = _microseconds(self._gcra)
        self._tolerance = math.floor(self._gcra.burst * self._unit)
        self._longest = -(-self._tolerance // self._scale)  # no wait is longer than a burst takes
        # The limit stands in the script: an argument costs more on its way than the script does with it.
        numbers = {"TOLERANCE": self._tolerance, "SCALE": self._scale}
        self._script = SCRIPT
        for name, number in numbers.items():
            self._script = self._script.replace(name, str(number))
        # As bytes, which a client need not encode for every question.
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest().encode()
        self._one = b"%d" % self._unit
        self._down = down
        self._prefix = prefix.encode()
        self._retry_every = retry_every
        self._clock = clock
        self._ask_again = -math.inf
        self._failures = self._fallbacks = 0

    def stats(self) -> RedisThrottleStats:
        """Return the counts so far. O(1)."""
        return RedisThrottleStats(self._failures, self._fallbacks)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._gcra}>"

    def _question(self, what: _What, key: Hashable, cost: Number) -> tuple[bytes | str, ...]:
        if cost is _ONE and type(key) is str and what == "take":  # what is asked all the time
            try:
                return self._prefix + key.encode(), self._one
            except UnicodeEncodeError:
                pass
        hash(key)
        ticks = self._one
        if cost is not _ONE:
            self._gcra.ticks(cost)  # says what is wrong with it
            ticks = b"%d" % min(math.ceil(Fraction(cost) * self._unit), self._tolerance)
        # Encoded here: a client refuses a lone surrogate, and a key that fails would stop the asking for all.
        name = key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass")
        return (self._prefix + name, ticks) if what == "take" else (self._prefix + name, ticks, what)

    def _asks(self) -> bool:
        return self._clock() >= self._ask_again

    def _wait(self, answer: object) -> float:
        if type(answer) is not int or not 0 <= answer <= self._longest:
            raise ValueError(f"the server answered {answer!r}")
        return seconds_for(answer * 1000) if answer else 0.0

    def _failed(self) -> None:
        self._failures += 1
        self._ask_again = self._clock() + self._retry_every

    def _without(self, what: _What, key: Hashable, cost: Number) -> float:
        self._fallbacks += 1
        if isinstance(self._down, Throttle):
            try:
                return getattr(self._down, what)(key, cost) or 0.0
            except ValueError:  # more than the local burst: nobody here can grant it
                return self._retry_every
        return 0.0 if self._down == "open" else self._retry_every


def _microseconds(gcra: Gcra) -> tuple[int, int]:
    """Return the ticks of a microsecond and of a unit; a limit of many digits is taken a hair lower."""
    interval = 10**6 / gcra.rate
    scale, unit = interval.denominator, interval.numerator
    if gcra.burst * unit > _EXACT:
        scale = math.floor(_EXACT / (gcra.burst * (interval + 1)))
        if scale < 1:
            raise ValueError(
                f"burst / rate must be below 70 years, not {float(gcra.burst / gcra.rate):g} seconds"
            )
        unit = math.ceil(interval * scale)
    return scale, unit


def _is_unknown_script(error: Exception) -> bool:
    return type(error).__name__ == "NoScriptError" or str(error).startswith("NOSCRIPT")


def _without_retries(client: Any) -> dict[str, Any]:
    """Return what the client's connections are made with, where it tells."""
    pool = getattr(client, "connection_pool", None)
    made_with: dict[str, Any] = getattr(pool, "connection_kwargs", {})
    retry = made_with.get("retry")
    if retry is not None and retry.get_retries() > 0:
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
    expired has its burst again.

    Args:
        client: A client of redis-py or valkey-py, without retries, and with a ``socket_timeout``, which is
            the deadline of a decision.
        rate: Units a second for each key, above zero.
        burst: Units that a key may take at once, at least 1.
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
        super().__init__(client, rate, burst, **options)

    def take(self, key: Hashable, cost: Number = 1) -> float:
        """Take ``cost`` units for ``key`` if it has them. One round trip.

        Args:
            key: A str or bytes, or what has a str of its own.
            cost: Units.

        Returns:
            0.0 when they were taken; else nothing was, and the seconds after which they can be.

        Raises:
            ValueError: ``cost`` is not above zero, or above the burst.
            TypeError: ``cost`` is not a number, or ``key`` cannot be hashed.
        """
        return self._ask("take", key, cost)

    def peek(self, key: Hashable, cost: Number = 1) -> float:
        """Return what ``take`` would, and change nothing. One round trip; raises as ``take``."""
        return self._ask("peek", key, cost)

    def refund(self, key: Hashable, cost: Number = 1) -> None:
        """Give ``cost`` units back, up to the burst. One round trip; raises as ``take``."""
        self._ask("refund", key, cost)

    def _ask(self, what: _What, key: Hashable, cost: Number) -> float:
        question = self._question(what, key, cost)
        if self._asks():
            try:
                try:
                    answer = self._client.evalsha(self._sha, 1, *question)
                except Exception as error:
                    if not _is_unknown_script(error):
                        raise
                    answer = self._client.eval(self._script, 1, *question)
                return self._wait(answer)
            except Exception:  # whatever a client raises: a request never fails for the throttle's sake
                self._failed()
        return self._without(what, key, cost)


class AsyncRedisThrottle(_Shared):
    """As :class:`RedisThrottle`, for coroutines under asyncio and a client of ``redis.asyncio``.

    Args:
        client: Without retries.
        rate: Units a second for each key, above zero.
        burst: Units that a key may take at once, at least 1.
        deadline: Seconds that a decision may take before ``down`` decides.
        options: ``down``, ``prefix``, ``retry_every`` and ``clock``, as there.

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
        super().__init__(client, rate, burst, **options)
        self._deadline = deadline

    async def take(self, key: Hashable, cost: Number = 1) -> float:
        """As the threads' ``take``."""
        return await self._ask("take", key, cost)

    async def peek(self, key: Hashable, cost: Number = 1) -> float:
        """As the threads' ``peek``."""
        return await self._ask("peek", key, cost)

    async def refund(self, key: Hashable, cost: Number = 1) -> None:
        """As the threads' ``refund``."""
        await self._ask("refund", key, cost)

    async def _ask(self, what: _What, key: Hashable, cost: Number) -> float:
        question = self._question(what, key, cost)
        if self._asks():
            try:
                async with asyncio.timeout(self._deadline):
                    try:
                        answer = await self._client.evalsha(self._sha, 1, *question)
                    except Exception as error:
                        if not _is_unknown_script(error):
                            raise
                        answer = await self._client.eval(self._script, 1, *question)
                return self._wait(answer)
            except Exception:
                self._failed()
        return self._without(what, key, cost)
