"""The native front: serves a handler over HTTP/1.1 on sockets that listen.

Decides how many connections there are, what time it is for them, and in which order a stop goes: not ready
any more, no new connections, no idle ones, what is in flight to its end, and then nothing. What the handler
answers, and when a process stops, is not known here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from ...http.heads import HeadReader
from ...http.identity import Identity
from ...http.message import Handler
from ..http_date import http_date
from .access_log import Access
from .connection import FrontConnection
from .limits import FrontLimits
from .listener import Listener

__all__ = ["Front"]


class Front:
    """An HTTP/1.1 server in the running event loop. Several may run in one loop, each with its own handler.

    ::

        front = Front(handler)
        front.start(sock)        # listens already; more may follow
        ...
        front.drain()            # answers ask for the connection to be closed
        await front.stop(30.0)   # all that has been asked is answered, or 30 seconds have passed

    Args:
        handler: Answers requests. What it raises is a 500, and ``ClientGone`` no answer at all.
        limits: What clients may.
        tls: Terminates TLS, or returns what does for each new connection.
        balancers: Trusts those who begin each connection with a PROXY header, before TLS where there is TLS;
            all others must not. None where nobody does.
        log: Is told of each request when it is over; it costs nothing where there is none.
        identity: Says for the log who the client is; the peer where there is none.

    Attributes:
        connections: Those that are open.
        draining: Whether ``drain`` was called.
        parting: Whether each answer asks for its connection to be closed.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        limits: FrontLimits | None = None,
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext | None] | None = None,
        balancers: Identity | None = None,
        log: Callable[[Access], None] | None = None,
        identity: Identity | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits or FrontLimits()
        self.tls = tls
        self.balancers = balancers
        self.log = log
        self.identity = identity
        self.heads = HeadReader(self.limits.request)
        self.connections: set[FrontConnection] = set()
        self.draining = False
        self.parting = False
        self.stopping = False
        self.listeners: list[Listener] = []
        self.seconds = self.limits.tick
        self.now = 0.0
        self.date = b""
        self.alarm: asyncio.TimerHandle | None = None
        self.empty: asyncio.Future[None] | None = None
        self.loop: asyncio.AbstractEventLoop

    # -- life -------------------------------------------------------------------------------------------

    def start(self, sock: socket.socket) -> None:
        """Accept connections on a socket that listens, which is the front's from now on."""
        self.loop = asyncio.get_running_loop()
        if self.alarm is None:
            self.now = self.loop.time()
            self.tick()
        self.listeners.append(Listener(self, sock))

    def drain(self) -> None:
        """Have each answer ask its client to close the connection; requests are served as before."""
        self.draining = self.parting = True

    async def stop(self, grace: float = 30.0) -> None:
        """End: accept who is in the kernel's queue, answer what is asked, then close.

        Args:
            grace: Seconds that this may take; what is not over by then is cut.
        """
        self.drain()
        for listener in self.listeners:
            listener.close()
        try:
            async with asyncio.timeout(grace):
                # What has arrived is to be seen before anybody is taken for idle: a turn to poll, one to
                # read.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                self.stopping = True
                for connection in list(self.connections):
                    connection.leave()
                for listener in self.listeners:
                    await asyncio.gather(*listener.welcomes, return_exceptions=True)
                while self.connections:
                    self.empty = self.loop.create_future()
                    await self.empty
        except TimeoutError:
            pass
        finally:
            await self.abort()

    async def abort(self) -> None:
        """End at once."""
        for listener in self.listeners:
            listener.close()
            await listener.aclose()
        tasks = [connection.task for connection in self.connections if connection.task is not None]
        for connection in list(self.connections):
            connection.cut_off()
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # and each connection hears of its end

    # -- what connections and listeners ask -------------------------------------------------------------

    def tls_context(self) -> ssl.SSLContext | None:
        """Return what terminates TLS for the next connection."""
        tls = self.tls
        return tls if tls is None or isinstance(tls, ssl.SSLContext) else tls()

    def after(self, seconds: float) -> float:
        """Return when ``seconds`` will have passed: never too early, and late by a tick at most."""
        return self.now + seconds + self.seconds

    def has_room(self) -> bool:
        """Return whether another connection may be accepted; for one that may not, idle ones go."""
        count = len(self.connections) + sum(len(listener.welcomes) for listener in self.listeners)
        if count < self.limits.connections:
            self.parting = self.draining
            return True
        self.parting = True  # whoever is answered now makes room
        for connection in self.connections:
            if connection.idle:
                connection.close()
                break  # and there is room when it has gone
        return False

    def arrived(self, connection: FrontConnection) -> None:
        """Count a connection."""
        self.connections.add(connection)
        if self.stopping:
            connection.leave()

    def left(self, connection: FrontConnection) -> None:
        """Count one less."""
        self.connections.discard(connection)
        self.freed()
        if not self.connections and self.empty is not None and not self.empty.done():
            self.empty.set_result(None)

    def freed(self) -> None:
        """Accept again, where there was no room."""
        for listener in self.listeners:
            listener.resume()

    def complain(self, what: str, error: Exception) -> None:
        """Say what went wrong, where the event loop says such things."""
        self.loop.call_exception_handler({"message": what, "exception": error})

    def tell(self, access: Access) -> None:
        """Tell the log, where there is one, of a request that is over."""
        if self.log is not None:
            try:
                self.log(access)
            except Exception as error:  # its disk is full, say: that is no fault of the client's
                self.complain("the access log failed", error)

    def tick(self) -> None:
        """Look at every connection's limits of time, and at the date."""
        now = self.loop.time()
        seconds, self.now = now - self.now, now
        self.date = b"date: " + http_date()
        self.alarm = self.loop.call_later(self.seconds, self.tick)
        for connection in list(self.connections):
            connection.tick(now, seconds)
        if not self.draining:
            self.freed()
