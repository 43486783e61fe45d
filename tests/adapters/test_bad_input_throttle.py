"""Whatever a stranger sends, a throttled application answers: nothing on the request path raises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated import Throttle
from replicated.adapters.asgi import ThrottleMiddleware
from replicated.http.identity import Identity
from replicated.testing import ManualClock

names = st.sampled_from(
    [b"x-forwarded-for", b"forwarded", b"x-forwarded-proto", b"x-forwarded-host", b"host"]
)
identities = st.sampled_from(
    [
        Identity(),
        Identity(["0.0.0.0/0", "::/0"]),
        Identity(["0.0.0.0/0", "::/0"], header="forwarded"),
        Identity(hops=2),
        Identity(hops=32, header="forwarded"),
    ]
)


async def statuses(app: Any, scope: dict[str, Any], times: int) -> list[int]:
    sent: list[int] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("a body was read")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            sent.append(message["status"])

    for _ in range(times):
        await app(scope, receive, send)
    return sent


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


@given(
    identity=identities,
    headers=st.lists(st.tuples(names, st.binary(max_size=60)), max_size=6),
    raw_path=st.binary(max_size=30),
    query=st.binary(max_size=10),
    peer=st.one_of(st.none(), st.tuples(st.text(max_size=20), st.integers(0, 65535))),
)
def test_every_request_is_answered(
    identity: Identity, headers: Any, raw_path: bytes, query: bytes, peer: Any
) -> None:
    """Any header, path and peer is admitted up to the burst and refused beyond it, as one client."""
    app = ThrottleMiddleware(hello, Throttle(1, 2, clock=ManualClock()), identity=identity, fields=True)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": raw_path,
        "query_string": query,
        "client": peer,
        "headers": headers,
    }
    assert asyncio.run(statuses(app, scope, 3)) == [200, 200, 429]


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
def test_a_stranger_cannot_mint_buckets(header: Any) -> None:
    """A client that makes up another chain each time has one bucket all the same."""
    app = ThrottleMiddleware(
        hello, Throttle(1, 2, clock=ManualClock()), identity=Identity(["10.0.0.0/8"], header=header)
    )
    ours = b"203.0.113.9" if header == "x-forwarded-for" else b'for="203.0.113.9:1"'

    async def story() -> list[int]:
        sent = []
        for claim in (b"1.1.1.1", b'for="', b"for=2.2.2.2", b",,,", b'"\\', b"1.1.1.1, " * 10_000):
            scope = {
                "type": "http",
                "method": "GET",
                "path": "/",
                "client": ("10.0.0.1", 1),
                "headers": [(header.encode(), claim + b", " + ours)],
            }
            sent += await statuses(app, scope, 1)
        return sent

    assert asyncio.run(story()) == [200, 200, 429, 429, 429, 429]
