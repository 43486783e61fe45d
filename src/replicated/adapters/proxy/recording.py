"""A body on its way to one reader, read ahead of it so that it can be stored for all the others.

Decides who reads the source: a task, as fast as the source gives, while what is read may still be stored; the
reader itself from when it may not. It may not know what is done with a whole body, nor who waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ...http.message import Response

__all__ = ["Allowance", "Recording"]


class Allowance:
    """Bytes that bodies being read may hold together: without a bound, slow readers of many pages would.

    Args:
        most: The bound.
    """

    __slots__ = ("held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0


class Recording:
    """The body of a response, and a copy of it.

    Args:
        response: What is read; it is closed with the recording.
        largest: Bytes beyond which there is no copy.
        allowance: Shared with the other recordings; beyond it there is no copy either.
        whole: Called with the body when it is whole.
        over: Called when there is no more to wait for: it was whole, or it never will be. May come twice.
        wanted: Whether somebody else waits for the copy; then a reader that leaves does not end it.
    """

    def __init__(
        self,
        response: Response,
        *,
        largest: int,
        allowance: Allowance,
        whole: Callable[[bytes], object],
        over: Callable[[], None],
        wanted: Callable[[], bool],
    ) -> None:
        assert not isinstance(response.body, bytes)
        self.response = response
        self.source = response.body
        self.largest = largest
        self.allowance = allowance
        self.whole = whole
        self.over = over
        self.wanted = wanted
        self.pieces: list[bytes] = []
        self.next = 0  # the piece that the reader reads next
        self.size = 0
        self.ended = False
        self.error: Exception | None = None
        self.abandoned = False
        self.released = False
        self.news: asyncio.Future[None] | None = None
        self.task = asyncio.ensure_future(self.read_ahead())

    async def read_ahead(self) -> None:
        """Read the source to its end, or until there will be no copy."""
        try:
            async for piece in self.source:
                self.pieces.append(piece)
                self.size += len(piece)
                self.allowance.held += len(piece)
                if self.size > self.largest or self.allowance.held > self.allowance.most:
                    return
                self.wake()
            self.ended = True
            self.whole(b"".join(self.pieces))
        except Exception as error:
            self.error = error
        finally:
            self.over()
            self.wake()
            if self.abandoned:
                await self.release()

    def wake(self) -> None:
        if self.news is not None and not self.news.done():
            self.news.set_result(None)

    def __aiter__(self) -> Recording:
        return self

    async def __anext__(self) -> bytes:
        while self.next == len(self.pieces):
            if self.ended:
                raise StopAsyncIteration
            if self.error is not None:
                raise self.error
            if self.task.done():
                return await self.source.__anext__()
            self.news = asyncio.get_running_loop().create_future()
            await self.news
        piece = self.pieces[self.next]
        if self.task.done():
            self.pieces[self.next] = b""  # nobody needs it again: what is left may be long
            self.allowance.held -= len(piece)
            self.size -= len(piece)
        self.next += 1
        return piece

    async def aclose(self) -> None:
        """Say that the reader has what it wanted, or leaves."""
        if not self.task.done():
            if self.wanted():
                self.abandoned = True
                return
            self.task.cancel()
        try:
            await asyncio.wait([self.task])
        finally:
            await self.release()

    async def release(self) -> None:
        if not self.released:
            self.released = True
            self.over()  # a task that is cancelled before it runs says nothing
            self.allowance.held -= self.size
            await self.response.close()
