"""Pages that the processes of a tier share, as `replicated serve --cache-redis` puts them together."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from replicated import Replica
from replicated.http.fields import find
from replicated.http.message import Request, Response
from replicated.serve.options import ServeOptions
from replicated.serve.service import Service

pytest.importorskip("redis.asyncio", reason="the client is an extra")


async def ask(service: Service, method: str = "GET") -> Response:
    return await service.handler(Request(method, b"/", [(b"host", b"h")], "127.0.0.1"))


@contextlib.asynccontextmanager
async def origin() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answer on loopback with a page that keeps; yield where, and what was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                asked.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


def test_one_process_of_a_tier_serves_what_another_fetched(shared_redis: Any) -> None:
    """What one process has fetched another serves; a purge is for all; another tier has pages of its own."""

    async def story() -> None:
        shared_redis.client().flushall()
        async with origin() as (url, asked):

            def options(name: str) -> ServeOptions:
                return ServeOptions(
                    (Replica("a", url),),
                    cache=2**20,
                    cache_redis=f"unix://{shared_redis.socket}",
                    purge_from=("127.0.0.1",),
                    name=name,
                )

            async with Service(options("one")) as first, Service(options("one")) as second:
                for service in (first, second):
                    service.cache.pages.level.link.deadline = 5.0  # the machine may be busy
                assert (await ask(first)).status == 200
                while first.cache.pages.level.tasks:
                    await asyncio.sleep(0.001)
                answer = await ask(second)
                assert find(answer.headers, b"cache-status") == b"one; hit"
                assert len(asked) == 1
                async with Service(options("another")) as another:
                    await ask(another)
                    assert len(asked) == 2
                assert (await ask(first, "PURGE")).body == b'{"purged": 1, "shared": true}'
            async with Service(options("one")) as third:
                await ask(third)
                assert len(asked) == 3

    asyncio.run(asyncio.wait_for(story(), 20))


def test_it_needs_a_cache_and_a_url() -> None:
    """Without a cache there is nothing to share, and what is no URL of a server is refused."""
    replicas = (Replica("a", "http://127.0.0.1:1"),)
    with pytest.raises(ValueError, match="cache_redis needs a cache"):
        Service(ServeOptions(replicas, cache_redis="redis://there"))
    with pytest.raises(ValueError, match=r"(?i)url must"):
        Service(ServeOptions(replicas, cache=2**20, cache_redis="http://there"))


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redis-py the flag says what to install."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.delitem(sys.modules, "replicated.adapters.redis_client", raising=False)
    with pytest.raises(ValueError, match=r"cache_redis: .*pip install 'replicated-tier\[redis\]'"):
        Service(ServeOptions((Replica("a", "http://127.0.0.1:1"),), cache=2**20, cache_redis="redis://there"))
