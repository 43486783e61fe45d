"""Whether a request takes a task is not to be seen by its client: what it gets is the same, byte by byte."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicated import RoundRobin, Tier
from replicated.adapters.engine.upstream import Timeouts, Upstream
from replicated.adapters.proxy.exchange import Exchange

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
END = b"\r\n\r\n"
WARM = b"GET /warm HTTP/1.1\r\nHost: h\r\n"
CLOSE = b"Connection: close\r\n"
TODAY = re.compile(rb"date: ..., [^\r]* GMT")

status = st.sampled_from(
    (
        b"200 OK",
        b"200 Fine",
        b"200",
        b"204 None",
        b"205 R",
        b"206 Part",
        b"299 Odd",
        b"302 There",
        b"304 Same",
    )
    + (b"404 None", b"407 P", b"416 R", b"500 E", b"502 B", b"503 B", b"504 G", b"599 Odd")
)
length = st.sampled_from(
    (b"Content-Length: 5\r\n",) * 6
    + (
        b"Content-Length: 05\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 4\r\n",
        b"Content-Length: 6\r\n",
    )
    + (b"Content-Length: 5\r\nContent-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"")
)
field = st.sampled_from(
    (b"Connection: close", b"Connection: Keep-Alive", b"Connection: x-a, close", b"connection:", b"Close: x")
    + (b"X-A: 1", b"x-a:  2\t", b"Keep-Alive: timeout=5", b"Date: then", b"Proxy-Status: p", b"Set-Cookie: a")
    + (
        b"Set-Cookie: b",
        b"Upgrade: h2c",
        b"Trailer: x",
        b"TE: trailers",
        b"Proxy-Authenticate: a",
        b"A: \xe4",
    )
    + (b"Proxy-Connection: close", b"Content-Type: text/plain", b"a b: c", b"Connection: x_a", b"x_a: 3")
)
answer = st.builds(
    lambda minor, status, length, fields, body, early: b"".join(
        (early, b"HTTP/1.%d %b\r\n" % (minor, status), length, *(line + b"\r\n" for line in fields))
        + (b"\r\n", body)
    ),
    st.sampled_from((1, 1, 1, 0)),
    status,
    length,
    st.lists(field, max_size=4),
    st.sampled_from((b"hello", b"hello", b"", b"5\r\nhello\r\n0\r\n\r\n", b"hello" + OK)),
    st.sampled_from((b"", b"", b"HTTP/1.1 103 Early Hints\r\nlink: a\r\nconnection: b\r\nb: c\r\n\r\n")),
)
request = st.builds(
    lambda method, minor, close: b"%b / HTTP/1.%d\r\nHost: h\r\n%b\r\n" % (method, minor, close and CLOSE),
    st.sampled_from((b"GET", b"GET", b"HEAD", b"POST", b"OPTIONS")),
    st.sampled_from((1, 1, 1, 0)),
    st.sampled_from((b"", CLOSE)),
)


def comparable(data: bytes) -> tuple[list[bytes], ...]:
    """Return answers with the lines of each in order, and of today only that it is."""
    return tuple(sorted(TODAY.sub(b"date: now", part).split(b"\r\n")) for part in data.split(END))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(asked=request, said=answer)
def test_the_same_with_and_without_a_task(
    fronting: Any, scripted: Any, run: Any, asked: bytes, said: bytes
) -> None:
    """Whatever is asked, and whatever the replica says."""

    async def play(peer: Any) -> None:
        while head := await peer.head():
            await peer.send(OK if b"/warm" in head else said)
            if b"/warm" not in head:
                return

    async def got(expressly: bool) -> tuple[list[bytes], ...]:
        async with scripted(play) as replica:
            tier = Tier([replica.replica()], strategy=RoundRobin())
            upstream = Upstream(timeouts=Timeouts(connect=5, first_byte=5, read=5))
            exchange = Exchange(tier, upstream, hedging=False)
            exchange.expressly = expressly
            async with fronting(exchange, complaints=None) as world, world.client() as client:
                client.send(WARM, b"\r\n")
                assert (await client.answer())[2] == b"ok"
                client.send(asked, WARM, CLOSE, b"\r\n")
                try:
                    data = await client.rest()
                except ConnectionError:
                    data = b"reset"
            assert tier.in_flight == 0
            assert not any(pool.busy for pool in upstream.pools.values())
            await upstream.aclose()
            return comparable(data)

    async def story() -> None:
        assert await got(True) == await got(False)

    run(story)
