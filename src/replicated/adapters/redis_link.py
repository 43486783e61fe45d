"""Asking a Redis or Valkey server that is a help and no condition: within a deadline, or not at all.

Decides when the server is asked, and that whatever happens instead of an answer is none. It may not know what
is asked.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

from ..clock import Clock
from .arguments import seconds_above_zero

__all__ = ["RedisLink", "answers_bytes", "is_answer"]


class RedisLink:
    """A server that is asked within a deadline, and left alone for a while once it has failed.

    Args:
        client: A client of ``redis.asyncio`` that answers bytes; it belongs to the running event loop.
        deadline: Seconds that the server has to answer.
        retry_every: Seconds after a failure until it is asked again.
        clock: Seconds, for ``retry_every``.

    Attributes:
        failures: Commands that the server did not carry out in time.

    Raises:
        ValueError: A number is not above zero and finite, or ``client`` decodes its answers.
        TypeError: A number is of another type.
    """

    def __init__(self, client: Any, *, deadline: float, retry_every: float, clock: Clock) -> None:
        seconds_above_zero(deadline=deadline, retry_every=retry_every)
        answers_bytes(client)
        self.client = client
        self.deadline = deadline
        self.retry_every = retry_every
        self.clock = clock
        self.ask_again = -math.inf
        self.failures = 0

    @property
    def up(self) -> bool:
        """Whether it is worth asking: it did not fail just now."""
        return self.clock() >= self.ask_again

    async def ask(self, command: Callable[[], Awaitable[Any]], deadline: float | None = None) -> Any:
        """Return what ``command`` brings, or None where it brings nothing in time."""
        task = asyncio.current_task()
        assert task is not None
        cancels, answer = task.cancelling(), None
        try:
            async with asyncio.timeout(self.deadline if deadline is None else deadline):
                answer = await command()
        except Exception as error:  # whatever a client raises: no request fails for the sake of a cache
            self.failures += 1
            if not is_answer(error):
                self.ask_again = self.clock() + self.retry_every
        if task.cancelling() > cancels:  # redis-py 8 under Python 3.11 has lost one
            raise asyncio.CancelledError
        return answer


def answers_bytes(client: Any) -> None:
    """Refuse a client that decodes its answers."""
    made_with = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
    if made_with.get("decode_responses"):
        raise ValueError("client must answer bytes: make it without decode_responses=True")


def is_answer(error: BaseException) -> bool:
    """Return whether the server has answered, if with an error: one bad key must not turn it off for all."""
    return any(kind.__name__ == "ResponseError" for kind in type(error).__mro__)
