"""One exchange: a request in, the tier's decisions carried out, a response out. Every front drives this.

Acts on what ``Tier`` decides and on what ``replicated.http`` says; it decides itself only what must be
known while bytes move: whether an attempt may be repeated, and when the Forward is finished (at the end
of the body, not at its head).
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
from asyncio import current_task
from collections.abc import Awaitable, Sequence
from typing import assert_never

from ...affinity import Affinity, Facts
from ...errors import UpstreamError, UpstreamUnreachable
from ...hedging import Hedging
from ...http.fields import find
from ...http.forwarding import forwarded_request, forwarded_response, wants_tunnel
from ...http.identity import Client, Identity
from ...http.message import RETRIED, Headers, Request, Response
from ...http.proxy_status import proxy_status
from ...outcome import Outcome
from ...readiness import ReadySet
from ...tier import Forward, Hit, Refuse, Tier, Unavailable
from ..engine.failures import blame, failed, judge, unavailable
from ..engine.origin import origin_of
from ..engine.upstream import Underway, Upstream, UpstreamResponse
from ..waiting import WaitingRoom
from .admission import too_many
from .express import Express
from .racing import SAFE, Race, Racing
from .session_pins import SessionPins, Stay

__all__ = ["Exchange"]

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

REMEMBERED = 1024
"""How many of the headers that go on are remembered; a client's is the same in each of its requests."""
NOWHERE = Stay(None, False)
"""Where a request is to stay that is kept by nothing but its key."""


