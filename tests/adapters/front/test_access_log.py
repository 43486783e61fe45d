"""The access log: one event a request, and one line of JSON an event."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from replicated.adapters.front.access_log import Access, json_lines
from replicated.adapters.front.front import Front
from replicated.http.identity import Identity
from replicated.http.message import Request, Response


async def handler(request: Request) -> Response:
    """Answer, fail, or break off."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise RuntimeError

    match request.target:
        case b"/broken":
            return Response(200, [], broken())
        case b"/never":
            await asyncio.Event().wait()
    return Response(203, [], b"hello", served_by="a")


def test_each_request_is_told_once() -> None:
    """What was answered, to whom, how much, how long, by whom, and whether to its end."""

    async def story() -> list[Access]:
        told: list[Access] = []
        front = Front(handler, log=told.append)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        front.start(listener)
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        for target in (b"/a?b=%20", b"/broken", b"bad", b"/never"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target)
            if target == b"/never":
                await asyncio.sleep(0.01)
                writer.transport.abort()
                await front.stop(0.01)
            else:
                with contextlib.suppress(ConnectionError):
                    answer = await reader.read()
                if target == b"/a?b=%20":
                    size = len(answer)
                writer.close()
        assert told[0].sent == size
        return told

    told = asyncio.run(asyncio.wait_for(story(), 10))
    assert {access.client for access in told} == {"127.0.0.1"}
    assert [(access.peer, *access[2:5], access.replica, access.whole) for access in told] == [
        ("127.0.0.1", "GET", "/a?b=%20", 203, "a", True),
        ("127.0.0.1", "GET", "/broken", 200, "", False),
        ("127.0.0.1", "", "", 400, "", True),
        ("127.0.0.1", "GET", "/never", 0, "", False),
    ]
    assert all(0 <= access.seconds < 5 for access in told)


def test_a_line_is_json() -> None:
    """Whatever a client has sent, an event is one line, and reads back."""
    lines: list[str] = []
    log = json_lines(lines.append, lambda: 1700000000.12345)
    log(Access("::1", "2001:db8::1", "GET", '/"\n\x80', 200, 12, 0.0012345678, "a", True))
    (line,) = lines
    assert line.endswith("}\n")
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "time": 1700000000.123,
        "peer": "::1",
        "client": "2001:db8::1",
        "method": "GET",
        "target": '/"\n\x80',
        "status": 200,
        "sent": 12,
        "seconds": 0.001235,
        "replica": "a",
        "whole": True,
    }


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("kind", ["at once", "later", "refused"])
def test_who_the_client_is(fronting: Any, run: Any, trusted: bool, kind: str) -> None:
    """What a trusted peer says of its client is in the log beside it, and what a stranger says is not."""
    told: list[Access] = []

    def answer(request: Request) -> Any:
        request.headers.clear()  # which the log does not read
        response = Response(200, [(b"content-length", b"0")])
        return response if kind == "at once" else asyncio.sleep(0, response)

    async def story() -> None:
        identity = Identity(["127.0.0.1"] if trusted else [])
        async with fronting(answer, log=told.append, identity=identity) as world, world.client() as client:
            host = b"h" if kind != "refused" else b"h, h"
            client.send(b"GET / HTTP/1.1\r\nHost: %b\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n" % host)
            await client.answer()

    run(story)
    (access,) = told
    assert access.peer == "127.0.0.1"
    assert access.client == ("203.0.113.9" if trusted and kind != "refused" else "127.0.0.1")
