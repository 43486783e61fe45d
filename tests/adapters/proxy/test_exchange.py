"""One exchange: every Forward is finished once, and who is to blame for what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from replicated import Hit, Refuse, Replica, RetryBudget, RoundRobin, Tier, Verdict
from replicated.adapters.engine.upstream import Timeouts, Upstream
from replicated.adapters.proxy.admission import admission
from replicated.adapters.proxy.exchange import Exchange
from replicated.adapters.proxy.gatekeeper import BodyTooLarge, ClientGone, gatekeeper
from replicated.affinity import Facts
from replicated.errors import UpstreamBroken
from replicated.http.fields import find
from replicated.http.framing import Limits
from replicated.http.identity import Identity
from replicated.http.message import Request, Response
from replicated.testing import RecordingStrategy
from replicated.throttle import Throttle

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\nretry-after: 7\r\n\r\nbusy"
CHUNKED_BUSY = b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n"
HOST = (b"host", b"example.com")


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await main()

    return asyncio.run(bounded())


class Ends:
    """The tier in front of scripted replicas, and how each Forward ended."""

    def __init__(self, *replicas: Replica, **options: Any) -> None:
        self.strategy = RecordingStrategy(RoundRobin())
        timeouts = options.pop("timeouts", Timeouts(connect=1, first_byte=1, read=1))
        tier = {name: options.pop(name) for name in ("retries", "max_attempts") if name in options}
        self.tier = Tier(replicas, strategy=self.strategy, **tier)
        self.upstream = Upstream(timeouts=timeouts)
        self.exchange = Exchange(self.tier, self.upstream, **options)

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        return [(name, outcome.verdict.value) for name, outcome in self.strategy.ends]

    async def ask(self, method: str = "GET", **options: Any) -> tuple[int, bytes]:
        response = await self.exchange(Request(method, b"/", [HOST], **options))
        try:
            if isinstance(response.body, bytes):
                return response.status, response.body
            return response.status, b"".join([piece async for piece in response.body])
        finally:
            await response.close()

    async def over(self) -> None:
        assert self.tier.in_flight == 0
        await self.upstream.aclose()


async def pieces(*pieces: bytes) -> Any:
    for piece in pieces:
        yield piece


def breaking(*answers: bytes) -> Any:
    """Return a script that sends what it has and breaks off, on each connection."""

    async def play(peer: Any) -> None:
        await peer.request()
        await peer.send(*answers)

    return play


def test_a_request_and_its_answer(scripted: Any) -> None:
    """The replica sees the request as it came, less what ends here; the client sees the answer likewise."""

    async def main() -> None:
        seen = []

        async def play(peer: Any) -> None:
            while request := await peer.request():
                seen.append(request)
                await peer.send(OK)

        async with scripted(play) as replica:
            ends = Ends(replica.replica())
            request = Request(
                "GET", b"/a%2Fb?c=%20d", [HOST, (b"cookie", b"x=y"), (b"connection", b"close")], "203.0.113.9"
            )
            response = await ends.exchange(request)
            assert (response.status, response.body) == (200, b"ok")
            assert response.headers == [
                (b"content-length", b"2"),
                (b"set-cookie", b"a=1"),
                (b"set-cookie", b"b=2"),
            ]
            assert seen == [
                b"GET /a%2Fb?c=%20d HTTP/1.1\r\nhost: example.com\r\ncookie: x=y\r\n"
                b"x-forwarded-for: 203.0.113.9\r\nx-forwarded-proto: http\r\n"
                b"x-forwarded-host: example.com\r\nvia: 1.1 replicated\r\n\r\n"
            ]
            assert ends.verdicts == [("a", "ok")]
            await ends.over()

    run(main)


@pytest.mark.parametrize("kind", ["refused", "reset", "garbage", "timeout"])
def test_a_replica_that_fails_before_its_answer(scripted: Any, answers: Any, nowhere: str, kind: str) -> None:
    """A repeatable request goes on to another replica; the one that failed is told of."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.request()
            if kind == "reset":
                peer.reset()
            elif kind == "garbage":
                await peer.send(b"garbage\r\n\r\n")
            else:
                await peer.gone()

        async with scripted(play) as bad, scripted(answers(OK)) as good:
            url = nowhere if kind == "refused" else bad.url
            ends = Ends(
                Replica("bad", url), Replica("good", good.url), timeouts=Timeouts(first_byte=0.05, read=0.05)
            )
            assert await ends.ask() == (200, b"ok")
            assert ends.verdicts == [("bad", "failed"), ("good", "ok")]
            await ends.over()

    run(main)


