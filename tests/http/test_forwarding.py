"""What travels on: nothing that belongs to one hop, and nothing that a stranger said about itself."""

from __future__ import annotations

import pytest

from replicated.http.forwarding import forwarded_request, forwarded_response, is_loop
from replicated.http.identity import Client
from replicated.http.message import Request


def forward(headers: list[tuple[bytes, bytes]], *, trusted: bool = False) -> list[tuple[bytes, bytes]]:
    request = Request("GET", b"/", [(b"host", b"example.com"), *headers], "203.0.113.9")
    return forwarded_request(request, Client("203.0.113.9", "https"), trusted=trusted, pseudonym=b"edge")


def test_what_a_hop_adds() -> None:
    """The replica is told who asked, how, for what host, and by way of whom."""
    assert forward([]) == [
        (b"host", b"example.com"),
        (b"x-forwarded-for", b"203.0.113.9"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"example.com"),
        (b"via", b"1.1 edge"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        (b"connection", b"x-hop"),
        (b"keep-alive", b"timeout=5"),
        (b"te", b"trailers"),
        (b"upgrade", b"h2c"),
        (b"transfer-encoding", b"chunked"),
        (b"expect", b"100-continue"),
        (b"proxy-authorization", b"Basic x"),
        (b"forwarded", b"for=1.2.3.4"),
        (b"x-real-ip", b"1.2.3.4"),
        (b"x-original-url", b"/admin"),
    ],
)
def test_what_ends_with_the_hop(line: tuple[bytes, bytes]) -> None:
    """Hop-by-hop fields, those that Connection names, and a stranger's claims do not travel on."""
    headers = forward([line, (b"connection", b"x-hop"), (b"x-hop", b"1")])
    assert not {line[0], b"x-hop"} & {name for name, _ in headers}


def test_a_strangers_chain_is_replaced_and_a_trusted_one_continued() -> None:
    """X-Forwarded-For starts anew at the first hop that is trusted, all its lines joined."""
    claims = [(b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"2.2.2.2")]
    assert dict(forward(claims))[b"x-forwarded-for"] == b"203.0.113.9"
    assert dict(forward(claims, trusted=True))[b"x-forwarded-for"] == b"1.1.1.1, 2.2.2.2, 203.0.113.9"


def test_every_line_stays_a_line() -> None:
    """Repeated lines are neither merged nor dropped, either way."""
    cookies = [(b"cookie", b"a=1"), (b"cookie", b"b=2")]
    assert [line for line in forward(cookies) if line[0] == b"cookie"] == cookies
    setting = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    assert forwarded_response([*setting, (b"connection", b"close, x-hop"), (b"x-hop", b"1")]) == setting
    assert forwarded_response([*setting, (b"transfer-encoding", b"chunked")]) == setting


def test_loops_are_found() -> None:
    """A request that names this tier in Via, in any line, or too many tiers, is going in circles."""
    assert not is_loop([(b"via", b"1.1 cache")], b"edge")
    assert is_loop([(b"via", b"1.0 fred"), (b"via", b"1.1 cache, 1.1 Edge (x)")], b"edge")
    assert is_loop([(b"via", b", ".join([b"1.1 other"] * 17))], b"edge")
