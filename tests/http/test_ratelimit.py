"""RateLimit and RateLimit-Policy: as the draft writes them, for any limit at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.fields import retry_after
from replicated.http.ratelimit import ratelimit_fields, with_ratelimit
from replicated.testing import ManualClock
from replicated.throttle import Quota, Throttle, TokenBucket

MEMBER = rb'"(?:[ !#-\[\]-~]|\\["\\])*"(?:;[a-z]=[0-9]{1,15}){2}'


def test_the_fields_by_hand() -> None:
    """The two fields name each limit once, in the draft's own spelling."""
    quotas = [Quota("default", 100, 60.0, 50, 30.5, 29.2), Quota('a "b"\n\\é', 1, 0.01, 0, 0.0, 0.0)]
    assert ratelimit_fields(quotas) == [
        (b"ratelimit-policy", rb'"default";q=100;w=60, "a \"b\"?\\?";q=1;w=1'),
        (b"ratelimit", rb'"default";r=50;t=30, "a \"b\"?\\?";r=0;t=0'),
    ]
    assert ratelimit_fields([]) == []


@given(st.text(), st.integers(1, 10**30), st.floats(0, 1e300), st.integers(0, 10**30), st.floats(0, 1e300))
def test_they_are_structured_fields(name: str, burst: int, window: float, left: int, reset: float) -> None:
    """Whatever a limit is called and however large it is, both fields can be parsed (RFC 9651)."""
    for _, value in ratelimit_fields([Quota(name, burst, window, left, reset, reset)] * 2):
        assert re.fullmatch(rb"%b, %b" % (MEMBER, MEMBER), value)


@given(st.sampled_from([0.3, 1, 7, 50]), st.integers(1, 20))
def test_a_client_that_keeps_to_the_policy_is_never_refused(rate: float, burst: int) -> None:
    """Taking q at the beginning of each w seconds is always admitted."""
    clock = ManualClock()
    bucket = TokenBucket(rate, burst, clock=clock)
    policy = dict(ratelimit_fields([bucket.quota()]))[b"ratelimit-policy"]
    [q, w] = map(int, re.findall(rb"=(\d+)", policy))
    for _ in range(5):
        assert [bucket.take() for _ in range(q)] == [0.0] * q
        clock.advance(w)


@given(st.sampled_from([0.3, 1, 7, 50]), st.integers(1, 20), st.integers(1, 40))
def test_retry_after_is_no_earlier_than_the_reset(rate: float, burst: int, takes: int) -> None:
    """After t seconds there is more than r; and who is refused is not asked back before that."""
    clock = ManualClock()
    throttle = Throttle(rate, burst, clock=clock)
    waits = [throttle.take("a") for _ in range(takes)]
    r, t = map(int, re.findall(rb"=(\d+)", dict(ratelimit_fields(throttle.quotas("a")))[b"ratelimit"]))
    if waits[-1]:
        assert r == 0
        assert int(retry_after(waits[-1])) == t
    clock.advance(t)
    assert throttle.peek("a", r + 1) == 0.0


@pytest.mark.parametrize("own", [b"ratelimit", b"RateLimit-Policy"])
def test_an_application_that_says_its_own_keeps_it(own: bytes) -> None:
    """Two limits by one name would contradict each other: what the application says stands."""
    quotas = (TokenBucket(1, 1, clock=ManualClock()).quota(),)
    assert with_ratelimit([(own, b"x")], quotas) == [(own, b"x")]
    assert with_ratelimit([(b"a", b"x")], quotas) == [
        (b"a", b"x"),
        (b"ratelimit-policy", b'"default";q=1;w=1'),
        (b"ratelimit", b'"default";r=1;t=0'),
    ]
