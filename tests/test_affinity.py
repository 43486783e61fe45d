"""From request facts to a key: the same for one user, and none where nothing is known."""

from __future__ import annotations

import pytest

from replicated import affinity
from replicated.affinity import Facts


def facts(*cookies: str, client: str = "203.0.113.9", path: str = "/a") -> Facts:
    headers = [(b"cookie", cookie.encode("latin-1")) for cookie in cookies]
    return Facts(client, path, [(b"x-tenant", b"acme"), (b"x-empty", b""), *headers])


@pytest.mark.parametrize(
    ("cookies", "key"),
    [
        (["session=abc"], "abc"),
        (["a=b; session=abc; c=d"], "abc"),
        (["a=b", "session=abc"], "abc"),
        (["session=abc; session=other"], "abc"),
        (["session=a=b"], "a=b"),
        (["session= abc "], "abc"),
        (["xsession=abc"], None),
        (["Session=abc"], None),
        (["session="], None),
        (["session"], None),
        ([], None),
        (["session=\xff"], "\xff"),
    ],
)
def test_a_cookie_is_found_among_others(cookies: list[str], key: str | None) -> None:
    """The first non-empty cookie of exactly that name is the key, over all cookie lines."""
    assert affinity.cookie("session")(facts(*cookies)) == key


def test_what_is_missing_is_no_key() -> None:
    """A missing or empty fact is None and never a constant that would gather all strangers on one replica."""
    assert affinity.header("X-Tenant")(facts()) == "acme"
    assert affinity.header("X-Empty")(facts()) is None
    assert affinity.header("X-Other")(facts()) is None
    assert affinity.client_address(facts(client="")) is None
    assert affinity.path(facts(path="")) is None
    assert affinity.host(facts()) is None
    assert affinity.host(Facts(headers=[(b"host", b"")])) is None


@pytest.mark.parametrize(
    ("specification", "key"),
    [
        ("cookie:session", "abc"),
        ("header:X-Tenant", "acme"),
        ("client-address", "203.0.113.9"),
        ("path", "/a"),
        ("cookie:none, header:X-Tenant", "acme"),
        ("header:none,cookie:none", None),
    ],
)
def test_a_command_line_says_it_in_words(specification: str, key: str | None) -> None:
    """Every affinity has a spelling, and several are tried in order."""
    assert affinity.parse(specification)(facts("session=abc")) == key


def test_a_site_is_known_by_its_host() -> None:
    """A host's name is the same in capitals, and another port is another site."""
    hosts = [b"example.com:8080", b"Example.COM:8080", b"example.com"]
    keys = [affinity.parse("host")(Facts(headers=[(b"accept", b"*/*"), (b"host", host)])) for host in hosts]
    assert keys == ["example.com:8080", "example.com:8080", "example.com"]


@pytest.mark.parametrize(
    "specification", ["", "cookie", "cookie:", "cookie:a b", "header:é", "session", "path,"]
)
def test_what_is_no_affinity_is_refused(specification: str) -> None:
    """A specification that means nothing is a ValueError that shows it."""
    with pytest.raises(ValueError, match="must be"):
        affinity.parse(specification)
