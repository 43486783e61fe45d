"""How a request reaches a replica: a keep-alive pool an origin, and deadlines for every wait.

Decides which connection carries a request and when a stale one is replaced. Which replica it goes to, and
whether another one is tried, is decided above; what HTTP/1.1 says on one connection, below.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

from ...errors import UpstreamBroken, UpstreamExhausted, UpstreamTimeout, UpstreamUnreachable
from ...http.fields import find
from ...http.message import REPEATABLE, Headers
from ..arguments import seconds_above_zero
from .connection import Connection
from .origin import Origin, unreachable
from .pool import Pool

__all__ = ["Origin", "Timeouts", "Underway", "Upstream", "UpstreamResponse"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each wait for a replica may take, in seconds.

    Args:
        connect: For a connection, TLS included.
        first_byte: For the response's head, from the last byte of the request.
        read: Between two pieces of a body.
        total: For all that happens before a byte of an answer can be passed on, over all attempts; where the
            request has a body, between the attempts alone, since its client's own time is in it.
        tunnel: A tunnel through which nothing came for longer is closed.
        idle: A pooled connection that was idle for longer is not used again. Below the 5 s after which
            uvicorn and Node.js close theirs, so that a request rarely meets a connection being closed.

    Raises:
        ValueError: One of them is not above zero, or not finite.
        TypeError: One of them is not a number.
    """

    connect: float = 3.0
    first_byte: float = 60.0
    read: float = 60.0
    total: float = 60.0
    tunnel: float = 3600.0
    idle: float = 4.0

    def __post_init__(self) -> None:
        seconds_above_zero(**asdict(self))


class Underway(NamedTuple):
    """A request that was sent, whose answer nobody has waited for yet."""

    connection: Connection
    pool: Pool

    def end(self) -> None:
        """Give the connection back if its exchange is over, else close it."""
        self.pool.end(self.connection)


