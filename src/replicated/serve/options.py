"""What the flags of ``replicated serve`` mean: text in, values out, one clear sentence where it cannot be.

Knows no command line: a flag that is wrong is a ValueError whose text the command line prints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..adapters.membership import Source
from ..adapters.membership_file import FileMembers, named_url, parse_members, parse_row
from ..errors import MissingExtra
from ..replica import Replica

__all__ = [
    "LOADS",
    "STRATEGIES",
    "THROTTLE_DOWN",
    "THROTTLE_KEYS",
    "ServeOptions",
    "listen",
    "members",
    "prefixes",
    "rate",
    "seconds",
    "size",
    "upstreams",
]

STRATEGIES = ("power-of-two", "round-robin", "least-loaded", "ring-hash", "random")
LOADS = ("in-flight", "peak-ewma")
THROTTLE_KEYS = ("client-address", "path")
THROTTLE_DOWN = ("local", "open", "closed")
UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """One tier, as it is asked for; times in seconds, sizes in bytes, rates per second."""

    replicas: tuple[Replica, ...]
    members: Source | None = None
    strategy: str = "power-of-two"
    load: str = "in-flight"
    affinity: str | None = None
    bound: float | None = None
    pin: str | None = None
    pin_secret: Path | None = None
    pin_ttl: float = 3600.0
    pin_hard: bool = False
    pin_tenant: str | None = None
    zone: str | None = None
    subset: int | None = None
    subset_as: str | None = None
    max_in_flight: int | None = None
    queue: int | None = None
    queue_timeout: float = 1.0
    slow_start: float | None = None
    eject_after: int = 5
    eject_for: float = 5.0
    probe: str | None = None
    probe_period: float = 2.0
    probe_timeout: float = 1.0
    connect_timeout: float = 3.0
    first_byte_timeout: float = 60.0
    read_timeout: float = 60.0
    total_timeout: float = 60.0
    tunnel_timeout: float = 3600.0
    cache: int | None = None
    ttl: float | None = None
    cache_grace: float | None = None
    cache_keep: float | None = None
    cache_redis: str | None = None
    throttle: float | None = None
    burst: float | None = None
    throttle_by: tuple[str, ...] = THROTTLE_KEYS
    throttle_paths: tuple[str, ...] = ()
    throttle_prefixes: tuple[int, int] = (32, 64)
    throttle_block: float = 0.0
    throttle_shadow: bool = False
    throttle_redis: str | None = None
    throttle_deadline: float = 0.1
    throttle_down: Literal["local", "open", "closed"] = "local"
    ratelimit_fields: bool = False
    trusted: tuple[str, ...] = ()
    trust_hops: int = 0
    trust_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    proxy_protocol: bool = False
    purge_from: tuple[str, ...] = ()
    name: str = "replicated"
    server_timing: bool = False
    live_path: str | None = "/livez"
    ready_path: str | None = "/readyz"
    body_limit: int = 16 * 2**20
    header_limit: int = 32 * 2**10
    header_timeout: float = 10.0
    body_timeout: float = 20.0
    write_timeout: float = 60.0
    least_rate: float = 500.0
    keep_alive: float = 75.0


def upstreams(specifications: Sequence[str]) -> tuple[Replica, ...]:
    """Read replicas: a URL, or ``ID=URL`` to give it the identity that rings hash.

    Behind it may stand what a line of a file of members has: ``weight=2 zone=eu``. Without an id it is known
    by its host and port, so that every router names it alike.

    Raises:
        ValueError: A URL is not one, or two replicas have the same id.
    """
    replicas: dict[str, Replica] = {}
    for specification in specifications:
        row = named_url(specification)
        if " " in row["url"]:
            (replica,) = parse_members(specification)
        else:
            replica = parse_row(row)
        if replica.id in replicas:
            raise ValueError(f"two upstreams are called {replica.id!r}")
        replicas[replica.id] = replica
    return tuple(replicas.values())


def members(source: str) -> Source:
    """Read where members are named: a file, ``dns:NAME:PORT``, ``srv:NAME``.

    Raises:
        ValueError: It is none of these, or the extra for DNS is not installed.
    """
    kind, _, name = source.partition(":")
    if kind not in ("dns", "srv"):
        if not source:
            raise ValueError("members must be a file, dns:NAME:PORT or srv:NAME, not nothing")
        return FileMembers(source)
    try:
        from ..adapters.dns_membership import DnsMembers, SrvMembers
    except MissingExtra as error:
        raise ValueError(str(error)) from None
    if kind == "srv":
        return SrvMembers(name)
    name, _, port = name.rpartition(":")
    if not name or not re.fullmatch("[0-9]{1,5}", port):
        raise ValueError(f"members must say a port with a name, dns:app.internal:8080, not {source!r}")
    return DnsMembers(name, port=int(port))


def listen(address: str) -> tuple[str, int]:
    """Read ``HOST:PORT``, ``[::1]:PORT`` or ``:PORT`` (loopback).

    Raises:
        ValueError: It is none of these.
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/\s]*)):([0-9]{1,5})", address)
    if found is None or int(found[3]) > 65535:
        raise ValueError(f"listen must be HOST:PORT, not {address!r}")
    return found[1] or found[2] or "127.0.0.1", int(found[3])


def size(text: str) -> int:
    """Read a number of bytes: ``64MiB``, ``10kB``, ``4096``.

    Raises:
        ValueError: It is none, or not above zero.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text.strip())
    if found is None or found[2] not in UNITS or not (value := int(float(found[1]) * UNITS[found[2]])):
        raise ValueError(f"a size must be a number of bytes above zero such as 64MiB, not {text!r}")
    return value


def seconds(text: str) -> float:
    """Read a time that may not be endless: ``10``, ``2.5``.

    Raises:
        ValueError: It is none, not above zero, or not finite.
    """
    found = re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text.strip())
    if found is None or not 0 < float(found[0]) < math.inf:
        raise ValueError(f"a time must be seconds above zero such as 2.5, not {text!r}")
    return float(found[0])


def rate(text: str) -> float:
    """Read a rate and return it per second: ``50/s``, ``500/m``, ``10000/h``.

    Raises:
        ValueError: It is none, or not above zero.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)/([smh])", text.strip())
    if found is None or not float(found[1]):
        raise ValueError(f"a rate must be above zero, such as 50/s, 500/m or 10000/h, not {text!r}")
    return float(found[1]) / SECONDS[found[2]]


def prefixes(text: str) -> tuple[int, int]:
    """Read how many bits of an IPv4 and of an IPv6 address count: ``24,56``.

    Raises:
        ValueError: They are no such two numbers.
    """
    found = re.fullmatch(r"([0-9]{1,2}),([0-9]{1,3})", text.strip())
    if found is None or int(found[1]) > 32 or int(found[2]) > 128:
        raise ValueError(f"prefixes must be bits of an IPv4 and of an IPv6 address, 32,64 say, not {text!r}")
    return int(found[1]), int(found[2])
