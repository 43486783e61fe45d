"""An ASGI application as a handler: run in a task of its own, its response read message by message.

Decides when a response is handed on, and when the application is stopped. It does not know who reads the
response: with a cache in front, that is not always the client whose request it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping

from ..http.fields import find
from ..http.message import Request, Response
from .asgi_front import ASGIApp, Message, Scope
from .proxy.gatekeeper import ClientGone

__all__ = ["AppHandler"]


class AppHandler:
    """A handler that answers with an ASGI application, which runs in a task of its own.

    The response is handed on at its head, and no more than one piece of its body waits for the reader. It
    serves requests made by ``request_of``, whose scope the application sees with the request's method and
    headers, and without extensions: it runs for whoever reads the response, who may not be its client.

    Args:
        app: Answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, request: Request) -> Response:
        """Run the application until its response's head, or the whole of a short one, is there."""
        assert isinstance(request.context, MutableMapping)
        scope = {**request.context, "method": request.method, "headers": request.headers, "extensions": {}}
        run = AppRun(self.app, scope, request.body)
        try:
            start = await run.next()
            headers = [(bytes(name).lower(), bytes(value)) for name, value in start.get("headers", ())]
            # What says how long it is will be there at once; an event stream may be silent for hours.
            if find(headers, b"content-length") is not None:
                run.first = await run.next_piece()
        except BaseException:
            await run.aclose()
            raise
        if run.more:
            return Response(start["status"], headers, run, run.aclose)
        return Response(start["status"], headers, run.first, run.aclose)


class AppRun:
    """One run of an application, read message by message; the iteration is over its body."""

    def __init__(self, app: ASGIApp, scope: Scope, body: AsyncIterator[bytes] | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.body = body
        self.asked = False  # for a body that is not there
        self.client_gone = False
        self.message: Message | None = None  # sent, and not read yet
        self.news: asyncio.Future[None] | None = None  # waited for by the reader
        self.room: asyncio.Future[None] | None = None  # waited for by the application
        self.first = b""
        self.more = True
        self.over: asyncio.Future[None] = self.loop.create_future()
        self.task = asyncio.ensure_future(app(scope, self.receive, self.send))
        self.task.add_done_callback(self.wake)

    # -- what the application calls ---------------------------------------------------------------------

    async def receive(self) -> Message:
        """Hand over the request's body, and in the end the news that nobody reads on."""
        if self.body is not None:
            try:
                async for piece in self.body:
                    return {"type": "http.request", "body": piece, "more_body": True}
            except ClientGone:
                self.client_gone = True
                return {"type": "http.disconnect"}
            self.body = None
        elif self.asked:
            await asyncio.shield(self.over)
            return {"type": "http.disconnect"}
        self.asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """Take a message when the one before was read; what comes after the last one is dropped."""
        while self.message is not None:
            if self.room is None or self.room.done():
                self.room = self.loop.create_future()
            await self.room
        if not self.over.done():
            self.message = message
            self.wake()
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self.over.set_result(None)

    # -- what the reader calls --------------------------------------------------------------------------

    async def next(self) -> Message:
        """Return the next message; when there is none, raise the application's own error."""
        while self.message is None:
            if self.task.done():
                if not self.task.cancelled():
                    self.task.result()
                if self.client_gone:
                    raise ClientGone
                raise RuntimeError("the application ended without having finished its response")
            self.news = self.loop.create_future()
            await self.news
        message, self.message = self.message, None
        if self.room is not None and not self.room.done():
            self.room.set_result(None)
        return message

    async def next_piece(self) -> bytes:
        """Return the next piece of the body; ``more`` says whether there is another."""
        message = await self.next()
        self.more = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    def wake(self, _: object = None) -> None:
        if self.news is not None and not self.news.done():
            self.news.set_result(None)

    def __aiter__(self) -> AppRun:
        return self

    async def __anext__(self) -> bytes:
        if self.first:
            piece, self.first = self.first, b""
            return piece
        while self.more:
            piece = await self.next_piece()
            if piece:
                return piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Let the application end if its response is whole, with what it does after that; else stop it."""
        if self.more:
            self.task.cancel()
        [error] = await asyncio.gather(self.task, return_exceptions=True)
        if isinstance(error, Exception) and not self.more:
            self.loop.call_exception_handler(
                {"message": "the application failed after its response", "exception": error}
            )
