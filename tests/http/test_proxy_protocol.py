"""The PROXY protocol: read whole, cut anywhere, or refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.proxy_protocol import MOST_V1, MOST_V2, SIGNATURE, ProxyHeader, parse_proxy_header

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
addresses = st.one_of(st.tuples(*[st.ip_addresses(v=4)] * 2), st.tuples(*[st.ip_addresses(v=6)] * 2))
ports = st.integers(0, 65535)


def v1(source: IP, target: IP, port: int, target_port: int) -> bytes:
    return f"PROXY TCP{source.version} {source} {target} {port} {target_port}\r\n".encode()


def v2(command: int, family: int, rest: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(rest).to_bytes(2, "big") + rest


def addressed(source: IP, target: IP, port: int, target_port: int, more: bytes = b"") -> bytes:
    rest = source.packed + target.packed + port.to_bytes(2, "big") + target_port.to_bytes(2, "big") + more
    return v2(0x21, 0x11 if source.version == 4 else 0x21, rest)


def cut_anywhere(header: bytes, rest: bytes) -> ProxyHeader:
    """Read a header in pieces; it is complete at its last byte and not before."""
    assert [parse_proxy_header(header[:at]) for at in range(len(header))] == [None] * len(header)
    whole = parse_proxy_header(header)
    assert whole is not None
    assert parse_proxy_header(header + rest) == whole
    assert whole.length == len(header)
    return whole


@given(addresses, ports, ports, st.binary(max_size=40))
def test_both_versions_say_who_is_connected(
    pair: tuple[IP, IP], port: int, target_port: int, rest: bytes
) -> None:
    """The client's address and port come out of either version, wherever the bytes are cut."""
    source, target = pair
    for header in (v1(source, target, port, target_port), addressed(source, target, port, target_port, rest)):
        assert cut_anywhere(header, rest)[:2] == (str(source), port)


def test_frozen_bytes() -> None:
    """The examples of the specification, byte for byte."""
    line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n"
    assert parse_proxy_header(line) == ProxyHeader("192.168.0.1", 56324, 47)
    binary = bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 000c c0a80001 c0a8000b dc04 01bb")
    assert parse_proxy_header(binary + b"GET") == ProxyHeader("192.168.0.1", 56324, 28)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, b"\0" * 12),
        v2(0x20, 0x11, b"odd"),
        v2(0x21, 0x00, b"ignored"),
        v2(0x21, 0x10, b"\0" * 12),
        v2(0x21, 0x31, b"\0" * 216),
    ],
)
def test_a_header_without_an_address(header: bytes) -> None:
    """Health checks, unknown families and Unix sockets leave the peer's own address standing."""
    assert cut_anywhere(header, b"GET")[:2] == (None, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"PROXY\r\n",
        b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 x 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 -2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 \xb2 2\r\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY UNKNOWN" + b" " * MOST_V1,
        SIGNATURE + b"\x11\x11\x00\x0c" + b"\0" * 12,
        SIGNATURE + b"\x22\x11\x00\x0c" + b"\0" * 12,
        SIGNATURE + b"\x21\x41\x00\x0c" + b"\0" * 12,
        SIGNATURE + b"\x21\x13\x00\x0c" + b"\0" * 12,
        SIGNATURE + b"\x21\x11\x00\x0b" + b"\0" * 11,
        SIGNATURE + b"\x21\x31\x00\xd7" + b"\0" * 215,
        SIGNATURE + b"\x21\x11\xff\xff",
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    """Everything else is a ValueError, once it cannot become a header any more."""
    with pytest.raises(ValueError, match="data must"):
        parse_proxy_header(data)


@given(
    st.binary(max_size=150)
    | st.builds(
        bytes.__add__, st.sampled_from([SIGNATURE, b"PROXY ", b"PROXY TCP4 "]), st.binary(max_size=150)
    )
)
def test_any_bytes_have_one_answer(data: bytes) -> None:
    """A header, more, or a ValueError; and what was refused once is refused with more behind it."""
    refused = False
    for at in range(len(data) + 1):
        try:
            found = parse_proxy_header(data[:at])
        except ValueError:
            refused = True
        else:
            assert not refused
            assert found is None or found.length <= at


def test_nobody_is_waited_for_for_ever() -> None:
    """More bytes are asked for up to a limit, and not beyond."""
    assert parse_proxy_header(b"PROXY UNKNOWN".ljust(MOST_V1 - 1)) is None
    longest = v2(0x20, 0x00, b"\0" * (MOST_V2 - 16))
    assert parse_proxy_header(longest[:-1]) is None
    assert parse_proxy_header(longest) == ProxyHeader(None, 0, MOST_V2)
    with pytest.raises(ValueError, match="at most 4096 bytes"):
        parse_proxy_header(v2(0x20, 0x00, b"\0" * (MOST_V2 - 15)))
