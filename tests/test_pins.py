"""Pins: only what was signed for this session and tenant, and still holds, is believed."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.pins import LONGEST, Pin, Pins
from replicated.testing import ManualClock

SECRET, OTHER = b"0123456789abcdef", b"fedcba9876543210"
keys = st.one_of(st.text(), st.binary())
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)


def pins(secret: bytes | list[bytes] = SECRET, *, at: float = 1e9, **options: object) -> Pins:
    return Pins(secret, wall=ManualClock(at), **options)  # type: ignore[arg-type]


@given(keys, names, st.text(), st.booleans())
def test_what_was_issued_is_read(key: str | bytes, name: str, tenant: str, hard: bool) -> None:
    """Any router with the secret reads it, and a cookie can carry it."""
    token = pins().issue(key, name, tenant=tenant)
    assert pins(hard=hard).read(token, key, tenant=tenant) == Pin(name, hard)
    assert token.replace("-", "a").replace("_", "a").isalnum()
    assert len(token) <= LONGEST


@given(st.text(), st.text(), st.text(), st.text())
def test_a_token_is_for_one_session_of_one_tenant(key: str, tenant: str, other: str, foreign: str) -> None:
    """Another session or another tenant cannot use it, however the two are cut."""
    token = pins().issue(key, "a", tenant=tenant)
    assert (pins().read(token, other, tenant=foreign) is None) is ((other, foreign) != (key, tenant))
    if key:
        assert pins().read(token, key[1:], tenant=tenant + key[:1]) is None


@given(st.data())
def test_a_token_that_was_touched_is_ignored(data: st.DataObject) -> None:
    """Any change of any character, and any cut, makes it nothing."""
    token = pins().issue("session", "replica-7")
    at = data.draw(st.integers(0, len(token) - 1))
    new = data.draw(st.sampled_from("abcXYZ059-_=. \n").filter(lambda c: c != token[at]))
    for forged in (token[:at] + new + token[at + 1 :], token[:at], token[at + 1 :], token + new, new + token):
        assert pins().read(forged, "session") is None


@given(st.one_of(st.text(), st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("="))))
def test_garbage_is_ignored(token: str) -> None:
    """Whatever a client sends, nothing is raised."""
    assert pins().read(token, "session") is None


@given(st.floats(0, 4e9), st.floats(1, 1e6), st.floats(-1e6, 1e6))
def test_a_token_expires(at: float, ttl: float, later: float) -> None:
    """It holds for its time to live, up to the whole second, and no longer."""
    token = pins(at=at, ttl=ttl).issue("session", "a")
    read = pins(at=max(0.0, at + later)).read(token, "session")
    assert later >= ttl - 1 or read is not None
    assert later <= ttl + 1 or read is None


def test_secrets_can_be_changed() -> None:
    """The first of several signs, all are believed, and one that is gone no longer is."""
    old = pins(SECRET).issue("session", "a")
    both = pins([OTHER, SECRET])
    assert both.read(old, "session") == Pin("a")
    assert pins(OTHER).read(old, "session") is None
    assert pins(OTHER).read(both.issue("session", "a"), "session") == Pin("a")


def test_what_is_too_long_is_not_looked_at() -> None:
    """An id too long is refused when it is issued, and a token too long when it comes."""
    with pytest.raises(ValueError, match="replica_id must be from 1 to 364 bytes"):
        pins().issue("session", "a" * 365)
    longest = pins().issue("session", "a" * 364)
    assert pins().read(longest, "session") == Pin("a" * 364)
    assert pins().read(longest + "A" * 1_000_000, "session") is None
    with pytest.raises(ValueError, match="replica_id must be"):
        pins().issue("session", "")


@pytest.mark.parametrize(
    ("secret", "options", "error"),
    [
        (b"short", {}, ValueError),
        ([], {}, ValueError),
        ("0123456789abcdef", {}, TypeError),
        (["0123456789abcdef"], {}, TypeError),
        (SECRET, {"ttl": 0}, ValueError),
        (SECRET, {"ttl": float("nan")}, ValueError),
        (SECRET, {"ttl": float("inf")}, ValueError),
        (SECRET, {"ttl": True}, ValueError),
    ],
)
def test_bad_arguments_are_refused(secret: bytes, options: dict[str, object], error: type[Exception]) -> None:
    """Secrets that could be guessed, and times that are none."""
    with pytest.raises(error):
        pins(secret, **options)
