"""uvicorn's HTTP protocol behind a balancer that passes bytes on and says by the PROXY protocol for whom.

It acts on what the header says; how that reads is not known here. The header stands before everything else on
a connection, before a TLS handshake too, so this serves connections without TLS alone.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from ..errors import MissingExtra
from ..http.identity import Identity
from ..http.proxy_protocol import parse_proxy_header

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:
    raise MissingExtra(__name__, "serve") from None

__all__ = ["ProxiedProtocol", "proxied"]


def proxied(balancers: Identity) -> type[ProxiedProtocol]:
    """Return the protocol class for uvicorn's ``http`` option.

    Args:
        balancers: Trusts those who begin each connection with a PROXY header. All others must not: what they
            send is HTTP from its first byte, and a header from them is a bad request. So nobody guesses
            whether there is one, as the specification demands.
    """
    return type("Proxied", (ProxiedProtocol,), {"balancers": balancers})


class ProxiedProtocol(HttpToolsProtocol):
    """A connection that is the client's whom a trusted peer names before the first request."""

    balancers: ClassVar[Identity] = Identity()
    patience: ClassVar[float] = 3.0
    """Seconds until the header must be there: as long as TCP takes to send a lost segment again."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; a balancer's first bytes are its own."""
        super().connection_made(transport)
        self.early: bytes | None = None
        self.alarm: asyncio.TimerHandle | None = None
        if self.balancers.trusts(self.client[0] if self.client else ""):
            self.early = b""
            self.alarm = self.loop.call_later(self.patience, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.said()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read the header first, then requests."""
        if self.early is None:
            super().data_received(data)
            return
        self.early += data
        try:
            header = parse_proxy_header(self.early)
        except ValueError:
            self.transport.abort()  # whoever this is does not speak HTTP to us
            return
        if header is None:
            return
        rest, self.early = self.early[header.length :], None
        self.said()
        if header.address is not None:
            self.client = (header.address, header.port)
        if rest:
            super().data_received(rest)

    def said(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None
