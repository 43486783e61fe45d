"""The PROXY protocol, versions 1 and 2: who is connected, said by a balancer that passes bytes on.

It reads what stands before the first byte of a connection, as HAProxy specifies it (proxy-protocol.txt of
HAProxy 1.8). Whether the peer may say so is not known here: from a stranger it is a spoofed address.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

__all__ = ["MOST_V1", "MOST_V2", "ProxyHeader", "parse_proxy_header"]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MOST_V1 = 107
"""Bytes of the longest line of version 1, its end included."""
MOST_V2 = 4096
"""Bytes of a header of version 2 that are waited for; the format's own 64 KiB are nobody's need."""

FIXED = 16
"""Bytes of version 2 before the addresses."""
LOCAL = 0x20
PROXY = 0x21
WIDTHS = {0: 0, 1: 4, 2: 16, 3: 108}
"""Bytes of an address, by family: none, IPv4, IPv6, Unix."""


class ProxyHeader(NamedTuple):
    """What a balancer has said of a connection.

    Attributes:
        address: The client's address; None where it does not say one, and the peer's own counts: its health
            checks, and what has neither an IPv4 nor an IPv6 address.
        port: The client's port, 0 where there is no address.
        length: Bytes of the header; what comes after them is the client's.
    """

    address: str | None
    port: int
    length: int


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """Read the header that a connection begins with. O(length of the header).

    Args:
        data: All that has arrived so far.

    Returns:
        What it says, or None while more bytes must come; never for more than 4,096.

    Raises:
        ValueError: ``data`` does not begin with a header of either version, or with one that is malformed or
            too long. The connection is to be closed: there is nobody to answer.
    """
    head = data[:FIXED]
    if head.startswith(b"PROXY "):
        return version_1(data)
    if head.startswith(SIGNATURE):
        return version_2(data)
    if SIGNATURE.startswith(head) or b"PROXY ".startswith(head):
        return None
    raise ValueError(f"data must begin with a PROXY header, not {head!r}")


def version_1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MOST_V1)
    if end < 0:
        if len(data) >= MOST_V1:
            raise ValueError(f"data must have a line of at most {MOST_V1} bytes, not {data[:MOST_V1]!r}")
        return None
    line = data[:end].decode("latin-1")
    match line.split(" "):
        case ["PROXY", "UNKNOWN", *_]:
            return ProxyHeader(None, 0, end + 2)
        case ["PROXY", "TCP4", source, target, port, target_port]:
            kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address] = ipaddress.IPv4Address
        case ["PROXY", "TCP6", source, target, port, target_port] if "%" not in line:
            kind = ipaddress.IPv6Address
        case _:
            raise ValueError(f"data must begin with a PROXY line, not {line!r}")
    try:
        kind(target)
        address = str(kind(source))
    except ValueError:
        raise ValueError(f"data must have two addresses of its family, not {line!r}") from None
    port_of(target_port)
    return ProxyHeader(address, port_of(port), end + 2)


def port_of(text: str) -> int:
    port = int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else -1
    if not 0 <= port <= 65535 or str(port) != text:
        raise ValueError(f"data must have ports from 0 to 65535, not {text!r}")
    return port


def version_2(data: bytes) -> ProxyHeader | None:
    if len(data) < FIXED:
        return None
    command, family, transport = data[12], data[13] >> 4, data[13] & 15
    length = FIXED + int.from_bytes(data[14:16], "big")
    if command not in (LOCAL, PROXY) or family not in WIDTHS or transport > 2:
        raise ValueError(f"data must be of version 2 with a family and a transport, not {data[12:14]!r}")
    if length > MOST_V2:
        raise ValueError(f"data must have a header of at most {MOST_V2} bytes, not {length}")
    width = WIDTHS[family]
    ports = FIXED + 2 * width
    if command == PROXY and length < ports + (4 if family in (1, 2) else 0):
        raise ValueError(f"data must have a header as long as its addresses, not {length} bytes")
    if len(data) < length:
        return None
    if command == LOCAL or family not in (1, 2) or transport == 0:
        return ProxyHeader(None, 0, length)
    # What follows the ports are extensions (TLVs), which nobody here needs.
    address = ipaddress.ip_address(data[FIXED : FIXED + width])
    return ProxyHeader(str(address), int.from_bytes(data[ports : ports + 2], "big"), length)
