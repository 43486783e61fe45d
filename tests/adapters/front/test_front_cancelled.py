"""A connection's task cancelled at each of its suspension points in turn: nothing stays open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

import replicated.adapters.front.connection as where
from replicated.http.message import Request, Response

GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"
BODY = b"POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n"
REST = b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n"
TUNNEL = b"GET /tunnel HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
SENT = {
    "plain": (GET % b"plain",),
    "again": (GET % b"plain", GET % b"plain"),
    "stream": (GET % b"stream",),
    "large": (GET % b"large", GET % b"plain"),
    "body": (BODY, b"abc", b"def"),
    "early": (REST, b"abc", b"def", GET % b"plain"),
    "tunnel": (TUNNEL, b"a", b"b", b"end"),
}


class Opened:
    """What a handler opens and closes."""

    def __init__(self) -> None:
        self.open = 0

    async def handler(self, request: Request) -> Response:
        self.open += 1
        try:
            await asyncio.sleep(0)
            body: Any = b"ok"
            status = 200
            if request.target == b"/stream":
                body = self.stream(b"x" * 300_000, b"y" * 300_000)
            elif request.target == b"/large":
                body = b"z" * 600_000
            elif request.target == b"/body":
                assert request.body is not None
                body = b"".join([piece async for piece in request.body])
            elif request.upgrade is not None:
                status, body = 101, self.back(request.upgrade)
        except BaseException:
            self.open -= 1
            raise
        return Response(status, [], body, self.close)

    async def stream(self, *pieces: bytes) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(0)

    async def back(self, upgrade: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in upgrade:
            if piece.endswith(b"end"):
                return
            yield piece

    async def close(self) -> None:
        self.open -= 1


@pytest.mark.parametrize("late", [False, True], ids=["while waiting", "as it comes"])
@pytest.mark.parametrize("what", SENT)
def test_cancelled_at_each_point(
    fronting: Any, run: Any, cancelled_at: Any, monkeypatch: pytest.MonkeyPatch, what: str, late: bool
) -> None:
    """Wherever it strikes, what was opened is closed once, the connection is gone, the next is served."""
    real = where.serve

    async def story() -> None:
        opened = Opened()
        async with fronting(opened.handler, linger=0.02) as world:
            for at in range(1, 100):
                harnesses: list[Any] = []

                async def serve(
                    connection: Any, found: Any, at: int = at, harnesses: list[Any] = harnesses
                ) -> None:
                    harnesses.append(cancelled_at(real(connection, found), at, late=late))
                    await harnesses[-1]

                monkeypatch.setattr(where, "serve", serve)
                async with world.client() as client:
                    with contextlib.suppress(OSError, RuntimeError):  # the latter is uvloop's
                        for piece in SENT[what]:
                            client.send(piece)
                            await asyncio.sleep(0.001)
                        client.half_close()
                        await client.rest()
                await world.quiet()
                assert opened.open == 0
                monkeypatch.setattr(where, "serve", real)
                async with world.client() as client:
                    client.send(GET % b"plain")
                    assert (await client.answer())[0] == 200
                await world.quiet()
                assert opened.open == 0
                if not harnesses[0].hit:
                    break
            assert at > 1

    run(story)
