"""The pages that an HTTP cache holds, here and where they are shared, and what has made them untrue since.

Decides whether what was fetched may still be stored when it is there, and keeps what is shared in step. It
may not know who asks for a page, nor who fetches it: what may be stored and served is the rules' decision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable

from ...cache import Cache
from ...clock import Clock
from ...http.caching import HttpCacheRules
from ...http.stored import Stored
from ..redis_pages import RedisPages

__all__ = ["Pages"]

REMEMBERED = 120.0
"""Seconds that an invalidation outlives: a fetch that began before it must not store what it brings after."""
MOST_CHANGES = 10_000


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
        if any(self.changed.get(name, 0) > began for name in (key, *stored.tags)):
            return False
        if self.level is not None and asked is not None:
            self.level.keep(key, stored, asked, self.rules.useful_until(stored))
        return self._put(key, self.rules.merge(self.store.peek(key, ()), stored))

    def _put(self, key: str, variants: tuple[Stored, ...]) -> bool:
        until = max(self.rules.useful_until(variant) for variant in variants)
        all_tags = [tag for variant in variants for tag in variant.tags]
        return self.store.set(key, variants, ttl=max(0.0, until - self.clock()), tags=all_tags)

    async def adopt(self, key: str) -> bool:
        """Take over what others have stored for a page, where it is younger; return whether there was any."""
        if self.level is None:
            return False
        began = self.turn()
        found = await self.level.find(key)
        born = {variant.vary: variant.born for variant in self.store.peek(key, ())}
        young = [stored for stored in found if stored.born > born.get(stored.vary, -math.inf)]
        kept = [self.keep(key, stored, began) for stored in young]
        return any(kept)

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
        if not soft or not variants:
            return self.store.delete(key)
        now = self.clock()
        self._put(key, tuple(variant.aged(now) for variant in variants))
        return True

    def purge(self, tag: bytes, *, soft: bool = False) -> int:
        """Forget every page that carries a tag, as ``forget`` does; return how many were here."""
        self._change(tag)
        if not soft:
            return self.store.purge(tag)
        return sum(self.forget(key, soft=True) for key in self.store.tagged(tag))

    def _change(self, name: str | bytes) -> None:
        self.changed.set(name, self.turn())
        if self.level is not None:
            self.level.change(name)


def weight(variants: tuple[Stored, ...]) -> int:
    return sum(stored.size for stored in variants)
