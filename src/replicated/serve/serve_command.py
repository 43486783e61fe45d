"""``replicated serve``: flags in, one running tier out."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..adapters.front import Front
from ..adapters.front_limits import FrontLimits
from . import options as parse
from .certificates import self_signed, server_context
from .flags import SectionedCommand, serve_flags
from .fronts import bind, run_fronts
from .lifeline import hold_lifeline
from .options import ServeOptions
from .service import Service

__all__ = ["serve"]


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn what a flag cannot be into a refusal; what fails later is a fault and keeps its traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None


@click.command(cls=SectionedCommand, short_help="One tier: a balancer, a cache, a throttle, a TLS edge.")
@serve_flags
def serve(
    upstreams: tuple[str, ...],
    listen: tuple[str, int],
    strategy: str | None,
    throttle_by: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_self_signed: bool,
    drain_delay: float,
    grace: float,
    **tier: Any,
) -> None:
    """Run one tier: a balancer, a cache, a throttle, a TLS edge, or all of them.

    Answers /livez and /readyz itself. SIGTERM drains: /readyz says 503 while requests go on being
    served, then the listener closes, what is in flight ends, and the status is 0.
    """
    hold_lifeline()
    with refusing():
        service = Service(
            ServeOptions(
                parse.upstreams(upstreams),
                strategy=strategy or ("ring-hash" if tier["affinity"] else "power-of-two"),
                throttle_by=tuple(part.strip() for part in throttle_by.split(",")),
                **tier,
            )
        )
        tls = tls_context(tls_cert, tls_key, tls_self_signed, listen[0])
        try:
            listener = bind(*listen)
        except OSError as error:
            raise ValueError(f"cannot listen on {listen[0]}:{listen[1]}: {error.strerror or error}") from None
    host, port = listener.getsockname()[:2]
    where = f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"
    line = f"replicated: {service.options.name} serves {where} from {len(upstreams)} replicas"
    front = Front(
        service.handler,
        limits=FrontLimits(service.limits),
        tls=tls,
        balancers=service.identity if service.options.proxy_protocol else None,
    )
    status = run_fronts(
        [(front, listener)],
        beside=service,
        on_start=lambda: click.echo(line, err=True),
        on_drain=service.handler.drain,
        drain_delay=drain_delay,
        grace=grace,
        last=True,
    )
    raise SystemExit(status)


def tls_context(cert: Path | None, key: Path | None, self_sign: bool, host: str) -> ssl.SSLContext | None:
    """Return what terminates TLS, as the flags say."""
    if self_sign:
        if cert or key:
            raise ValueError("--tls-self-signed makes a certificate: give no --tls-cert or --tls-key with it")
        cert, key = self_signed([host, "localhost"])
    if (cert is None) != (key is None):
        raise ValueError("--tls-cert and --tls-key go together")
    return None if cert is None or key is None else server_context(cert, key)
