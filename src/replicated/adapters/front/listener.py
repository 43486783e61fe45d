"""From a listening socket to connections: accepts, hears a PROXY header, and has TLS begin.

Decides who is accepted, and whose address a connection has. Accepts by itself and not by the event loop's
server: that one closes what the kernel has queued when it stops, and has no place for what stands before a
handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from ...http.proxy_protocol import MOST_V2, parse_proxy_header
from .connection import FrontConnection

if TYPE_CHECKING:
    from .front import Front

__all__ = ["Listener"]

AT_ONCE = 64
"""Connections that are accepted before those that are open get a turn."""


class Listener:
    """Accepts on one socket for a front.

    Args:
        front: Whose connections they are.
        sock: Listens already. It is ours from now on.
    """

    def __init__(self, front: Front, sock: socket.socket) -> None:
        self.front = front
        self.sock = sock
        self.welcomes: set[asyncio.Task[None]] = set()
        self.accepting = False
        sock.setblocking(False)
        self.resume()

    def resume(self) -> None:
        """Accept, or go on."""
        if not self.accepting and self.sock.fileno() >= 0:
            self.accepting = True
            self.front.loop.add_reader(self.sock.fileno(), self.accept)

    def pause(self) -> None:
        """Leave in the kernel who comes."""
        if self.accepting:
            self.accepting = False
            self.front.loop.remove_reader(self.sock.fileno())

    def accept(self, most: int = AT_ONCE) -> None:
        """Accept who waits."""
        for _ in range(most):
            if not self.front.has_room():
                self.pause()
                return
            try:
                sock, address = self.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:  # out of file descriptors, or of memory: the next tick tries again
                self.front.complain("no connection could be accepted", error)
                self.pause()
                return
            sock.setblocking(False)
            peer = address[0] if isinstance(address, tuple) else ""
            task = self.front.loop.create_task(self.welcome(sock, peer))
            self.welcomes.add(task)
            task.add_done_callback(self.welcomes.discard)

    async def welcome(self, sock: socket.socket, peer: str) -> None:
        """Make a connection of a socket."""
        front = self.front
        tls = front.tls_context()
        try:
            if front.balancers is not None and front.balancers.trusts(peer):
                async with asyncio.timeout(front.limits.proxy_header):
                    peer = await self.announced(sock, peer)
            # The time is for asyncio alone: its transports want one with TLS, and none without.
            times = {}
            if tls is not None:
                times["ssl_handshake_timeout"] = front.limits.handshake
                times["ssl_shutdown_timeout"] = front.limits.write_time
            await front.loop.connect_accepted_socket(
                lambda: FrontConnection(front, peer, tls=tls is not None),
                sock,
                ssl=tls,
                **times,
            )
        except (OSError, ValueError, EOFError):  # of which TimeoutError and SSLError are kinds
            sock.close()
        except BaseException:
            sock.close()
            raise
        finally:
            front.freed()

    async def announced(self, sock: socket.socket, peer: str) -> str:
        """Read the header that a balancer begins with, and not a byte more; return whose address it names.

        What is behind it belongs to a handshake or to a request. So bytes are looked at, and taken only when
        it is known that they are the header's: all of them, as long as it has not ended.

        Raises:
            ValueError: It is none.
            EOFError: The connection ended.
        """
        begun = b""
        while True:
            await self.readable(sock)
            try:
                seen = sock.recv(MOST_V2, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                continue
            if not seen:
                raise EOFError
            header = parse_proxy_header(begun + seen)
            if header is not None:
                sock.recv(header.length - len(begun))
                return peer if header.address is None else header.address
            begun += sock.recv(len(seen))

    async def readable(self, sock: socket.socket) -> None:
        loop = self.front.loop
        there = loop.create_future()
        loop.add_reader(sock.fileno(), there.set_result, None)
        try:
            await there
        finally:
            loop.remove_reader(sock.fileno())

    def close(self) -> None:
        """Accept all that the kernel has accepted for us already, and nobody more."""
        if self.sock.fileno() < 0:
            return
        self.pause()
        self.accept(1 << 16)
        self.sock.close()

    async def aclose(self) -> None:
        """Drop those who were accepted and are not connections yet."""
        for task in list(self.welcomes):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self.welcomes, return_exceptions=True)
