"""How a question reaches Valkey or Redis: over a connection of the client's pool, packed beforehand.

A client of redis-py packs, times and wraps every command anew, which takes longer than the server takes to
decide. So where it is a plain one its pool is asked for a connection, and the rest is left out: nothing
is retried here, and the pool sees to it that a broken connection is opened anew. All other clients (of a
cluster, of one connection, traced, or written by others) are asked as ever. Nothing is decided here.
"""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

from .redis_limit import RedisLimit

__all__ = ["AsyncLine", "Line"]


class Line:
    """Asks over a client for threads.

    Args:
        client: A client of redis-py or valkey-py.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.pool = pool_of(client)

    def ask(self, limit: RedisLimit, question: tuple[bytes, ...]) -> object:
        """Return what the limit's script answers; one round trip, or two where the server lacks the script.

        Raises:
            Exception: Whatever the client does.
        """
        try:
            if self.pool is None:
                return self.client.execute_command("EVALSHA", limit.sha, b"1", *question)
            connection = self.pool.get_connection()
            try:
                connection.send_packed_command((limit.packed(question),))
                return connection.read_response()
            finally:
                self.pool.release(connection)
        except Exception as error:
            if not is_unknown_script(error):
                raise
        return self.client.execute_command("EVAL", limit.script, b"1", *question)


class AsyncLine:
    """Asks over a client for coroutines.

    Args:
        client: A client of ``redis.asyncio`` or ``valkey.asyncio``.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.pool = pool_of(client)

    async def ask(self, limit: RedisLimit, question: tuple[bytes, ...]) -> object:
        """As the threads' ``ask``."""
        try:
            if self.pool is None:
                return await self.client.execute_command("EVALSHA", limit.sha, b"1", *question)
            connection = await self.pool.get_connection()
            try:
                await connection.send_packed_command((limit.packed(question),))
                return await connection.read_response()
            finally:
                await self.pool.release(connection)
        except Exception as error:
            if not is_unknown_script(error):
                raise
        return await self.client.execute_command("EVAL", limit.script, b"1", *question)


def pool_of(client: Any) -> Any:
    """Return the client's pool where questions may go past the client itself; None where not."""
    kind = type(client)
    pool = getattr(client, "connection_pool", None)
    if kind.__module__ not in (
        "redis.client",
        "redis.asyncio.client",
        "valkey.client",
        "valkey.asyncio.client",
    ):
        return None
    if not isinstance(vars(kind).get("execute_command"), FunctionType):
        return None  # somebody has wrapped it, to see every command
    if getattr(client, "single_connection_client", False) or getattr(client, "connection", None) is not None:
        return None
    if pool is None or getattr(pool, "cache", None) is not None:
        return None
    asked_with = inspect.signature(pool.get_connection).parameters.values()
    if any(each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD for each in asked_with):
        return None  # before redis-py 5.3 a connection was asked for with the command's name
    return pool


def is_unknown_script(error: Exception) -> bool:
    """Return whether the server answers that it does not know the script, or no longer."""
    return type(error).__name__ == "NoScriptError" or str(error).startswith("NOSCRIPT")
