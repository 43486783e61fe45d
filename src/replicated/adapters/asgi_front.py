"""Between ASGI and handlers, both ways: a scope becomes a ``Request``, a ``Response`` becomes messages.

Only here are ``receive`` and ``send`` known. ``HandlerApp`` makes an ASGI application of a handler,
``AppHandler`` a handler of an ASGI application. Decides nothing about a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from ..http.fields import find
from ..http.message import Handler, Request, Response
from .exchange import ClientGone
from .http_cache import http_date

__all__ = [
    "ASGIApp",
    "AppHandler",
    "HandlerApp",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "request_of",
    "respond",
]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class HandlerApp:
    """An ASGI application that answers with a handler.

    Args:
        handler: Answers requests.
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        match scope["type"]:
            case "http":
                await self.serve(scope, receive, send)
            case "lifespan":
                await self.lifespan(receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1011})  # tunnels are not offered yet

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self.handler(request_of(scope, receive))
        except ClientGone:
            return
        try:
            await respond(response, receive, send)
        finally:
            await response.close()

    async def lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await self.startup() if message["type"] == "lifespan.startup" else await self.shutdown()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def startup(self) -> None:
        """Start what must run beside the requests."""

    async def shutdown(self) -> None:
        """Give back what was opened."""


class RequestBody:
    """A request's body, piece by piece."""

    __slots__ = ("more", "receive")

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.more = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while self.more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self.more = message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            if piece:
                return piece
        raise StopAsyncIteration


def request_of(scope: Scope, receive: Receive) -> Request:
    """Return an HTTP or WebSocket scope as a request."""
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    raw_path = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string", b"")
    client = scope.get("client")
    announced = find(headers, b"transfer-encoding") is not None or find(headers, b"content-length") not in (
        None,
        b"0",
    )
    scheme = str(scope.get("scheme", "http"))
    return Request(
        scope.get("method", "GET"),  # a WebSocket opens with a GET
        raw_path + b"?" + query if query else raw_path,
        headers,
        client[0] if client else "",
        {"ws": "http", "wss": "https"}.get(scheme, scheme),
        RequestBody(receive) if announced else None,
        (scope, receive),
    )


async def respond(response: Response, receive: Receive, send: Send) -> None:
    """Send a response; a stream ends when the client goes away, and breaks off where its source does."""
    headers = response.headers
    if find(headers, b"date") is None:
        headers = [*headers, (b"date", http_date())]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if isinstance(response.body, bytes):
        await send({"type": "http.response.body", "body": response.body})
        return
    # A stream can last for hours and be silent: only the news itself tells that nobody listens any more.
    stream = asyncio.ensure_future(send_stream(response.body, send))
    gone = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait([stream, gone], return_when=asyncio.FIRST_COMPLETED)
        if stream.done():
            await stream
    finally:
        gone.cancel()
        stream.cancel()
        await asyncio.gather(stream, gone, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone away; reads and drops what is left of the request."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_stream(body: AsyncIterator[bytes], send: Send) -> None:
    async for piece in body:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class AppHandler:
    """A handler that answers with an ASGI application, which runs in a task of its own.

    The response is handed on at its head, and no more than one piece of its body waits for the reader. It
    serves requests made by ``request_of``, whose scope the application sees with the request's headers.

    Args:
        app: Answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, request: Request) -> Response:
        """Run the application until its response's head, or the whole of a short one, is there."""
        assert isinstance(request.context, tuple)
        scope, receive = request.context
        run = AppRun()
        run.task = asyncio.ensure_future(run.drive(self.app, {**scope, "headers": request.headers}, receive))
        try:
            start = await run.next()
            first = await run.next()
        except BaseException:
            await run.aclose()
            raise
        if start is None or first is None:
            await run.aclose()
            raise RuntimeError("the application returned without a response")
        headers = [(bytes(name).lower(), bytes(value)) for name, value in start.get("headers", ())]
        if not first.get("more_body", False):
            await run.task
            return Response(start["status"], headers, first.get("body", b""))
        run.first = first.get("body", b"")
        return Response(start["status"], headers, run, run.aclose)


class AppRun:
    """One run of an application, read message by message; the iteration is over its body."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue(1)
        self.task: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first = b""
        self.more = True

    async def drive(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        try:
            await app(scope, receive, self.messages.put)
        finally:
            await self.messages.put(None)

    async def next(self) -> Message | None:
        """Return the next message; None, or the application's own error, when there is none."""
        message = await self.messages.get()
        if message is None:
            await self.task
        return message

    def __aiter__(self) -> AppRun:
        return self

    async def __anext__(self) -> bytes:
        if self.first:
            piece, self.first = self.first, b""
            return piece
        while self.more:
            message = await self.next()
            if message is None:
                raise RuntimeError("the application returned within its response")
            self.more = message.get("more_body", False)
            body: bytes = message.get("body", b"")
            if body:
                return body
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
