"""Who the client is: the peer's address, or what peers we trust say about whom they speak for.

A forwarding header is believed exactly as far as the peer that sent it is trusted, read from the right:
each hop appended what it saw, so the rightmost entry that is not one of our own proxies is the client,
and everything to its left is the client's own claim. Nothing here touches a socket.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from .fields import find, find_all
from .message import Headers

__all__ = ["Client", "Identity", "address_key", "trusted_networks"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
MOST_HOPS = 32
"""Entries of X-Forwarded-For that are looked at; a longer chain is the work of a stranger."""


MOST_TEXT = 64
"""Characters of an entry that can be an address, with brackets, zone and port; what is longer is not kept."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, as far as it is known.

    Args:
        address: The client's address as text, or the peer's own where nothing better is believed.
        scheme: The scheme that the client used.
        host: The host that the client asked for, or None to take the request's own.
    """

    address: str
    scheme: str
    host: bytes | None = None


class Identity:
    """Finds the client of a request.

    Args:
        trusted: Networks whose X-Forwarded-For, -Proto and -Host are believed; none by default, so that
            a spoofed header changes nothing.

    Raises:
        ValueError: A network cannot be parsed.
        TypeError: ``trusted`` is one str, or holds something else than networks.
    """

    def __init__(self, trusted: Iterable[str | Network] = ()) -> None:
        self.trusted = trusted_networks(trusted)
        # Remembered, since peers repeat.
        self._trusts = functools.lru_cache(4096)(functools.partial(in_networks, networks=self.trusted))

    def client(self, peer: str, scheme: str, headers: Headers) -> Client:
        """Return the client behind a request that ``peer`` sent. O(hops), at most 32 of them."""
        if not self.trusts(peer):
            return Client(peer, scheme)
        proto = find(headers, b"x-forwarded-proto")
        host = find(headers, b"x-forwarded-host")
        return Client(
            self.forwarded_for(peer, headers),
            proto.decode() if proto in (b"http", b"https") else scheme,
            host,
        )

    def forwarded_for(self, peer: str, headers: Headers) -> str:
        """Return the rightmost address that is not one of the trusted networks'."""
        lines = find_all(headers, b"x-forwarded-for")
        if not lines:
            return peer
        nearest = peer
        # All lines are one list (RFC 9110, 5.3); rsplit bounds the work on a list of ten thousand.
        for entry in reversed(b",".join(lines).rsplit(b",", MOST_HOPS)[-MOST_HOPS:]):
            text = entry.strip().decode("latin-1")
            address = parse_address(text) if len(text) <= MOST_TEXT else None
            if address is None:
                # Nothing to the left of garbage can be believed: the hop that wrote it is the last one known.
                return nearest
            nearest = str(address)
            if not self.trusts(nearest):
                return nearest
        return nearest

    def trusts(self, address: str) -> bool:
        """Return whether ``address`` lies in a trusted network."""
        return bool(self.trusted) and self._trusts(address)


def trusted_networks(networks: Iterable[str | Network]) -> tuple[Network, ...]:
    """Parse networks such as ``10.0.0.0/8``, ``::1`` or ``127.0.0.1``.

    Raises:
        ValueError: One of them cannot be parsed.
        TypeError: ``networks`` is one str, or one of them is neither text nor a network.
    """
    if isinstance(networks, str | bytes):
        raise TypeError(f"trusted must hold networks, one by one, not be {networks!r}")
    networks = tuple(networks)
    for network in networks:
        if not isinstance(network, str | ipaddress.IPv4Network | ipaddress.IPv6Network):
            raise TypeError(f"trusted must hold networks such as '10.0.0.0/8', not {network!r}")
    try:
        return tuple(ipaddress.ip_network(network) for network in networks)
    except ValueError as error:
        raise ValueError(f"trusted must hold networks such as 10.0.0.0/8: {error}") from None


def in_networks(address: str, networks: tuple[Network, ...]) -> bool:
    """Return whether an address as text lies in one of ``networks``."""
    parsed = parse_address(address)
    return parsed is not None and any(
        parsed.version == network.version and parsed in network for network in networks
    )


@functools.lru_cache(4096)
def parse_address(text: str) -> Address | None:
    """Read an address as forwarding headers write it: with a port, brackets or a zone, or not at all.

    An IPv4 address mapped into IPv6 is that IPv4 address: the same client on a dual-stack socket.
    """
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@functools.lru_cache(4096)
def address_key(text: str, *, ipv4_prefix: int = 32, ipv6_prefix: int = 64) -> str:
    """Return what limits by client address count: the network that one subscriber holds.

    A subscriber is handed a whole IPv6 /64 at least (RFC 6177), so that counting single addresses would
    give each client as many buckets as it cares to take. Text that is no address is its own key.
    """
    address = parse_address(text)
    if address is None:
        return text
    prefix = ipv4_prefix if address.version == 4 else ipv6_prefix
    if prefix == address.max_prefixlen:
        return str(address)
    return str(ipaddress.ip_network((address, prefix), strict=False))