class UpstreamResponse:
    """A response whose head has come. Whoever holds it calls ``close``, however it ended.

    Attributes:
        status: The final status code.
        headers: Names in lower case, as the replica sent them.
    """

    __slots__ = ("_connection", "_pool", "_timeout", "_upload", "headers", "status")

    def __init__(
        self, connection: Connection, pool: Pool, timeout: float, upload: asyncio.Task[None] | None
    ) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._connection: Connection | None = connection
        self._pool = pool
        self._timeout = timeout
        self._upload = upload

    @property
    def whole(self) -> bool:
        """Whether all of the body has come, so that reading it waits for nothing."""
        return self._connection is not None and self._connection.complete

    async def read(self, until: float = math.inf) -> bytes:
        """Return the next piece of the body; nothing when it is whole.

        Args:
            until: The loop's time at which it is due at the latest, beside the deadline of its own.

        Raises:
            UpstreamError: The body was cut short, or stopped coming.
            Exception: What the request's own body raised, where it was still on its way.
        """
        connection = self._connection
        if connection is None:
            raise UpstreamBroken("the response was closed before its end")
        timeout = self._timeout
        if until < math.inf:
            timeout = min(timeout, max(0.001, until - connection.loop.time()))
        return await connection.read(timeout)

    async def read_all(self, most: float = math.inf, within: float = math.inf) -> bytes:
        """Return the whole body.

        Raises:
            UpstreamError: As ``read``; or it is longer than ``most`` bytes, or not there ``within`` seconds.
        """
        connection = self._connection
        if connection is not None and connection.complete and connection.unread <= most:
            return connection.take()  # as for most responses: nothing to wait for
        until = math.inf
        if connection is not None and not connection.complete and within < math.inf:
            until = connection.loop.time() + within
        pieces = []
        size = 0
        while piece := await self.read(until):
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise UpstreamBroken(f"the body is longer than {most} bytes")
        return b"".join(pieces)

    def close(self) -> None:
        """Give the connection back if its exchange is over, else close it. Nothing here waits, so that
        nobody can be cancelled half-way.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()  # answered before the whole request was there: what is left is in the way
            connection.abort()
        self._pool.end(connection)

    async def aclose(self) -> None:
        """Do as ``close``."""
        self.close()


class Upstream:
    """Sends requests to replicas, each over a pool of its own. Belongs to one event loop.

    Args:
        timeouts: How long each wait may take.
        max_idle: Connections that a pool keeps for later; more are used and then closed.
        max_connections: Requests that one replica may have under way; the next one is refused here. Envoy's
            1024.
        tls: For replicas at https; by default the system's trust, verified.
        server_name: The name that certificates are for, where replicas are addressed otherwise; by default
            the host of each one's URL.

    Raises:
        ValueError: ``max_idle`` is not an integer of at least 0, or ``max_connections`` none of at least 1.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts | None = None,
        max_idle: int = 64,
        max_connections: int = 1024,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        if isinstance(max_idle, bool) or not isinstance(max_idle, int) or max_idle < 0:
            raise ValueError(f"max_idle must be an integer of at least 0, not {max_idle!r}")
        if isinstance(max_connections, bool) or not isinstance(max_connections, int) or max_connections < 1:
            raise ValueError(f"max_connections must be an integer of at least 1, not {max_connections!r}")
        self.timeouts = timeouts or Timeouts()
        self.max_connections = max_connections
        self.max_idle = max_idle
        self.tls = tls
        self.server_name = server_name
        self.pools: dict[Origin, Pool] = {}

    def begin(self, origin: Origin, method: str, head: bytes) -> Underway | None:
        """Send a request without a body over a connection that is idle; None where none is.

        Whoever begins sets ``connection.told`` to hear how it goes, and either ends what is under way, or has
        ``send`` go on with it.

        Args:
            origin: Where to.
            method: A token.
            head: All that goes on the wire.
        """
        pool = self.pools.get(origin)
        if pool is None or pool.busy >= self.max_connections:
            return None
        connection = pool.take()
        if connection is None:
            return None
        timeouts = self.timeouts
        connection.send_bytes(method, head, min(timeouts.first_byte, timeouts.total))
        pool.busy += 1
        return Underway(connection, pool)

    async def send(
        self,
        origin: Origin,
        method: str,
        target: bytes,
        headers: Headers,
        body: AsyncIterator[bytes] | None = None,
        *,
        within: float = math.inf,
        tunnel: AsyncIterator[bytes] | None = None,
        begun: Underway | None = None,
        interim: Callable[[int, Headers], None] | None = None,
    ) -> UpstreamResponse:
        """Send a request and wait for the head of its response.

        A pooled connection can be closed by its other end while the request is on its way. When that
        happened before a byte of an answer, and repeating the request is harmless, it is sent once more
        over a fresh connection.

        Args:
            origin: Where to.
            method: A token.
            target: Path and query, as they go on the wire.
            headers: Names in lower case; all of them go on the wire as they are.
            body: As long as Content-Length says, or sent chunked where ``headers`` have none.
            within: Seconds for all of it, beside the deadlines of its parts.
            tunnel: What goes to the replica once it has answered 101, which it may where this is given. From
                then on the response's body is what comes back.
            begun: The same request, already sent.
            interim: Told of each interim response but 100 Continue.

        Raises:
            UpstreamUnreachable: No connection came about; the replica saw nothing, ``body`` is untouched.
            UpstreamExhausted: Likewise, and for want of something on this side.
            UpstreamTimeout: The head did not come in time.
            UpstreamBroken: The connection ended, or carried what is not HTTP/1.1, before the head.
            Exception: What ``body`` raised.
        """
        connection: Connection | None
        if begun is not None:
            connection, pool = begun
        else:
            found = self.pools.get(origin)
            if found is None:
                found = self.pools[origin] = Pool(self.max_idle, self.timeouts.idle)
            pool = found
            if pool.busy >= self.max_connections:
                raise UpstreamExhausted(f"{origin.host}:{origin.port} has {pool.busy} requests under way")
            pool.busy += 1
            connection = pool.take()
        try:
            if connection is not None:
                try:
                    if begun is not None:
                        return await self.resume(connection, pool, within)
                    return await self.exchange(
                        connection, pool, method, target, headers, body, within, tunnel, interim
                    )
                except UpstreamBroken:
                    if connection.unread or body is not None or method not in REPEATABLE:
                        raise
            if within < math.inf:
                until = asyncio.get_running_loop().time() + within
                connection = await self.connect(origin, within)
                within = max(0.001, until - connection.loop.time())
            else:
                connection = await self.connect(origin)
            return await self.exchange(
                connection, pool, method, target, headers, body, within, tunnel, interim
            )
        except BaseException as error:
            pool.busy -= 1
            if isinstance(error, UpstreamExhausted):
                for other in self.pools.values():
                    other.clear()  # what is idle takes the descriptors that are wanting
            elif isinstance(error, UpstreamUnreachable | UpstreamTimeout):
                pool.clear()  # the next request is not to find out the same at the cost of another deadline
            raise

    async def connect(self, origin: Origin, within: float = math.inf) -> Connection:
        """Open a connection."""
        timeout = min(self.timeouts.connect, within)
        tls: ssl.SSLContext | None = None
        if origin.tls:
            if self.tls is None:
                self.tls = ssl.create_default_context()
            tls = self.tls
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                _, connection = await loop.create_connection(
                    Connection,
                    origin.host,
                    origin.port,
                    ssl=tls,
                    server_hostname=(self.server_name or origin.host) if tls else None,
                )
        except TimeoutError:
            raise UpstreamUnreachable(
                f"no connection to {origin.host}:{origin.port} within {timeout:g} s", "connection_timeout"
            ) from None
        except (OSError, UnicodeError) as error:  # the latter for a name that DNS cannot have
            raise unreachable(origin, error) from None
        return connection

    async def resume(self, connection: Connection, pool: Pool, within: float) -> UpstreamResponse:
        """Wait for the answer to what was sent before."""
        try:
            connection.arm(min(self.timeouts.first_byte, within))
            await connection.head()
        except BaseException:
            connection.abort()
            raise
        return UpstreamResponse(connection, pool, self.timeouts.read, None)

    async def exchange(
        self,
        connection: Connection,
        pool: Pool,
        method: str,
        target: bytes,
        headers: Headers,
        body: AsyncIterator[bytes] | None,
        within: float,
        tunnel: AsyncIterator[bytes] | None,
        interim: Callable[[int, Headers], None] | None,
    ) -> UpstreamResponse:
        """Carry one request over a connection that is ours until the response is closed."""
        upload: asyncio.Task[None] | None = None
        timeouts = self.timeouts
        first_byte = timeouts.first_byte
        if within < first_byte:
            first_byte = within
        try:
            connection.send(method, target, headers, first_byte, may_switch=tunnel is not None)
            connection.interim = interim
            if body is not None:
                chunked = find(headers, b"content-length") is None
                upload = asyncio.ensure_future(connection.upload(body, chunked=chunked))
            await connection.head()
        except BaseException:
            connection.abort()
            if upload is not None:
                upload.cancel()
            raise
        if connection.status == 101 and tunnel is not None:
            upload = asyncio.ensure_future(connection.upload(tunnel, chunked=False))
            return UpstreamResponse(connection, pool, timeouts.tunnel, upload)
        return UpstreamResponse(connection, pool, timeouts.read, upload)

    def forget(self, origin: Origin) -> None:
        """Close what is idle to an origin that has left; what is in use ends with its response."""
        pool = self.pools.pop(origin, None)
        if pool is not None:
            pool.close()

    async def aclose(self) -> None:
        """Close every idle connection; those in use end with their responses."""
        for origin in list(self.pools):
            self.forget(origin)
