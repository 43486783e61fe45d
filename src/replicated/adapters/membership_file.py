"""A file that says who the members are, watched: what its lines mean, and when it is worth reading again.

A file in which anything is wrong says nothing, rather than what is left of it. It tells no tracker.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shlex
import tomllib
from pathlib import Path

from ..readiness import ReadinessTracker
from ..replica import Replica
from .engine.upstream import Origin
from .membership import Reading

__all__ = ["FileMembers", "named_url", "parse_members", "parse_row"]

FIELDS = ("id", "url", "weight", "zone", "incarnation")


class FileMembers:
    """A file that names the members, looked at every ``period`` seconds and read again when it changed.

    By its suffix it is ``.toml`` (tables ``[[replicas]]``), ``.json`` (a list of objects, or an object with
    such a list as ``replicas``), both with the fields of ``Replica``; else it has one replica a line,
    ``URL`` or ``ID=URL``, then perhaps ``weight=2``, ``zone=eu``, ``incarnation=7``. ``#`` begins a comment.

    Args:
        path: The file. It need not exist yet.
        period: Seconds between two looks, which cost one ``stat`` each.

    Raises:
        ValueError: ``period`` is not finite seconds above 0.
    """

    heeds_readiness = False

    def __init__(self, path: str | os.PathLike[str], *, period: float = 1.0) -> None:
        if isinstance(period, bool) or not 0 < period < math.inf:
            raise ValueError(f"period must be above 0 seconds, finite, not {period!r}")
        self.path = Path(path)
        self.period: float = period
        self.retry: float = period
        self._seen: tuple[int, ...] = ()
        self._replicas: tuple[Replica, ...] = ()
        self._fault: Exception | None = None

    async def read(self, tracker: ReadinessTracker) -> Reading:
        """Return who the file names. OSError and ValueError where it cannot be read or is wrong."""
        # In a thread, since a file may lie on a file system that hangs; a loop must not hang with it.
        await asyncio.to_thread(self._look)
        if self._fault is not None:
            raise self._fault
        return Reading(self._replicas, self.period)

    def _look(self) -> None:
        try:
            seen = signature(self.path)
            if seen == self._seen:
                return
            text = self.path.read_text("utf-8-sig")
            if signature(self.path) != seen:
                raise ValueError("it is being written")  # half of a list would be a good list, too short
            self._replicas, self._fault = parse_members(text, self.path.suffix), None
            self._seen = seen
        except (OSError, ValueError) as fault:
            self._fault, self._seen = fault, ()

    def __repr__(self) -> str:
        return str(self.path)


def signature(path: Path) -> tuple[int, ...]:
    """Return what differs when a file was written or another put in its place."""
    stat = path.stat()
    return stat.st_ino, stat.st_dev, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def parse_members(text: str, suffix: str = "") -> tuple[Replica, ...]:
    """Read what a file of members says.

    Args:
        text: Its content.
        suffix: ``.toml`` or ``.json``; whatever else means one replica a line.

    Raises:
        ValueError: A replica is wrong, two have one id, or there is none. The message says where.
    """
    rows: object
    if suffix == ".toml":
        rows = tomllib.loads(text).get("replicas")
    elif suffix == ".json":
        rows = json.loads(text)
        rows = rows.get("replicas") if isinstance(rows, dict) else rows
    else:
        rows = [row for n, line in enumerate(text.splitlines(), 1) if (row := parse_line(n, line))]
    if not isinstance(rows, list) or not rows:
        raise ValueError("it names no replicas")
    replicas: dict[str, Replica] = {}
    for row in rows:
        replica = parse_row(row)
        if replica.id in replicas:
            raise ValueError(f"two replicas are called {replica.id!r}")
        replicas[replica.id] = replica
    return tuple(replicas.values())


def parse_line(number: int, line: str) -> dict[str, object] | None:
    try:
        words = shlex.split(line, comments=True)
        if not words:
            return None
        row: dict[str, object] = {**named_url(words[0])}
        for word in words[1:]:
            name, _, value = word.partition("=")
            row[name] = float(value) if name == "weight" else value
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
    return row


def named_url(text: str) -> dict[str, str]:
    """Read ``URL`` or ``ID=URL``; a URL may have an equals sign as well, behind a slash."""
    id, equals, url = text.partition("=")
    return {"id": id, "url": url} if equals and "/" not in id else {"url": text}


def parse_row(row: object) -> Replica:
    """Return the replica of one table of a file; without an id it is known by its host and port.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a replica must have a url and perhaps {', '.join(FIELDS)}, not {row!r}")
    if strange := [name for name in row if name not in FIELDS]:
        raise ValueError(f"a replica has {', '.join(FIELDS)}, but no {strange[0]!r}")
    texts = {name: value for name, value in row.items() if name != "weight"}
    if wrong := [name for name, value in texts.items() if not isinstance(value, str)]:
        raise ValueError(f"{wrong[0]} must be a text, not {texts[wrong[0]]!r}")
    url = texts.get("url", "")
    origin = Origin.parse(url)
    id = texts.get("id") or f"{origin.host}:{origin.port}"
    try:
        return Replica(**{**row, "id": id, "url": url.rstrip("/")})
    except TypeError as error:
        raise ValueError(str(error)) from None
