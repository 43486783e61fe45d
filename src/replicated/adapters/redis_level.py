"""What a shared level of values is, for coroutines and for threads: its names, its values, and its counts.

Decides what lies on the server under which name, and what of it is believed. It asks no server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .arguments import seconds_above_zero

__all__ = ["MOST_WRITES", "LevelValues", "RedisLevelStats", "to_json"]

V = TypeVar("V")

MOST_WRITES = 100
"""Values on their way to the server; what comes beyond is not sent, or a slow server would pile it up."""


@dataclass(frozen=True, slots=True)
class RedisLevelStats:
    """What a shared level has seen in this process.

    Attributes:
        hits: Values found on the server.
        misses: Values that had to be loaded, for whatever reason.
        failures: Commands that the server did not carry out in time, and values there that were none.
        dropped: Values that were not sent there, because it had failed just before or was slow.
    """

    hits: int
    misses: int
    failures: int
    dropped: int


def to_json(value: object) -> bytes:
    """Return ``value`` as JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


class LevelValues(Generic[V]):
    """The names and the values of a level, as bytes.

    A value is stored with its name and held against it. A client whose command was cancelled has handed its
    answer to whoever asked next (redis-py before 4.5.4, CVE-2023-28859): one user's value must not become
    another's, whatever the client does.

    Args:
        load: What loads, and is checked only.
        ttl: Seconds that the server keeps a value.
        prefix: What its keys begin with there.
        dumps: Makes bytes of a value.
        loads: Makes a value of them.

    Attributes:
        milliseconds: ``ttl``, as the server is told it.

    Raises:
        ValueError: ``ttl`` is not above zero and finite.
        TypeError: It is no number, or a function is none.
    """

    def __init__(
        self,
        load: Callable[[str], Any],
        ttl: float,
        prefix: str,
        dumps: Callable[[V], bytes],
        loads: Callable[[bytes], V],
    ) -> None:
        seconds_above_zero(ttl=ttl)
        for name, function in (("load", load), ("dumps", dumps), ("loads", loads)):
            if not callable(function):
                raise TypeError(f"{name} must be callable, not {function!r}")
        self.milliseconds = max(1, round(ttl * 1000))
        self._prefix = prefix
        self._dumps = dumps
        self._loads = loads

    def name(self, key: str) -> bytes:
        """Return what ``key`` is called on the server.

        Raises:
            TypeError: It is not a str.
        """
        if not isinstance(key, str):
            raise TypeError(f"key must be a str, not {key!r}")
        return (self._prefix + key).encode("utf-8", "surrogatepass")

    def sealed(self, name: bytes, value: V) -> bytes:
        """Return a value as it is stored; raises what ``dumps`` does."""
        return seal(name) + self._dumps(value)

    def unsealed(self, name: bytes, answer: bytes) -> V:
        """Return the value in an answer.

        Raises:
            Exception: It belongs to another name, or is none.
        """
        head = seal(name)
        if not answer.startswith(head):
            raise ValueError("the answer is to another question")
        return self._loads(answer[len(head) :])


def seal(name: bytes) -> bytes:
    return b"%d:%b" % (len(name), name)
