"""The HTTP cache at work: a handler around a handler, which asks at most once for what many want.

Carries out what ``replicated.http.caching`` decides, over a ``Cache`` bounded in bytes. It holds no more of
a body than it may store, and while one request fetches a page the others for it wait; where that answer
turns out not to be storable, the key is remembered for a while and nobody waits for it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from email.utils import formatdate

from ..cache import Cache
from ..clock import Clock, monotonic
from ..http.caching import Fetch, HttpCacheRules, Keep, Pass, Serve, Stored
from ..http.fields import find, problem, token_list
from ..http.identity import Identity
from ..http.message import Handler, Request, Response

__all__ = ["HttpCache", "http_date"]

PATIENCE = 5.0
"""Seconds that a request waits for another's fetch of the same page, as nginx's proxy_cache_lock_timeout."""
HIT_FOR_MISS = 10.0
"""Seconds that an answer which could not be stored keeps others from waiting for the next one."""


def http_date() -> bytes:
    """Return the time of day as HTTP writes it."""
    return formatdate(time.time(), usegmt=True).encode()


class HttpCache:
    """A shared HTTP cache around a handler.

    Args:
        inner: Answers what the cache cannot.
        size: Bytes that stored responses may take together.
        rules: What may be stored and served.
        identity: Whose X-Forwarded-Proto and -Host are believed; they are part of the key.
        largest: Bytes of a body beyond which it is passed on and not stored; an eighth of ``size`` by
            default, so that one download does not turn out everything else.
        clock: Seconds, monotonic.

    Raises:
        ValueError: ``size`` or ``largest`` is not above zero.
    """

    def __init__(
        self,
        inner: Handler,
        *,
        size: int,
        rules: HttpCacheRules | None = None,
        identity: Identity | None = None,
        largest: int | None = None,
        clock: Clock = monotonic,
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be bytes above zero, not {size!r}")
        if largest is not None and largest < 1:
            raise ValueError(f"largest must be bytes above zero, not {largest!r}")
        self.inner = inner
        self.rules = rules or HttpCacheRules()
        self.identity = identity or Identity()
        self.largest = max(1, size // 8) if largest is None else largest
        self.store: Cache[str, tuple[Stored, ...]] = Cache(size, getsizeof=weight, clock=clock)
        self.unstorable: Cache[str, bool] = Cache(10_000, ttl=HIT_FOR_MISS, clock=clock)
        self.fetching: dict[str, asyncio.Future[None]] = {}

    async def __call__(self, request: Request) -> Response:
        """Answer from the store, or through ``inner``."""
        client = self.identity.client(request.peer, request.scheme, request.headers)
        host = client.host if client.host is not None else find(request.headers, b"host") or b""
        waited = False
        while True:
            variants = self.store.get(self.rules.key(request, client.scheme, host), ())
            decision = self.rules.lookup(request, client.scheme, host, variants)
            if isinstance(decision, Serve):
                return decision.response
            if b"only-if-cached" in token_list(request.headers, b"cache-control"):
                return self.rules.marked(problem(504, "it is not in the cache"), b"fwd=miss")
            under_way = self.fetching.get(decision.key)
            if not decision.shareable or decision.key in self.unstorable:
                return await self.fetch(request, decision, None)
            if under_way is None:
                turn = asyncio.get_running_loop().create_future()
                self.fetching[decision.key] = turn
                return await self.fetch(request, decision, turn)
            if waited:
                return await self.fetch(request, decision, None)
            # One wait a request: where the fetch fails, its waiters must not repeat it one after another.
            await asyncio.wait([under_way], timeout=PATIENCE)
            waited = True

    async def fetch(self, request: Request, fetch: Fetch, turn: asyncio.Future[None] | None) -> Response:
        """Ask ``inner``, and keep the answer if the rules allow."""
        date = http_date()
        sent = request if fetch.headers is request.headers else replace(request, headers=fetch.headers)
        try:
            response = await self.inner(sent)
            decision = self.rules.received(request, fetch, response, date)
        except BaseException:
            self.over(fetch.key, turn)
            raise
        match decision:
            case Serve():
                await response.close()
                if decision.freshened is not None:
                    self.keep(fetch.key, decision.freshened)
                self.over(fetch.key, turn)
                return decision.response
            case Pass():
                if decision.invalidates:
                    self.store.pop(fetch.key, None)
                elif turn is not None and response.status < 500:
                    self.unstorable.set(fetch.key, True)
                self.over(fetch.key, turn)
                return self.rules.marked(response, b"fwd=miss" if fetch.shareable else b"fwd=bypass")
            case Keep():
                return self.kept(request, response, decision.entry, fetch.key, turn)

    def kept(
        self, request: Request, response: Response, entry: Stored, key: str, turn: asyncio.Future[None] | None
    ) -> Response:
        """Pass a storable response on, and store it once it is whole."""
        length = find(response.headers, b"content-length")
        # An announced length that is too long already says now that nothing will be stored.
        if length is not None and request.method != "HEAD" and int(length) > self.largest:
            self.over(key, turn)
            return self.rules.marked(response, b"fwd=miss; detail=too-large")
        if isinstance(response.body, bytes):
            stored = replace(entry, body=response.body)
            self.keep(key, stored)
            self.over(key, turn)
            answer = self.rules.served(request, stored, 0, b"fwd=miss; stored")
            return replace(answer, close=response.close)
        recording = Recording(self, response, entry, key, turn)
        self.rules.marked(response, b"fwd=miss; stored")
        return replace(response, body=recording, close=recording.aclose)

    def keep(self, key: str, entry: Stored) -> None:
        if entry.size <= self.store.maxsize:
            self.store.set(key, self.rules.merge(self.store.get(key, ()), entry))

    def over(self, key: str, turn: asyncio.Future[None] | None) -> None:
        """Let those who wait look again."""
        if turn is not None:
            if self.fetching.get(key) is turn:
                del self.fetching[key]
            if not turn.done():
                turn.set_result(None)


def weight(variants: tuple[Stored, ...]) -> int:
    return sum(stored.size for stored in variants)


class Recording:
    """A body on its way to a client, of which a copy is stored when it ends as it should."""

    __slots__ = ("cache", "entry", "iterator", "key", "pieces", "response", "size", "turn", "whole")

    def __init__(
        self, cache: HttpCache, response: Response, entry: Stored, key: str, turn: asyncio.Future[None] | None
    ) -> None:
        assert not isinstance(response.body, bytes)
        self.cache = cache
        self.response = response
        self.iterator: AsyncIterator[bytes] = response.body
        self.entry = entry
        self.key = key
        self.turn = turn
        self.pieces: list[bytes] | None = []
        self.size = 0
        self.whole = False

    def __aiter__(self) -> Recording:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self.iterator.__anext__()
        except StopAsyncIteration:
            if self.pieces is not None:
                self.cache.keep(self.key, replace(self.entry, body=b"".join(self.pieces)))
            self.cache.over(self.key, self.turn)
            raise
        if self.pieces is not None:
            self.pieces.append(piece)
            self.size += len(piece)
            if self.size > self.cache.largest:
                self.pieces = None  # too large after all: what is left passes through
                self.cache.over(self.key, self.turn)
        return piece

    async def aclose(self) -> None:
        self.cache.over(self.key, self.turn)
        await self.response.close()
