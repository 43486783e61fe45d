"""The level of an HTTP cache that members of a tier share, as the flags ask for it: its client and its name.

Composition only: what is asked of the server, and what is done without it, is the adapter's decision.
"""

from __future__ import annotations

from typing import Any

from ..adapters.redis_pages import RedisPages
from ..errors import MissingExtra
from .options import ServeOptions

__all__ = ["shared_pages"]


def shared_pages(options: ServeOptions) -> tuple[RedisPages, Any] | None:
    """Return the level, with the client that is to be closed at the end; None where none is asked for.

    Raises:
        ValueError: It cannot be, or redis-py is not installed.
    """
    if options.cache is None or options.cache_redis is None:
        return None
    try:
        from ..adapters.redis_client import client_of
    except MissingExtra as missing:
        raise ValueError(f"cache_redis: {missing}") from None
    client = client_of(options.cache_redis)
    # By the tier's name, so that the tiers of one service can share a server.
    return RedisPages(client, prefix=f"cache:{options.name}:"), client
