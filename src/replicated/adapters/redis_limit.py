"""One limit as a Lua script for Valkey or Redis: what is asked there, and what an answer means.

The arithmetic is that of the local throttle, in doubles, as Lua has them, and on the server's clock, which
has microseconds. Who asks, how, and what is done without an answer is not known here.
"""

from __future__ import annotations

import hashlib
import math
import struct
from fractions import Fraction

from ..clock import Clock
from ..throttle import Number, Quota, Told
from ..throttle.debts import PATIENCE
from ..throttle.gcra import Gcra, rational, seconds_for
from ..throttle.quota import DEFAULT, remaining

__all__ = ["SCRIPT", "Answer", "RedisLimit"]

# State is the time at which the bucket is full, as microseconds and the ticks beyond them: numbers in Lua
# are doubles, and the two together would not fit one. They are packed, as text takes the script longer than
# all else. A debt beyond the tolerance is believed to be the tolerance, since only a server clock that
# stepped back makes one; so is a state that is not ours.
#
# To give a key a time to live costs as much as all else in the script. So it is given one of twice its debt
# and ten seconds more, which stands in the state too, and until the debt would outlive that the state is
# overwritten in place.
#
# Behind that the state has the limit by which it was written. Where that was another one, units are carried
# over and not times: a limit that changes, on one replica after the other, never gives a unit.
#
# A key that is blocked has the end of that behind it all, in microseconds; who finds it over leaves it out.
SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local state = redis.call('GET', KEYS[1])
local cost, what = tonumber(ARGV[1]) or UNIT, ARGV[2] or 'take'
local debt, lives, closed, amend = 0, 0, 0, what == 'refund'
if state then
  debt = TOLERANCE + 1
  if #state == 48 or #state == 56 then
    local full, rest, dies = struct.unpack('>ddd', state)
    if full > 1e15 and rest >= 0 then
      if string.sub(state, 25, 48) == LIMIT then
        debt, lives = (full - now) * SCALE + rest, dies
      else
        local tolerance, unit, scale = struct.unpack('>ddd', state, 25)
        local owed = (full - now) * scale + rest
        local left = (tolerance - owed) / unit
        amend = true
        if scale > 0 and owed <= 0 then
          debt = 0
        elseif scale > 0 and left > 0 and left < 4e15 then
          debt = TOLERANCE - math.floor(left * UNIT)
        end
      end
      if #state == 56 then
        closed = math.ceil(struct.unpack('>d', state, 49) - now)
        if closed <= 0 then
          closed, lives = 0, 0
        elseif not (closed <= BLOCK) then
          closed, lives, amend = BLOCK, 0, true
        end
      end
    end
  end
end
if what == 'refund' then
  debt = debt - cost
end
if debt > TOLERANCE then
  debt, amend = TOLERANCE, true
elseif debt < 0 then
  debt = 0
end
local answer = 0
if what ~= 'refund' and (closed > 0 or debt + cost > TOLERANCE) then
  if BLOCK > 0 then
    local begins = 0
    if what == 'take' and closed == 0 then
      closed, lives, amend, begins = BLOCK, 0, true, 1
    end
    answer = {debt, closed, begins}
  else
    answer = math.ceil((debt + cost - TOLERANCE) / SCALE)
  end
else
  if what == 'take' then
    debt, amend = debt + cost, true
  end
  answer = -debt
end
if amend and what ~= 'peek' then
  if debt + closed == 0 then
    redis.call('DEL', KEYS[1])
  else
    local full = now + math.floor(debt / SCALE)
    if full <= lives and lives <= now + LONGEST then
      redis.call('SETRANGE', KEYS[1], 0, struct.pack('>dd', full, debt % SCALE))
    else
      local dies = 2 * math.max(full, now + closed) - now + PATIENCE
      state = struct.pack('>ddd', full, debt % SCALE, dies) .. LIMIT
      if closed > 0 then
        state = state .. struct.pack('>d', now + closed)
      end
      redis.call('SET', KEYS[1], state, 'PX', math.ceil((dies - now) / 1000) + 1)
    end
  end