class Exchange:
    """Forwards requests to the replicas of a tier.

    Args:
        tier: Decides who serves, and whether another replica is tried.
        upstream: Carries requests to replicas.
        identity: Finds out who asks.
        affinity: What requests are kept on one replica by; None keeps nothing.
        pseudonym: What this tier calls itself in Via and Proxy-Status; differs between the tiers of a chain.
        hold: Bytes of a response that are held back until it is whole, so that one that breaks off can be
            fetched again from another replica before the client has seen a byte of it. Applies where the
            request is repeatable, and the response says how long it is or is a 502, 503 or 504; streams
            pass at once.
        hold_total: Bytes that may be held back so at once; beyond them, responses pass as they come.
        hedging: When a safe request that is late goes to a second replica as well, unless it is kept on one;
            True for the default ``Hedging()``, False for never.
        pins: Keeps sessions where they began, beyond what ``affinity`` alone can; None for that alone.
        waiting: Where requests wait while all replicas are full; None refuses them at once.
        server_timing: Say in Server-Timing how long the answer took, and how many attempts.

    Raises:
        ValueError: ``pseudonym`` is not a token, ``hold`` or ``hold_total`` is negative.
    """

    def __init__(
        self,
        tier: Tier,
        upstream: Upstream,
        *,
        identity: Identity | None = None,
        affinity: Affinity | None = None,
        pseudonym: str = "replicated",
        hold: int = 256 * 1024,
        hold_total: int = 64 * 1024 * 1024,
        hedging: Hedging | bool = True,
        pins: SessionPins | None = None,
        waiting: WaitingRoom | None = None,
        server_timing: bool = False,
    ) -> None:
        if not TOKEN.fullmatch(pseudonym):
            raise ValueError(f"pseudonym must be a token, as Via asks, not {pseudonym!r}")
        for name, value in (("hold", hold), ("hold_total", hold_total)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} must be bytes, at least 0, not {value!r}")
        self.tier = tier
        self.upstream = upstream
        self.identity = identity or Identity()
        self.affinity = affinity
        self.pseudonym = pseudonym.encode("ascii")
        self.hold = hold
        self.room = hold_total
        self.pins = pins
        self.waiting = waiting
        self.server_timing = server_timing
        self.ready = tier.readiness.ready
        self.hedging = hedging if isinstance(hedging, Hedging) else Hedging()
        self.racing = Racing(tier, self.hedging, self.attempt, drop) if hedging else None
        self.expressly = pins is None and waiting is None and not server_timing
        # A client's requests are alike in their headers, and so are what goes on of them.
        self.head_rest = functools.lru_cache(REMEMBERED)(self.new_head_rest)

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Answer a request by way of a replica; 502, 503 or 504 where none answers."""
        if self.expressly and request.body is None and request.upgrade is None:
            return Express(self, request)
        return self.carry(request)

    async def carry(self, request: Request, express: Express | None = None) -> Response:
        """Answer a request, or go on where its ``express`` has come to."""
        ready = self.tier.readiness.ready
        if ready is not self.ready:
            self.let_go(ready)
        client = self.identity.client(request.peer, request.scheme, request.headers)
        headers = self.forwarded(request, client)
        key = self.key(client, request)
        racing, task = self.racing, None
        if racing is not None and key is None and request.method in SAFE:
            task = current_task() if request.body is None and request.upgrade is None else None
        stay = NOWHERE if self.pins is None else self.pins.stay(ready, key, request.headers)
        decision, begun, late = (None, None, False) if express is None else express.taken()
        if decision is not None:
            pass
        elif self.waiting is None:
            decision = self.tier.decide(key, pin=stay.pin)
        else:
            decision = await self.waiting.decide(key, pin=stay.pin)
        answer: Response | None = None  # what to say when there is no further attempt
        since, attempts, unreached = -math.inf, 0, False
        while True:
            match decision:
                case Forward():
                    pass
                case Unavailable():
                    answer = answer or unavailable(decision, self.pseudonym)
                    break
                case Refuse():
                    return too_many(decision.retry_after)
                case Hit():
                    raise TypeError(
                        "an HTTP tier caches responses in front of the exchange, not values in Tier"
                    )
                case _:
                    assert_never(decision)
            if not attempts:
                since = decision.started
            last, unseen = decision, False
            try:
                if task is None or racing is None:
                    answer = await self.attempt(decision, request, headers, since, begun=begun)
                else:
                    race = Race(request, headers, since, decision, task, begun)
                    race.late = late
                    try:
                        answer = await racing.run(race)
                    finally:
                        last = race.last
            except UpstreamError as error:
                unseen = isinstance(error, UpstreamUnreachable)
                again = unseen or request.replayable
                unreached = unreached or unseen
                answer = failed(error, self.pseudonym, harmless=unreached and again)
            else:
                if self.pins is not None:
                    answer.headers += self.pins.fields(
                        ready, key, stay, last.replica.id, answer.headers, secure=client.scheme == "https"
                    )
                again = answer.status in RETRIED and self.sends_on(answer, request)
            attempts, begun, late = last.attempt, None, False
            if not again or self.tier.now() - since >= self.upstream.timeouts.total:
                break
            decision = self.tier.retry(last, unseen=unseen)
        if self.server_timing:
            answer.headers.append(self.timing(since, attempts))
        return answer

    def let_go(self, ready: ReadySet) -> None:
        """Close what is idle to those who have left, moved, or cannot serve."""
        gone = {replica.url for replica in (*self.ready, *self.ready.draining)}
        for url in gone - {replica.url for replica in (*ready, *ready.draining)}:
            with contextlib.suppress(ValueError):  # one without an address has no connections either
                self.upstream.forget(origin_of(url))
        self.ready = ready

    def forwarded(self, request: Request, client: Client) -> Headers:
        """Return the header that goes on to a replica."""
        # A proxy that writes Forwarded passes on unchecked what its client wrote into the other one.
        trusted = self.identity.header == "x-forwarded-for" and self.identity.trusts(request.peer)
        return forwarded_request(request, client, trusted=trusted, pseudonym=self.pseudonym)

    def new_head_rest(self, headers: Sequence[tuple[bytes, bytes]], peer: str, scheme: str) -> bytes:
        """Return all of a head but its method and its target, for a request without a body."""
        request = Request("GET", b"/", list(headers), peer, scheme)
        lines = self.forwarded(request, self.identity.client(peer, scheme, request.headers))
        return b"".join([b" HTTP/1.1\r\n", *(b"%b: %b\r\n" % line for line in lines), b"\r\n"])

    def key(self, client: Client, request: Request) -> str | None:
        if self.affinity is None:
            return None
        return self.affinity(Facts(client.address, request.path, request.headers))

    async def attempt(
        self,
        forward: Forward,
        request: Request,
        headers: Headers,
        since: float,
        race: Race | None = None,
        begun: Underway | None = None,
    ) -> Response:
        """Send the request to one replica, where it has not ``begun``; finish the Forward here, or at the end
        of the body.
        """
        response: UpstreamResponse | None = None
        within = math.inf
        if request.body is None or forward.attempt > 1:
            within = self.upstream.timeouts.total - (forward.started - since)
        held = 0
        try:
            response = await self.upstream.send(
                origin_of(forward.replica.url),
                request.method,
                request.target,
                headers,
                request.body,
                within=within,
                tunnel=request.upgrade if request.upgrade is not None and wants_tunnel(request) else None,
                begun=begun,
                interim=request.interim,
            )
            status = response.status
            if not response.whole:
                held = self.holds(request, response)
                if not held:
                    if race is not None and status < 500:
                        self.hedging.observe(self.tier.now() - forward.started)
                    return self.streamed(forward, response)
            if held:
                self.room -= held
                try:
                    body = await response.read_all(held, within)
                finally:
                    self.room += held
            else:
                body = await response.read_all()
        except BaseException as error:
            if response is not None:
                response.close()
            outcome = None if race is None else race.outcome(forward, error)
            self.tier.finish(forward, outcome or blame(error))
            raise
        response.close()
        latency = max(0.0, self.tier.now() - forward.started)
        self.tier.finish(forward, judge(status, response.headers, latency))
        if race is not None and status < 500:
            self.hedging.observe(latency)
        kept = forwarded_response(response.headers, status)
        if request.method != "HEAD" and status not in (204, 304) and not find(kept, b"content-length"):
            kept.append((b"content-length", b"%d" % len(body)))  # known by now, as it was not to the replica
        return Response(status, kept, body, served_by=forward.replica.id)

    def streamed(self, forward: Forward, response: UpstreamResponse) -> Response:
        """Return a response that passes on as it comes."""
        streaming = Streaming(self, forward, response)
        headers = forwarded_response(response.headers, response.status)
        return Response(response.status, headers, streaming, streaming.aclose, served_by=forward.replica.id)

    def holds(self, request: Request, response: UpstreamResponse) -> int:
        """Return how many bytes of a response are waited for; 0 when it passes on as it comes."""
        if not request.replayable or response.status == 101:
            return 0
        length = find(response.headers, b"content-length")
        if length is None:
            # A stream is not to wait, but an answer that sends us elsewhere is none.
            most = self.hold if response.status in RETRIED else 0
        else:
            most = int(length) if int(length) <= self.hold else 0
        return most if most <= self.room else 0

    def sends_on(self, answer: Response, request: Request) -> bool:
        """Return whether an answer of 502, 503 or 504 is to be asked of another replica.

        Not where a tier gave it that has tried its own replicas: each tier of a chain trying on would
        multiply the attempts where the last one is in trouble. So we say the same to those before us.
        """
        again = request.replayable and isinstance(answer.body, bytes)
        if find(answer.headers, b"proxy-status") is not None:
            again = False
        answer.headers.append(proxy_status(self.pseudonym, received=answer.status))
        return again

    def timing(self, since: float, attempts: int) -> tuple[bytes, bytes]:
        """Return how long the answer took so far, in the milliseconds of Server-Timing."""
        spent = 0.0 if since == -math.inf else (self.tier.now() - since) * 1000
        return b"server-timing", b'%b;dur=%.1f;desc="attempts: %d"' % (self.pseudonym, spent, attempts)


class Streaming:
    """A body on its way: finishes the Forward when it ends, however it ends."""

    __slots__ = ("exchange", "forward", "outcome", "response")

    def __init__(self, exchange: Exchange, forward: Forward, response: UpstreamResponse) -> None:
        self.exchange = exchange
        self.forward: Forward | None = forward
        self.response = response
        self.outcome = Outcome.cancelled("the client went away")

    def __aiter__(self) -> Streaming:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self.response.read()
        except Exception as error:
            self.outcome = blame(error)
            raise
        if piece:
            return piece
        self.outcome = judge(self.response.status, self.response.headers)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.end()

    def end(self) -> None:
        """Finish the Forward, with what is known by now."""
        forward, self.forward = self.forward, None
        if forward is not None:
            self.response.close()
            self.exchange.tier.finish(forward, self.outcome)


def drop(answer: Response) -> None:
    """Give back what an answer holds that nobody will read."""
    if isinstance(answer.body, Streaming):
        answer.body.end()
