"""The throttle of a running tier: what is refused, before what, and on which answers it says anything."""

from __future__ import annotations

import socket
import struct
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest


def upstreams(backends: Any) -> list[str]:
    return [part for backend in backends for part in ("--upstream", f"{backend.name}={backend.url}")]


def exchange(url: str, request: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Send bytes and nothing more; return the status line and the fields of the first answer."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as sock:
        sock.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            piece = sock.recv(65536)
            assert piece, received
            received += piece
    status, *lines = received.partition(b"\r\n\r\n")[0].split(b"\r\n")
    fields = (line.partition(b":") for line in lines)
    return status, {name.lower(): value.strip() for name, _, value in fields}


def test_refused_before_the_body(serve: Any, backends: Any) -> None:
    """A refused request's body is neither waited for nor asked for, and no replica hears of it."""
    served = serve(
        *upstreams(backends), "--throttle", "1/h", "--burst", "1", "--throttle-by", "client-address"
    )
    assert httpx.get(served.url).status_code == 200
    asked = sum(len(backend.asked) for backend in backends)
    for expect in (b"", b"expect: 100-continue\r\n"):
        head = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n" + expect + b"\r\n"
        status, fields = exchange(served.url, head)
        assert status.startswith(b"HTTP/1.1 429")
        assert 3500 < int(fields[b"retry-after"]) <= 3600
        assert fields[b"content-type"] == b"application/problem+json"
        assert b"ratelimit" not in fields
    assert sum(len(backend.asked) for backend in backends) == asked


def test_a_websocket_is_refused(serve: Any, backends: Any) -> None:
    """An upgrade counts as the request that it is: beyond the limit it is 429, and nothing is switched."""
    served = serve(*upstreams(backends), "--throttle", "1/h", "--burst", "1", "--ratelimit-fields")
    handshake = (
        b"GET /socket HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    first, _ = exchange(served.url, handshake)
    assert not first.startswith(b"HTTP/1.1 429")
    status, fields = exchange(served.url, handshake)
    assert status.startswith(b"HTTP/1.1 429")
    assert b"upgrade" not in fields
    assert fields[b"ratelimit-policy"] == b'"default";q=1;w=3600'


def test_the_client_that_a_balancer_names_counts(serve: Any, backends: Any) -> None:
    """With --proxy-protocol each client that a header names has its own limit, by either version."""
    flags = ("--throttle", "1/h", "--burst", "1", "--proxy-protocol", "--trust", "127.0.0.1")
    served = serve(*upstreams(backends), *flags)

    def version_2(address: str) -> bytes:
        """The header of a connection over IPv6, on which an IPv4 address stands mapped."""
        ours, theirs = (socket.inet_pton(socket.AF_INET6, each) for each in (address, "::1"))
        return b"\r\n\r\n\0\r\nQUIT\n\x21\x21" + struct.pack(">H16s16sHH", 36, ours, theirs, 4711, 80)

    asked = [
        (b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 80\r\n", b"200"),
        (version_2("::ffff:203.0.113.7"), b"429"),
        (b"PROXY TCP4 203.0.113.8 127.0.0.1 4711 80\r\n", b"200"),
        (version_2("2001:db8:1:2::7"), b"200"),
        (b"PROXY TCP6 2001:db8:1:2:ffff::8 ::1 4711 80\r\n", b"429"),
        (version_2("2001:db8:1:3::7"), b"200"),
    ]
    for header, expected in asked:
        request = header + b"GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 6.6.6.6, 127.0.0.1\r\n\r\n"
        status, _ = exchange(served.url, request)
        assert status.split()[1] == expected, header


def test_prefixes_by_choice(serve: Any, backends: Any) -> None:
    """A limit counts as many bits of an address as it is told to."""
    flags = ("--throttle", "1/h", "--burst", "1", "--trust", "127.0.0.1", "--throttle-prefix", "24,56")
    served = serve(*upstreams(backends), *flags)
    addresses = [
        "203.0.113.7",
        "203.0.113.250",
        "203.0.112.7",
        "2001:db8:0:ff::1",
        "2001:db8::1",
        "2001:db8:0:100::1",
    ]
    with httpx.Client() as client:
        statuses = [
            client.get(served.url, headers={"x-forwarded-for": each}).status_code for each in addresses
        ]
    assert statuses == [200, 429, 200, 200, 429, 200]


def test_no_field_where_it_should_not_be(serve: Any, backends: Any) -> None:
    """Probes, and requests that are refused before they count, say nothing of limits."""
    served = serve(*upstreams(backends), "--throttle", "1/h", "--burst", "9", "--ratelimit-fields")
    said = [httpx.get(served.url + path).headers for path in ("/readyz", "/livez")]
    assert not any(name.startswith("ratelimit") or name == "retry-after" for each in said for name in each)
    for request in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\nhost: h\r\n\r\n",
        b"\x00\r\n\r\n",
    ):
        status, fields = exchange(served.url, request)
        assert status.startswith(b"HTTP/1.1 400")
        assert not any(name.startswith(b"ratelimit") for name in fields)
    counted = httpx.get(served.url)
    assert counted.headers["ratelimit"].startswith('"default";r=8;')
    assert "retry-after" not in counted.headers


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_processes_share_a_limit(serve: Any, backends: Any, own_redis: Any, end: str) -> None:
    """Two tiers that name one server have one limit, and serve on when it dies or hangs in the middle."""
    pytest.importorskip("redis.asyncio", reason="the client is an extra")
    flags = ("--throttle", "1/h", "--burst", "4", "--throttle-redis", f"unix://{own_redis.socket}")
    tiers = [
        serve(*upstreams(backends), *flags, "--throttle-deadline", "2", "--ratelimit-fields") for _ in "ab"
    ]
    with httpx.Client() as client:
        answers = [client.get(tier.url) for tier in tiers * 3]
        assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
        left = [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers]
        assert left == [f'"default";r={number}' for number in (3, 2, 1, 0, 0, 0)]
        getattr(own_redis, end)()
        # Each decides alone now, by the same limit, which nobody has used there yet.
        statuses = [client.get(tiers[0].url).status_code for _ in range(5)]
        assert statuses == [200] * 4 + [429]
