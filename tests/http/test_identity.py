"""Who the client is: nothing is believed that a trusted peer did not say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.identity import Identity, address_key

PROXY = "10.0.0.1"
trusting = Identity(["10.0.0.0/8", "fd00::/8"])
addresses = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))


def forwarded(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]


@given(addresses, st.lists(st.text(alphabet=st.characters(max_codepoint=255))))
def test_a_stranger_is_not_believed(peer: str, claims: list[str]) -> None:
    """Without trusted networks, no header changes who the client is."""
    client = Identity().client(peer, "http", [*forwarded(*claims), (b"x-forwarded-proto", b"https")])
    assert (client.address, client.scheme, client.host) == (peer, "http", None)


@given(st.lists(addresses, max_size=5), st.lists(st.text(alphabet="0123456789., x"), max_size=3))
def test_what_the_client_prepends_changes_nothing(claimed: list[str], garbage: list[str]) -> None:
    """Whatever stands left of the entry that our own proxy appended is the client's claim and ignored."""
    lines = [*garbage, *claimed, "203.0.113.9"]
    assert trusting.client(PROXY, "http", forwarded(*lines)).address == "203.0.113.9"
    assert trusting.client(PROXY, "http", forwarded(", ".join(lines))).address == "203.0.113.9"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], PROXY),
        (["203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, 10.2.3.4"], "203.0.113.9"),
        (["203.0.113.9", "10.2.3.4"], "203.0.113.9"),
        (["10.9.9.9, 10.2.3.4"], "10.9.9.9"),
        (["203.0.113.9:4711"], "203.0.113.9"),
        (["[2001:db8::7]:4711"], "2001:db8::7"),
        (["2001:db8::7%eth0"], "2001:db8::7"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, unknown"], PROXY),
        (["203.0.113.9, unknown, 10.2.3.4"], "10.2.3.4"),
        ([""], PROXY),
        (['"203.0.113.9'], PROXY),
        (["203.0.113.9%" + "x" * 60, "10.2.3.4"], "10.2.3.4"),
    ],
)
def test_the_rightmost_entry_that_is_not_ours_is_the_client(lines: list[str], expected: str) -> None:
    """Forwarding lines are read from the right, over all lines, up to the first that is not trusted."""
    assert trusting.client(PROXY, "http", forwarded(*lines)).address == expected


def test_a_chain_of_ten_thousand_hops_ends_at_one_of_ours() -> None:
    """A chain longer than any real one is not walked to the end, and yields none of its claims."""
    chain = ", ".join(["203.0.113.9"] + ["10.0.0.2"] * 10_000)
    assert trusting.client(PROXY, "http", forwarded(chain)).address == "10.0.0.2"


def test_scheme_and_host_are_believed_of_the_trusted_alone() -> None:
    """X-Forwarded-Proto and -Host count when a trusted peer sends them, and only schemes that exist."""
    headers = [(b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"example.com")]
    client = trusting.client(PROXY, "http", headers)
    assert (client.scheme, client.host) == ("https", b"example.com")
    assert trusting.client(PROXY, "http", [(b"x-forwarded-proto", b"gopher")]).scheme == "http"
    assert not trusting.trusts("")


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_limits_count_what_one_subscriber_holds(address: str, key: str) -> None:
    """An IPv4 client is its address, an IPv6 client its /64, and what is no address is itself."""
    assert address_key(address) == key


def test_a_wider_prefix_can_be_chosen() -> None:
    """Prefixes are the caller's choice."""
    assert address_key("203.0.113.9", ipv4_prefix=24) == "203.0.113.0/24"
    assert address_key("2001:db8::1", ipv6_prefix=128) == "2001:db8::1"


def test_a_network_that_is_none_is_refused() -> None:
    """A network that cannot be parsed is a ValueError that shows it."""
    with pytest.raises(ValueError, match=r"trusted must hold networks.*'10.0.0.300'"):
        Identity(["10.0.0.300"])


@pytest.mark.parametrize("trusted", ["10.0.0.0/8", b"10.0.0.0/8", [1], [b"10.0.0.1"], [None]])
def test_what_is_no_list_of_networks_is_refused(trusted: object) -> None:
    """One str is not a list of networks, and a number is no network: TypeErrors that show them."""
    with pytest.raises(TypeError, match="trusted must hold networks"):
        Identity(trusted)  # type: ignore[arg-type]


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3"])
@pytest.mark.parametrize("network", ["10.0.0.0/8", "::ffff:10.0.0.0/104", "::ffff:10.1.2.3"])
def test_an_ipv4_address_is_one_however_it_is_written(network: str, peer: str) -> None:
    """Mapped into IPv6 or not, on either side."""
    assert Identity([network]).trusts(peer)
    assert not Identity([network]).trusts("11.1.2.3")
    assert not Identity([network]).trusts("::ffff:11.1.2.3")


def test_a_network_of_ipv6_with_mapped_addresses_in_it() -> None:
    """One that is wider than theirs stays what it is."""
    assert Identity(["::/0"]).trusts("2001:db8::1")
    assert not Identity(["::ffff:0:0/96"]).trusts("2001:db8::1")
    assert Identity(["::ffff:0:0/96"]).trusts("192.0.2.1")
