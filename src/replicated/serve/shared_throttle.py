"""The throttle that replicas of one tier share, as the flags ask for it: its client, and who decides without.

Composition only: the throttle is an adapter's, and it decides when the server is not asked.
"""

from __future__ import annotations

from typing import Any

from ..adapters.redis_throttle import AsyncRedisThrottle, Down
from ..errors import MissingExtra
from ..throttle import Throttle
from .options import THROTTLE_DOWN, ServeOptions

__all__ = ["burst", "shared_throttle"]


def burst(options: ServeOptions) -> float:
    """Return how much may be asked at once: one second's worth, and at least a request."""
    return max(1.0, options.throttle or 0.0) if options.burst is None else options.burst


def shared_throttle(options: ServeOptions) -> tuple[AsyncRedisThrottle, Any] | None:
    """Return the throttle, with the client that is to be closed at the end; None where none is asked for.

    Raises:
        ValueError: It cannot be, or redis-py is not installed.
    """
    if options.throttle_down not in THROTTLE_DOWN:
        raise ValueError(
            f"throttle_down must be one of {', '.join(THROTTLE_DOWN)}, not {options.throttle_down!r}"
        )
    if options.throttle is None or options.throttle_redis is None:
        return None
    try:
        from ..adapters.redis_client import client_of
    except MissingExtra as missing:
        raise ValueError(f"throttle_redis: {missing}") from None
    client = client_of(options.throttle_redis)
    most, block, down = burst(options), options.throttle_block, options.throttle_down
    decides: Down = Throttle(options.throttle, most, block=block) if down == "local" else down
    throttle = AsyncRedisThrottle(
        client,
        options.throttle,
        most,
        deadline=options.throttle_deadline,
        block=block,
        shadow=options.throttle_shadow,
        down=decides,
        prefix=f"throttle:{options.name}:",  # so that the tiers of one service can share a server
    )
    return throttle, client
