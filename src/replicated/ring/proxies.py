"""The rings of proxies: Envoy, gRPC, nginx, Pingora, HAProxy, Varnish.

It decides where their points lie, so that a Python process picks the replica that the proxy beside it picks.
Each names the version that it was compared with, answer by answer, or the text that it follows. Nodes win a
shared position in the order given, as they do where a proxy sorts its points by position alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from math import ceil, inf
from typing import ClassVar
from zlib import crc32

from .foreign_hashes import djb2, haproxy_avalanche, murmur2_64, sdbm
from .keys import xxh64
from .layout import Rule
from .weights import whole

__all__ = ["Envoy", "Grpc", "HAProxy", "Nginx", "Pingora", "Varnish"]


@dataclass(frozen=True, slots=True)
class Envoy:
    """Envoy's ``ring_hash`` policy, as of version 1.40.

    Name the nodes as Envoy does, ``ip:port`` (or the hostname, if it is told to hash that), and give them in
    its order: with unequal weights the order decides how many points a node has. A key is hashed by xxHash
    whatever ``hash`` says; that one is for the points.

    The points of a node depend on how many nodes there are, so a change of membership moves keys between
    nodes that stay: 8.6 % of them when one of three leaves.

    Args:
        min_size: ``minimum_ring_size``.
        max_size: ``maximum_ring_size``.
        hash: ``xxhash`` or ``murmur2``, Envoy's XX_HASH and MURMUR_HASH_2.

    Raises:
        ValueError: ``hash`` is neither, or the sizes are not 1 <= min_size <= max_size.
    """

    min_size: int = 1024
    max_size: int = 8_388_608
    hash: str = "xxhash"

    bits: ClassVar[int] = 64
    rule: ClassVar[Rule] = "next"

    def __post_init__(self) -> None:
        if self.hash not in ("xxhash", "murmur2"):
            raise ValueError(f"hash must be 'xxhash' or 'murmur2', not {self.hash!r}")
        if not 1 <= self.min_size <= self.max_size:
            raise ValueError(f"min_size must be in [1, max_size], not {self.min_size!r} of {self.max_size!r}")

    def key_hash(self, weights: Mapping[str, float]) -> Callable[[bytes], int]:
        """Return xxHash of 64 bits."""
        return xxh64

    def plan(self, weights: Mapping[str, float]) -> dict[str, tuple[str, int]]:
        """Return how many points each has, in the order given."""
        return {node: (node, count) for node, count in self._counts(weights).items() if count}

    def points(self, label: str, count: int) -> list[int]:
        """Return the hashes of the label, an underscore and 0, 1, …"""
        hashed: Callable[[bytes], int] = xxh64 if self.hash == "xxhash" else murmur2_64
        prefix = label.encode() + b"_"
        return [hashed(b"%b%d" % (prefix, number)) for number in range(count)]

    def _counts(self, weights: Mapping[str, float]) -> dict[str, int]:
        total = sum(weights.values())
        if total == inf:
            raise ValueError("weights must have a finite sum, as Envoy's have")
        shares = {node: weight / total for node, weight in weights.items() if weight}
        if not shares:
            return {}
        # Doubles, in Envoy's order of operations: their rounding decides whether a node gets one more point.
        least = min(shares.values())
        scale = min(ceil(least * self.min_size) / least, self.max_size)
        counts = {}
        target = 0.0
        emitted = 0
        for node, share in shares.items():
            target += scale * share
            counts[node] = max(0, ceil(target) - emitted)
            emitted += counts[node]
        return counts


@dataclass(frozen=True, slots=True)
class Grpc(Envoy):
    """gRPC's ``ring_hash_experimental`` policy: Envoy's with xxHash, over the nodes by name.

    It follows gRFC A42, and was compared with Envoy's ring. Name the nodes by their addresses, ``ip:port``.

    Args:
        min_size: ``min_ring_size``.
        max_size: ``max_ring_size``.

    Raises:
        ValueError: The sizes are not 1 <= min_size <= max_size.
    """

    max_size: int = 4096
    hash: str = field(default="xxhash", init=False, repr=False)

    def plan(self, weights: Mapping[str, float]) -> dict[str, tuple[str, int]]:
        """Return how many points each has, by name."""
        return Envoy.plan(self, dict(sorted(weights.items())))


@dataclass(frozen=True, slots=True)
class Nginx:
    """nginx's ``hash … consistent``, as of version 1.22; 160 points a unit of weight, which is whole.

    Name the nodes as the ``server`` directive does: ``host:port``, ``[::1]:80``, ``unix:/run/a.sock``; a
    server without a port is another name than the same with ``:80``.
    """

    bits: ClassVar[int] = 32
    rule: ClassVar[Rule] = "next"

    def key_hash(self, weights: Mapping[str, float]) -> Callable[[bytes], int]:
        """Return CRC-32."""
        return crc32

    def plan(self, weights: Mapping[str, float]) -> dict[str, tuple[str, int]]:
        """Return 160 points a unit of weight, in the order given."""
        return {node: (node, 160 * weight) for node, weight in whole(weights, "nginx").items()}

    def points(self, label: str, count: int) -> list[int]:
        """Return a chain of CRC-32 of host, port and the point before."""
        host, port = self._split(label)
        base = crc32(b"%b\0%b" % (host.encode(), port.encode()))
        points = []
        point = 0
        for _ in range(count):
            point = crc32(point.to_bytes(4, "little"), base)
            points.append(point)
        return points

    def _split(self, label: str) -> tuple[str, str]:
        if label[:5].lower() == "unix:":
            return label[5:], ""
        host, colon, port = label.rpartition(":")
        # Digits after a colon are a port, none after it included; everything else is host.
        if colon and (not port or (port.isascii() and port.isdigit())):
            return host, port
        return label, ""


@dataclass(frozen=True, slots=True)
class Pingora(Nginx):
    """Pingora's ketama, as of its revision c0845a8: nginx's, but an IPv6 host has no brackets.

    Name the nodes as Rust prints a socket address: ``127.0.0.1:80``, ``[::1]:80``.
    """

    def _split(self, label: str) -> tuple[str, str]:
        host, port = Nginx._split(self, label)
        if host[:1] == "[" and host[-1:] == "]":
            host = host[1:-1]
        return host, port


@dataclass(frozen=True, slots=True)
class Varnish:
    """Varnish's ``shard`` director, as of version 7.1.

    Name the nodes as the director identifies them: by ``ident``, or the name of the backend. A key is what
    ``by=KEY`` is given as ``shard.key(string)``; a preference order is that of ``alt=0, 1, …``. A key past
    the last point is that point's and not the first one's: Varnish's search does not go round.

    Args:
        replicas: Points a unit of weight. Varnish takes no weight below 1.

    Raises:
        ValueError: ``replicas`` is below 1.
    """

    replicas: int = 67

    bits: ClassVar[int] = 32
    rule: ClassVar[Rule] = "last"

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ValueError(f"replicas must be at least 1, not {self.replicas!r}")

    def key_hash(self, weights: Mapping[str, float]) -> Callable[[bytes], int]:
        """Return the last four bytes of a SHA-256."""
        return _sha256

    def plan(self, weights: Mapping[str, float]) -> dict[str, tuple[str, int]]:
        """Return ``replicas`` points a unit of weight, rounded down, in the order given."""
        for node, weight in weights.items():
            if 0 < weight < 1:
                raise ValueError(
                    f"weight of {node!r} must be 0 or at least 1, as Varnish has it, not {weight!r}"
                )
        return {node: (node, int(self.replicas * weight)) for node, weight in weights.items() if weight}

    def points(self, label: str, count: int) -> list[int]:
        """Return the hashes of the label with 0, 1, … behind it."""
        return [_sha256(f"{label}{number}".encode()) for number in range(count)]


@dataclass(frozen=True, slots=True)
class HAProxy:
    """HAProxy's ``hash-type consistent``, as of version 2.6; 16 points a unit of weight, which is whole.

    ``sdbm avalanche`` was compared with a live server; the other functions follow its source.

    A server's points follow from its number, not from its name. The preference order is what HAProxy picks as
    one server after the other goes down.

    Args:
        ids: The ``id`` of every server. None counts from 1 in the order given, as HAProxy does where the
            configuration has none: then taking out a server renumbers those behind it, and moves their keys.
        hash: ``sdbm``, ``djb2`` or ``crc32``.
        avalanche: Whether the hash of the key is spread; HAProxy's default where no function is named.

    Raises:
        ValueError: ``hash`` is none of them; or, once there are nodes, ``ids`` lacks one, has one twice or
            has one below 1.
    """

    ids: Mapping[str, int] | None = None
    hash: str = "sdbm"
    avalanche: bool = True

    bits: ClassVar[int] = 32
    rule: ClassVar[Rule] = "nearest"

    def __post_init__(self) -> None:
        if self.hash not in _HAPROXY_HASHES:
            raise ValueError(f"hash must be one of {sorted(_HAPROXY_HASHES)}, not {self.hash!r}")
        if self.ids is not None:
            object.__setattr__(self, "ids", dict(self.ids))

    def key_hash(self, weights: Mapping[str, float]) -> Callable[[bytes], int]:
        """Return the function of that name, spread or not."""
        return _HAPROXY_HASHES[self.hash][self.avalanche]

    def plan(self, weights: Mapping[str, float]) -> dict[str, tuple[str, int]]:
        """Return 16 points a unit of weight, in the order given."""
        ids = {node: number for number, node in enumerate(weights, 1)} if self.ids is None else self.ids
        members = [ids.get(node, 0) for node in weights]
        if len(set(members)) < len(members) or min(members, default=1) < 1:
            raise ValueError(f"ids must give every node a number of its own from 1 on, not {self.ids!r}")
        return {node: (str(ids[node]), 16 * weight) for node, weight in whole(weights, "HAProxy").items()}

    def points(self, label: str, count: int) -> list[int]:
        """Return the spread numbers from the server's own range of 4,096."""
        return [haproxy_avalanche(4096 * int(label) + number & 0xFFFFFFFF) for number in range(count)]


def _sha256(data: bytes) -> int:
    return int.from_bytes(sha256(data).digest()[-4:], "little")


def _sdbm_avalanche(key: bytes) -> int:
    return haproxy_avalanche(sdbm(key))


def _djb2_avalanche(key: bytes) -> int:
    return haproxy_avalanche(djb2(key))


def _crc32_avalanche(key: bytes) -> int:
    return haproxy_avalanche(crc32(key))


_HAPROXY_HASHES: dict[str, tuple[Callable[[bytes], int], Callable[[bytes], int]]] = {
    "sdbm": (sdbm, _sdbm_avalanche),
    "djb2": (djb2, _djb2_avalanche),
    "crc32": (crc32, _crc32_avalanche),
}
