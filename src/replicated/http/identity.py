"""Who the client is: the peer's address, or what peers we trust say about whom they speak for.

A forwarding header is believed exactly as far as the peer that sent it is trusted, read from the right:
each hop appended what it saw, so the rightmost entry that is not one of our own proxies is the client,
and everything to its left is the client's own claim. Nothing here touches a socket.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .fields import find
from .hops import MOST_HOPS, Hop, forwarded, x_forwarded_for
from .message import Headers

__all__ = ["Client", "Identity", "address_key", "trusted_networks"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

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

    Two ways to say how far a chain of proxies is ours: by where they are (``trusted``), or by how many they
    are (``hops``). The second is for proxies whose addresses are not known beforehand, and is only safe
    where nobody can reach this server by fewer hops: it believes whoever connects.

    Args:
        trusted: Networks whose forwarding header is believed; none by default, so that a spoofed header
            changes nothing.
        hops: How many proxies stand between the client and this server, each of which appends to the
            header; 0 to go by ``trusted``.
        header: Which header they write: X-Forwarded-For, -Proto and -Host, or Forwarded (RFC 7239). The
            other is never looked at, since a proxy that writes the one passes the other on as it came.

    Raises:
        ValueError: A network cannot be parsed, ``hops`` is out of 0 to 32 or stands beside ``trusted``, or
            ``header`` is neither of the two.
        TypeError: ``trusted`` is one str, or holds something else than networks, or ``hops`` is no int.
    """

    def __init__(
        self,
        trusted: Iterable[str | Network] = (),
        *,
        hops: int = 0,
        header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for",
    ) -> None:
        if isinstance(hops, bool) or not isinstance(hops, int):
            raise TypeError(f"hops must be an int, not {hops!r}")
        if not 0 <= hops <= MOST_HOPS:
            raise ValueError(f"hops must be 0 to {MOST_HOPS}, not {hops!r}")
        if header not in ("x-forwarded-for", "forwarded"):
            raise ValueError(f"header must be 'x-forwarded-for' or 'forwarded', not {header!r}")
        self.trusted = trusted_networks(trusted)
        if hops and self.trusted:
            raise ValueError(f"hops must be 0 where networks are trusted, not {hops!r}")
        self.hops = hops
        self.header = header
        # Remembered, since peers repeat.
        self._lies_in = functools.lru_cache(4096)(functools.partial(in_networks, networks=self.trusted))

    def client(self, peer: str, scheme: str, headers: Headers) -> Client:
        """Return the client behind a request that ``peer`` sent. O(hops), at most 32 of them."""
        if not self.trusts(peer):
            return itself(peer, scheme)
        if self.header == "forwarded":
            address, said = self._walk(peer, forwarded(headers))
            proto, host = said.proto, said.host
        else:
            address = self.forwarded_for(peer, headers)
            proto, host = find(headers, b"x-forwarded-proto"), find(headers, b"x-forwarded-host")
        return Client(address, proto.decode() if proto in (b"http", b"https") else scheme, host)

    def forwarded_for(self, peer: str, headers: Headers) -> str:
        """Return the client by X-Forwarded-For: the rightmost address that is not one of our proxies'."""
        return self._walk(peer, x_forwarded_for(headers))[0]

    def trusts(self, address: str) -> bool:
        """Return whether what a peer at ``address`` says is believed."""
        return self.hops > 0 or (bool(self.trusted) and self._lies_in(address))

    def _walk(self, peer: str, entries: Iterator[Hop]) -> tuple[str, Hop]:
        """Return the client's address, and what the outermost of our proxies has said of its request."""
        nearest, said = peer, Hop(peer)
        for passed, hop in enumerate(entries, 1):
            said = hop
            address = parse_address(hop.node) if len(hop.node) <= MOST_TEXT else None
            if address is None:
                # Nothing to the left of garbage can be believed: the hop that wrote it is the last one known.
                # Nor is a word such as _hidden a client to count by: proxies make a new one for each
                # request (RFC 7239, 6.3).
                break
            nearest = str(address)
            if passed == self.hops or not self.trusts(nearest):
                break
        return nearest, said


@functools.lru_cache(4096)
def itself(peer: str, scheme: str) -> Client:
    """Return the client that its own peer is; remembered, since making a frozen value takes its time."""
    return Client(peer, scheme)


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
        return tuple(unmapped(ipaddress.ip_network(network)) for network in networks)
    except ValueError as error:
        raise ValueError(f"trusted must hold networks such as 10.0.0.0/8: {error}") from None


def unmapped(network: Network) -> Network:
    """Return the IPv4 network that one of IPv4-mapped addresses is, as its addresses are IPv4 addresses."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        first = network.network_address.ipv4_mapped
        if first is not None:
            return ipaddress.IPv4Network((first, network.prefixlen - 96))
    return network


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

    Args:
        text: An address, as a peer's or a forwarding header's.
        ipv4_prefix: Bits of an IPv4 address that count, 0 to 32.
        ipv6_prefix: Bits of an IPv6 address that count, 0 to 128.

    Raises:
        ValueError: A prefix is out of its range.
        TypeError: A prefix is not an int.
    """
    for name, prefix, most in (("ipv4_prefix", ipv4_prefix, 32), ("ipv6_prefix", ipv6_prefix, 128)):
        if isinstance(prefix, bool) or not isinstance(prefix, int):
            raise TypeError(f"{name} must be an int, not {prefix!r}")
        if not 0 <= prefix <= most:
            raise ValueError(f"{name} must be 0 to {most}, not {prefix!r}")
    address = parse_address(text)
    if address is None:
        return text
    prefix = ipv4_prefix if address.version == 4 else ipv6_prefix
    if prefix == address.max_prefixlen:
        return str(address)
    return str(ipaddress.ip_network((address, prefix), strict=False))
