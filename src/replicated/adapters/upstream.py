"""How a request reaches a replica: a keep-alive pool an origin, and deadlines for every wait.

Decides which connection carries a request and when a stale one is replaced. Which replica it goes to, and
whether another one is tried, is decided above; what HTTP/1.1 says on one connection, below.
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.parse
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ..errors import UpstreamBroken, UpstreamUnreachable
from ..http.fields import find
from ..http.message import Headers
from .connection import Connection

__all__ = ["Origin", "Timeouts", "Upstream", "UpstreamResponse"]

REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each wait for a replica may take, in seconds.

    Args:
        connect: For a connection, TLS included.
        first_byte: For the response's head, from the last byte of the request.
        read: Between two pieces of a body.
        idle: A pooled connection that was idle for longer is not used again. Below the 5 s after which
            uvicorn and Node.js close theirs, so that a request rarely meets a connection being closed.

    Raises:
        ValueError: One of them is not above zero.
    """

    connect: float = 3.0
    first_byte: float = 60.0
    read: float = 60.0
    idle: float = 4.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be seconds above zero, not {value!r}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a replica listens: what a URL says, checked once.

    Args:
        host: Name or address.
        port: TCP port.
        tls: Whether it is https.
    """

    host: str
    port: int
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Read ``http://host:port`` or ``https://host``.

        Raises:
            ValueError: It is not such a URL, or has a path, a query or a user.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"url must be http://host:port, not {url!r}: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be http://host:port, not {url!r}")
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"url must name an origin alone, without path, query or user, not {url!r}")
        tls = parts.scheme == "https"
        return cls(parts.hostname, (443 if tls else 80) if port is None else port, tls)


class UpstreamResponse:
    """A response whose head has come. Whoever holds it calls ``aclose``, however it ended.

    Attributes:
        status: The final status code.
        headers: Names in lower case, as the replica sent them.
    """

    __slots__ = ("_closed", "_connection", "_idle", "_timeout", "_upload", "headers", "status")

    def __init__(
        self,
        connection: Connection,
        idle: deque[Connection],
        timeout: float,
        upload: asyncio.Task[None] | None,
    ) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._connection = connection
        self._closed = False
        self._idle = idle
        self._timeout = timeout
        self._upload = upload

    async def read(self) -> bytes:
        """Return the next piece of the body; nothing when it is whole.

        Raises:
            UpstreamError: The body was cut short, or stopped coming.
        """
        return await self._connection.read(self._timeout)

    async def read_all(self) -> bytes:
        """Return the whole body; for one that is known to be small."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Give the connection back if its exchange is over, else close it."""
        if self._closed:
            return
        self._closed = True
        connection, idle, upload = self._connection, self._idle, self._upload
        if upload is not None and not upload.done():
            upload.cancel()  # answered before the whole request was there: what is left of it is in the way
        elif connection.reusable:
            connection.idle_since = connection.loop.time()
            if len(idle) == idle.maxlen:
                idle.popleft().abort()
            idle.append(connection)
            return
        connection.abort()


class Upstream:
    """Sends requests to replicas, each over a pool of its own.

    Args:
        timeouts: How long each wait may take.
        max_idle: Connections that a pool keeps for later; more are used and then closed.
        tls: For replicas at https; by default the system's trust, verified.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts | None = None,
        max_idle: int = 64,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self.tls = tls
        self.max_idle = max_idle
        self.idle: dict[Origin, deque[Connection]] = {}

    async def send(
        self,
        origin: Origin,
        method: str,
        target: bytes,
        headers: Headers,
        body: AsyncIterator[bytes] | None = None,
    ) -> UpstreamResponse:
        """Send a request and wait for the head of its response.

        A pooled connection can be closed by its other end while the request is on its way. When that
        happened before a byte of an answer, and repeating the request is harmless, it is sent once more
        over a fresh connection.

        Raises:
            UpstreamUnreachable: No connection came about; the replica saw nothing, ``body`` is untouched.
            UpstreamTimeout: The head did not come in time.
            UpstreamBroken: The connection ended, or carried what is not HTTP/1.1, before the head.
        """
        idle = self.idle.get(origin)
        if idle is None:
            idle = self.idle[origin] = deque(maxlen=self.max_idle)
        connection = self.pooled(idle)
        if connection is not None:
            try:
                return await self.exchange(connection, idle, method, target, headers, body)
            except UpstreamBroken:
                if connection.received or body is not None or method not in REPEATABLE:
                    raise
        connection = await self.connect(origin)
        return await self.exchange(connection, idle, method, target, headers, body)

    def pooled(self, idle: deque[Connection]) -> Connection | None:
        """Take the connection that was used last: its other end is the least likely to close it now."""
        while idle:
            connection = idle.pop()
            if connection.closed:
                continue
            if connection.loop.time() - connection.idle_since <= self.timeouts.idle:
                return connection
            # All that are left were used even earlier.
            for stale in (connection, *idle):
                stale.abort()
            idle.clear()
        return None

    async def connect(self, origin: Origin) -> Connection:
        """Open a connection."""
        tls: ssl.SSLContext | None = None
        if origin.tls:
            if self.tls is None:
                self.tls = ssl.create_default_context()
            tls = self.tls
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeouts.connect):
                _, connection = await loop.create_connection(
                    Connection,
                    origin.host,
                    origin.port,
                    ssl=tls,
                    server_hostname=origin.host if tls else None,
                )
        except TimeoutError:
            raise UpstreamUnreachable(
                f"no connection to {origin.host}:{origin.port} within {self.timeouts.connect:g} s"
            ) from None
        except OSError as error:
            raise UpstreamUnreachable(f"no connection to {origin.host}:{origin.port}: {error}") from None
        return connection

    async def exchange(
        self,
        connection: Connection,
        idle: deque[Connection],
        method: str,
        target: bytes,
        headers: Headers,
        body: AsyncIterator[bytes] | None,
    ) -> UpstreamResponse:
        """Carry one request over a connection that is ours until the response is closed."""
        upload: asyncio.Task[None] | None = None
        try:
            connection.send(method, target, headers, self.timeouts.first_byte)
            if body is not None:
                chunked = find(headers, b"content-length") is None
                upload = asyncio.ensure_future(self.upload(connection, body, chunked=chunked))
            await connection.head()
        except BaseException:
            connection.abort()
            if upload is not None:
                upload.cancel()
                [failure] = await asyncio.gather(upload, return_exceptions=True)
                if isinstance(failure, Exception):
                    raise failure from None  # the sender broke off, not the replica
            raise
        return UpstreamResponse(connection, idle, self.timeouts.read, upload)

    async def upload(self, connection: Connection, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        try:
            await connection.upload(body, chunked=chunked)
        except BaseException:
            connection.abort(UpstreamBroken("the request's own body broke off"))
            raise

    async def aclose(self) -> None:
        """Close every idle connection; those in use end with their responses."""
        for idle in self.idle.values():
            while idle:
                idle.pop().abort()