end
return answer
"""

EXACT = 2**51
"""A debt and a cost together must be whole in a double."""


class RedisLimit:
    """A limit of ``rate`` units a second and ``burst`` at once, in ticks that fit the doubles of Lua.

    A limit of many digits is taken a hair lower.

    Attributes:
        script: Decides; its answer is a wait in microseconds, or else what is owed by now, negative. Where
            keys are blocked, a refusal says what is owed, for how many microseconds the key is blocked, and
            whether that begins here.
        block: Microseconds for which a refused key is blocked.
        sha: What the server calls it.
        tolerance: Ticks that the whole burst takes.
        unit: Ticks that one unit takes.
        scale: Ticks a microsecond.

    Raises:
        ValueError: A number is out of its range, or the burst or the block takes longer than 70 years.
        TypeError: A number is of another type.
    """

    def __init__(self, rate: Number, burst: Number, clock: Clock, block: Number = 0) -> None:
        self.gcra = Gcra(rate, burst, clock)
        self.block = math.ceil(rational("block", block) * 10**6)
        if not 0 <= self.block < EXACT:
            raise ValueError(f"block must be from 0 seconds to 70 years, not {block!r}")
        self.scale, self.unit = microseconds(self.gcra)
        self.tolerance = math.floor(self.gcra.burst * self.unit)
        self.longest = -(-self.tolerance // self.scale)  # no wait is longer than a burst takes
        stamp = struct.pack(">ddd", self.tolerance, self.unit, self.scale)
        # The limit stands in the script: an argument costs more on its way than the script does with it.
        constants = {
            "BLOCK": self.block,
            "LIMIT": '"' + "".join(f"\\{byte:03}" for byte in stamp) + '"',
            "LONGEST": 2 * self.longest + PATIENCE * 10**6,
            "PATIENCE": PATIENCE * 10**6,
            "SCALE": self.scale,
            "TOLERANCE": self.tolerance,
            "UNIT": self.unit,
        }
        script = SCRIPT
        for name, constant in constants.items():
            script = script.replace(name, str(constant))
        self.script = script
        # As bytes, which a client need not encode for every question.
        self.sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode()
        self._head = packed(b"EVALSHA", self.sha, b"1")

    def packed(self, question: tuple[bytes, ...]) -> bytes:
        """Return the command that asks this limit's script, as it goes over the wire."""
        return b"*%d\r\n%b%b" % (3 + len(question), self._head, packed(*question))

    def ticks(self, cost: Number) -> bytes:
        """Return the script's argument for a cost.

        Raises:
            ValueError: ``cost`` is not above zero, or above the burst.
            TypeError: ``cost`` is not a number.
        """
        self.gcra.ticks(cost)  # which says what is wrong with it
        return b"%d" % min(math.ceil(Fraction(cost) * self.unit), self.tolerance)

    def told(self, answer: object, cost: bytes | None = None) -> Answer:
        """Return what an answer to a question about ``cost`` means.

        Raises:
            ValueError: It is nonsense.
        """
        if type(answer) is not int:
            return self._refused(answer, cost)
        if not -self.tolerance <= answer <= (0 if self.block else self.longest):
            raise ValueError(f"the server answered {answer!r}")
        if answer <= 0:
            return self.said(0.0, -answer)
        # The wait was rounded up to a microsecond, so this much is owed at most.
        owed = self.tolerance + answer * self.scale - (self.unit if cost is None else int(cost))
        return self.said(seconds_for(answer * 1000), min(owed, self.tolerance))

    def _refused(self, answer: object, cost: bytes | None) -> Answer:
        match answer:
            case [int(owed), int(closed), int(begins)] if (
                0 <= owed <= self.tolerance and 0 <= closed <= self.block
            ):
                over = owed + (self.unit if cost is None else int(cost)) - self.tolerance
                wait = max(-(-over // self.scale), closed)
                if wait > 0:
                    return self.said(seconds_for(wait * 1000), owed, closed, begins == 1)
        raise ValueError(f"the server answered {answer!r}")

    def said(self, wait: float, owed: int, closed: int = 0, begins: bool = False) -> Answer:
        """Return an answer: a wait in seconds, what is owed, and the block in microseconds."""
        told = new(Answer, wait)
        told.limit, told.owed, told.closed, told.begins = self, owed, closed, begins
        return told

    def left(self, owed: int, closed: int) -> tuple[Quota, ...]:
        """Return what is left to one who owes so many ticks, and is blocked for so many microseconds."""
        whole, missing = remaining(owed, self.unit, self.tolerance, closed > 0)
        full, more = (seconds_for(max(-(-ticks // self.scale), closed) * 1000) for ticks in (owed, missing))
        window = seconds_for(self.longest * 1000)
        return (Quota(DEFAULT, self.tolerance // self.unit, window, whole, full, more),)


class Answer(Told):
    """What the script has answered.

    Attributes:
        limit: The limit that it was asked by.
        owed: What is owed, in its ticks.
        closed: Microseconds for which the key is blocked.
        begins: Whether it is since this question.
    """

    __slots__ = ("begins", "closed", "limit", "owed")

    limit: RedisLimit
    owed: int
    closed: int
    begins: bool

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """What is left."""
        return self.limit.left(self.owed, self.closed)

    def overlooked(self) -> Answer:
        """Return the same as an admission."""
        return self.limit.said(0.0, self.owed, self.closed, self.begins)


new = float.__new__  # a __new__ of its own would be called for every decision


def packed(*parts: bytes) -> bytes:
    """Return parts of a command as they go over the wire (RESP)."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def microseconds(gcra: Gcra) -> tuple[int, int]:
    """Return the ticks of a microsecond and of a unit."""
    interval = 10**6 / gcra.rate
    scale, unit = interval.denominator, interval.numerator
    if gcra.burst * unit > EXACT:
        scale = math.floor(EXACT / (gcra.burst * (interval + 1)))
        if scale < 1:
            raise ValueError(
                f"burst / rate must be below 70 years, not {float(gcra.burst / gcra.rate):g} seconds"
            )
        unit = math.ceil(interval * scale)
    return scale, unit
