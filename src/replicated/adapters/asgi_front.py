"""From ASGI to a handler and back: a scope becomes a ``Request``, a ``Response`` becomes messages.

Here ``receive`` and ``send`` are read and written: ``HandlerApp`` makes an ASGI application of a handler.
Decides nothing about a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from ..http.fields import find, problem
from ..http.message import Handler, Request, Response
from .http_date import http_date
from .proxy.gatekeeper import ClientGone

__all__ = [
    "ASGIApp",
    "Arrivals",
    "HandlerApp",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "reject",
    "request_of",
    "respond",
]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


BODILESS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))


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
                await self.websocket(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrivals = Arrivals(scope, receive)
        try:
            response = await self.handler(request_of(scope, arrivals))
        except ClientGone:
            return
        try:
            await respond(response, arrivals, send)
        finally:
            await response.close()

    async def websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a WebSocket, which not every handler can answer."""
        await reject(problem(501, "there are no WebSockets here"), scope, receive, send)

    async def lifespan(self, receive: Receive, send: Send) -> None:
        """Start and stop with the server; a start that fails is said, or servers would go on without it."""
        while True:
            kind = (await receive())["type"]
            try:
                await (self.startup() if kind == "lifespan.startup" else self.shutdown())
            except Exception as error:
                await send({"type": kind + ".failed", "message": f"{type(error).__name__}: {error}"})
                return
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return

    async def startup(self) -> None:
        """Start what must run beside the requests."""

    async def shutdown(self) -> None:
        """Give back what was opened."""


class Arrivals:
    """What arrives of a client after the head of its request: first the body, then the news that it left.

    Both come through one ``receive``, and whoever calls it takes the message: two readers would take each
    other's. So the news is waited for only when the body is over; until then the body's reader meets it.
    """

    __slots__ = ("body_over", "has_body", "receive", "waiter")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.receive = receive
        length = find(scope["headers"], b"content-length")
        if length is not None:
            self.has_body = length != b"0"
        elif scope.get("http_version", "1.1") in ("1.0", "1.1"):
            self.has_body = find(scope["headers"], b"transfer-encoding") is not None
        else:
            self.has_body = scope["method"] not in BODILESS  # HTTP/2 need not announce it
        self.body_over = not self.has_body
        self.waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self.body_over:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                self.end()
                raise ClientGone
            if not message.get("more_body", False):
                self.end()
            piece: bytes = message.get("body", b"")
            if piece:
                return piece
        raise StopAsyncIteration

    def end(self) -> None:
        self.body_over = True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def gone(self) -> None:
        """Return when the client has gone away."""
        if not self.body_over:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        while (await self.receive())["type"] != "http.disconnect":
            pass


def request_of(scope: Scope, arrivals: Arrivals | None = None) -> Request:
    """Return an HTTP or WebSocket scope as a request; without ``arrivals`` it is one without a body."""
    raw_path = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string", b"")
    client = scope.get("client")
    scheme = str(scope.get("scheme", "http"))
    return Request(
        scope.get("method", "GET"),  # a WebSocket opens with a GET
        raw_path + b"?" + query if query else raw_path,
        [(bytes(name), bytes(value)) for name, value in scope["headers"]],
        client[0] if client else "",
        {"ws": "http", "wss": "https"}.get(scheme, scheme),
        arrivals if arrivals is not None and arrivals.has_body else None,
        scope,
    )


async def respond(response: Response, arrivals: Arrivals, send: Send) -> None:
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
    gone = asyncio.ensure_future(arrivals.gone())
    try:
        await asyncio.wait([stream, gone], return_when=asyncio.FIRST_COMPLETED)
        if stream.done():
            await stream
    finally:
        gone.cancel()
        stream.cancel()
        await asyncio.gather(stream, gone, return_exceptions=True)


async def reject(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a WebSocket, by a response where the server can send one; else by a close, said as 403."""
    if "websocket.http.response" in (scope.get("extensions") or ()):
        opening = {**scope, "method": "GET"}  # which a WebSocket's scope does not say
        await respond(response, Arrivals(opening, receive), as_refusal(send))
    else:
        await send({"type": "websocket.close", "code": 1011 if response.status >= 500 else 1008})


def as_refusal(send: Send) -> Send:
    """Return ``send`` for a response that stands in place of a WebSocket."""

    async def send_refusal(message: Message) -> None:
        await send({**message, "type": "websocket." + message["type"]})

    return send_refusal


async def send_stream(body: AsyncIterator[bytes], send: Send) -> None:
    async for piece in body:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
