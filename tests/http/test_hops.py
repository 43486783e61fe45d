"""Forwarding fields from the right: a client's claim never changes what our own proxy has appended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.hops import MOST_ENTRY, MOST_HOPS, Hop, forwarded
from replicated.http.identity import Client, Identity, address_key

PROXY = "10.0.0.1"
trusting = Identity(["10.0.0.0/8", "fd00::/8"], header="forwarded")
claims = st.text(alphabet="for=by;, \t\"\\1.x[]:_'", max_size=30) | st.binary(max_size=20).map(
    lambda some: some.decode("latin-1")
)
nodes = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=4).map(lambda a: f'"{a}:4711"'),
    st.ip_addresses(v=6).map(lambda a: f'"[{a}]"'),
    st.ip_addresses(v=6).map(lambda a: f'"[{a}]:4711"'),
)
values = st.text(alphabet='ab,;="\\ ', max_size=8)


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def lines(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"forwarded", value.encode("latin-1")) for value in values]


def client(*values: str, identity: Identity = trusting) -> Client:
    return identity.client(PROXY, "http", lines(*values))


@given(claims, nodes, values)
def test_no_claim_swallows_what_our_proxy_appended(claim: str, node: str, host: str) -> None:
    """Whatever stands to the left, on the same line or another, an open quote too, the last entry is read."""
    entry = f"for={node};host={quoted(host)};proto=https"
    expected = Hop(node.strip('"'), b"https", host.encode())
    assert next(forwarded(lines(f"{claim}, {entry}"))) == expected
    assert next(forwarded(lines(claim, entry))) == expected


@given(st.lists(claims, max_size=4))
def test_garbage_is_never_an_exception(garbage: list[str]) -> None:
    """Any bytes at all are read as no more than 32 hops."""
    assert len(list(forwarded(lines(*garbage)))) <= MOST_HOPS
    Identity(hops=3, header="forwarded").client("", "http", lines(*garbage))


@given(claims, claims)
def test_a_stranger_is_not_believed(claim: str, host: str) -> None:
    """Forwarded from a peer that is not trusted changes nothing."""
    identity = Identity(["192.0.2.0/24"], header="forwarded")
    assert client(claim, f"for=1.2.3.4;host={quoted(host)}", identity=identity) == Client(PROXY, "http")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], PROXY),
        (["for=203.0.113.9"], "203.0.113.9"),
        (["FOR=203.0.113.9;Proto=http ; by=10.0.0.1"], "203.0.113.9"),
        (['For="[2001:db8::7]:4711"'], "2001:db8::7"),
        (['for="203.0.113.9:_port"'], "203.0.113.9"),
        (["for=203.0.113.9:4711"], "203.0.113.9"),
        (['for="[::ffff:203.0.113.9]"'], "203.0.113.9"),
        (['for="[2001:db8::7%25eth0]"'], "2001:db8::7"),
        (["for=203.0.113.9"] + ["for=10.0.0.2"] * 10_000, "10.0.0.2"),
        (["for=203.0.113.9, for=10.2.3.4"], "203.0.113.9"),
        (["for=203.0.113.9", "for=10.2.3.4"], "203.0.113.9"),
        (["for=203.0.113.9,, ,for=10.2.3.4,"], "203.0.113.9"),
        (["for=203.0.113.9, for=_hidden"], PROXY),
        (["for=203.0.113.9, for=unknown, for=10.2.3.4"], "10.2.3.4"),
        (["for=203.0.113.9, proto=http"], PROXY),
        (['for="203.0.113.9'], PROXY),
        (['for="203.0.113.9, for=10.2.3.4'], "10.2.3.4"),
        (['for=203.0.113.9"'], PROXY),
        (['"for=203.0.113.9'], PROXY),
        (["203.0.113.9"], PROXY),
        (["for=203.0.113.9;for=203.0.113.8"], PROXY),
        (["for = 203.0.113.9"], PROXY),
        (["for=203.0.113.9;host=" + "x" * MOST_ENTRY], PROXY),
        (["for=203.0.113.9", 'for="' + "\\" * MOST_ENTRY + '"'], PROXY),
    ],
)
def test_forwarded_as_it_may_be_written(values: list[str], expected: str) -> None:
    """Ports, brackets, words, empty members and malformed entries are what RFC 7239 and 9110 make of them."""
    assert client(*values).address == expected


def test_scheme_and_host_are_those_of_the_client() -> None:
    """Of several trusted hops the outermost knows how the client came; a malformed entry says nothing."""
    inner = 'for=10.2.3.4;proto=http;host="inside"'
    assert client(f"for=203.0.113.9;proto=https;host=example.com, {inner}") == Client(
        "203.0.113.9", "https", b"example.com"
    )
    assert client(f"for=;, {inner}") == Client("10.2.3.4", "http", b"inside")
    assert client("for=203.0.113.9;proto=gopher") == Client("203.0.113.9", "http")


def test_one_header_is_believed_and_the_other_is_not() -> None:
    """A proxy that writes one header passes the other on as the client sent it."""
    both = [
        (b"x-forwarded-for", b"1.1.1.1"),
        (b"x-forwarded-proto", b"https"),
        (b"forwarded", b"for=2.2.2.2"),
    ]
    assert trusting.client(PROXY, "http", both) == Client("2.2.2.2", "http")
    assert Identity(hops=1).client(PROXY, "http", both) == Client("1.1.1.1", "https")


@pytest.mark.parametrize(
    ("hops", "chain", "expected"),
    [
        (1, "9.9.9.9, 203.0.113.9", "203.0.113.9"),
        (2, "9.9.9.9, 203.0.113.9, 192.0.2.1", "203.0.113.9"),
        (2, "9.9.9.9, 10.0.0.7, 10.0.0.8", "10.0.0.7"),
        (3, "203.0.113.9, 192.0.2.1", "203.0.113.9"),
        (3, "203.0.113.9, garbage, 192.0.2.1", "192.0.2.1"),
        (1, "", PROXY),
    ],
)
def test_the_client_stands_as_many_entries_from_the_right_as_there_are_proxies(
    hops: int, chain: str, expected: str
) -> None:
    """With hops counted, addresses do not matter: the n-th entry is the client, or the last one there is."""
    identity = Identity(hops=hops)
    assert identity.client(PROXY, "http", [(b"x-forwarded-for", chain.encode())]).address == expected
    entries = ", ".join(f"for={entry}" for entry in chain.split(", ") if entry)
    counted = Identity(hops=hops, header="forwarded")
    assert counted.client(PROXY, "http", lines(entries)).address == expected
    assert identity.trusts("")
    assert identity.trusts("203.0.113.9")


def test_ten_thousand_entries_are_not_read() -> None:
    """A chain longer than any real one yields none of its claims."""
    assert client("for=203.0.113.9" + ", for=10.0.0.2" * 10_000).address == "10.0.0.2"
    assert client("for=203.0.113.9" + "," * 10_000).address == PROXY


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"hops": -1}, ValueError, "hops must be 0 to 32, not -1"),
        ({"hops": 33}, ValueError, "hops must be 0 to 32, not 33"),
        ({"hops": True}, TypeError, "hops must be an int, not True"),
        ({"hops": 1.0}, TypeError, "hops must be an int, not 1.0"),
        ({"hops": 1, "trusted": ["::1"]}, ValueError, "hops must be 0 where networks are trusted, not 1"),
        ({"header": "x-real-ip"}, ValueError, "header must be .* not 'x-real-ip'"),
    ],
)
def test_what_cannot_be_believed_is_refused(
    arguments: dict[str, object], error: type[Exception], said: str
) -> None:
    """A wrong argument is named, with its value and what would be right."""
    with pytest.raises(error, match=said):
        Identity(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prefixes", "error"),
    [
        ({"ipv4_prefix": 33}, ValueError),
        ({"ipv6_prefix": -1}, ValueError),
        ({"ipv6_prefix": True}, TypeError),
    ],
)
def test_a_prefix_out_of_range_is_refused(prefixes: dict[str, int], error: type[Exception]) -> None:
    """A prefix that no address has is refused whatever the address is."""
    with pytest.raises(error, match=f"{next(iter(prefixes))} must be"):
        address_key("unix", **prefixes)
