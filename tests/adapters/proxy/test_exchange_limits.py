"""What bounds an exchange: time, connections, descriptors, memory; and what it says of it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from replicated import OutlierDetector, ReadinessTracker, Replica, RetryBudget, RoundRobin, Tier
from replicated.adapters.engine.upstream import Origin, Timeouts, Upstream
from replicated.adapters.proxy.exchange import Exchange
from replicated.errors import UpstreamExhausted, UpstreamTimeout
from replicated.http.fields import find, find_all
from replicated.http.message import Request, Response
from replicated.testing import RecordingStrategy

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"
HOST = (b"host", b"example.com")
GET = ("GET", b"/", [HOST])


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await main()

    return asyncio.run(bounded())


def ends(*replicas: Replica, **options: Any) -> tuple[Exchange, RecordingStrategy]:
    strategy = RecordingStrategy(RoundRobin())
    upstream = options.pop("upstream", None) or Upstream(timeouts=options.pop("timeouts", None))
    tier = {name: options.pop(name) for name in ("retries", "readiness") if name in options}
    return Exchange(Tier(replicas, strategy=strategy, **tier), upstream, hedging=False, **options), strategy


def verdicts(strategy: RecordingStrategy) -> list[tuple[str, str]]:
    return [(name, outcome.verdict.value) for name, outcome in strategy.ends]


async def silent(peer: Any) -> None:
    await peer.request()
    await peer.gone()


def test_the_total_is_over_all_attempts(scripted: Any) -> None:
    """What the first attempt has used up the next one does not have, and then it is 504."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.request()
            await asyncio.sleep(0.15)

        async with scripted(play) as slow, scripted(silent) as mute:
            exchange, strategy = ends(
                slow.replica("slow"), mute.replica("mute"), timeouts=Timeouts(first_byte=60, total=0.3)
            )
            assert (await exchange(Request(*GET))).status == 504
            assert verdicts(strategy) == [("slow", "failed"), ("mute", "failed")]
            assert "0.1" in strategy.ends[1][1].reason

    run(main)


def test_no_attempt_begins_after_the_total(scripted: Any, answers: Any) -> None:
    """A request that has used up its time gets the answer there is."""

    async def main() -> None:
        async with scripted(silent) as mute, scripted(answers(OK)) as good:
            exchange, strategy = ends(
                mute.replica("mute"), good.replica("good"), timeouts=Timeouts(first_byte=5, total=0.05)
            )
            assert (await exchange(Request(*GET))).status == 504
            assert verdicts(strategy) == [("mute", "failed")]
            assert good.accepted == 0

    run(main)


def test_a_held_body_is_due_within_the_total(scripted: Any) -> None:
    """A response that trickles is not held back for longer, however regularly it does."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            for _ in range(1000):
                await peer.send(b"x")
                await asyncio.sleep(0.02)

        async with scripted(play) as trickling:
            exchange, strategy = ends(trickling.replica(), timeouts=Timeouts(total=0.1))
            assert (await exchange(Request(*GET))).status == 504
            assert verdicts(strategy) == [("a", "failed")]

    run(main)


def test_a_hanging_connect_is_bounded_by_what_is_left(monkeypatch: Any) -> None:
    """The deadline given to a request goes for its connection as well."""

    async def main() -> None:
        async def hang(*_: Any, **__: Any) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", hang)
        upstream = Upstream()
        with pytest.raises(Exception, match=r"within 0\.01 s"):
            await upstream.send(Origin("127.0.0.1", 9), "GET", b"/", [HOST], within=0.01)
        [pool] = upstream.pools.values()
        assert pool.busy == 0

    run(main)


def test_what_is_left_bounds_the_head(scripted: Any) -> None:
    """A deadline below that of the first byte is the one that counts, on fresh and on kept connections."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.request()
            await peer.send(OK)
            await silent(peer)

        async with scripted(play) as replica:
            upstream = Upstream()
            origin = Origin.parse(replica.url)
            response = await upstream.send(origin, "GET", b"/", [HOST], within=5.0)
            await response.read_all()
            response.close()
            with pytest.raises(UpstreamTimeout):
                await upstream.send(origin, "GET", b"/", [HOST], within=0.02)
            assert replica.accepted == 1

    run(main)


def test_a_full_replica_is_passed_over_and_not_blamed(scripted: Any, answers: Any) -> None:
    """Beyond the cap another replica is asked, a POST too; where all are full it is 503, and soon over."""

    async def main() -> None:
        go = asyncio.Event()

        async def play(peer: Any) -> None:
            while await peer.request():
                await go.wait()
                await peer.send(OK)

        async with scripted(play) as a, scripted(play) as b:
            exchange, strategy = ends(a.replica("a"), b.replica("b"), upstream=Upstream(max_connections=1))
            first = [asyncio.ensure_future(exchange(Request("POST", b"/", [HOST]))) for _ in range(2)]
            await asyncio.sleep(0.02)
            refused = await exchange(Request("POST", b"/", [HOST]))
            assert refused.status == 503
            assert find(refused.headers, b"proxy-status") == b"replicated; error=connection_limit_reached"
            assert find(refused.headers, b"retry-after") == b"1"
            assert [verdict for _, verdict in verdicts(strategy)] == ["cancelled", "cancelled"]
            go.set()
            assert [response.status for response in await asyncio.gather(*first)] == [200, 200]
            assert (await exchange(Request("POST", b"/", [HOST]))).status == 200
            await exchange.upstream.aclose()

    run(main)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL])
