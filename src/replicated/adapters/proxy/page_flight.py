"""One fetch of a page under way, and who waits for it. It does not know what is fetched, nor from where."""

from __future__ import annotations

import asyncio

from ...http.message import Headers

__all__ = ["PageFlight"]


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
