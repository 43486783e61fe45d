"""Ages and lifetimes: dates read strictly, directives by their grammar, doubt resolved towards stale."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.dates import format_date, parse_date
from replicated.http.freshness import (
    Policy,
    delta,
    directives,
    initial_age,
    structured,
)
from replicated.http.message import Headers, Response

NOW = 1_800_000_000.0
DATE = (b"date", format_date(int(NOW)))


def lines(**fields: str) -> Headers:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]


def lifetime(
    policy: Policy | None = None, *, status: int = 200, credentials: Collection[bytes] = (), **fields: str
):
    response = Response(status, [DATE, *lines(**fields)])
    return (policy or Policy()).lifetime(response, credentials=set(credentials), unix=NOW)


@given(st.integers(0, 4_000_000_000))
def test_dates_come_back(unix: int) -> None:
    """What is written as a date is read as the same second."""
    assert parse_date(format_date(unix)) == unix


@pytest.mark.parametrize(
    ("text", "unix"),
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        (b"Sun Nov  6 08:49:37 1994", 784111777),
        (b"SUN, 06 nov 1994 08:49:37 gmt", 784111777),
        (b"Thursday, 18-Aug-50 02:01:18 GMT", 2544400878),
    ],
)
def test_three_forms_are_dates(text: bytes, unix: int) -> None:
    """The three forms of RFC 9110 are read, in any case."""
    assert parse_date(text) == unix


@pytest.mark.parametrize(
    "text",
    [
        b"0",
        b"",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 94 08:49:37 GMT",
        b"Sun 06 Nov 1994 08:49:37 GMT",
        b"Sun,  06 Nov 1994 08:49:37 GMT",
        b"Sun, 06-Nov-1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08.49.37 GMT",
        b"Sun, 06 Nov 1994 8:49:37 GMT",
        b"Sun, 06 Nix 1994 08:49:37 GMT",
        b"Sun, 31 Feb 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:38 GMT",
        b"1994-11-06T08:49:37Z",
    ],
)
def test_what_looks_like_a_date_is_none(text: bytes) -> None:
    """Anything but the three forms is no date, however obvious its meaning."""
    assert parse_date(text) is None


def test_directives_by_their_grammar() -> None:
    """Commas and directives within quotes are text, names have no case, and lines are one list."""
    said = directives(
        [
            (b"cache-control", b'ext="max-age=9, no-store", MAX-Age=5'),
            (b"cache-control", b'no-cache="a, b",,'),
        ],
        b"cache-control",
    )
    assert said == {b"ext": b"max-age=9, no-store", b"max-age": b"5", b"no-cache": b"a, b"}
    assert directives([], b"cache-control") == {}


def test_the_shorter_of_two_counts() -> None:
    """A directive that comes twice means the shorter time, in either order."""
    for text in (b"max-age=1, max-age=1800", b"max-age=1800, max-age=1"):
        assert directives([(b"cache-control", text)], b"cache-control")[b"max-age"] == b"1"


@given(st.text(alphabet='",=\\ ab1-', max_size=60))
def test_no_input_breaks_the_readers(text: str) -> None:
    """Malformed fields are read as something, never raise, and yield lifetimes that are finite."""
    value = text.encode()
    for field in (b"cache-control", b"cdn-cache-control", b"expires", b"age", b"pragma", b"last-modified"):
        found = Policy(ttl=5.0).lifetime(Response(200, [DATE, (field, value)]), credentials=set(), unix=NOW)
        assert found is None or 0 <= found.fresh < math.inf
        assert 0 <= initial_age([(field, value)], NOW, 0.0) < math.inf


def test_reading_is_linear() -> None:
    """Quotes that are never closed are read once, not once for each of them."""
    assert directives([(b"cache-control", b'"' + b'a\\"' * 20_000)], b"cache-control")
    assert structured(b"a;" * 20_000) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"60", 60),
        (b"0060", 60),
        (b"0", 0),
        (b"-5", 0),
        (b"5.0", 0),
        (b"'5'", 0),
        (b"", 0),
        (b"9" * 30, 2**31),
        (b"0" * 30 + b"7", 7),
    ],
)
def test_delta_seconds(text: bytes, seconds: int) -> None:
    """Digits count, up to 2^31; everything else is 0, which is stale."""
    assert delta(text) == seconds


@pytest.mark.parametrize(
    ("fields", "fresh"),
    [
        ({"cache_control": "max-age=60"}, 60),
        ({"cache_control": "max-age=60, s-maxage=5"}, 5),
        ({"cache_control": "max-age=1, s-maxage=50"}, 50),
        ({"cache_control": "max-age=60", "expires": "0"}, 60),
        ({"expires": format_date(int(NOW) + 100).decode()}, 100),
        ({"expires": format_date(int(NOW) - 100).decode()}, 0),
        ({"expires": "0"}, 0),
        ({"cache_control": "max-age=60, no-cache"}, 0),
        ({"cache_control": 'no-cache="set-cookie", max-age=60'}, 0),
        ({"cache_control": "max-age=5", "cdn_cache_control": "max-age=60"}, 60),
        ({"cache_control": "no-store", "cdn_cache_control": "max-age=60"}, 60),
        ({"expires": "0", "cdn_cache_control": "max-age=60"}, 60),
        ({"cache_control": "max-age=5", "cdn_cache_control": 'max-age="60"'}, 5),
        ({"cache_control": "max-age=5", "cdn_cache_control": "max-age=60, &&&"}, 5),
        ({"cache_control": "max-age=5", "cdn_cache_control": "MAX-AGE=60"}, 5),
        ({"cache_control": "no-store, must-understand, max-age=60"}, 60),
    ],
)
def test_stated_lifetimes(fields: dict[str, str], fresh: float) -> None:
    """s-maxage before max-age before Expires; CDN-Cache-Control before all, where it is sound."""
    found = lifetime(**fields)
    assert found is not None
    assert (found.fresh, found.assumed) == (fresh, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_control": "no-store, max-age=60"},
        {"cache_control": "private, max-age=60"},
        {"cache_control": 'private="x-user", max-age=60'},
        {"cache_control": "No-Store"},
        {"cache_control": "no-store, private, must-understand, max-age=60"},
        {"cache_control": "max-age=60", "cdn_cache_control": "private"},
        {"cache_control": "max-age=60", "cdn_cache_control": "no-store"},
        {},
    ],
)
def test_what_may_not_be_kept(fields: dict[str, str]) -> None:
    """no-store and private are obeyed with or without arguments; who says nothing is not kept."""
    assert lifetime(**fields) is None


def test_must_understand() -> None:
    """Who must understand a status to keep it keeps none that it does not know."""
    assert lifetime(status=599, cache_control="max-age=60") is not None
    assert lifetime(status=599, cache_control="max-age=60, must-understand") is None


def test_two_expires_are_none() -> None:
    """Two Expires lines are in doubt, hence stale."""
    later = (b"expires", format_date(int(NOW) + 100))
    found = Policy().lifetime(Response(200, [DATE, later, later]), credentials=set(), unix=NOW)
    assert found is not None
    assert found.fresh == 0


def test_credentials_need_a_word() -> None:
    """A response to somebody in particular is shared only where it says that it may be."""
    for who in (b"authorization", b"cookie"):
        for said in ("public, max-age=60", "s-maxage=60"):
            assert lifetime(credentials=[who], cache_control=said) is not None
        assert lifetime(credentials=[who], cache_control="max-age=60") is None
        assert lifetime(Policy(ttl=60), credentials=[who]) is None
        modified = format_date(int(NOW) - 1000).decode()
        assert lifetime(credentials=[who], cache_control="public", last_modified=modified) is None
    must = "max-age=60, must-revalidate"
    assert lifetime(credentials=[b"authorization"], cache_control=must) is not None
    assert lifetime(credentials=[b"cookie"], cache_control=must) is None
    assert lifetime(credentials=[b"authorization", b"cookie"], cache_control=must) is None


def test_assumed_lifetimes() -> None:
    """A ttl stands in for what is not said; else a tenth of the age of what was modified, a day at most."""
    assert lifetime(Policy(ttl=7)).fresh == 7
    assert lifetime(Policy(ttl=7)).assumed
    assert lifetime(Policy(ttl=7), status=500) is None
    assert lifetime(Policy(ttl=7), pragma="no-cache") is None
    thousand, years = (format_date(int(NOW) - ago).decode() for ago in (1000, 10**8))
    assert lifetime(last_modified=thousand).fresh == pytest.approx(100)
    assert lifetime(last_modified=years).fresh == 86400
    assert lifetime(Policy(heuristic=0), last_modified=thousand) is None
    assert lifetime(last_modified=format_date(int(NOW) + 10).decode()).fresh == 0
    assert lifetime(status=599, last_modified=thousand) is None
    assert lifetime(status=599, last_modified=thousand, cache_control="public").fresh == pytest.approx(100)
    undated = Response(200, lines(last_modified=thousand))
    assert Policy().lifetime(undated, credentials=set(), unix=NOW).fresh == pytest.approx(100)


def test_stale_answers_by_permission_only() -> None:
    """On stale answers the response's word comes first, then the operator's, and neither against a must."""
    policy = Policy(grace=10, keep=20)
    plain = lifetime(policy, cache_control="max-age=60")
    assert (plain.grace, plain.keep) == (10, 20)
    own = lifetime(policy, cache_control="max-age=60, stale-while-revalidate=1, stale-if-error=2")
    assert (own.grace, own.keep) == (1, 2)
    shared = lifetime(policy, cache_control="s-maxage=60, stale-while-revalidate=5")
    assert (shared.grace, shared.keep) == (5, 0)
    for said in ("max-age=60, must-revalidate", "max-age=60, proxy-revalidate", "no-cache", "max-age=0"):
        strict = lifetime(policy, cache_control=said)
        assert (strict.grace, strict.keep) == (0, 0)


@pytest.mark.parametrize(
    ("fields", "delay", "age"),
    [
        ([], 0.0, 0.0),
        ([(b"age", b"30")], 0.0, 30.0),
        ([(b"age", b"30")], 2.5, 32.5),
        ([(b"age", b"30, 90")], 0.0, 30.0),
        ([(b"age", b"7"), (b"age", b"90")], 0.0, 7.0),
        ([(b"age", b"abc")], 1.0, 1.0),
        ([(b"age", b"-30")], 0.0, 0.0),
        ([(b"age", b"30.0")], 0.0, 0.0),
        ([(b"date", format_date(int(NOW) - 40))], 0.0, 40.0),
        ([(b"date", format_date(int(NOW) - 40)), (b"age", b"50")], 0.0, 50.0),
        ([(b"date", format_date(int(NOW) + 40))], 0.0, 0.0),
        ([(b"date", b"yesterday")], 0.0, 0.0),
    ],
)
def test_initial_age(fields: Headers, delay: float, age: float) -> None:
    """The larger of what Date and Age tell, the first Age of several, and nothing from what is no number."""
    assert initial_age(fields, NOW, delay) == age


@pytest.mark.parametrize("name", ["ttl", "heuristic", "grace", "keep"])
def test_what_cannot_be_is_refused(name: str) -> None:
    """Numbers below zero, NaN, infinity and booleans are refused by name."""
    for value in (-1.0, math.nan, math.inf, True):
        with pytest.raises(ValueError, match=re.escape(f"{name} must be")):
            Policy(**{name: value})
    with pytest.raises(ValueError, match="ttl must be"):
        Policy(ttl=0)
