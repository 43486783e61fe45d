"""``replicated serve``: flags in, one running tier out."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import click

from . import options as parse
from .edge import EdgeOptions, Listening
from .flags import SectionedCommand, serve_flags
from .fronts import run_fronts
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
    strategy: str | None,
    throttle_by: str,
    drain_delay: float,
    grace: float,
    **flags: Any,
) -> None:
    """Run one tier: a balancer, a cache, a throttle, a TLS edge, or all of them.

    Answers /livez and /readyz itself. SIGTERM drains: /readyz says 503 while requests go on being
    served, then the listener closes, what is in flight ends, and the status is 0.
    """
    hold_lifeline()
    edge = EdgeOptions(**{name: flags.pop(name) for name in EdgeOptions.__slots__})
    if flags["subset"] is not None and flags["subset_as"] is None:
        # Another one for every router, those of one machine too, and the same after a restart with that port.
        flags["subset_as"] = f"{socket.gethostname()}:{edge.listen[1] or os.getpid()}"
    with refusing():
        service = Service(
            ServeOptions(
                parse.upstreams(upstreams),
                strategy=strategy or ("ring-hash" if flags["affinity"] else "power-of-two"),
                throttle_by=tuple(part.strip() for part in throttle_by.split(",")),
                **flags,
            ),
            counted=edge.admin is not None,
        )
        listening = Listening(service, edge)
    first, *more = listening.lines
    who = f"{len(upstreams)} replicas" if upstreams else f"the members in {service.options.members!r}"

    def say(line: str) -> None:
        click.echo(f"replicated: {line}", err=True)

    def say_where() -> None:
        for line in (f"{first} from {who}", *more):
            say(line)

    status = run_fronts(
        listening.fronts,
        beside=listening.beside(say),
        on_start=say_where,
        on_drain=service.handler.drain,
        drain_delay=drain_delay,
        grace=grace,
        last=True,
    )
    raise SystemExit(status)
