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
        (b"x-forwarded-prefix", b"/admin"),
        (b"x-forwarded-anything", b"1"),
        (b"x_forwarded_for", b"1.2.3.4"),
        (b"x_real-ip", b"1.2.3.4"),
        (b"proxy_authorization", b"Basic x"),
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


def test_a_body_is_framed_anew() -> None:
    """With a length the body goes on with it, else chunked; a request without one announces none."""

    async def nothing():  # type: ignore[no-untyped-def]
        yield b""

    def framing(headers: list[tuple[bytes, bytes]], *, body: bool) -> list[tuple[bytes, bytes]]:
        request = Request("POST", b"/", headers, body=nothing() if body else None)
        forwarded = forwarded_request(request, Client("", "http"), trusted=False, pseudonym=b"edge")
        return [line for line in forwarded if line[0] in (b"content-length", b"transfer-encoding")]

    length, chunked = (b"content-length", b"3"), (b"transfer-encoding", b"chunked")
    assert framing([length], body=True) == [length]
    assert framing([(b"transfer-encoding", b"Chunked")], body=True) == [chunked]
    assert framing([], body=True) == [chunked]
    assert framing([], body=False) == []
    # Refused by the gate, and harmless without one: what is sent chunked says so.
    assert framing([length, (b"connection", b"content-length")], body=True) == [chunked]


def test_a_peer_without_an_address_is_unknown() -> None:
    """Behind a Unix socket nobody is known, and the replica is told as much."""
    request = Request("GET", b"/", [])
    headers = forwarded_request(request, Client("", "http"), trusted=False, pseudonym=b"edge")
    assert (b"x-forwarded-for", b"unknown") in headers


@pytest.mark.parametrize(("status", "kept"), [(200, True), (204, False), (304, False)])
def test_a_status_without_a_body_has_no_length(status: int, kept: bool) -> None:
    """A 204 may not announce a length and a 304 need not: a server would count on it."""
    length = (b"content-length", b"3")
    assert (length in forwarded_response([length, (b"etag", b"x")], status)) is kept


def test_loops_are_found() -> None:
    """A request that names this tier in Via, in any line, or too many tiers, is going in circles."""
    assert not is_loop([(b"via", b"1.1 cache")], b"edge")
    assert is_loop([(b"via", b"1.0 fred"), (b"via", b"1.1 cache, 1.1 Edge (x)")], b"edge")
    assert is_loop([(b"via", b"1.1  edge")], b"edge")
    assert is_loop([(b"via", b", ".join([b"1.1 other"] * 17))], b"edge")


def test_a_client_known_otherwise_is_named() -> None:
    """Where another header said who the client is, that is what X-Forwarded-For begins with."""
    request = Request("GET", b"/", [(b"host", b"x"), (b"x-forwarded-for", b"6.6.6.6")], "10.0.0.1")
    headers = forwarded_request(request, Client("203.0.113.9", "https"), trusted=False, pseudonym=b"edge")
    assert dict(headers)[b"x-forwarded-for"] == b"203.0.113.9, 10.0.0.1"
