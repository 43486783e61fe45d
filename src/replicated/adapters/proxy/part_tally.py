"""When a page is fetched whole, of which clients ask for parts that cannot be kept by themselves.

When they have been sent as many bytes of it as it has. To have fetched it at once would have been cheaper
then, and to fetch it now costs the origin no more than was spent already: whoever cannot know what will be
asked for pays twice the least at most (the rule for renting skis). A client that asks for little, of many
pages, makes nobody fetch a page (RangeAmp; Li et al., DSN 2020).

It does not know how a page is fetched, nor whether it may be stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from ...cache import Cache
from ...clock import Clock
from ...http.message import Response
from ...http.ranges import Span

__all__ = ["PartTally"]

MOST_KEYS = 10_000
REMEMBERED = 600.0
"""Seconds after its last part from which a page's count begins anew."""


class PartTally:
    """Bytes that clients have been sent of pages, by key.

    Args:
        largest: Bytes of a page beyond which it is not fetched.
        clock: Seconds, monotonic.
    """

    def __init__(self, largest: int, clock: Clock) -> None:
        self.largest = largest
        self.sent: Cache[str, int] = Cache(MOST_KEYS, ttl=REMEMBERED, clock=clock)

    def counted(self, response: Response, key: str, span: Span, due: Callable[[], None]) -> Response:
        """Return a part as it comes, and count it as it is read.

        Args:
            response: The part.
            key: The page's.
            span: Which part of it.
            due: Called when the page is to be fetched.
        """
        if span.size > self.largest:
            return response
        if isinstance(response.body, bytes):
            self.count(key, len(response.body), span.size, due)
            return response
        return replace(
            response, body=Counted(response.body, lambda sent: self.count(key, sent, span.size, due))
        )

    def count(self, key: str, sent: int, size: int, due: Callable[[], None]) -> None:
        sent += self.sent.get(key, 0)
        if sent < size:
            self.sent.set(key, sent)
        else:
            self.sent.pop(key, None)
            due()


class Counted:
    """A body whose pieces are counted as they are read."""

    __slots__ = ("count", "source")

    def __init__(self, source: AsyncIterator[bytes], count: Callable[[int], None]) -> None:
        self.source = source
        self.count = count

    def __aiter__(self) -> Counted:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.source.__anext__()
        self.count(len(piece))
        return piece