def test_descriptors_that_run_out_are_our_own_fault(
    monkeypatch: Any, answers: Any, scripted: Any, number: int
) -> None:
    """No replica is blamed or ejected, connections that are idle make room, and the client may come back."""

    async def main() -> None:
        async with scripted(answers(OK)) as replica:
            readiness = ReadinessTracker(outliers=OutlierDetector(1))
            exchange, strategy = ends(
                replica.replica("a"), Replica("b", "http://127.0.0.1:9"), readiness=readiness
            )
            while (await exchange(Request(*GET))).status != 200:
                pass
            readiness.replace([replica.replica("a"), Replica("c", "http://127.0.0.1:10")])
            strategy.ends.clear()

            async def exhausted(*_: Any, **__: Any) -> None:
                raise OSError(number, "none left")

            monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", exhausted)
            pool = exchange.upstream.pools[Origin.parse(replica.url)]
            with pytest.raises(UpstreamExhausted):
                await exchange.upstream.send(Origin("127.0.0.1", 10), *GET)
            assert not pool.connections
            assert (await exchange(Request(*GET))).status == 503
            assert {verdict for _, verdict in verdicts(strategy)} == {"cancelled"}
            assert len(readiness.ready) == 2

    run(main)


def test_memory_that_is_held_is_bounded_in_total(scripted: Any) -> None:
    """Beyond it responses pass as they come, and what was reserved is free again at the end."""

    async def main() -> None:
        go = asyncio.Event()

        async def play(peer: Any) -> None:
            while await peer.request():
                await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", b"01234")
                await go.wait()
                await peer.send(b"56789")

        async with scripted(play) as replica:
            exchange, _ = ends(replica.replica(), hold_total=15)
            held = asyncio.ensure_future(exchange(Request(*GET)))
            await asyncio.sleep(0.02)
            assert exchange.room == 5
            streamed = await exchange(Request(*GET))
            assert not isinstance(streamed.body, bytes)
            go.set()
            assert (await held).body == b"0123456789"
            assert b"".join([piece async for piece in streamed.body]) == b"0123456789"
            await streamed.close()
            assert exchange.room == 15
            await exchange.upstream.aclose()

    run(main)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"garbage\r\n\r\n", b"http_protocol_error"),
        (b"", b"connection_terminated"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", b"http_response_incomplete"),
        (None, b"http_response_timeout"),
    ],
)
def test_proxy_status_names_what_went_wrong(scripted: Any, answer: bytes | None, error: bytes) -> None:
    """An answer of our own says so, by RFC 9209, and names no replica."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.request()
            if answer is None:
                await peer.gone()
            else:
                await peer.send(answer)

        async with scripted(play) as replica:
            exchange, _ = ends(replica.replica(), pseudonym="edge", timeouts=Timeouts(first_byte=0.05))
            response = await exchange(Request(*GET))
            assert response.status == (504 if answer is None else 502)
            assert find_all(response.headers, b"proxy-status") == [b"edge; error=" + error]
            assert b"127.0.0.1" not in b"".join(value for _, value in response.headers)
            assert isinstance(response.body, bytes)
            assert b"127.0.0.1" not in response.body

    run(main)


def test_proxy_status_where_nobody_can_serve_or_be_reached(nowhere: str) -> None:
    """Nobody ready is a destination that is unavailable, nobody listening a refused connection."""

    async def main() -> None:
        for replicas, error in (((), b"destination_unavailable"), ((nowhere,), b"connection_refused")):
            exchange, _ = ends(*[Replica("a", url) for url in replicas])
            response = await exchange(Request(*GET))
            assert response.status == 503
            assert find(response.headers, b"proxy-status") == b"replicated; error=" + error
            assert find(response.headers, b"retry-after") == b"1"

    run(main)


def test_an_answer_of_a_tier_behind_is_final(scripted: Any, answers: Any) -> None:
    """Who has asked all its replicas is not asked again by way of another, nor blamed for them."""

    async def main() -> None:
        marked = BUSY.replace(b"\r\n\r\n", b"\r\nproxy-status: inner; received-status=503\r\n\r\n")
        async with scripted(answers(marked)) as a, scripted(answers(OK)) as b:
            exchange, strategy = ends(a.replica("a"), b.replica("b"), pseudonym="outer")
            response = await exchange(Request(*GET))
            assert (response.status, response.body) == (503, b"busy")
            assert find_all(response.headers, b"proxy-status") == [
                b"inner; received-status=503",
                b"outer; received-status=503",
            ]
            assert verdicts(strategy) == [("a", "cancelled")]
            await exchange.upstream.aclose()

    run(main)


def test_retries_over_three_tiers_do_not_multiply(scripted: Any) -> None:
    """With all replicas failing, three tiers together make at most 1.3 attempts a request."""

    async def main() -> None:
        seen = 0

        async def failing(peer: Any) -> None:
            nonlocal seen
            while await peer.request():
                seen += 1
                await peer.send(BUSY)

        def proxy(exchange: Exchange) -> Any:
            async def play(peer: Any) -> None:
                while head := await peer.request():
                    lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2]]
                    headers = [(name, value) for name, value in lines]
                    response = await exchange(Request("GET", b"/", headers))
                    assert isinstance(response.body, bytes)
                    fields = [name + b": " + value for name, value in response.headers]
                    status = b"HTTP/1.1 %d X" % response.status
                    await peer.send(b"\r\n".join([status, *fields, b"", response.body]))

            return play

        def tier(name: str, members: list[Replica]) -> Exchange:
            retries = RetryBudget(0.2, 0, 1)  # what time and a reserve add to it is not what multiplies
            return Exchange(Tier(members, strategy=RoundRobin(), retries=retries), Upstream(), pseudonym=name)

        requests = 300
        async with scripted(failing) as a, scripted(failing) as b:
            inner = [tier(f"inner{n}", [a.replica("a"), b.replica("b")]) for n in range(2)]
            async with scripted(proxy(inner[0])) as c, scripted(proxy(inner[1])) as d:
                middle = [tier(f"middle{n}", [c.replica("c"), d.replica("d")]) for n in range(2)]
                async with scripted(proxy(middle[0])) as e, scripted(proxy(middle[1])) as f:
                    edge = tier("edge", [e.replica("e"), f.replica("f")])
                    for _ in range(requests):
                        response = await edge(Request(*GET))
                        assert response.status == 503
                        assert len(find_all(response.headers, b"proxy-status")) == 3
                    for exchange in (edge, *middle, *inner):
                        await exchange.upstream.aclose()
        assert requests <= seen <= 1.3 * requests

    run(main)


def test_server_timing_is_said_where_it_is_asked_for(scripted: Any, answers: Any) -> None:
    """How long it took in milliseconds, and how many attempts; for a refusal too; never unasked."""

    async def main() -> None:
        async with scripted(answers(BUSY)) as a, scripted(answers(OK)) as b:
            exchange, _ = ends(a.replica("a"), b.replica("b"), server_timing=True)
            value = find((await exchange(Request(*GET))).headers, b"server-timing")
            assert value is not None
            name, duration, attempts = value.split(b";")
            assert (name, attempts) == (b"replicated", b'desc="attempts: 2"')
            assert 0 < float(duration.removeprefix(b"dur=")) < 10_000
            await exchange.upstream.aclose()
            nobody, _ = ends(server_timing=True)
            value = find((await nobody(Request(*GET))).headers, b"server-timing")
            assert value == b'replicated;dur=0.0;desc="attempts: 0"'
            quiet, _ = ends(b.replica("b"))
            assert find((await quiet(Request(*GET))).headers, b"server-timing") is None
            await quiet.upstream.aclose()

    run(main)


def test_trace_context_passes_untouched(scripted: Any) -> None:
    """traceparent, tracestate and baggage reach the replica as they came, line by line, also at a retry."""

    async def main() -> None:
        heads = []

        async def play(peer: Any) -> None:
            while head := await peer.request():
                heads.append(head)
                await peer.send(BUSY if len(heads) == 1 else OK)

        trace = [
            (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            (b"tracestate", b"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
            (b"tracestate", b"third=3"),
            (b"baggage", b"user=alice;p=1, x=%20"),
        ]
        async with scripted(play) as a, scripted(play) as b:
            exchange, _ = ends(a.replica("a"), b.replica("b"))
            response: Response = await exchange(Request("GET", b"/", [HOST, *trace]))
            assert response.status == 200
            expected = b"".join(b"%b: %b\r\n" % line for line in trace)
            assert len(heads) == 2
            assert all(expected in head for head in heads)
            await exchange.upstream.aclose()

    run(main)


@pytest.mark.parametrize("bad", [{"hold_total": -1}, {"hold_total": 1.5}, {"hold_total": True}, {"hold": -1}])
def test_bad_limits(bad: dict[str, Any]) -> None:
    """What cannot be is refused, and named."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        Exchange(Tier(), Upstream(), **bad)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_a_bad_cap(bad: Any) -> None:
    """A cap is a whole number of connections."""
    with pytest.raises(ValueError, match="max_connections"):
        Upstream(max_connections=bad)
