"""The pages that an HTTP cache holds, here and where they are shared, and what has made them untrue since.

Decides whether what was fetched may still be stored when it is there, and keeps what is shared in step. It
may not know who asks for a page, nor who fetches it: what may be stored and served is the rules' decision.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Hashable

from ...cache import Cache
from ...clock import Clock
from ...http.cache_decisions import Keep
from ...http.caching import HttpCacheRules
from ...http.parts import Parts, strong
from ...http.stored import Stored
from ..redis_pages import RedisPages

__all__ = ["Pages"]

REMEMBERED = 120.0
"""Seconds that an invalidation outlives: a fetch that began before it must not store what it brings after."""
MOST_CHANGES = 10_000
PARTS = "parts "
"""What the key of a page's parts begins with, and no page's does: both share one bound."""


class Pages:
    """Stored responses by key, bounded in bytes.

    Args:
        size: Bytes that they may take together.
        rules: What may be stored, and for how long it is of use.
        level: What other caches share with this one, or None.
        clock: Seconds, monotonic.
    """

    def __init__(self, size: int, rules: HttpCacheRules, level: RedisPages | None, clock: Clock) -> None:
        self.rules = rules
        self.level = level
        self.clock = clock
        self.store: Cache[str, tuple[Stored, ...]] = Cache(size, getsizeof=weight, clock=clock)
        self.turns = itertools.count()  # orders fetches and changes, which a clock may show as simultaneous
        self.changed: Cache[Hashable, int] = Cache(MOST_CHANGES, ttl=REMEMBERED, clock=clock)
        self.looks: dict[str, asyncio.Task[bool]] = {}

    def get(self, key: str) -> tuple[Stored, ...]:
        """Return the variants that are stored."""
        return self.store.get(key, ())

    def turn(self) -> int:
        """Return the turn of a fetch that begins now."""
        return next(self.turns)

    def keep(self, key: str, stored: Stored, began: int, asked: float | None = None) -> bool:
        """Store a response, unless something has made it untrue since its fetch began; return whether it was.

        Args:
            key: The page's.
            stored: One variant of it.
            began: The turn in which its fetch began.
            asked: The instant of that, of a response to share; None of one that was.
        """
        if self._overtaken(key, stored, began):
            return False
        if self.level is not None and asked is not None:
            self.level.keep(key, stored, asked, self.rules.useful_until(stored))
        if all(parts.born <= stored.born for parts in self.store.peek(PARTS + key, ())):
            self.store.pop(PARTS + key, None)  # but younger ones stay: what others have shared may be stale
        return self._put(key, self.rules.merge(self.store.peek(key, ()), stored))

    def parts(self, key: str) -> tuple[Parts, ...]:
        """Return the variants of which parts are stored."""
        name = PARTS + key
        if name not in self.store:
            return ()  # and no miss: the page was one already
        return self.store.get(name)  # type: ignore[return-value]

    def keep_part(self, key: str, keep: Keep, body: bytes, began: int, asked: float, most: int) -> bool:
        """Store a part, or the whole page if it completes that; return whether it was.

        Args:
            key: The page's.
            keep: What the rules have said of it.
            body: The part.
            began: As for ``keep``.
            asked: See there.
            most: Bytes that the parts of one page may take.
        """
        span, stored = keep.span, keep.stored
        if span is None or len(body) != span.length or self._overtaken(key, stored, began):
            return False
        part, there = Parts.of(stored, span, body), self.parts(key)
        old = next((parts for parts in there if parts.vary == part.vary), None)
        if old is not None and old.fits(part):
            part = old.beside(part, most)
        elif keep.extends:
            return False
        whole = part.completed()
        if whole is not None:
            return self.keep(key, whole, began, asked)
        for page in self.store.peek(key, ()):
            if page.vary == part.vary and strong(page) != strong(part):
                self.drop(key)  # the page is another one by now
        variants = self.rules.merge(there, part)
        left = max(parts.fresh_until for parts in variants) - self.clock()
        tags = [tag for parts in variants for tag in parts.tags]
        return self.store.set(PARTS + key, variants, ttl=max(0.0, left), tags=tags)

    def _overtaken(self, key: str, stored: Stored, began: int) -> bool:
        return any(self.changed.get(name, 0) > began for name in (key, *stored.tags))

    def _put(self, key: str, variants: tuple[Stored, ...]) -> bool:
        until = max(self.rules.useful_until(variant) for variant in variants)
        all_tags = [tag for variant in variants for tag in variant.tags]
        return self.store.set(key, variants, ttl=max(0.0, until - self.clock()), tags=all_tags)

    async def adopt(self, key: str) -> bool:
        """Take over what others have stored for a page, where it is younger; return whether there was any.

        Many may ask at once, for parts of one page or for its head: one of them looks, and no caller's
        cancellation ends that.
        """
        if self.level is None:
            return False
        look = self.looks.get(key)
        if look is None:
            look = self.looks[key] = asyncio.ensure_future(self._adopt(key, self.level))
            look.add_done_callback(lambda _: self.looks.pop(key))
        return await asyncio.shield(look)

    async def _adopt(self, key: str, level: RedisPages) -> bool:
        began = self.turn()
        found = await level.find(key)
        born = {variant.vary: variant.born for variant in self.store.peek(key, ())}
        young = [stored for stored in found if stored.born > born.get(stored.vary, -math.inf)]
        kept = [self.keep(key, stored, began) for stored in young]
        return any(kept)

    async def aclose(self) -> None:
        """Let the looks that are under way end."""
        if self.looks:
            await asyncio.wait(list(self.looks.values()))

    def drop(self, key: str) -> None:
        """Let go of what turned out not to be what the origin has, here alone."""
        self.store.pop(key, None)

    def forget(self, key: str, *, soft: bool = False) -> bool:
        """Forget a page, here and where it is shared; return whether it was here.

        Args:
            key: The page's.
            soft: Let it be stale instead, here: it may still answer while, or if, a new one is fetched.
        """
        self._change(key)
        variants = self.store.peek(key, ())
        parts = self.store.delete(PARTS + key)
        if not soft or not variants:
            return self.store.delete(key) or parts
        now = self.clock()
        self._put(key, tuple(variant.aged(now) for variant in variants))
        return True

    def purge(self, tag: bytes, *, soft: bool = False) -> int:
        """Forget every page that carries a tag, as ``forget`` does; return how many were here."""
        self._change(tag)
        keys = {key.removeprefix(PARTS) for key in self.store.tagged(tag)}
        if soft:
            return sum(self.forget(key, soft=True) for key in keys)
        self.store.purge(tag)
        return len(keys)

    def _change(self, name: str | bytes) -> None:
        self.changed.set(name, self.turn())
        if self.level is not None:
            self.level.change(name)


def weight(variants: tuple[Stored, ...]) -> int:
    return sum(stored.size for stored in variants)