@pytest.mark.parametrize(("kind", "status"), [("refused", 503), ("closed", 502), ("timeout", 504)])
def test_where_every_replica_fails(scripted: Any, nowhere: str, kind: str, status: int) -> None:
    """When all have failed the client is told: 504 for a timeout, 503 where none was reached, else 502."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.request()
            if kind == "timeout":
                await peer.gone()

        async with scripted(play) as bad:
            url = nowhere if kind == "refused" else bad.url
            ends = Ends(Replica("a", url), Replica("b", url), timeouts=Timeouts(first_byte=0.05))
            answered, body = await ends.ask()
            assert answered == status
            assert json.loads(body)["status"] == status
            assert ends.verdicts == [("a", "failed"), ("b", "failed")]
            await ends.over()

    run(main)


def test_a_post_is_never_sent_twice(scripted: Any, answers: Any) -> None:
    """What a replica may have seen and what is not repeatable is answered with 502, not repeated."""

    async def main() -> None:
        async with scripted(breaking()) as bad, scripted(answers(OK)) as good:
            for options in ({}, {"body": pieces(b"x")}):
                ends = Ends(Replica("bad", bad.url), Replica("good", good.url))
                status, _ = await ends.ask("POST", **options)
                assert status == 502
                assert ends.verdicts == [("bad", "failed")]
                await ends.over()
            assert good.accepted == 0

    run(main)


def test_a_post_that_no_replica_has_seen_goes_on(scripted: Any, nowhere: str) -> None:
    """Where no connection came about nothing was done: the body, untouched, goes to another replica."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            request = await peer.request()
            assert request.endswith(b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
            await peer.send(OK)
            await peer.gone()

        async with scripted(play) as good:
            ends = Ends(Replica("bad", nowhere), Replica("good", good.url))
            assert await ends.ask("POST", body=pieces(b"ab", b"c")) == (200, b"ok")
            assert ends.verdicts == [("bad", "failed"), ("good", "ok")]
            await ends.over()

    run(main)


def test_a_held_answer_that_breaks_off_is_fetched_again(scripted: Any, answers: Any) -> None:
    """Before the client has seen a byte, an answer cut short is asked for elsewhere."""

    async def main() -> None:
        cut = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal"
        async with scripted(breaking(cut)) as bad, scripted(answers(OK)) as good:
            ends = Ends(Replica("bad", bad.url), Replica("good", good.url))
            assert await ends.ask() == (200, b"ok")
            assert ends.verdicts == [("bad", "failed"), ("good", "ok")]
            await ends.over()

            ends = Ends(Replica("bad", bad.url), Replica("good", good.url), hold=8)
            with pytest.raises(UpstreamBroken):
                await ends.ask()
            assert ends.verdicts == [("bad", "failed")]
            await ends.over()

    run(main)


@pytest.mark.parametrize(
    "busy", [BUSY, CHUNKED_BUSY, BUSY.replace(b"503", b"502"), BUSY.replace(b"503", b"504")]
)
@pytest.mark.parametrize("cut", [0, 60])
def test_a_replica_that_says_to_ask_another(scripted: Any, answers: Any, busy: bytes, cut: int) -> None:
    """A 502, 503 or 504 is asked elsewhere, in whatever form and however many pieces it comes."""

    async def main() -> None:
        async with scripted(breaking(busy[:cut], busy[cut:])) as bad, scripted(answers(OK)) as good:
            ends = Ends(Replica("bad", bad.url), Replica("good", good.url))
            assert await ends.ask() == (200, b"ok")
            assert ends.verdicts == [("bad", "failed"), ("good", "ok")]
            await ends.over()

    run(main)


def test_the_last_refusal_is_passed_on(scripted: Any, answers: Any) -> None:
    """When all are busy the client sees the last one's own words; a POST sees the first's."""

    async def main() -> None:
        async with scripted(answers(BUSY)) as a, scripted(answers(CHUNKED_BUSY)) as b:
            ends = Ends(a.replica("a"), b.replica("b"))
            response = await ends.exchange(Request("GET", b"/", [HOST]))
            assert (response.status, response.body) == (503, b"busy")
            assert response.headers == [
                (b"content-length", b"4"),
                (b"proxy-status", b"replicated; received-status=503"),
            ]
            assert ends.verdicts == [("a", "failed"), ("b", "failed")]
            assert await ends.ask("POST") == (503, b"busy")
            assert len(ends.verdicts) == 3
            await ends.over()

    run(main)


def test_a_refusal_too_long_to_hold_counts_as_none(scripted: Any, answers: Any) -> None:
    """An endless 503 is not waited for."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n", b"4\r\nbusy\r\n")
            await peer.gone()

        async with scripted(play) as bad, scripted(answers(OK)) as good:
            ends = Ends(Replica("bad", bad.url), Replica("good", good.url), hold=3)
            assert await ends.ask() == (200, b"ok")
            assert ends.verdicts == [("bad", "failed"), ("good", "ok")]
            await ends.over()
            await bad.quiet()

    run(main)


def test_attempts_and_the_budget_end_retries(scripted: Any, nowhere: str) -> None:
    """There are as many attempts as the tier allows, and no more on replicas than its budget has."""

    async def main() -> None:
        async with scripted(breaking()) as broken:
            for url, status, options, attempts in (
                (broken.url, 502, {}, 3),
                (broken.url, 502, {"max_attempts": 1}, 1),
                (broken.url, 502, {"retries": RetryBudget(0, 0, 1)}, 2),
                (nowhere, 503, {"max_attempts": 2}, 2),
                (nowhere, 503, {"retries": RetryBudget(0, 0, 1)}, 3),
            ):
                ends = Ends(*[Replica(name, url) for name in "abcd"], **options)
                assert (await ends.ask())[0] == status
                assert len(ends.verdicts) == attempts
                await ends.over()

    run(main)


def test_nobody_to_serve() -> None:
    """Without a replica the answer is 503 with a Retry-After, at once."""

    async def main() -> None:
        response = await Ends().exchange(Request("GET", b"/", [HOST]))
        assert response.status == 503
        assert find(response.headers, b"retry-after") == b"1"

    run(main)


def test_a_stream_is_finished_at_its_end(scripted: Any) -> None:
    """A stream passes at once, counts as in flight until its end, and is then a success."""

    async def main() -> None:
        go_on = asyncio.Event()

        async def play(peer: Any) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"2\r\nab\r\n")
            await go_on.wait()
            await peer.send(b"1\r\nc\r\n0\r\n\r\n")
            await peer.gone()

        async with scripted(play) as replica:
            ends = Ends(replica.replica())
            response = await ends.exchange(Request("GET", b"/", [HOST]))
            assert not isinstance(response.body, bytes)
            stream = aiter(response.body)
            assert await anext(stream) == b"ab"
            assert ends.tier.in_flight == 1
            assert ends.verdicts == []
            go_on.set()
            assert [piece async for piece in stream] == [b"c"]
            await response.close()
            await response.close()
            assert ends.verdicts == [("a", "ok")]
            await ends.over()
            await replica.quiet()

    run(main)


def test_a_stream_that_breaks_off_or_is_left(scripted: Any) -> None:
    """Cut short it is the replica's failure; left by the client it is nobody's, and the replica is told."""

    async def main() -> None:
        begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"
        async with scripted(breaking(begun)) as replica:
            ends = Ends(replica.replica())
            with pytest.raises(UpstreamBroken):
                await ends.ask()
            assert ends.verdicts == [("a", "failed")]
            await ends.over()

        async def play(peer: Any) -> None:
            await peer.request()
            await peer.send(begun)
            await peer.gone()

        async with scripted(play) as replica:
            ends = Ends(replica.replica())
            response = await ends.exchange(Request("GET", b"/", [HOST]))
            assert not isinstance(response.body, bytes)
            assert await anext(aiter(response.body)) == b"ab"
            await response.close()
            assert ends.verdicts == [("a", "cancelled")]
            await replica.quiet()
            await ends.over()

    run(main)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Verdict.OK),
        (b"HTTP/1.1 501 Not Implemented\r\ncontent-length: 0\r\n\r\n", Verdict.OK),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", Verdict.FAILED),
        (b"HTTP/1.1 500 Oh\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Verdict.FAILED),
    ],
)
def test_what_a_status_tells_of_the_replica(
    scripted: Any, answers: Any, answer: bytes, verdict: Verdict
) -> None:
    """A 4xx is the client's fault and 501 an answer; any other 5xx is the replica's failure."""

    async def main() -> None:
        async with scripted(answers(answer)) as replica:
            ends = Ends(replica.replica())
            assert (await ends.ask())[1] == b""
            [(_, outcome)] = ends.strategy.ends
            assert outcome.verdict is verdict
            await ends.over()

    run(main)


@pytest.mark.parametrize(
    ("method", "answer", "headers"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", [(b"content-length", b"9")]),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n", []),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\netag: x\r\n\r\n", [(b"etag", b"x")]),
        ("POST", b"HTTP/1.1 204 No Content\r\n\r\n", []),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            [(b"content-length", b"0")],
        ),
    ],
)
def test_answers_without_a_body(
    scripted: Any, answers: Any, method: str, answer: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """HEAD keeps the length of what it stands for, 204 and 304 have none, and nothing hangs."""

    async def main() -> None:
        async with scripted(answers(answer)) as replica:
            ends = Ends(replica.replica())
            for _ in range(2):
                response = await ends.exchange(Request(method, b"/", [HOST]))
                assert (response.headers, response.body) == (headers, b"")
            assert replica.accepted == 1
            await ends.over()

    run(main)


def test_a_client_that_goes_away_while_it_sends(scripted: Any) -> None:
    """Nobody is blamed when the request's own body breaks off, before the answer or within it."""

    async def main() -> None:
        head_is_there = asyncio.Event()

        async def leaving() -> Any:
            yield b"x"
            await head_is_there.wait()
            raise ClientGone

        async def play(peer: Any) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx")
            await peer.gone()

        async with scripted(play) as replica:
            ends = Ends(replica.replica("a"))
            response = await ends.exchange(Request("POST", b"/", [HOST], body=leaving()))
            head_is_there.set()
            with pytest.raises(ClientGone):
                async for _ in response.body:  # type: ignore[union-attr]
                    pass
            await response.close()
            assert ends.verdicts == [("a", "cancelled")]
            await replica.quiet()

            async def silent(peer: Any) -> None:
                await peer.gone()

            replica.play = silent
            with pytest.raises(ClientGone):
                await ends.exchange(Request("POST", b"/", [HOST], body=leaving()))
            assert ends.verdicts[1:] == [("a", "cancelled")]
            await ends.over()
            await replica.quiet()

    run(main)


def test_a_replica_without_an_address_is_nobodys_fault() -> None:
    """A misconfiguration surfaces as what it is, and leaves nothing open."""

    async def main() -> None:
        ends = Ends(Replica("a"))
        with pytest.raises(ValueError, match="url must be"):
            await ends.ask()
        assert ends.verdicts == [("a", "cancelled")]
        await ends.over()

    run(main)


def test_who_leaves_takes_its_connections_along(scripted: Any, answers: Any) -> None:
    """When the membership changes nothing idle is kept to those who are gone."""

    async def main() -> None:
        async with scripted(answers(OK)) as a, scripted(answers(OK)) as b:
            ends = Ends(a.replica("a"), b.replica("b"))
            ends.tier.readiness.add(Replica("c"))
            ends.tier.readiness.remove("c")
            for _ in range(2):
                await ends.ask()
            ends.tier.readiness.remove("a")
            ends.tier.readiness.add(Replica("no address"))
            ends.tier.readiness.add(Replica("no url", "nonsense"))
            ends.exchange.let_go(ends.tier.readiness.ready)
            ends.tier.readiness.remove("no address")
            ends.tier.readiness.remove("no url")
            await ends.ask()
            await a.quiet()
            assert len(b.running) == 1
            await ends.over()

    run(main)


def test_an_affinity_decides_where(scripted: Any, answers: Any) -> None:
    """The key is taken of the client and the request's own path and header."""

    async def main() -> None:
        facts: list[Facts] = []

        def affinity(given: Facts) -> str:
            facts.append(given)
            return "k"

        async with scripted(answers(OK)) as replica:
            ends = Ends(replica.replica(), affinity=affinity)
            await ends.exchange(Request("GET", b"/a%2F?q", [HOST], "203.0.113.9"))
            assert (facts[0].client, facts[0].path) == ("203.0.113.9", "/a%2F")
            await ends.over()

    run(main)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("pseudonym", ""),
        ("pseudonym", "a b"),
        ("pseudonym", "a\r\nb"),
        ("hold", -1),
        ("hold", 1.5),
        ("hold", True),
    ],
)
def test_what_cannot_be_is_refused(option: str, value: Any) -> None:
    """A name that Via cannot carry and a size that is none are ValueErrors showing them."""
    with pytest.raises(ValueError, match=f"{option} must be"):
        Exchange(Tier(), Upstream(), **{option: value})


