"""The flags of ``replicated serve``, in the sections of its help; what their texts mean is read elsewhere.

One entry a flag: a flag that decides about the tier has the name of the field of ``ServeOptions`` that it
fills, and needs no other line of code on its way there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from . import options as parse
from .options import LOADS, STRATEGIES, THROTTLE_DOWN, THROTTLE_KEYS

__all__ = ["Parsed", "SectionedCommand", "serve_flags"]

F = TypeVar("F", bound=Callable[..., Any])
SECONDS = click.FloatRange(min=0)
FILE = click.Path(path_type=Path)


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


SIZE = Parsed("size", parse.size)
ADDRESS = Parsed("address", parse.listen)
TIME = Parsed("seconds", parse.seconds)


class Flag(click.Option):
    """A flag that stands in a section of the help."""

    section = ""


class SectionedCommand(click.Command):
    """A command whose help says its flags section by section: fifty in one list help nobody."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            line = parameter.get_help_record(ctx)
            if line is not None:
                sections.setdefault(getattr(parameter, "section", "Other"), []).append(line)
        for title, lines in sections.items():
            with formatter.section(title):
                formatter.write_dl(lines)


def flag(*names: str, **attributes: Any) -> Flag:
    """Return one flag; a default worth showing is shown unless the help says it in words."""
    attributes.setdefault("show_default", attributes.get("default") not in (None, 0.0, 0))
    return Flag(names, **attributes)


