"""What a stack file says: tiers, each with so many identical replicas, and which tier stands before which.

Text in, values out, one clear sentence where it cannot be. It starts nothing. What the flags of a tier mean
is for ``replicated serve`` to say, which is asked before anything starts.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ...adapters.engine.origin import authority
from ..serve_command import serve

__all__ = ["Process", "Stack", "Tier", "read_stack"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
OURS = ("command", "environment", "host", "port", "probe", "replicas", "stop", "upstream")
"""Keys that say how a tier is run; every other one is a flag of ``replicated serve``."""
WRITTEN = ("listen", "members", "name", "probe", "upstream")
"""Flags that follow from the rest of the stack."""
MOST_REPLICAS = 1000


@dataclass(frozen=True, slots=True)
class Process:
    """One replica of a tier.

    Attributes:
        name: The tier's name and a number: ``app-1``.
        url: Where it listens.
        command: The program and its arguments.
        environment: Variables that it gets.
    """

    name: str
    url: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier of a stack.

    Attributes:
        name: What it is called; its replicas get a number after it.
        host: Where its replicas listen.
        port: The port of its first replica; the others take the next ones.
        replicas: How many there are.
        command: What runs a replica, with ``{host}``, ``{port}`` and ``{name}`` to be filled in; empty for a
            tier that is ``replicated serve``.
        flags: What a tier that is ``replicated serve`` is told beyond what follows from the stack.
        environment: Variables that each replica gets, in pairs.
        upstream: The tier behind this one.
        probe: Where a replica says that it can serve; None where it does not.
        stop: Seconds that a replica gets to end when it is asked to.
    """

    name: str
    host: str
    port: int
    replicas: int
    command: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    upstream: str | None = None
    probe: str | None = None
    stop: float = 40.0

    @property
    def tls(self) -> bool:
        """Whether its replicas speak TLS."""
        return not {"--tls-cert", "--tls-self-signed"}.isdisjoint(self.flags)

    def numbered(self, number: int) -> tuple[str, str]:
        """Return the name and the URL of one replica; numbers begin with 1."""
        where = authority(self.host, self.port + number - 1)
        return f"{self.name}-{number}", f"http{'s' if self.tls else ''}://{where}"


@dataclass(frozen=True, slots=True)
class Stack:
    """Tiers by name, each after the one that stands behind it."""

    tiers: Mapping[str, Tier]

    def before(self, name: str) -> list[Tier]:
        """Return the tiers whose upstream is ``name``."""
        return [tier for tier in self.tiers.values() if tier.upstream == name]

    def process(self, tier: Tier, number: int, members: Path) -> Process:
        """Return one replica of a tier.

        Args:
            tier: Which.
            number: Which of its replicas; the first is 1.
            members: The directory with a file ``NAME.members`` for each tier that has one before it.
        """
        name, url = tier.numbered(number)
        port = str(tier.port + number - 1)
        environment = {**dict(tier.environment), "HOST": tier.host, "PORT": port, "REPLICA": name}
        if tier.upstream is None:
            known = {"{host}": tier.host, "{port}": port, "{name}": name}
            words = [re.sub(r"\{(host|port|name)\}", lambda m: known[m[0]], word) for word in tier.command]
            return Process(name, url, (sys.executable, "-m", "replicated.serve.leash", *words), environment)
        arguments = ["--listen", authority(tier.host, port), "--name", name]
        arguments += ["--members", str(members / f"{tier.upstream}.members")]
        probe = self.tiers[tier.upstream].probe
        if probe is not None:
            arguments += ["--probe", probe]
        command = (sys.executable, "-m", "replicated", "serve", *arguments, *tier.flags)
        return Process(name, url, command, environment)


def read_stack(text: str) -> Stack:
    """Read a stack file, TOML: a table a tier.

    Raises:
        ValueError: It is not one. The message names the tier and the key.
    """
    tables = tomllib.loads(text)
    if not tables:
        raise ValueError("a stack needs at least one tier: a table with a port, and a command or an upstream")
    tiers = {name: read_tier(name, table) for name, table in tables.items()}
    for tier in tiers.values():
        if tier.upstream is not None and tier.upstream not in tiers:
            raise ValueError(f"{tier.name}: upstream must be one of the tiers, not {tier.upstream!r}")
    stack = Stack({tier.name: tier for tier in from_behind(tiers)})
    taken: dict[int, str] = {}
    for tier in stack.tiers.values():
        for number in range(tier.replicas):
            other = taken.setdefault(tier.port + number, tier.name)
            if other != tier.name:
                raise ValueError(f"{tier.name}: port {tier.port + number} is one of {other}'s")
        if tier.upstream is not None:
            check_flags(stack, tier)
    return stack