def test_what_else_a_tier_can_decide() -> None:
    """A tier that refuses by itself is a 429; one that caches values in itself is a mistake, told as one."""

    class Odd(Tier):
        decision: Any = None

        def decide(self, *args: Any, **options: Any) -> Any:
            return self.decision

    async def main() -> None:
        tier = Odd()
        exchange = Exchange(tier, Upstream())
        tier.decision = Refuse(1.5)
        response = await exchange(Request("GET", b"/", [HOST]))
        assert (response.status, find(response.headers, b"retry-after")) == (429, b"2")
        tier.decision = Hit("x")
        with pytest.raises(TypeError, match="caches responses in front"):
            await exchange(Request("GET", b"/", [HOST]))

    run(main)


# -- the gate ---------------------------------------------------------------------------------------------


async def echo(request: Request) -> Response:
    body = b"" if request.body is None else b"".join([piece async for piece in request.body])
    return Response(200, [], body)


def ask(request: Request, handler: Any = echo, limits: Limits | None = None) -> Response:
    async def main() -> Any:
        return await gatekeeper(handler, limits or Limits(), b"edge")(request)

    response: Response = run(main)
    return response


def test_what_may_pass_and_what_may_not() -> None:
    """Sound requests pass whole; framing in doubt is 400 and closes, a loop is 508."""
    assert ask(Request("GET", b"/", [HOST])).status == 200
    length = (b"content-length", b"3")
    assert ask(Request("POST", b"/", [HOST, length], body=pieces(b"ab", b"c"))).body == b"abc"
    refused = ask(Request("GET", b"/", [HOST, HOST]))
    assert refused.status == 400
    assert (b"connection", b"close") in refused.headers
    assert ask(Request("GET", b"/", [HOST, (b"via", b"1.1 edge")])).status == 508


