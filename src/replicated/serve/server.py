"""Runs an ASGI application on a socket under uvicorn, and stops it so that nothing is lost.

For applications; a tier runs on its own front. What the application does is not known here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import ssl
from collections.abc import Callable, Iterator
from types import FrameType

from ..adapters.asgi_front import ASGIApp
from ..errors import MissingExtra
from .fronts import GRACE, bind
from .stopping import StopSequence

try:
    import uvicorn
except ImportError:
    raise MissingExtra(__name__, "serve") from None

__all__ = ["bind", "run_asgi"]

KEEP_ALIVE = 75
"""Seconds that an idle client connection is kept, as nginx's keepalive_timeout."""


def run_asgi(
    app: ASGIApp,
    *,
    listen: tuple[str, int] | socket.socket,
    on_start: Callable[[], None] | None = None,
    on_drain: Callable[[], None] | None = None,
    drain_delay: float = 0.0,
    grace: float = GRACE,
    tls: ssl.SSLContext | None = None,
) -> int:
    """Serve ``app`` until SIGTERM or SIGINT; return the exit status.

    Args:
        app: What to serve.
        listen: Host and port, or a socket that listens already.
        on_start: Called when requests are answered, and signals heard.
        on_drain: Called at the signal, to turn readiness off.
        drain_delay: Seconds from SIGTERM until the listener closes. A second signal ends the wait, and the
            waiting for what is in flight.
        grace: Seconds that what is in flight may take after that.
        tls: Terminates TLS with this context.
    """
    listener = listen if isinstance(listen, socket.socket) else bind(*listen)
    config = uvicorn.Config(
        app,
        http="httptools",
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
    with server.sequence.heard():
        try:
            server.run(sockets=[listener])
        finally:
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
        self.sequence = StopSequence(drain_delay, drain=self.drain, leave=self.leave, hurry=self.hurry)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; then hear the signals, those first that came while nothing was there to hear them."""
        await super().startup(sockets)
        self.sequence.begin()
        if self.on_start is not None:
            self.on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``run_asgi``: uvicorn hears them late, and raises them once more at the end."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the stop, or hasten it."""
        self.sequence.handle(sig, frame)

    def drain(self) -> None:
        """Turn readiness off."""
        if self.on_drain is not None:
            self.on_drain()

    def leave(self) -> None:
        """Close the listener, and wait for what is in flight."""
        self.should_exit = True

    def hurry(self) -> None:
        """Wait for nobody."""
        self.should_exit = self.force_exit = True
