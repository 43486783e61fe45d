"""A second level of caching that replicas share: what one has loaded, the others find in Valkey or Redis.

It stands between a loader and what loads, and decides when the server is asked and what is done without an
answer. It may not know who waits for a value: that a key is loaded once at a time is the loader's business.
"""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from ..clock import Clock, monotonic
from .redis_level import MOST_WRITES, LevelValues, RedisLevelStats, to_json
from .redis_level_threads import BlockingLink
from .redis_link import RedisLink, is_answer

__all__ = ["AsyncRedisLevel", "RedisLevel", "RedisLevelStats"]

V = TypeVar("V")


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
        self._values = LevelValues(load, ttl, prefix, dumps, loads)
        self._link = RedisLink(client, deadline=deadline, retry_every=retry_every, clock=clock)
        self._load = load
        self._loading: dict[bytes, object] = {}
        self._writes: dict[bytes, asyncio.Task[None]] = {}
        self._hits = self._misses = self._dropped = 0

    async def __call__(self, key: str) -> V:
        """Return the value of ``key``, from the server or else from ``load``.

        Raises:
            TypeError: ``key`` is not a str.
            Exception: Whatever ``load`` or ``dumps`` raised.
        """
        name = self._values.name(key)
        if self._link.up:
            answer = await self._ask("get", name)
            if answer is not None:
                try:
                    value = self._values.unsealed(name, answer)
                except Exception:  # whatever lies there, it is no value: load it, and write over it
                    self._link.failures += 1
                else:
                    self._hits += 1
                    return value
        self._misses += 1
        self._loading[name] = token = object()
        try:
            value = await self._load(key)
            text = self._values.sealed(name, value)
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
        name = self._values.name(key)
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

    def _write(self, name: bytes, text: bytes) -> None:
        # One at a time a name, so that an older value never lands after a newer one.
        if not self._link.up or len(self._writes) >= MOST_WRITES or name in self._writes:
            self._dropped += 1
            return
        self._writes[name] = task = asyncio.ensure_future(self._put(name, text))
        task.add_done_callback(lambda _: self._writes.pop(name))

    async def _put(self, name: bytes, text: bytes) -> None:
        await self._ask("set", name, text, px=self._values.milliseconds)

    async def _ask(self, command: str, *arguments: bytes, **options: int) -> Any:
        """Return what the server answers, or None where it does not."""
        return await self._link.ask(
            functools.partial(getattr(self._link.client, command), *arguments, **options)
        )


class RedisLevel(Generic[V]):
    """As :class:`AsyncRedisLevel`, for threads: a ``load`` for a :class:`~replicated.cache.Loader`.

    ``Loader(Cache(10_000, ttl=60), RedisLevel(client, load, ttl=600))``. Helper threads ask the client, eight
    at most, so that a load waits for no more than ``deadline``, whatever timeouts and retries the client has.
    Give it a ``socket_timeout`` all the same, or a server that never answers keeps a helper for ever.

    Args:
        client: A client of redis-py or valkey-py for threads, that answers bytes.
        load: Called as ``load(key)`` for what is not there.
        ttl: Seconds that the server keeps a value.
        prefix: What its keys begin with there; another one for each kind of value.
        deadline: Seconds that the server has to answer.
        retry_every: Seconds after a failure until it is asked again, by one caller; the others do not wait.
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
        load: Callable[[str], V],
        *,
        ttl: float,
        prefix: str = "cache:",
        deadline: float = 0.05,
        retry_every: float = 1.0,
        dumps: Callable[[V], bytes] = to_json,
        loads: Callable[[bytes], V] = json.loads,
        clock: Clock = monotonic,
    ) -> None:
        self._values = LevelValues(load, ttl, prefix, dumps, loads)
        self._link = BlockingLink(client, deadline=deadline, retry_every=retry_every, clock=clock)
        self._load = load
        self._lock = threading.Lock()
        self._loading: dict[bytes, object] = {}
        self._writes: dict[bytes, threading.Event] = {}
        self._hits = self._misses = self._dropped = 0

    def __call__(self, key: str) -> V:
        """Return the value of ``key``, from the server or else from ``load``.

        Raises:
            TypeError: ``key`` is not a str.
            Exception: Whatever ``load`` or ``dumps`` raised.
        """
        name = self._values.name(key)
        if self._link.admitted():
            answer = self._link.ask(functools.partial(self._link.client.get, name))
            if answer is not None:
                try:
                    value = self._values.unsealed(name, answer)
                except Exception:  # whatever lies there, it is no value: load it, and write over it
                    self._link.failed(down=False)
                else:
                    with self._lock:
                        self._hits += 1
                    return value
        token = object()
        with self._lock:
            self._misses += 1
            self._loading[name] = token
        try:
            value = self._load(key)
            self._write(name, token, self._values.sealed(name, value))
        finally:
            with self._lock:
                if self._loading.get(name) is token:
                    del self._loading[name]
        return value

    def forget(self, key: str) -> bool:
        """Delete ``key`` there, and return whether the server has confirmed it, after two deadlines at most.

        What this process is loading or writing is kept out as well; a load that is under way elsewhere may
        still write what it began with. Call it after the source has changed, and then the loader's
        ``invalidate``.
        """
        name = self._values.name(key)
        with self._lock:
            self._loading.pop(name, None)
            write = self._writes.get(name)
        landed = write is None or write.wait(self._link.deadline)
        deleted = self._link.ask(functools.partial(self._link.client.delete, name)) is not None
        return landed and deleted  # a write that is still on its way would come after

    def close(self) -> None:
        """End the threads, and wait until what is on its way to the server is there or has failed.

        A deadline at most for each.
        """
        with self._lock:
            writes = list(self._writes.values())
        for write in writes:
            write.wait(self._link.deadline)
        self._link.helpers.end()

    def stats(self) -> RedisLevelStats:
        """Return the counts so far. O(1)."""
        return RedisLevelStats(self._hits, self._misses, self._link.failures, self._dropped)

    def _write(self, name: bytes, token: object, text: bytes) -> None:
        """Have a value written behind the caller, unless it was forgotten while it was loaded."""
        with self._lock:
            if self._loading.get(name) is not token:
                return
            # One at a time a name, so that an older value never lands after a newer one.
            if self._link.up and len(self._writes) < MOST_WRITES and name not in self._writes:
                self._writes[name] = ended = threading.Event()
                if self._link.helpers.do(functools.partial(self._put, name, text, ended)):
                    return
                del self._writes[name]
            self._dropped += 1

    def _put(self, name: bytes, text: bytes, ended: threading.Event) -> None:
        try:
            self._link.client.set(name, text, px=self._values.milliseconds)
        except BaseException as error:  # nobody waits for it, and a helper must live on
            self._link.failed(down=not is_answer(error))
        with self._lock:
            del self._writes[name]
        ended.set()
