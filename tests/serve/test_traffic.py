"""What is counted, and how it is written: no figure is rounded, and none is kept for ever."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from replicated import Replica, RoundRobin, Tier
from replicated.adapters.proxy.strict_transport import redirect_to_https, strict_transport
from replicated.http.message import Request, Response
from replicated.outcome import Outcome
from replicated.serve.admin import Admin
from replicated.serve.exposition import Family, exposition
from replicated.serve.options import ServeOptions
from replicated.serve.service import Service
from replicated.serve.traffic import Traffic
from replicated.testing import ManualClock


@given(
    labels=st.dictionaries(st.sampled_from(["a", "b"]), st.text(st.characters(exclude_categories=["Cs"]))),
    value=st.one_of(st.integers(0, 2**53), st.floats(0, 1e300)),
)
def test_what_is_written_is_read(labels: dict[str, str], value: float) -> None:
    """Whatever a label holds and however large a figure is, Prometheus's own parser reads the very same."""
    if any(mark in text for text in labels.values() for mark in "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"):
        return  # the parser takes these for the end of a line, which the format does not
    [family] = text_string_to_metric_families(
        exposition([Family("x_total", "counter", "Some.", [(labels, value)])]).decode()
    )
    [sample] = family.samples
    assert (sample.name, sample.labels, sample.value) == ("x_total", labels, value)


def counted(traffic: Traffic, tier: Tier) -> dict[str, float]:
    """Return the samples of a tier's traffic by name and labels."""
    text = exposition(traffic.families(tier.replicas)).decode()
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_replica_that_left_is_forgotten_when_its_last_request_ends() -> None:
    """Its figures stay as long as something is in flight there, and then go, however many come and go."""
    traffic = Traffic()
    inner = RoundRobin()
    strategy = traffic.strategy(inner)
    assert repr(strategy) == repr(inner)
    tier = Tier([Replica("a"), Replica("b")], strategy=strategy)
    first, second = tier.decide(), tier.decide()
    tier.finish(first, Outcome.success())
    tier.readiness.remove("a")
    assert counted(traffic, tier)["replicated_attempts_in_flight b"] == 1
    assert "replicated_attempts_total a ok" not in counted(traffic, tier)
    tier.readiness.add(Replica("c"))
    tier.readiness.remove("b")
    assert counted(traffic, tier)["replicated_attempts_in_flight b"] == 1
    tier.finish(second, Outcome.failure("x"))
    counted(traffic, tier)
    assert set(traffic.in_flight) <= {"c"}
    assert not traffic.attempts


def test_an_operator_is_told_of_a_tier_that_counts() -> None:
    """A tier that counts nothing has nothing to tell."""
    service = Service(ServeOptions((Replica("a", "http://a.test"),)))
    with pytest.raises(ValueError, match="counted"):
        Admin(service, lambda: 0)


def test_answers_are_counted_by_their_time() -> None:
    """A histogram's buckets are cumulative, and an answer on a bound is within it."""
    clock = ManualClock()
    traffic = Traffic(clock)

    async def answer(request: Request) -> Response:
        clock.advance(float(request.target))
        return Response(200, [(b"cache-status", b"x; hit; ttl=1")])

    handler = traffic.handler(answer)
    for seconds in (b"0.001", b"0.3", b"99"):
        asyncio.run(handler(Request("GET", seconds, [])))  # type: ignore[arg-type]
    found = counted(traffic, Tier())
    buckets = [found[f"replicated_response_seconds_bucket {bound}"] for bound in ("0.001", "0.25", "0.5")]
    assert buckets == [1, 1, 2]
    assert found["replicated_response_seconds_bucket +Inf"] == found["replicated_response_seconds_count"] == 3
    assert found["replicated_response_seconds_sum"] == pytest.approx(99.301)
    assert found["replicated_cache_hits_total"] == 3


def test_what_an_application_says_of_hsts_stays() -> None:
    """Its own word goes before the flag's; without TLS nothing is said."""

    async def own(request: Request) -> Response:
        said = [(b"strict-transport-security", b"max-age=1")] if request.target == b"/own" else []
        return Response(200, said)

    def ask(target: bytes, scheme: str) -> list[tuple[bytes, bytes]]:
        async def run() -> Response:
            return await strict_transport(own, 60)(Request("GET", target, [], scheme=scheme))

        return asyncio.run(run()).headers

    assert ask(b"/", "https") == [(b"strict-transport-security", b"max-age=60")]
    assert ask(b"/own", "https") == [(b"strict-transport-security", b"max-age=1")]
    assert ask(b"/", "http") == []
    for wrong in (-1, True, 1.5):
        with pytest.raises(ValueError, match="seconds must be"):
            strict_transport(own, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "port", "location"),
    [
        (b"a.test", 443, b"https://a.test/x?y"),
        (b"a.test:80", 443, b"https://a.test/x?y"),
        (b"a.test", 8443, b"https://a.test:8443/x?y"),
        (b"[::1]:80", 443, b"https://[::1]/x?y"),
    ],
)
def test_where_a_redirect_leads(host: bytes, port: int, location: bytes) -> None:
    """To the same host and target, on the port of TLS, which is left out where it is the usual one."""

    async def run() -> Response:
        return await redirect_to_https(port)(Request("GET", b"/x?y", [(b"host", host)]))

    response = asyncio.run(run())
    assert response.status == 308
    assert dict(response.headers)[b"location"] == location
