"""Runs an ASGI application on a socket, and stops it so that nothing is lost.

The order of a graceful stop: readiness turns false while requests go on being served, the balancer in
front notices, the listener closes, what is in flight ends, the process exits with 0. What the application
does is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from types import FrameType

from ..adapters.asgi_front import ASGIApp
from ..errors import MissingExtra

try:
    import uvicorn
except ImportError:
    raise MissingExtra(__name__, "serve") from None

__all__ = ["bind", "run_asgi"]

BACKLOG = 2048
GRACE = 30.0
"""Seconds that requests in flight may take to end, as a pod's terminationGracePeriodSeconds."""
KEEP_ALIVE = 75
"""Seconds that an idle client connection is kept, as nginx's keepalive_timeout."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket on ``host`` and ``port``; port 0 takes any that is free.

    Raises:
        OSError: The address is in use, or not of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # from now on a second process is told that the address is in use
    except BaseException:
        listener.close()
        raise
    return listener


def run_asgi(
    app: ASGIApp,
    *,
    listen: tuple[str, int] | socket.socket,
    on_start: Callable[[], None] | None = None,
    on_drain: Callable[[], None] | None = None,
    drain_delay: float = 0.0,
    grace: float = GRACE,
    tls: ssl.SSLContext | None = None,
    protocol: type[asyncio.Protocol] | str = "httptools",
) -> int:
    """Serve ``app`` until SIGTERM or SIGINT; return the exit status.

    Args:
        app: What to serve.
        listen: Host and port, or a socket that listens already.
        on_start: Called when requests are answered, and signals heard.
        on_drain: Called at the signal, to turn readiness off.
        drain_delay: Seconds from SIGTERM until the listener closes: as long as the balancer in front needs
            to notice. A second signal ends the wait, and the waiting for what is in flight.
        grace: Seconds that what is in flight may take after that.
        tls: Terminates TLS with this context.
        protocol: uvicorn's, for a connection.
    """
    listener = listen if isinstance(listen, socket.socket) else bind(*listen)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        loop="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # who is believed is decided by `http.identity` alone
        server_header=False,
        date_header=False,  # a response has one Date, its origin's where there is one
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(grace)),
    )
    if tls is not None:
        config.load()
        config.ssl = tls
    server = DrainingServer(config, on_start, on_drain, drain_delay)
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()
    return 0 if server.started else 1


class DrainingServer(uvicorn.Server):
    """uvicorn's server, with readiness first at a signal, and an exit status instead of the signal again."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_start: Callable[[], None] | None,
        on_drain: Callable[[], None] | None,
        drain_delay: float,
    ) -> None:
        super().__init__(config)
        self.on_start = on_start
        self.on_drain = on_drain
        self.drain_delay = drain_delay
        self.loop: asyncio.AbstractEventLoop | None = None
        self.early: list[int] = []
        self.stopping = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; then hear the signals, those first that came while nothing was there to hear them."""
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        for number in self.early:
            self.handle_exit(number, None)
        if self.on_start is not None:
            self.on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``run_asgi``: uvicorn hears them late, and raises them once more at the end."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the stop; a second signal hastens it."""
        if self.loop is None:
            self.early.append(sig)
        else:
            # Ctrl-C comes from a person in front of whom no balancer has to notice anything.
            delay = self.drain_delay if sig == signal.SIGTERM else 0.0
            self.loop.call_soon_threadsafe(self.stop, delay)

    def stop(self, delay: float) -> None:
        if self.stopping:
            self.should_exit = self.force_exit = True
            return
        self.stopping = True
        if self.on_drain is not None:
            self.on_drain()
        asyncio.get_running_loop().call_later(delay, self.leave)

    def leave(self) -> None:
        self.should_exit = True
