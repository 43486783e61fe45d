"""The HTTP cache at work: a handler around a handler, which asks at most once for what many want.

Carries out what ``replicated.http.caching`` decides, over a ``Cache`` bounded in bytes. While one request
fetches a page, the others for it wait; where that answer turns out not to be storable, the key is remembered
for a while and nobody waits for it again. It is bound to one event loop.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import assert_never

from ...cache import Cache
from ...clock import Clock, monotonic
from ...http.cache_decisions import Confirmed, Fetch, Keep, Mismatch, Pass, Serve
from ...http.caching import RESCUED, HttpCacheRules
from ...http.fields import find, problem
from ...http.identity import Identity
from ...http.message import Handler, Request, Response
from ...http.ranges import single
from ...http.stored import Stored
from ..redis_pages import RedisPages
from .page_flight import Errand, PageFlight
from .pages import Pages
from .part_tally import PartTally
from .recording import Allowance, Recording
from .storing import Storing

__all__ = ["HttpCache"]

PATIENCE = 5.0
"""Seconds that a request waits for another's fetch of the same page, as nginx's proxy_cache_lock_timeout."""
MOST_WAITS = 3
"""Fetches of others that one request waits for: where they fail, it must not fail behind each in turn."""
HIT_FOR_MISS = 10.0
"""Seconds that an answer which could not be stored keeps others from waiting for the next one."""
REST = 1.0
"""Seconds after a failed refresh in which nobody tries the next one."""
MOST_KEYS = 10_000
GATEWAY = frozenset((502, 503, 504))
"""Answers that speak of the replicas and not of the request: those who wait for the same page get them too.
Another error may be the fault of this very request, which must not be able to break the page for others."""


class HttpCache:
    """A shared HTTP cache around a handler.

    Args:
        inner: Answers what the cache cannot.
        size: Bytes that stored responses may take together. Bodies on their way may take as much again.
        rules: What may be stored and served.
        identity: Whose X-Forwarded-Proto and -Host are believed; they are part of the key.
        largest: Bytes of a body beyond which it is passed on and not stored; an eighth of ``size`` by
            default, so that one download does not turn out everything else.
        patience: Seconds that a request waits for another's fetch of the same page.
        level: What other caches share with this one: looked in where this one has no answer.
        clock: Seconds, monotonic.
        wall: The time of day in Unix seconds, for the dates in headers.

    Raises:
        ValueError: ``size``, ``largest`` or ``patience`` is not above zero.
    """

    def __init__(
        self,
        inner: Handler,
        *,
        size: int,
        rules: HttpCacheRules | None = None,
        identity: Identity | None = None,
        largest: int | None = None,
        patience: float = PATIENCE,
        level: RedisPages | None = None,
        clock: Clock = monotonic,
        wall: Clock = time.time,
    ) -> None:
        if isinstance(size, bool) or not 0 < size < float("inf"):
            raise ValueError(f"size must be bytes above zero, not {size!r}")
        if largest is not None and (isinstance(largest, bool) or not 0 < largest < float("inf")):
            raise ValueError(f"largest must be bytes above zero, not {largest!r}")
        if isinstance(patience, bool) or not 0 < patience < float("inf"):
            raise ValueError(f"patience must be seconds above zero, not {patience!r}")
        self.inner = inner
        self.rules = rules or HttpCacheRules()
        self.identity = identity or Identity()
        self.believes = bool(self.identity.trusted or self.identity.hops)
        self.patience = patience
        self.level = level
        self.clock = clock
        self.wall = wall
        self.pages = Pages(size, self.rules, level, clock)
        self.unstorable: Cache[str, bool] = Cache(MOST_KEYS, ttl=HIT_FOR_MISS, clock=clock)
        self.resting: Cache[str, bool] = Cache(MOST_KEYS, ttl=REST, clock=clock)
        self.flights: dict[str, PageFlight] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        largest = max(1, size // 8) if largest is None else largest
        self.tally = PartTally(largest, clock)
        self.allowance = Allowance(size)
        self.storing = Storing(
            self.pages,
            self.rules,
            largest=largest,
            allowance=self.allowance,
            unstorable=self.unstorable,
            resting=self.resting,
        )

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Answer from the store, at once, or through ``inner``."""
        headers = request.headers
        fields = dict(reversed(headers))  # of each field the first line, as for `find`
        scheme, host = request.scheme, fields.get(b"host", b"")
        if self.believes and self.identity.trusts(request.peer):
            client = self.identity.client(request.peer, scheme, headers)
            scheme, host = client.scheme, host if client.host is None else client.host
        if request.method not in ("GET", "HEAD") or request.body is not None:
            return self.through(request, scheme, host)
        key, now = self.rules.key(request.target, scheme, host), self.clock()
        variants = self.pages.store.at(key, now, ())
        if request.method == "GET":  # what most requests are: answered at once, where they are hits
            hit = self.rules.hit(request, fields, variants, now)
            if hit is not None:
                return hit
        decision = self.look(request, key, variants, now)
        if isinstance(decision, Serve):
            return self.served(request, key, decision)
        return self.miss(request, key, decision)

    def purge(self, tag: bytes, *, soft: bool = False) -> int:
        """Forget every response that carries ``tag`` in Surrogate-Key or Cache-Tag; return how many keys.

        Args:
            tag: Exactly as the origin writes it.
            soft: Let them be stale instead: they may still answer while, or if, a new one is fetched.
        """
        return self.pages.purge(tag, soft=soft)

    def forget(self, key: str, *, soft: bool = False) -> bool:
        """Forget what is stored under a key, or is on its way there; return whether it was stored."""
        self.flights.pop(key, None)
        return self.pages.forget(key, soft=soft)

    async def confirmed(self) -> bool | None:
        """Return whether what is shared has forgotten what this cache has; None where nothing is shared."""
        return None if self.level is None else await self.level.confirmed()

    async def aclose(self) -> None:
        """End the refreshes that are under way, and let what is on its way to what is shared arrive."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.pages.aclose()
        if self.level is not None:
            await self.level.aclose()

    # -- requests that are passed through ---------------------------------------------------------------

    async def through(self, request: Request, scheme: str, host: bytes) -> Response:
        """Pass on what a cache has no answer to, and forget what it changed."""
        try:
            response = await self.inner(request)
        except BaseException:
            # Nobody knows how far it came.
            for key in self.rules.invalidated(request, Response(200), scheme, host):
                self.forget(key)
            raise
        for key in self.rules.invalidated(request, response, scheme, host):
            self.forget(key)
        return self.rules.marked(response, b"fwd=bypass" if request.method == "GET" else b"fwd=method")

    # -- what is there ----------------------------------------------------------------------------------

    def look(self, request: Request, key: str, variants: Sequence[Stored], now: float) -> Serve | Fetch:
        """Answer from what is stored, whole or in parts, or say what to fetch."""
        decision = self.rules.lookup(request, variants, now)
        if isinstance(decision, Fetch) and decision.ranged:
            part = self.rules.part(request, self.pages.parts(key), now)
            if part is not None:
                return Serve(part)
        return decision

    def served(self, request: Request, key: str, decision: Serve) -> Response:
        """Return what a decision answers, and begin the refresh that it asks for."""
        if decision.refresh is not None:
            self.refresh(request, key, decision.refresh)
        return decision.response

    # -- requests that ask for what is not there --------------------------------------------------------

    async def miss(self, request: Request, key: str, fetch: Fetch) -> Response:
        """Fetch, or wait for whoever does."""
        # Those who ask for one range wait for each other, and for nobody who asks for more.
        slot = f"{key} {single(request.headers)}" if fetch.ranged and fetch.shareable else key
        if slot in self.resting:  # a fetch has just failed
            rescued = self.rescue(request, key, fetch.why)
            if rescued is not None:
                return rescued
        until = self.clock() + self.patience
        for _ in range(MOST_WAITS):
            if not fetch.shareable or slot in self.unstorable:
                break
            flight = self.flights.get(slot)
            if flight is None:
                flight = self.flights[slot] = PageFlight()
                return await self.lead(request, key, slot, fetch, flight)
            left = until - self.clock()
            if left <= 0:
                break
            await flight.wait(left)
            decision = self.look(request, key, self.pages.get(key), self.clock())
            if isinstance(decision, Serve):
                return decision.response
            if flight.failed:
                how = fetch.why + b"; collapsed"
                rescued = self.rescue(request, key, how)
                if rescued is not None:
                    return rescued
                if flight.shared is not None:
                    status, extra = flight.shared
                    return self.rules.marked(problem(status, "the page could not be fetched", extra), how)
            fetch = decision
        if fetch.looks and not fetch.shareable and key not in self.unstorable:
            return await self.lead(request, key, slot, fetch, None)
        return await self.fetch(request, key, slot, fetch, None)

    async def lead(
        self, request: Request, key: str, slot: str, fetch: Fetch, flight: PageFlight | None
    ) -> Response:
        """Look in what is shared, and fetch what is not there; the others wait for either."""
        try:
            adopted = await self.pages.adopt(key)
        except BaseException:
            self.land(slot, flight)
            raise
        if adopted:
            decision = self.look(request, key, self.pages.get(key), self.clock())
            if isinstance(decision, Serve):
                self.land(slot, flight)
                return self.served(request, key, decision)
            fetch = decision
        return await self.fetch(request, key, slot, fetch, flight)

    def refresh(self, request: Request, key: str, fetch: Fetch) -> None:
        """Fetch beside the request, unless somebody does or has just failed to."""
        if key in self.flights or key in self.resting:
            return
        flight = self.flights[key] = PageFlight()
        task = asyncio.ensure_future(self.renew(replace(request, method="GET"), key, fetch, flight))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda _: self.land(key, flight))  # also of one cancelled before it ran

    async def renew(self, request: Request, key: str, fetch: Fetch, flight: PageFlight) -> None:
        self.resting.set(key, True)
        try:
            if await self.pages.adopt(key):
                decision = self.rules.lookup(request, self.pages.get(key), self.clock())
                if isinstance(decision, Serve) and decision.refresh is None:
                    return  # another has refreshed it
            response = await self.fetch(request, key, key, fetch, flight)
            try:
                if not isinstance(response.body, bytes):
                    async for _ in response.body:
                        pass
            finally:
                await response.close()
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{key} could not be refreshed", "exception": error}
            )

    async def fetch(
        self, request: Request, key: str, slot: str, fetch: Fetch, flight: PageFlight | None
    ) -> Response:
        """Ask ``inner``, and keep the answer if the rules allow. With a flight, others wait for it."""
        errand = Errand(request, key, slot, fetch, flight, self.pages.turn(), self.clock())
        # Who fetches alone, for want of somebody to share with, may as well ask on its own conditions.
        headers = fetch.headers if fetch.stored is not None or flight is not None else request.headers
        sent = request if headers is request.headers else replace(request, headers=headers)
        landing = flight
        try:
            response = await self.inner(sent)
        except BaseException as error:
            rescued = None
            if isinstance(error, Exception):
                rescued = self.failed(errand, None)
            self.land(slot, flight)
            if rescued is None:
                raise
            return rescued
        closing: Response | None = response
        try:
            if response.status in RESCUED:
                rescued = self.failed(errand, response)
                if rescued is not None:
                    return rescued
            now = self.clock()
            decision = self.rules.received(
                request, fetch, response, now=now, unix=self.wall(), delay=now - errand.asked
            )
            match decision:
                case Keep():
                    answer = self.storing.recorded(errand, response, decision, self.land)
                    if isinstance(answer.body, Recording):
                        landing = None  # it lands with the last byte
                    closing = None
                    return answer
                case Confirmed():
                    if decision.stored is not None:
                        self.storing.keep_page(errand, decision.stored)
                    return decision.response
                case Mismatch():
                    self.pages.drop(key)
                case Pass():
                    if flight is not None and response.status < 500:
                        self.unstorable.set(slot, True)
                    closing = None
                    if decision.span is not None and key not in self.unstorable:
                        plain = self.rules.whole(request, fetch.stored)
                        due = functools.partial(self.refresh, request, key, plain)
                        response = self.tally.counted(response, key, decision.span, due)
                    return self.rules.marked(response, fetch.why)
                case _:
                    assert_never(decision)
        finally:
            self.land(slot, landing)
            if closing is not None:
                await closing.close()
        again = self.rules.lookup(request, (), now)
        assert isinstance(again, Fetch)
        return await self.fetch(request, key, slot, again, None)

    def failed(self, errand: Errand, response: Response | None) -> Response | None:
        """Take note of a failure; return a stale answer in place of it, where there may be one."""
        how, flight = errand.fetch.why, errand.flight
        self.resting.set(errand.slot, True)
        if response is not None:
            how += b"; fwd-status=%d" % response.status
        if flight is not None:
            flight.failed = True
            if response is not None and response.status in GATEWAY:
                retry = find(response.headers, b"retry-after")
                extra = [] if retry is None else [(b"retry-after", retry)]
                flight.shared = (response.status, extra)
        return self.rescue(errand.request, errand.key, how)

    def rescue(self, request: Request, key: str, how: bytes) -> Response | None:
        return self.rules.rescue(request, self.pages.get(key), self.clock(), how)

    def land(self, slot: str, flight: PageFlight | None) -> None:
        """Let those who wait look again."""
        if flight is not None:
            if self.flights.get(slot) is flight:
                del self.flights[slot]
            if not flight.landed.done():
                flight.landed.set_result(None)
