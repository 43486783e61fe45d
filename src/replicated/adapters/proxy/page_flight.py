"""One fetch of a page under way: for whom it is made, and who waits for it. It does not know from where."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ...http.cache_decisions import Fetch
from ...http.message import Headers, Request

__all__ = ["Errand", "PageFlight"]


class PageFlight:
    """One fetch under way, and who waits for it."""

    __slots__ = ("failed", "landed", "shared", "waiting")

    def __init__(self) -> None:
        self.landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failed = False
        self.shared: tuple[int, Headers] | None = None  # what those who wait are told of the failure
        self.waiting = 0

    async def wait(self, timeout: float) -> None:
        """Return when it is over, or after ``timeout`` seconds."""
        self.waiting += 1
        try:
            await asyncio.wait([self.landed], timeout=timeout)
        finally:
            self.waiting -= 1


@dataclass(frozen=True, slots=True)
class Errand:
    """What one request has fetched.

    Attributes:
        request: As it came in.
        key: Of the page.
        slot: What those who would fetch the same have in common: the key, and the range if it is one.
        fetch: What the rules have said.
        flight: Who waits for it, or None where nobody may.
        began: The turn in which it began.
        asked: The instant of that.
    """

    request: Request
    key: str
    slot: str
    fetch: Fetch
    flight: PageFlight | None
    began: int
    asked: float
