"""The demo's clients: visitors with an address and cookies of their own, and the load that many of them make.

They come in at the edge, over TLS, and know nothing of what is behind it but what answers say.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import httpx

__all__ = ["Answer", "Load", "Visitor", "address"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Args:
        path: What was asked for.
        status: The status; 0 when no answer came.
        seconds: How long it took.
        replica: Which application replica made it.
        cached: Whether the cache tier answered by itself.
        retry_after: The Retry-After field in seconds, or None.
        error: Why no answer came.
    """

    path: str
    status: int
    seconds: float
    replica: str = ""
    cached: bool = False
    retry_after: int | None = None
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether the client would call it a failure: nothing, or a server's error."""
        return self.status == 0 or self.status >= 500


def address(number: int) -> str | None:
    """Return the loopback address of visitor ``number``; None, the only one, where there are no others."""
    return f"127.0.{1 + number // 250}.{1 + number % 250}" if sys.platform == "linux" else None


class Visitor:
    """One client. Use it in ``async with``.

    Args:
        url: The edge.
        tls: What it trusts.
        number: Which visitor it is; each has an address of its own, where the platform has them.
    """

    def __init__(self, url: str, tls: ssl.SSLContext, number: int) -> None:
        transport = httpx.AsyncHTTPTransport(verify=tls, local_address=address(number))
        self.client = httpx.AsyncClient(transport=transport, base_url=url, timeout=10, follow_redirects=True)

    async def __aenter__(self) -> Visitor:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.aclose()

    async def ask(self, path: str, method: str = "GET") -> Answer:
        """Ask for ``path``; a failure is an answer, too."""
        began = time.perf_counter()
        try:
            response = await self.client.request(method, path)
        except httpx.HTTPError as error:
            return Answer(path, 0, time.perf_counter() - began, error=f"{type(error).__name__}: {error}")
        retry_after = response.headers.get("retry-after")
        return Answer(
            path,
            response.status_code,
            time.perf_counter() - began,
            response.headers.get("x-replica", ""),
            "; hit" in response.headers.get("cache-status", ""),
            int(retry_after) if retry_after else None,
        )


@dataclass(slots=True)
class Load:
    """Requests of several visitors, at a steady pace, for the length of an ``async with``.

    Args:
        visitors: Who asks; each asks one thing after the other.
        paths: What they ask for, in turn: (method, path).
        pause: Seconds between two requests of one visitor.
        judge: Says what is wrong with an answer, or nothing.
    """

    visitors: Sequence[Visitor]
    paths: Sequence[tuple[str, str]]
    pause: float = 0.02
    judge: Callable[[Answer], str] = lambda answer: "failed" if answer.failed else ""
    answers: list[Answer] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    over: bool = False

    @property
    def failures(self) -> list[Answer]:
        """The answers that something is wrong with."""
        return [answer for answer in self.answers if self.judge(answer)]

    async def __aenter__(self) -> Load:
        self.tasks = [
            asyncio.create_task(self.visit(visitor, offset)) for offset, visitor in enumerate(self.visitors)
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over = True  # the last request of each visitor still counts
        if error is not None:
            for task in self.tasks:
                task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=error is not None)

    async def visit(self, visitor: Visitor, offset: int) -> None:
        for method, path in itertools.islice(itertools.cycle(self.paths), offset, None):
            if self.over:
                return
            self.answers.append(await visitor.ask(path, method))
            await asyncio.sleep(self.pause)
