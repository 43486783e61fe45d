"""Where a tier listens, as the flags ask for it: over TLS or not, a redirect beside it, an operator's socket.

Composition only: who is shown which certificate, and what an operator is told, is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..adapters.engine.origin import authority
from ..adapters.front.access_log import Access, json_lines
from ..adapters.front.front import Front
from ..adapters.proxy.strict_transport import redirect_to_https, strict_transport
from .admin import Admin
from .certificate_shelf import CertificateShelf
from .certificate_watch import CertificateWatch
from .certificates import self_signed
from .fronts import bind
from .service import Service

__all__ = ["Address", "EdgeOptions", "Listening"]

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """What is asked for besides the tier itself."""

    listen: Address
    tls_certs: Sequence[Path] = ()
    tls_keys: Sequence[Path] = ()
    tls_self_signed: bool = False
    tls_client_ca: Path | None = None
    hsts: int | None = None
    redirect_from: Address | None = None
    admin: Address | None = None
    access_log: Literal["stderr", "stdout"] | None = None


class Listening:
    """The sockets of a tier, and the fronts on them.

    Args:
        service: What answers.
        options: Where, and how.

    Attributes:
        fronts: Each with the socket that it serves.
        lines: What to say of them when they serve.

    Raises:
        ValueError: An address cannot be listened on, a file cannot be used, or a flag needs another one.
    """

    def __init__(self, service: Service, options: EdgeOptions) -> None:
        self.service = service
        self.shelf = certificates(options)
        self.fronts: list[tuple[Front, socket.socket]] = []
        self.lines: list[str] = []
        handler = service.handler if options.hsts is None else strict_transport(service.handler, options.hsts)
        front = Front(
            handler,
            limits=service.limits,
            tls=None if self.shelf is None else self.shelf.context,
            balancers=service.identity if service.options.proxy_protocol else None,
            log=access_log(options),
            identity=service.identity,
        )
        try:
            where = self.add(front, options.listen, "http" if self.shelf is None else "https")
            self.lines.append(f"{service.options.name} serves {where}")
            if options.redirect_from is not None:
                redirect = redirect_to_https(int(where.rpartition(":")[2]))
                where = self.add(Front(redirect, limits=service.limits), options.redirect_from)
                self.lines.append(f"{where} redirects to https")
            if options.admin is not None:
                admin = Admin(service, lambda: len(front.connections))
                self.lines.append(f"admin at {self.add(Front(admin), options.admin)}")
        except BaseException:
            self.close()
            raise

    def add(self, front: Front, address: Address, scheme: str = "http") -> str:
        """Listen on an address; return it as a URL."""
        try:
            sock = bind(*address)
        except OSError as error:
            why = error.strerror or error
            raise ValueError(f"cannot listen on {address[0]}:{address[1]}: {why}") from None
        self.fronts.append((front, sock))
        return f"{scheme}://{authority(*sock.getsockname()[:2])}"

    def close(self) -> None:
        """Close the sockets."""
        for _, sock in self.fronts:
            sock.close()

    @contextlib.asynccontextmanager
    async def beside(self, say: Callable[[str], None]) -> AsyncIterator[None]:
        """Run what runs beside the fronts; ``say`` is told of certificates that were read again."""
        async with self.service:
            if self.shelf is None:
                yield
            else:
                async with CertificateWatch(self.shelf, say):
                    yield


def access_log(options: EdgeOptions) -> Callable[[Access], None] | None:
    """Return what is told of each request, line by line and each at once; None where nobody asked."""
    if options.access_log is None:
        return None
    stream = getattr(sys, options.access_log)
    stream.reconfigure(line_buffering=True)
    return json_lines(stream.write, time.time)


def certificates(options: EdgeOptions) -> CertificateShelf | None:
    """Return the certificates, as the flags say; None where there is to be no TLS.

    Raises:
        ValueError: One of the files cannot be used, or flags contradict each other.
    """
    certs, keys = list(options.tls_certs), list(options.tls_keys)
    if options.tls_self_signed:
        if certs or keys:
            raise ValueError("--tls-self-signed makes a certificate: give no --tls-cert or --tls-key with it")
        cert, key = self_signed([options.listen[0], "localhost"])
        certs, keys = [cert], [key]
    if len(certs) != len(keys):
        raise ValueError("--tls-cert and --tls-key go together, as often as each other")
    if certs:
        return CertificateShelf(zip(certs, keys, strict=True), options.tls_client_ca)
    for name in ("tls_client_ca", "hsts", "redirect_from"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} needs a certificate: --tls-cert and --tls-key")
    return None
