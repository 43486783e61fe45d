"""A second level of an HTTP cache that the members of its tier share, in Valkey or Redis.

Decides what is asked of the server and what its answers are worth. It may not know who waits for a page, nor
what may be served: it hands over responses, and the cache asks its rules as if they were its own.

Who stores a page says since when it knows it: the server's time when the fetch began. A change (a purge, an
unsafe request) leaves the server's time of it behind, and what is older than a change of its URL or of one of
its tags is not stored. So no fetch that began before a change brings back what it undid, in whichever member
it runs. Only the server's clock is compared, and a page's age counts by it.

A page names the generation of each of its tags, and is none where that is another one now. A purge begins a
new one; so does a server that was short of memory and has let go of a generation: it forgets pages then, and
never a purge.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from ..clock import Clock, monotonic
from ..http.packing import pack, unpack
from ..http.stored import Stored
from .arguments import seconds_above_zero
from .redis_link import RedisLink

__all__ = ["RedisPages", "RedisPagesStats"]

MOST_WRITES = 100
"""Pages on their way to the server; what comes beyond is not sent, or a slow server would pile them up."""
MOST_OWED = 10_000
"""Changes that the server has not confirmed, and is told again when it answers; any more it is not told."""
MOST_TAGS = 64
"""Tags of a page that is sent there: each is looked up with it."""
MOST_VARIANTS = 16
OVERHEAD = 100 + 20 * MOST_TAGS
"""Bytes that the server adds to a page."""
WRITE = 1.0
"""Seconds that a write may take: nobody waits for it."""
IN_FLIGHT = 600.0
"""Seconds that a changed URL is remembered there, longer than any fetch that began before should take."""

NOW = "local t = redis.call('TIME') local now = t[1] * 1000000 + t[2] "
FIND = (
    NOW
    + """
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return {ARGV[1], now} end
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[3]) then return {ARGV[1], now} end
local size = 0
for _, f in ipairs(redis.call('HKEYS', KEYS[1])) do size = size + redis.call('HSTRLEN', KEYS[1], f) end
if size > tonumber(ARGV[2]) then return {ARGV[1], now} end
return {ARGV[1], now, redis.call('GET', KEYS[2]), redis.call('HVALS', KEYS[1])}
"""
)
"""A page: what was asked (an answer to another question is none), the time, its last change, its variants."""
GENERATIONS = "return {ARGV[1], redis.call('MGET', unpack(KEYS))}"
KEEP = (
    NOW
    + """
local known, life = tonumber(ARGV[2]), tonumber(ARGV[8])
if tonumber(redis.call('GET', KEYS[2]) or 0) >= known then return {ARGV[1], 0} end
local tags = {}
for i = 3, #KEYS do
  local tag = redis.call('GET', KEYS[i])
  if not tag then
    tag = string.format('c%.0f', now)
  elseif string.sub(tag, 1, 1) ~= 'c' and (tonumber(string.sub(tag, 2)) or known) >= known then
    return {ARGV[1], 0}
  end
  tags[i - 2] = tag
end
local fits = redis.call('TYPE', KEYS[1]).ok == 'hash' and redis.call('HLEN', KEYS[1]) < tonumber(ARGV[6])
if fits then
  local there = redis.call('HGET', KEYS[1], ARGV[3])
  if there and (tonumber(string.sub(there, 1, 16)) or 0) > known then return {ARGV[1], 0} end
  local size = #ARGV[4]
  for _, f in ipairs(redis.call('HKEYS', KEYS[1])) do size = size + redis.call('HSTRLEN', KEYS[1], f) end
  fits = size <= tonumber(ARGV[7])
end
if not fits then redis.call('DEL', KEYS[1]) end
for i, tag in ipairs(tags) do redis.call('SET', KEYS[i + 2], tag, 'PX', life) end
local value = string.format('%016.0f', known) .. table.concat(tags, ',') .. '\\n' .. ARGV[4]
redis.call('HSET', KEYS[1], ARGV[3], value)
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
return {ARGV[1], 1}
"""
)
"""A generation begins with c, and the time, where a page created it, and with p where a purge did."""
CHANGE = (
    NOW
    + """
