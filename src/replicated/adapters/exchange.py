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
from typing import assert_never

from ..affinity import Affinity, Facts
from ..errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from ..http.fields import find, problem, retry_after
from ..http.forwarding import forwarded_request, forwarded_response
from ..http.identity import Client, Identity
from ..http.message import RETRIED, Headers, Request, Response
from ..outcome import Outcome
from ..tier import Forward, Hit, Refuse, Tier, Unavailable
from .admission import too_many
from .upstream import Origin, Upstream, UpstreamResponse

__all__ = ["Exchange"]

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

origin_of = functools.lru_cache(4096)(Origin.parse)


class Exchange:
    """Forwards requests to the replicas of a tier.

    Args:
        tier: Decides who serves, and whether another replica is tried.
        upstream: Carries requests to replicas.
        identity: Finds out who asks.
        affinity: What requests are kept on one replica by; None keeps nothing.
        pseudonym: What this tier calls itself in Via; differs between the tiers of one chain.
        hold: Bytes of a response that are held back until it is whole, so that one that breaks off can be
            fetched again from another replica before the client has seen a byte of it. Applies where the
            request is repeatable, and the response says how long it is or is a 502, 503 or 504; streams
            pass at once.

    Raises:
        ValueError: ``pseudonym`` is not a token, or ``hold`` is negative.
    """

    def __init__(
        self,
        tier: Tier,
        upstream: Upstream,
        *,
        identity: Identity | None = None,
        affinity: Affinity | None = None,
        pseudonym: str = "replicated",
        hold: int = 1024 * 1024,
    ) -> None:
        if not TOKEN.fullmatch(pseudonym):
            raise ValueError(f"pseudonym must be a token, as Via asks, not {pseudonym!r}")
        if isinstance(hold, bool) or not isinstance(hold, int) or hold < 0:
            raise ValueError(f"hold must be bytes, at least 0, not {hold!r}")
        self.tier = tier
        self.upstream = upstream
        self.identity = identity or Identity()
        self.affinity = affinity
        self.pseudonym = pseudonym.encode("ascii")
        self.hold = hold
        self.members = tier.replicas

    async def __call__(self, request: Request) -> Response:
        """Answer a request by way of a replica; 502, 503 or 504 where none answers."""
        if self.tier.replicas is not self.members:
            self.let_go()
        client = self.identity.client(request.peer, request.scheme, request.headers)
        # A proxy that writes Forwarded passes on unchecked what its client wrote into the other one.
        trusted = self.identity.header == "x-forwarded-for" and self.identity.trusts(request.peer)
        headers = forwarded_request(request, client, trusted=trusted, pseudonym=self.pseudonym)
        decision = self.tier.decide(self.key(client, request))
        answer: Response | None = None  # what to say when there is no further attempt
        while True:
            match decision:
                case Forward():
                    pass
                case Unavailable():
                    return answer or unavailable(decision)
                case Refuse():
                    return too_many(decision.retry_after)
                case Hit():
                    raise TypeError(
                        "an HTTP tier caches responses in front of the exchange, not values in Tier"
                    )
                case _:
                    assert_never(decision)
            try:
                answer = await self.attempt(decision, request, headers)
            except UpstreamError as error:
                answer = failed(error)
                again = request.replayable or isinstance(error, UpstreamUnreachable)
            else:
                again = answer.status in RETRIED and request.replayable and isinstance(answer.body, bytes)
            if not again:
                return answer
            decision = self.tier.retry(decision)

    def let_go(self) -> None:
        """Close what is idle to those who have left, or moved."""
        members = self.tier.replicas
        for url in {gone.url for gone in self.members} - {member.url for member in members}:
            with contextlib.suppress(ValueError):  # one without an address has no connections either
                self.upstream.forget(origin_of(url))
        self.members = members

    def key(self, client: Client, request: Request) -> str | None:
        if self.affinity is None:
            return None
        return self.affinity(Facts(client.address, request.path, request.headers))

    async def attempt(self, forward: Forward, request: Request, headers: Headers) -> Response:
        """Send the request to one replica; finish the Forward here, or at the end of the body."""
        response: UpstreamResponse | None = None
        try:
            origin = origin_of(forward.replica.url)
            response = await self.upstream.send(origin, request.method, request.target, headers, request.body)
            most = self.holds(request, response)
            if most is None:
                streaming = Streaming(self, forward, response)
                return Response(
                    response.status,
                    forwarded_response(response.headers, response.status),
                    streaming,
                    streaming.aclose,
                )
            body = await response.read_all(most)
        except BaseException as error:
            if response is not None:
                response.close()
            self.tier.finish(forward, blame(error))
            raise
        response.close()
        self.tier.finish(forward, self.outcome(response.status, forward))
        kept = forwarded_response(response.headers, response.status)
        if (
            request.method != "HEAD"
            and response.status not in (204, 304)
            and not find(kept, b"content-length")
        ):
            kept.append((b"content-length", b"%d" % len(body)))  # known by now, as it was not to the replica
        return Response(response.status, kept, body)

    def holds(self, request: Request, response: UpstreamResponse) -> float | None:
        """Return how many bytes of a response are waited for; None when it passes on as it comes."""
        if response.whole:
            return math.inf
        if not request.replayable:
            return None
        length = find(response.headers, b"content-length")
        if length is None:
            # A stream is not to wait, but an answer that sends us elsewhere is none.
            return self.hold if response.status in RETRIED else None
        return self.hold if int(length) <= self.hold else None

    def outcome(self, status: int, forward: Forward | None = None) -> Outcome:
        """Say what a status tells of the replica. A 4xx is the client's fault and a 501 an answer; any
        other 5xx is the replica's. A stream's length is not a latency: it has none.
        """
        latency = None if forward is None else max(0.0, self.tier.now() - forward.started)
        if status >= 500 and status != 501:
            return Outcome.failure(f"status {status}", latency)
        return Outcome.success(latency)


def unavailable(decision: Unavailable) -> Response:
    """Return the answer where nobody can serve."""
    return problem(503, "no replica can serve", [(b"retry-after", retry_after(decision.retry_after))])


def failed(error: UpstreamError) -> Response:
    """Return the answer where a replica failed (RFC 9110, 15.6.3 and 15.6.5)."""
    if isinstance(error, UpstreamTimeout):
        return problem(504, "the replica did not answer in time")
    return problem(502, "the replica did not answer")


def blame(error: BaseException) -> Outcome:
    """Say whose fault it is that an attempt ended with ``error``."""
    if isinstance(error, UpstreamError):
        return Outcome.failure(str(error))
    return Outcome.cancelled(type(error).__name__)


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
        self.outcome = self.exchange.outcome(self.response.status)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        forward, self.forward = self.forward, None
        if forward is not None:
            self.response.close()
            self.exchange.tier.finish(forward, self.outcome)
