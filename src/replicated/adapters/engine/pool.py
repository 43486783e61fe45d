"""Connections to one replica that wait for their next request.

Decides which of them is used next and which are too old. Sends nothing and opens nothing.
"""

from __future__ import annotations

from collections import deque

from .connection import Connection

__all__ = ["Pool"]


class Pool:
    """Idle connections, the one used last on the right.

    Args:
        most: Connections kept; 0 keeps none.
        idle: Seconds after which an idle connection is not used again.

    Attributes:
        busy: Requests under way, kept by who sends them.
    """

    __slots__ = ("busy", "closed", "connections", "idle", "most")

    def __init__(self, most: int, idle: float) -> None:
        self.most = most
        self.idle = idle
        self.closed = False
        self.busy = 0
        self.connections: deque[Connection] = deque()

    def take(self) -> Connection | None:
        """Return the connection that was used last, if it is not too old: its other end is the least likely
        to close it right now.
        """
        connections = self.connections
        while connections:
            connection = connections.pop()
            if connection.closed:
                continue
            if connection.loop.time() - connection.idle_since <= self.idle:
                return connection
            connection.abort()
            self.clear()  # all that are left were used even earlier
        return None

    def give(self, connection: Connection) -> None:
        """Keep a connection for later, and let go those that the traffic no longer needs."""
        if self.closed or not self.most:
            connection.abort()
            return
        connections = self.connections
        now = connection.idle_since = connection.loop.time()
        connections.append(connection)
        while len(connections) > self.most or now - connections[0].idle_since > self.idle:
            connections.popleft().abort()

    def end(self, connection: Connection) -> None:
        """Count one request less, and keep its connection where its exchange is over; else close it."""
        self.busy -= 1
        if connection.reusable:
            self.give(connection)
        else:
            connection.abort()

    def clear(self) -> None:
        """Close all that are idle."""
        while self.connections:
            self.connections.pop().abort()

    def close(self) -> None:
        """Close all that are idle, and each that is given back from now on."""
        self.closed = True
        self.clear()