redis.call('SET', KEYS[1], ARGV[3] .. string.format('%.0f', now), 'PX', ARGV[2])
if KEYS[2] then redis.call('DEL', KEYS[2]) end
return {ARGV[1], now}
"""
)


@dataclass(frozen=True, slots=True)
class RedisPagesStats:
    """What a shared level of pages has seen in this process.

    Attributes:
        hits: Look-ups that found a page.
        misses: Those that did not, for whatever reason.
        failures: Commands that the server did not carry out in time, and pages there that were none.
        dropped: Pages not sent there: too large, with too many tags, or the server was down or slow.
        owed: Changes that the server has not confirmed yet.
    """

    hits: int
    misses: int
    failures: int
    dropped: int
    owed: int


class RedisPages:
    """Where an :class:`~replicated.adapters.proxy.http_cache.HttpCache` looks before it asks the origin.

    A server that fails or is slow costs a miss at most ``deadline`` seconds, once in ``retry_every``, and
    never an error. Writes and changes are sent behind the answer. Changes that are not confirmed are sent
    again when the server answers; until then another member may serve from there what was changed.

    Args:
        client: A client of ``redis.asyncio`` that answers bytes, of one server or a primary (its scripts name
            several keys, which a cluster keeps apart); it belongs to the running event loop.
        prefix: What its keys begin with there. Members that share pages need the same one.
        deadline: Seconds that the server has to answer a look-up.
        retry_every: Seconds after a failure until it is asked again.
        largest: Bytes of all variants of a page beyond which they are neither sent nor read, above 1,380.
        longest: Seconds that the server keeps a page at most, and a tag that pages carry.
        clock: Seconds, the one of the cache.

    Raises:
        ValueError: A number is not above zero, or ``client`` decodes its answers.
        TypeError: A number is of another type.
    """

    def __init__(
        self,
        client: Any,
        *,
        prefix: str = "pages:",
        deadline: float = 0.05,
        retry_every: float = 1.0,
        largest: int = 2**20,
        longest: float = 86400.0,
        clock: Clock = monotonic,
    ) -> None:
        seconds_above_zero(longest=longest)
        if isinstance(largest, bool) or not isinstance(largest, int):
            raise TypeError(f"largest must be a number of bytes, not {largest!r}")
        if largest <= OVERHEAD:
            raise ValueError(f"largest must be bytes above {OVERHEAD}, not {largest!r}")
        self.link = RedisLink(client, deadline=deadline, retry_every=retry_every, clock=clock)
        self.prefix = prefix
        self.largest = largest
        self.longest = longest
        self.clock = clock
        self.ahead: float | None = None  # microseconds of the server's clock at instant 0 of ours, or less
        self.questions = itertools.count()
        self.tasks: dict[str, asyncio.Task[object]] = {}
        self.owed: dict[tuple[str, bool], object] = {}  # names, and whether each is a tag
        self.hits = self.misses = self.dropped = 0

    async def find(self, key: str) -> list[Stored]:
        """Return the variants of a page that lie there, the oldest first; stale ones may be among them."""
        found: list[Stored] = []
        if self.link.up:
            found = await self.link.ask(functools.partial(self._find, key)) or []
        if found:
            self.hits += 1
        else:
            self.misses += 1
        return found

    def keep(self, key: str, stored: Stored, asked: float, until: float) -> None:
        """Send a page there, behind the caller.

        Args:
            key: The page's.
            stored: The variant.
            asked: The instant when its fetch began.
            until: The instant from which there is no use in it.
        """
        name, tags = f"page {key}", [f"tag {tag.decode('latin-1')}" for tag in stored.tags]
        left = min(until - self.clock(), self.longest)
        if left <= 0:
            return
        if (
            self.ahead is None  # no answer yet, and so no common time
            or not self.link.up
            or len(self.tasks) >= MOST_WRITES
            or name in self.tasks  # one at a time; the next member to fetch the page sends it
            or len(tags) > MOST_TAGS
            or len(page := pack(stored, asked)) > self.largest - OVERHEAD
        ):
            self.dropped += 1
            return
        field = hashlib.blake2b(repr(stored.vary).encode(), digest_size=12).digest()
        lives = [round(seconds * 1000) for seconds in (left, self.longest)]
        arguments = [int(self.ahead + asked * 1e6), field, page, lives[0] + 1, MOST_VARIANTS]
        arguments += [self.largest - OVERHEAD, lives[1]]
        run = functools.partial(self._run, KEEP, [name, f"key {key}", *tags], arguments)
        self._behind(name, functools.partial(self.link.ask, run, WRITE))

    def change(self, name: str | bytes) -> None:
        """Let a page (a key, as text) or all that carries a tag (as bytes) be none, whoever stored it."""
        tag = isinstance(name, bytes)
        told = name.decode("latin-1") if isinstance(name, bytes) else name
        if len(self.owed) < MOST_OWED:
            self.owed[told, tag] = object()  # another one than that of which the server is just being told
        self._settle()

    async def confirmed(self) -> bool:
        """Return whether the server knows of every change by now; waits for it a second at most."""
        if (task := self.tasks.get("owed")) is not None:
            await asyncio.wait([task], timeout=WRITE)
        return not self.owed

    async def aclose(self) -> None:
        """Wait until what is on its way to the server is there or has failed, a second at most."""
        if self.tasks:
            await asyncio.wait(list(self.tasks.values()), timeout=WRITE)
        for task in list(self.tasks.values()):
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    def stats(self) -> RedisPagesStats:
        """Return the counts so far. O(1)."""
        return RedisPagesStats(self.hits, self.misses, self.link.failures, self.dropped, len(self.owed))

    async def _find(self, key: str) -> list[Stored]:
        began = self.clock()
        answer = await self._run(FIND, [f"page {key}", f"key {key}"], [self.largest, MOST_VARIANTS])
        if answer is None:
            return []
        now, changed, values = answer if len(answer) == 3 else (answer[0], None, [])
        # It was that late there at some instant before this one: what is reckoned from it is never too late.
        self.ahead = now - self.clock() * 1e6
        self._settle()
        found: list[tuple[Stored, dict[bytes, bytes]]] = []
        for value in sorted(values):
            try:
                known = int(value[:16])
                tagged, _, page = value[16:].partition(b"\n")
                # Seconds ago by the server's clock, counted from before it was asked: never too few.
                stored = unpack(page, began - (now - known) / 1e6)
                tags = stored.tags
                generations: dict[bytes, bytes] = dict(
                    zip(tags, tagged.split(b",") if tags else (), strict=True)
                )
                if not instant(changed) < known <= now:
                    raise ValueError("it is older than a change, or of tomorrow")
            except ValueError:  # whatever lies there, it is no page
                self.link.failures += 1
                continue
            found.append((stored, generations))
        there = await self._generations(sorted({tag for _, tags in found for tag in tags}))
        if there is None or (key, False) in self.owed:
            return []
        return [stored for stored, tags in found if all(there[tag] == tags[tag] for tag in tags)]

    async def _generations(self, tags: list[bytes]) -> dict[bytes, bytes | None] | None:
        """Return the generation of each of those tags; None where the server cannot say."""
        if not tags:
            return {}
        if len(tags) > MOST_TAGS * MOST_VARIANTS:
            return None
        names = [tag.decode("latin-1") for tag in tags]
        answer = await self._run(GENERATIONS, [f"tag {name}" for name in names], [])
        if answer is None:
            return None
        told = zip(tags, names, answer[0], strict=True)
        return {tag: None if (name, True) in self.owed else there for tag, name, there in told}

    def _settle(self) -> None:
        """Tell the server what changed, if it is worth asking and is not being told."""
        if self.owed and "owed" not in self.tasks and self.link.up:
            self._behind("owed", self._pay)

    async def _pay(self) -> None:
        while self.owed:
            owed, change = next(iter(self.owed.items()))
            told, tag = owed
            names = [f"tag {told}"] if tag else [f"key {told}", f"page {told}"]
            life = round((self.longest if tag else IN_FLIGHT) * 1000)
            run = functools.partial(self._run, CHANGE, names, [life, "p" if tag else ""])
            if await self.link.ask(run, WRITE) is None:
                return
            if self.owed[owed] is change:
                del self.owed[owed]

    def _behind(self, name: str, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        task = self.tasks[name] = asyncio.ensure_future(work())
        task.add_done_callback(lambda _: self.tasks.pop(name))

    async def _run(self, script: str, names: Sequence[str], arguments: Sequence[Any]) -> list[Any] | None:
        """Run a script; return what it says beyond the number of the question, or None to another one's.

        A client whose command was cancelled has handed its answer to whoever asked next (redis-py before
        4.5.4, CVE-2023-28859): one user's page must not become another's, whatever the client does.
        """
        question = next(self.questions)
        keys = [(self.prefix + name).encode("utf-8", "surrogatepass") for name in names]
        answer = await self.link.client.eval(script, len(keys), *keys, question, *arguments)
        return list(answer[1:]) if answer and answer[0] == b"%d" % question else None


def instant(stamp: bytes | None) -> float:
    """Return when a page changed last; never ends, where what lies there is no time."""
    if stamp is None:
        return 0.0
    return float(stamp) if stamp.isdigit() else math.inf
