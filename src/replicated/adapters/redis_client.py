"""A client of Valkey or Redis by its URL, for those who have no client of their own to pass in."""

from __future__ import annotations

from typing import Any

from ..errors import MissingExtra

try:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as error:
    raise MissingExtra(__name__, "redis") from error

__all__ = ["client_of"]


def client_of(url: str) -> Any:
    """Return a client for coroutines that has no deadline of its own and asks nothing twice.

    The deadline is the asker's, and what was not answered may have been done.

    Args:
        url: ``redis://host:6379/0``, ``rediss://`` for TLS, or ``unix:///path``.

    Raises:
        ValueError: It is none of these.
    """
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=None)