def test_a_body_is_as_long_as_was_announced() -> None:
    """Beyond the limit is 413, announced or not; more than announced too; and less is a client that left."""
    chunked = (b"transfer-encoding", b"chunked")
    limits = Limits(body=4)
    assert ask(Request("POST", b"/", [HOST, chunked], body=pieces(b"ab", b"cd")), limits=limits).status == 200
    response = ask(Request("POST", b"/", [HOST, chunked], body=pieces(b"ab", b"cde")), limits=limits)
    assert response.status == 413
    assert (b"connection", b"close") in response.headers
    assert b"longer than 4 bytes" in response.body  # type: ignore[operator]
    length = (b"content-length", b"3")
    response = ask(Request("POST", b"/", [HOST, length], body=pieces(b"ab", b"cd")))
    assert response.status == 413
    assert b"longer than 3 bytes" in response.body  # type: ignore[operator]
    with pytest.raises(ClientGone):
        ask(Request("POST", b"/", [HOST, length], body=pieces(b"ab")))


def test_a_body_too_large_is_no_replicas_fault(scripted: Any) -> None:
    """A limit that is met on the way ends the upload: 413 for the client, no blame, no connection kept."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.gone()

        async with scripted(play) as replica:
            ends = Ends(replica.replica())
            handler = gatekeeper(ends.exchange, Limits(body=4), b"edge")
            headers = [HOST, (b"transfer-encoding", b"chunked")]
            response = await handler(Request("POST", b"/", headers, body=pieces(b"abc", b"de")))
            assert response.status == 413
            assert ends.verdicts == [("a", "cancelled")]
            await replica.quiet()
            await ends.over()

    run(main)
    assert str(BodyTooLarge(4)) == "the body is longer than 4 bytes"


def test_admission() -> None:
    """Who has had enough is told so with a Retry-After, and the body is not touched."""

    async def main() -> None:
        tier = Tier(throttle=Throttle(1.0, 1.0))
        handler = admission(echo, tier, Identity(), lambda client, request: client.address or None)
        request = Request("GET", b"/", [HOST], "203.0.113.9")
        assert (await handler(request)).status == 200
        refused = await handler(request)
        assert refused.status == 429
        assert find(refused.headers, b"retry-after") == b"1"
        for _ in range(3):
            assert (await handler(Request("GET", b"/", [HOST]))).status == 200

    run(main)
