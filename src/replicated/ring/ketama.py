"""The rings of the ketama family: libketama, libmemcached, twemproxy.

It decides where their points lie: four of every MD5 of a label and a number, as many labels as a node's part
of the weights gives. The parts are floats of 32 bits, and their rounding is part of the layout. Since the
part depends on all weights, a change of membership may move keys between nodes that stay; at equal weights
it mostly does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from struct import pack, unpack
from typing import ClassVar
from zlib import crc32

from .foreign_hashes import (
    crc32_memcached,
    fnv1_32,
    fnv1_64,
    fnv1a_32,
    fnv1a_64,
    jenkins,
    md5,
    md5_points,
    murmur2_32,
    one_at_a_time,
)
from .layout import Rule
from .weights import whole

__all__ = ["Libketama", "Libmemcached", "Twemproxy"]


def _single(value: float) -> float:
    """Round to a float of 32 bits, as C does where it stores one."""
    rounded: float = unpack("f", pack("f", value))[0]
    return rounded


def _ketama(label: str, count: int) -> list[int]:
    """Return ``count`` points: four of every label, a hyphen and 0, 1, …"""
    return [point for number in range(count // 4) for point in md5_points(f"{label}-{number}".encode())]


def _forty_each(weights: Mapping[str, float], system: str) -> dict[str, int]:
    """Return how many points each has of 160 on average, as libmemcached and twemproxy count them."""
    served = whole(weights, system)
    total = _single(sum(served.values()))
    counts = {}
    for node, weight in served.items():
        part = _single(_single(weight) / total)
        quarter = _single(_single(part * 160) / 4)
        # They add 1e-10 before they round down, which a float of 32 bits does not notice.
        counts[node] = int(_single(quarter * len(served))) * 4
    return counts


@dataclass(frozen=True, slots=True)
class Libketama:
    """libketama, as of its revision 18cf9a7. Weights are whole: megabytes, in its server file.

    Name the nodes as the server file does, ``ip:port``.
    """

    bits: ClassVar[int] = 32
    rule: ClassVar[Rule] = "next"

    def key_hash(self, weights: Mapping[str, float]) -> Callable[[bytes], int]:
        """Return the first word of an MD5."""
        return md5

    def plan(self, weights: Mapping[str, float]) -> dict[str, tuple[str, int]]:
        """Return 160 points a node on average, by its part of the weights, in the order given."""
        served = whole(weights, "libketama")
        total = _single(sum(served.values()))
        counts = {
            # The constant is a double, so only the part and the product are rounded to 32 bits.
            node: int(_single(_single(_single(weight) / total) * 40.0 * len(served))) * 4
            for node, weight in served.items()
        }
        return {node: (node, count) for node, count in counts.items() if count}

    def points(self, label: str, count: int) -> list[int]:
        """Return four points of every label, a hyphen and 0, 1, …"""
        return _ketama(label, count)


@dataclass(frozen=True, slots=True)
class Libmemcached:
    """libmemcached's ketama, as of version 1.1.4. Weights are whole.

    Name the nodes ``host:port``; the port 11211 is left out of the labels, as libmemcached does.

    Args:
        weighted: MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, 160 points a node on average by MD5, rather than
            MEMCACHED_BEHAVIOR_KETAMA, 100 points a node by ``hash``. None turns it on once a weight is above
            1, as libmemcached does.
        hash: MEMCACHED_BEHAVIOR_HASH, of the keys. None is what those two settings leave it at: ``md5`` if
            weighted, else ``one_at_a_time``. The others are as for twemproxy.

    Raises:
        ValueError: ``hash`` is none that libmemcached and this library have.
    """

    weighted: bool | None = None
    hash: str | None = None

    bits: ClassVar[int] = 32
    rule: ClassVar[Rule] = "next"

    def __post_init__(self) -> None:
        if self.hash is not None and self.hash not in HASHES:
            raise ValueError(f"hash must be one of {sorted(HASHES)}, not {self.hash!r}")

    def key_hash(self, weights: Mapping[str, float]) -> Callable[[bytes], int]:
        """Return the function of that name, or the one that goes with the weights."""
        return HASHES[self.hash or ("md5" if self._weighs(weights) else "one_at_a_time")]

    def plan(self, weights: Mapping[str, float]) -> dict[str, tuple[str, int]]:
        """Return 160 points a node on average by its part of the weights, or 100 each, in the order given."""
        counts = _forty_each(weights, "libmemcached")
        kind = "weighted"
        if not self._weighs(weights):
            kind, counts = "plain", dict.fromkeys(counts, 100)
        return {
            node: (f"{kind} {node.removesuffix(':11211')}", count) for node, count in counts.items() if count
        }

    def points(self, label: str, count: int) -> list[int]:
        """Return the words of the MD5 of every label, a hyphen and 0, 1, …, or the hash of each."""
        kind, _, name = label.partition(" ")
        if kind == "weighted":
            return _ketama(name, count)
        hashed = HASHES[self.hash or "one_at_a_time"]
        return [hashed(f"{name}-{number}".encode()) for number in range(count)]

    def _weighs(self, weights: Mapping[str, float]) -> bool:
        if self.weighted is None:
            return max(weights.values(), default=0) > 1
        return self.weighted


@dataclass(frozen=True, slots=True)
class Twemproxy:
    """twemproxy's ``distribution: ketama``, as of version 0.5. Weights are whole.

    Name the nodes as twemproxy does: by the server's name where the configuration gives one, else
    ``host:port`` without the weight. The port 11211 is left out of the labels, as twemproxy does.

    Args:
        hash: The pool's ``hash``, of the key: ``md5``, ``fnv1a_64`` (twemproxy's default), ``fnv1a_32``,
            ``fnv1_64``, ``fnv1_32``, ``murmur``, ``jenkins``, ``one_at_a_time``, ``crc32`` or ``crc32a``.

    Raises:
        ValueError: ``hash`` is none of them.
    """

    hash: str = "md5"

    bits: ClassVar[int] = 32
    rule: ClassVar[Rule] = "next"

    def __post_init__(self) -> None:
        if self.hash not in HASHES:
            raise ValueError(f"hash must be one of {sorted(HASHES)}, not {self.hash!r}")

    def key_hash(self, weights: Mapping[str, float]) -> Callable[[bytes], int]:
        """Return the function of that name."""
        return HASHES[self.hash]

    def plan(self, weights: Mapping[str, float]) -> dict[str, tuple[str, int]]:
        """Return 160 points a node on average, by its part of the weights, in the order given."""
        counts = _forty_each(weights, "twemproxy")
        return {node: (node.removesuffix(":11211"), count) for node, count in counts.items() if count}

    def points(self, label: str, count: int) -> list[int]:
        """Return four points of every label, a hyphen and 0, 1, …"""
        return _ketama(label, count)


HASHES: dict[str, Callable[[bytes], int]] = {
    "crc32": crc32_memcached,
    "crc32a": crc32,
    "fnv1_32": fnv1_32,
    "fnv1_64": fnv1_64,
    "fnv1a_32": fnv1a_32,
    "fnv1a_64": fnv1a_64,
    "jenkins": jenkins,
    "md5": md5,
    "murmur": murmur2_32,
    "one_at_a_time": one_at_a_time,
}