def read_tier(name: str, table: object) -> Tier:
    if not NAME.fullmatch(name):
        raise ValueError(f"a tier's name must be of letters, digits, - and _, at most 63, not {name!r}")
    if not isinstance(table, dict):
        raise ValueError(f"{name}: a tier must be a table, [{name}], not {table!r}")
    port = number_of(name, table, "port", 1, 65535)
    replicas = number_of(name, table, "replicas", 1, MOST_REPLICAS, 1)
    if port + replicas - 1 > 65535:
        raise ValueError(f"{name}: port {port} has no {replicas - 1} ports after it")
    host, upstream, probe = (text_of(name, table, key) for key in ("host", "upstream", "probe"))
    if ("command" in table) == (upstream is not None):
        raise ValueError(f"{name}: a tier must have a command or an upstream, and not both")
    if probe is not None and not probe.startswith("/"):
        raise ValueError(f"{name}: probe must be a path, such as /readyz, not {probe!r}")
    flags = [(key, value) for key, value in table.items() if key not in OURS]
    command: tuple[str, ...] = ()
    if upstream is None:
        if flags:
            raise ValueError(f"{name}: a tier with a command has no {flags[0][0]!r}")
        command = words_of(name, table["command"])
    elif probe is not None:
        raise ValueError(f"{name}: probe belongs to the tier that is probed: {upstream}")
    stop = table.get("stop", 40.0)
    if isinstance(stop, bool) or not isinstance(stop, int | float) or not 0 <= stop < math.inf:
        raise ValueError(f"{name}: stop must be seconds, not {stop!r}")
    environment = table.get("environment", {})
    if not isinstance(environment, dict) or not all(isinstance(v, str) for v in environment.values()):
        raise ValueError(f"{name}: environment must be a table of texts, not {environment!r}")
    return Tier(
        name,
        host or "127.0.0.1",
        port,
        replicas,
        command,
        tuple(word for key, value in flags for word in flag_of(name, key, value)),
        tuple(environment.items()),
        upstream,
        probe if upstream is None else "/readyz",
        float(stop),
    )


def number_of(
    tier: str, table: Mapping[str, Any], key: str, least: int, most: int, default: object = None
) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{tier}: {key} must be an integer from {least} to {most}, not {value!r}")
    return value


def text_of(tier: str, table: Mapping[str, Any], key: str) -> str | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{tier}: {key} must be a text, not {value!r}")
    return value


def words_of(tier: str, command: object) -> tuple[str, ...]:
    words: object = command
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"{tier}: command cannot be read: {error}") from None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{tier}: command must be a text or a list of texts, not {command!r}")
    return tuple(words)


def flag_of(tier: str, key: str, value: object) -> Iterable[str]:
    """Return what one key of a table is on a command line."""
    if key in WRITTEN:
        raise ValueError(f"{tier}: {key} follows from the stack, and is not to be said")
    if isinstance(value, list):
        return [word for one in value for word in flag_of(tier, key, one)]
    if isinstance(value, bool):
        return [f"--{key}"] if value else []
    if not isinstance(value, str | int | float):
        raise ValueError(f"{tier}: {key} must be a text, a number, true or a list of them, not {value!r}")
    return [f"--{key}", str(value)]


def from_behind(tiers: Mapping[str, Tier]) -> list[Tier]:
    """Return the tiers, each after its upstream.

    Raises:
        ValueError: They stand in a circle.
    """
    found: list[Tier] = []
    left = dict(tiers)
    while left:
        names = [tier.name for tier in left.values() if tier.upstream is None or tier.upstream not in left]
        if not names:
            raise ValueError(f"the tiers {', '.join(left)} stand in a circle: one must have a command")
        found += [left.pop(name) for name in names]
    return found


def check_flags(stack: Stack, tier: Tier) -> None:
    """Let ``replicated serve`` read the flags, as it will when it starts."""
    arguments = list(stack.process(tier, 1, Path()).command[4:])
    try:
        serve.make_context("serve", arguments)
    except click.ClickException as error:
        raise ValueError(f"{tier.name}: {error.format_message()}") from None
