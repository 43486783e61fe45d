"""An open-loop load: requests go out at their scheduled times, whatever became of those before.

A closed loop would wait while a server stands still, and so leave out the very requests that suffer: latency
here runs from the scheduled time.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

LENGTH = re.compile(rb"content-length: ([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it was due, in seconds of ``time.monotonic``, how it ended, and after how long."""

    due: float
    status: int  # 0 where nothing whole came
    latency: float


class Load:
    """GETs of a path, so many a second, over kept connections.

    Args:
        port: Of loopback.
        path: What is asked for.
        length: Bytes that a good answer has.
        rate: Requests a second.
        timeout: Seconds after which a request is lost.
    """

    def __init__(
        self, port: int, path: str, length: int, *, rate: float = 150.0, timeout: float = 8.0
    ) -> None:
        self.port = port
        self.request = f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode()
        self.length = length
        self.interval = 1 / rate
        self.timeout = timeout
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.samples: list[Sample] = []

    async def run(self, seconds: float) -> None:
        """Send for so long, and wait for the last answers."""
        begin = time.monotonic()
        tasks = []
        for turn in range(round(seconds / self.interval)):
            due = begin + turn * self.interval
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(self.one(due)))
        await asyncio.gather(*tasks)
        for _, writer in self.idle:
            writer.close()

    async def one(self, due: float) -> None:
        status = 0
        try:
            async with asyncio.timeout(self.timeout):
                status = await self.exchange()
        except (OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
            pass
        self.samples.append(Sample(due, status, time.monotonic() - due))

    async def exchange(self) -> int:
        """Return the status of a whole answer."""
        reader, writer = (
            self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        )
        try:
            writer.write(self.request)
            head = await reader.readuntil(b"\r\n\r\n")
            found = LENGTH.search(head)
            body = await reader.readexactly(int(found[1]) if found else 0)
            status = int(head[9:12])
        except BaseException:
            writer.transport.abort()
            raise
        if b"connection: close" in head.lower():
            writer.close()
        else:
            self.idle.append((reader, writer))
        return status if status != 200 or len(body) == self.length else 0
