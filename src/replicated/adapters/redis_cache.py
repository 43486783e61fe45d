"""A second level of caching that replicas share: what one has loaded, the others find in Valkey or Redis.

It stands between a loader and what loads, and decides when the server is asked and what is done without an
answer. It may not know who waits for a value: that a key is loaded once at a time is the loader's business.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..clock import Clock, monotonic
from .arguments import seconds_above_zero
from .redis_link import RedisLink

__all__ = ["AsyncRedisLevel", "RedisLevelStats"]

V = TypeVar("V")

MOST_WRITES = 100
"""Values on their way to the server; what comes beyond is not sent, or a slow server would pile it up."""


def to_json(value: object) -> bytes:
    """Return ``value`` as JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class RedisLevelStats:
    """What a shared level has seen in this process.

    Attributes:
        hits: Values found on the server.
        misses: Values that had to be loaded, for whatever reason.
        failures: Commands that the server did not carry out in time, and values there that were none.
        dropped: Values that were not sent there, because it had failed just before or was slow.
    """

    hits: int
    misses: int
    failures: int
    dropped: int


class AsyncRedisLevel(Generic[V]):
    """A ``load`` for an :class:`AsyncLoader` that looks on a server first, and leaves there what it loaded.

    ``AsyncLoader(Cache(10_000, ttl=60), AsyncRedisLevel(client, load, ttl=600))``. A server that fails or is
    slow costs a load at most ``deadline`` seconds, once in ``retry_every``, and never an error: the value is
    then loaded as if there were no server. Values are written behind the load, which does not wait for that.

    A value may be as old as both ttls together. Only str keys are taken, since a shared name must mean one
    thing: 1 and "1" are two keys to a loader. What ``load`` raises is not kept there.

    Args:
        client: A client of ``redis.asyncio`` that answers bytes; it belongs to the running event loop.
        load: Awaited as ``load(key)`` for what is not there.
        ttl: Seconds that the server keeps a value.
        prefix: What its keys begin with there; another one for each kind of value.
        deadline: Seconds that the server has to answer.
        retry_every: Seconds after a failure until it is asked again.
        dumps: Makes bytes of a value; JSON by default. What it raises, the load raises.
        loads: Makes a value of them; what it fails to read is loaded anew. Not pickle, unless everyone who
            can write to the server may run code here.
        clock: Seconds, for ``retry_every``.

    Raises:
        ValueError: A number is not above zero and finite, or ``client`` decodes its answers.
        TypeError: A number is of another type, or a function is none.
    """

    def __init__(
        self,
        client: Any,
        load: Callable[[str], Awaitable[V]],
        *,
        ttl: float,
        prefix: str = "cache:",
        deadline: float = 0.05,
        retry_every: float = 1.0,
        dumps: Callable[[V], bytes] = to_json,
        loads: Callable[[bytes], V] = json.loads,
        clock: Clock = monotonic,
    ) -> None:
        seconds_above_zero(ttl=ttl)
        for name, function in (("load", load), ("dumps", dumps), ("loads", loads)):
            if not callable(function):
                raise TypeError(f"{name} must be callable, not {function!r}")
        self._link = RedisLink(client, deadline=deadline, retry_every=retry_every, clock=clock)
        self._load = load
        self._milliseconds = max(1, round(ttl * 1000))
        self._prefix = prefix
        self._dumps = dumps
        self._loads = loads
        self._loading: dict[bytes, object] = {}
        self._writes: dict[bytes, asyncio.Task[None]] = {}
        self._hits = self._misses = self._dropped = 0

    async def __call__(self, key: str) -> V:
        """Return the value of ``key``, from the server or else from ``load``.

        Raises:
            TypeError: ``key`` is not a str.
            Exception: Whatever ``load`` or ``dumps`` raised.
        """
        name = self._name(key)
        if self._link.up:
            answer = await self._ask("get", name)
            if answer is not None:
                try:
                    value = self._loads(unsealed(name, answer))
                except Exception:  # whatever lies there, it is no value: load it, and write over it
                    self._link.failures += 1
                else:
                    self._hits += 1
                    return value
        self._misses += 1
        self._loading[name] = token = object()
        try:
            value = await self._load(key)
            text = self._dumps(value)
            if self._loading.get(name) is token:  # not forgotten meanwhile
                self._write(name, text)
        finally:
            if self._loading.get(name) is token:
                del self._loading[name]
        return value

    async def forget(self, key: str) -> bool:
        """Delete ``key`` there, and return whether the server has confirmed it, after two deadlines at most.

        What this process is loading or writing is kept out as well; a load that is under way elsewhere may
        still write what it began with. Call it after the source has changed, and then the loader's
        ``invalidate``.
        """
        name = self._name(key)
        self._loading.pop(name, None)
        if (write := self._writes.get(name)) is not None:
            await asyncio.wait([write])
        return await self._ask("delete", name) is not None

    async def aclose(self) -> None:
        """Wait until what is on its way to the server is there or has failed, a deadline at most."""
        if self._writes:
            await asyncio.wait(list(self._writes.values()))

    def stats(self) -> RedisLevelStats:
        """Return the counts so far. O(1)."""
        return RedisLevelStats(self._hits, self._misses, self._link.failures, self._dropped)

    def _name(self, key: str) -> bytes:
        if not isinstance(key, str):
            raise TypeError(f"key must be a str, not {key!r}")
        return (self._prefix + key).encode("utf-8", "surrogatepass")

    def _write(self, name: bytes, text: bytes) -> None:
        # One at a time a name, so that an older value never lands after a newer one.
        if not self._link.up or len(self._writes) >= MOST_WRITES or name in self._writes:
            self._dropped += 1
            return
        self._writes[name] = task = asyncio.ensure_future(self._put(name, text))
        task.add_done_callback(lambda _: self._writes.pop(name))

    async def _put(self, name: bytes, text: bytes) -> None:
        await self._ask("set", name, sealed(name, text), px=self._milliseconds)

    async def _ask(self, command: str, *arguments: bytes, **options: int) -> Any:
        """Return what the server answers, or None where it does not."""
        return await self._link.ask(
            functools.partial(getattr(self._link.client, command), *arguments, **options)
        )


def sealed(name: bytes, text: bytes) -> bytes:
    """Return ``text`` with the name that it belongs to.

    A client whose command was cancelled has handed its answer to whoever asked next (redis-py before 4.5.4,
    CVE-2023-28859): one user's value must not become another's, whatever the client does.
    """
    return b"%d:%b%b" % (len(name), name, text)


def unsealed(name: bytes, answer: bytes) -> bytes:
    """Return the text in ``answer``; ValueError where it belongs to another name."""
    head = sealed(name, b"")
    if not answer.startswith(head):
        raise ValueError("the answer is to another question")
    return answer[len(head) :]
