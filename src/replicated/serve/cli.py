"""The command line: flags in, a running tier or a report out; bad flags are one line and status 2."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from . import options as parse
from .certificates import self_signed, server_context
from .lifeline import hold_lifeline
from .options import STRATEGIES, THROTTLE_KEYS, ServeOptions
from .proxied import proxied
from .ring_command import ring
from .server import bind, run_asgi
from .service import Service
from .simulate_command import simulate

__all__ = ["replicated"]


class Parsed(click.ParamType[Any]):
    """A flag read by one of the functions that say what flags mean."""

    def __init__(self, name: str, read: Callable[[str], object]) -> None:
        self.name = name
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a flag."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class OneLine(click.Group):
    """Says what is wrong in one line, without usage or traceback; the status is 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and exit."""
        try:
            status = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(2)
        except click.ClickException as error:
            click.echo(f"replicated: {error.format_message()}", err=True)
            sys.exit(2)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(130)
        sys.exit(status)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn what a flag cannot be into a refusal; what fails later is a fault and keeps its traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None


@click.group(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="replicated-tier")
def replicated() -> None:
    """Run replicas behind a balancer: readiness, consistent hashing, a cache, a throttle, TLS."""


@replicated.command(short_help="One tier: a balancer, a cache, a throttle, a TLS edge.")
@click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    required=True,
    metavar="[ID=]URL",
    help="A replica, http://host:port; once for each.",
)
@click.option(
    "--listen",
    type=Parsed("address", parse.listen),
    default="127.0.0.1:8080",
    show_default=True,
    help="Where to serve; port 0 takes any that is free.",
)
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default=None,
    help="Who serves next.  [default: ring-hash with an affinity, else power-of-two]",
)
@click.option(
    "--affinity",
    metavar="BY",
    default=None,
    help="Keep requests together by cookie:NAME, header:NAME, client-address or path; "
    "several with commas, tried in order.",
)
@click.option(
    "--bound",
    type=float,
    default=None,
    help="With an affinity: how far above the mean a replica may be loaded before its keys go on to "
    "the next one, 1.25 say.  [default: keys stay whatever the load]",
)
@click.option(
    "--probe", metavar="PATH", default=None, help="Where replicas say whether they are ready, /readyz."
)
@click.option(
    "--probe-period", type=float, default=2.0, show_default=True, help="Seconds between two probes."
)
@click.option("--probe-timeout", type=float, default=1.0, show_default=True, help="Seconds a probe may take.")
@click.option(
    "--cache",
    type=Parsed("size", parse.size),
    default=None,
    metavar="SIZE",
    help="Keep responses, in so many bytes: 64MiB.",
)
@click.option(
    "--ttl", type=float, default=None, help="Seconds for responses that do not say how long they keep."
)
@click.option(
    "--cache-grace",
    type=float,
    default=None,
    help="Seconds after its end that a response is still served while a new one is fetched.",
)
@click.option(
    "--cache-keep",
    type=float,
    default=None,
    help="Seconds after its end that a response is served when the replicas fail.",
)
@click.option(
    "--throttle",
    type=Parsed("rate", parse.rate),
    default=None,
    metavar="RATE",
    help="What one key may ask: 50/s, 500/m.",
)
@click.option("--burst", type=float, default=None, help="Requests at once.  [default: one second's worth]")
@click.option(
    "--throttle-by",
    default=",".join(THROTTLE_KEYS),
    show_default=True,
    metavar="KEYS",
    help="What makes a key.",
)
@click.option(
    "--throttle-path",
    "throttle_paths",
    multiple=True,
    metavar="TEMPLATE",
    help="Paths that count as one, /users/{id}; once for each.",
)
@click.option(
    "--throttle-block",
    type=float,
    default=0.0,
    help="Seconds that a refused key is refused whatever it asks.  [default: 0]",
)
@click.option("--throttle-shadow", is_flag=True, help="Refuse nobody; only count who would be.")
@click.option("--ratelimit-fields", is_flag=True, help="Say in RateLimit and RateLimit-Policy what is left.")
@click.option(
    "--purge-from",
    multiple=True,
    metavar="NETWORK",
    help="Let peers from here PURGE what the cache holds: 127.0.0.0/8; once for each.",
)
@click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="NETWORK",
    help="Believe X-Forwarded-* from here: 10.0.0.0/8; once for each.",
)
@click.option(
    "--trust-hops",
    type=click.IntRange(min=0),
    default=0,
    help="Or believe so many proxies, whatever their addresses.  [default: 0]",
)
@click.option(
    "--trust-header",
    type=click.Choice(["x-forwarded-for", "forwarded"]),
    default="x-forwarded-for",
    show_default=True,
    help="Which header they write.",
)
@click.option(
    "--proxy-protocol", is_flag=True, help="Trusted peers begin a connection with a PROXY header, v1 or v2."
)
@click.option("--tls-cert", type=click.Path(path_type=Path), default=None, help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), default=None, help="Its private key, PEM.")
@click.option("--tls-self-signed", is_flag=True, help="Make a certificate for this run.")
@click.option("--name", default="replicated", show_default=True, help="What this tier calls itself in Via.")
@click.option(
    "--body-limit",
    type=Parsed("size", parse.size),
    default="16MiB",
    show_default=True,
    help="The largest request body; beyond it 413.",
)
@click.option(
    "--header-limit",
    type=Parsed("size", parse.size),
    default="32KiB",
    show_default=True,
    help="The largest request header; beyond it 431.",
)
@click.option(
    "--drain-delay",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds between SIGTERM, when /readyz turns 503, and the closing of the listener.",
)
@click.option("--grace", type=click.FloatRange(min=0), default=30.0, show_default=True,
              help="Seconds that requests in flight may then take.")  # fmt: skip
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
        if service.options.proxy_protocol and tls is not None:
            raise ValueError("--proxy-protocol goes without TLS: its header stands before the handshake")
        try:
            listener = bind(*listen)
        except OSError as error:
            raise ValueError(f"cannot listen on {listen[0]}:{listen[1]}: {error.strerror or error}") from None
    host, port = listener.getsockname()[:2]
    where = f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"
    line = f"replicated: {service.options.name} serves {where} from {len(upstreams)} replicas"
    status = run_asgi(
        service.app,
        listen=listener,
        on_start=lambda: click.echo(line, err=True),
        on_drain=service.app.drain,
        drain_delay=drain_delay,
        grace=grace,
        tls=tls,
        protocol=proxied(service.identity) if service.options.proxy_protocol else "httptools",
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


@replicated.command(short_help="Three tiers on loopback, and proof that the pattern holds.")
@click.option("--keep", is_flag=True, help="Leave it running at the end, and print the URLs.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where everything listens.")
def demo(keep: bool, host: str) -> None:
    """Run three tiers on loopback and prove the pattern with live traffic, in under a minute."""
    from rich.console import Console

    from .demo.run import demo as run

    raise SystemExit(asyncio.run(run(Console(), host=host, keep=keep)))


replicated.add_command(ring)
replicated.add_command(simulate)