SECTIONS: dict[str, list[Flag]] = {
    "Replicas": [
        flag(
            "--upstream",
            "upstreams",
            multiple=True,
            metavar="[ID=]URL",
            help="A replica, http://host:port, perhaps followed by weight=2 or zone=eu; once for each.",
        ),
        flag(
            "--members",
            type=Parsed("source", parse.members),
            metavar="SOURCE",
            help="Or where the replicas are named, heeded as it changes: a file with one [ID=]URL a line, "
            "dns:NAME:PORT or srv:NAME.",
        ),
        flag("--probe", metavar="PATH", help="Where replicas say whether they are ready, /readyz."),
        flag("--probe-period", type=float, default=2.0, help="Seconds between two probes."),
        flag("--probe-timeout", type=float, default=1.0, help="Seconds a probe may take."),
        flag("--connect-timeout", type=TIME, default=3.0, help="Seconds for a connection, TLS included."),
        flag("--first-byte-timeout", type=TIME, default=60.0, help="Seconds until an answer begins."),
        flag("--read-timeout", type=TIME, default=60.0, help="Seconds between two pieces of an answer."),
        flag("--total-timeout", type=TIME, default=60.0, help="Seconds for all attempts together."),
        flag("--tunnel-timeout", type=TIME, default=3600.0, help="Seconds that a WebSocket may be silent."),
        flag(
            "--eject-after",
            type=click.IntRange(min=0),
            default=5,
            help="Failed requests in a row that take a replica out for a while; 0 for never.",
        ),
        flag("--eject-for", type=float, default=5.0, help="Seconds at first, twice as long each time."),
        flag(
            "--slow-start", type=float, help="Seconds in which one that became ready gets to its full share."
        ),
    ],
    "Balancing": [
        flag(
            "--strategy",
            type=click.Choice(STRATEGIES),
            help="Who serves next.  [default: ring-hash with an affinity, else power-of-two]",
        ),
        flag(
            "--load",
            type=click.Choice(LOADS),
            default="in-flight",
            help="What makes a replica busy: its requests, or those times how long it takes to answer.",
        ),
        flag(
            "--affinity",
            metavar="BY",
            help="Keep requests together by cookie:NAME, header:NAME, client-address, host or path; "
            "several with commas, tried in order.",
        ),
        flag(
            "--bound",
            type=float,
            help="With an affinity: how far above the mean a replica may be loaded before its keys go on "
            "to the next one, 1.25 say.  [default: keys stay whatever the load]",
        ),
        flag(
            "--pin",
            metavar="COOKIE",
            help="With an affinity: keep sessions where they are when replicas come or drain, by a cookie of "
            "this name for those that need one.",
        ),
        flag(
            "--pin-secret",
            type=FILE,
            help="What all routers sign pins by, at least 16 bytes.  [default: $REPLICATED_PIN_SECRET]",
        ),
        flag("--pin-ttl", type=float, default=3600.0, help="Seconds that a session may be idle for."),
        flag("--pin-hard", is_flag=True, help="Refuse a pinned session rather than serve it elsewhere."),
        flag(
            "--pin-tenant",
            metavar="BY",
            help="Whose a session is, where several share this tier: header:NAME or host.",
        ),
        flag("--zone", help="Where this is: prefer replicas of the same zone, while they suffice."),
        flag(
            "--subset",
            type=click.IntRange(min=1),
            help="Of a large fleet use only so many replicas, others than the next router uses.",
        ),
        flag(
            "--subset-as",
            metavar="ROUTER",
            help="The name of this router, which says which.  [default: host name and port]",
        ),
        flag(
            "--max-in-flight",
            type=click.IntRange(min=1),
            help="Requests that each replica may have in flight; others wait.",
        ),
        flag("--queue", type=click.IntRange(min=0), help="How many may wait.  [default: 100]"),
        flag("--queue-timeout", type=float, default=1.0, help="Seconds that one may wait; then 503."),
    ],
    "Cache": [
        flag("--cache", type=SIZE, metavar="SIZE", help="Keep responses, in so many bytes: 64MiB."),
        flag("--ttl", type=float, help="Seconds for responses that do not say how long they keep."),
        flag(
            "--cache-grace",
            type=float,
            help="Seconds after its end that a response is still served while a new one is fetched.",
        ),
        flag(
            "--cache-keep",
            type=float,
            help="Seconds after its end that a response is served when the replicas fail.",
        ),
        flag(
            "--cache-redis",
            metavar="URL",
            help="Share what is kept with all who name this Valkey or Redis: redis://host:6379/0.",
        ),
        flag(
            "--purge-from",
            multiple=True,
            metavar="NETWORK",
            help="Let peers from here PURGE what the cache holds: 127.0.0.0/8; once for each.",
        ),
    ],
    "Throttle": [
        flag(
            "--throttle",
            type=Parsed("rate", parse.rate),
            metavar="RATE",
            help="What one key may ask: 50/s, 500/m.",
        ),
        flag("--burst", type=float, help="Requests at once.  [default: one second's worth]"),
        flag("--throttle-by", default=",".join(THROTTLE_KEYS), metavar="KEYS", help="What makes a key."),
        flag(
            "--throttle-path",
            "throttle_paths",
            multiple=True,
            metavar="TEMPLATE",
            help="Paths that count as one, /users/{id}; once for each.",
        ),
        flag(
            "--throttle-prefix",
            "throttle_prefixes",
            type=Parsed("prefixes", parse.prefixes),
            default="32,64",
            metavar="BITS,BITS",
            help="Bits of an IPv4 and of an IPv6 address that count.",
        ),
        flag(
            "--throttle-block",
            type=float,
            default=0.0,
            help="Seconds that a refused key is refused whatever it asks.  [default: 0]",
        ),
        flag(
            "--throttle-redis",
            metavar="URL",
            help="Share the limit with all who name this Valkey or Redis: redis://host:6379/0.",
        ),
        flag("--throttle-deadline", type=float, default=0.1, help="Seconds that it has for an answer."),
        flag(
            "--throttle-down",
            type=click.Choice(THROTTLE_DOWN),
            default="local",
            help="Who decides while it gives none: a throttle of this process, or all in, or all out.",
        ),
        flag("--throttle-shadow", is_flag=True, help="Refuse nobody; only count who would be."),
        flag("--ratelimit-fields", is_flag=True, help="Say in RateLimit and RateLimit-Policy what is left."),
    ],
    "Clients": [
        flag(
            "--trust",
            "trusted",
            multiple=True,
            metavar="NETWORK",
            help="Believe X-Forwarded-* from here: 10.0.0.0/8; once for each.",
        ),
        flag(
            "--trust-hops",
            type=click.IntRange(min=0),
            default=0,
            help="Or believe so many proxies, whatever their addresses.  [default: 0]",
        ),
        flag(
            "--trust-header",
            type=click.Choice(["x-forwarded-for", "forwarded"]),
            default="x-forwarded-for",
            help="Which header they write.",
        ),
        flag(
            "--proxy-protocol",
            is_flag=True,
            help="Trusted peers begin a connection with a PROXY header, v1 or v2.",
        ),
        flag("--body-limit", type=SIZE, default="16MiB", help="The largest request body; beyond it 413."),
        flag("--header-limit", type=SIZE, default="32KiB", help="The largest request header; beyond it 431."),
        flag("--header-timeout", type=TIME, default=10.0, help="Seconds for a whole header; beyond it 408."),
        flag("--body-timeout", type=TIME, default=20.0, help="Seconds that a body may be silent; then 408."),
        flag(
            "--write-timeout",
            type=TIME,
            default=60.0,
            help="Seconds that one may not read what was written; then it is cut off.",
        ),
        flag(
            "--least-rate",
            type=SIZE,
            default=500,
            metavar="SIZE",
            help="Bytes a second below which a body, or a reader, counts as silent.",
        ),
        flag("--keep-alive", type=TIME, default=75.0, help="Seconds that a connection may be idle."),
    ],
    "Listening": [
        flag(
            "--listen",
            type=ADDRESS,
            default="127.0.0.1:8080",
            help="Where to serve; port 0 takes any that is free.",
        ),
        flag(
            "--tls-cert",
            "tls_certs",
            type=FILE,
            multiple=True,
            help="Certificate chain, PEM; once for each, and the client's server name chooses.",
        ),
        flag(
            "--tls-key",
            "tls_keys",
            type=FILE,
            multiple=True,
            help="Its private key, PEM; as often, in the same order.",
        ),
        flag("--tls-self-signed", is_flag=True, help="Make a certificate for this run."),
        flag(
            "--tls-client-ca",
            type=FILE,
            help="Ask each client for a certificate of one of these authorities, PEM.",
        ),
        flag(
            "--hsts",
            type=click.IntRange(min=0),
            metavar="SECONDS",
            help="Tell clients to come back over TLS alone, for so long.",
        ),
        flag(
            "--redirect-from",
            type=ADDRESS,
            help="Listen here too, without TLS, and send everyone to https.",
        ),
        flag(
            "--admin",
            type=ADDRESS,
            help="Answer /metrics, /replicas and PURGE here; :PORT is on loopback.",
        ),
        flag("--name", default="replicated", help="What this tier calls itself in Via."),
        flag("--server-timing", is_flag=True, help="Say in Server-Timing how long each answer took."),
        flag(
            "--access-log",
            type=click.Choice(["stderr", "stdout"]),
            help="Write a line of JSON for each request.  [default: none]",
        ),
    ],
    "Stopping": [
        flag(
            "--drain-delay",
            type=SECONDS,
            default=5.0,
            help="Seconds between SIGTERM, when /readyz turns 503, and the closing of the listener.",
        ),
        flag("--grace", type=SECONDS, default=30.0, help="Seconds that requests in flight may then take."),
    ],
}


def serve_flags(command: F) -> F:
    """Give a command every flag, in the order of the sections."""
    found: list[click.Parameter] = []
    for title, flags in SECTIONS.items():
        for one in flags:
            one.section = title
            found.append(one)
    command.__click_params__ = [*reversed(found)]  # type: ignore[attr-defined]
    return command
