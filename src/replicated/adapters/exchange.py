"""One exchange: a request in, the tier's decisions carried out, a response out. Every front drives this.

Acts on what ``Tier`` decides and on what ``replicated.http`` says; it decides itself only what must be
known while bytes move: whether an attempt may be repeated, and when the Forward is finished (at the end
of the body, not at its head).
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias, assert_never

from ..affinity import Affinity, Facts
from ..errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from ..http.fields import find, problem, retry_after
from ..http.forwarding import forwarded_request, forwarded_response, is_loop
from ..http.framing import Limits, check_request
from ..http.identity import Client, Identity
from ..http.message import Handler, Headers, Request, Response
from ..outcome import Outcome
from ..tier import Forward, Hit, Refuse, Tier, Unavailable
from .upstream import Origin, Upstream, UpstreamResponse

__all__ = ["BodyTooLarge", "ClientGone", "Exchange", "ThrottleKey", "admission", "gatekeeper"]

ThrottleKey: TypeAlias = Callable[[Client, Request], str | None]
"""Names whom a request counts against; None for nobody."""

RETRIED = frozenset((502, 503, 504))
"""Answers by which a replica says that it is not the one to ask: another may be."""

origin_of = functools.lru_cache(4096)(Origin.parse)


class ClientGone(Exception):
    """The client went away while its request was read: no replica is to blame."""


class BodyTooLarge(Exception):
    """The client sent more than the limit allows."""


def gatekeeper(inner: Handler, limits: Limits, pseudonym: bytes) -> Handler:
    """Refuse what may not pass: framing in doubt, sizes beyond the limits, requests that go in circles."""

    async def handle(request: Request) -> Response:
        violation = check_request(request.method, request.target, request.headers, limits)
        if violation is not None:
            # What was announced as a body is not worth reading: the connection ends with the answer.
            return problem(violation.status, violation.detail, [(b"connection", b"close")])
        if is_loop(request.headers, pseudonym):
            return problem(508, "the request has passed here before")
        if request.body is not None:
            request.body = bounded(request.body, limits.body)
        try:
            return await inner(request)
        except BodyTooLarge:
            detail = f"the body is longer than {limits.body} bytes"
            return problem(413, detail, [(b"connection", b"close")])

    return handle


async def bounded(body: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """Yield a body, up to a limit.

    Raises:
        BodyTooLarge: There is more.
    """
    size = 0
    async for piece in body:
        size += len(piece)
        if size > most:
            raise BodyTooLarge
        yield piece


def admission(inner: Handler, tier: Tier, identity: Identity, key_of: ThrottleKey) -> Handler:
    """Refuse those who have had enough, before a byte of their body is read."""

    async def handle(request: Request) -> Response:
        client = identity.client(request.peer, request.scheme, request.headers)
        key = key_of(client, request)
        refusal = None if key is None else tier.admit(key)
        return await inner(request) if refusal is None else too_many(refusal.retry_after)

    return handle


def too_many(wait: float) -> Response:
    """Return the answer to a client that has had enough for ``wait`` seconds (RFC 6585, 4)."""
    return problem(429, "too many requests", [(b"retry-after", retry_after(wait))])


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
            request is repeatable and the response says how long it is; streams pass at once.
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
        self.tier = tier
        self.upstream = upstream
        self.identity = identity or Identity()
        self.affinity = affinity
        self.pseudonym = pseudonym.encode("latin-1")
        self.hold = hold

    async def __call__(self, request: Request) -> Response:
        """Answer a request by way of a replica; 502, 503 or 504 where none answers."""
        client = self.identity.client(request.peer, request.scheme, request.headers)
        trusted = self.identity.trusts(request.peer)
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
                if (
                    answer.status not in RETRIED
                    or not request.replayable
                    or not isinstance(answer.body, bytes)
                ):
                    return answer
            except UpstreamError as error:
                answer = failed(error)
                if not (request.replayable or isinstance(error, UpstreamUnreachable)):
                    return answer
            decision = self.tier.retry(decision)

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
            if self.may_hold(request, response):
                body = await response.read_all()
                await response.aclose()
                self.tier.finish(forward, self.outcome(response.status, forward))
                return Response(response.status, forwarded_response(response.headers), body)
        except BaseException as error:
            if response is not None:
                await response.aclose()
            self.tier.finish(forward, blame(error))
            raise
        streaming = Streaming(self, forward, response)
        return Response(response.status, forwarded_response(response.headers), streaming, streaming.aclose)

    def may_hold(self, request: Request, response: UpstreamResponse) -> bool:
        if request.method == "HEAD" or response.status in (204, 304):
            return True
        length = find(response.headers, b"content-length")
        return length is not None and request.replayable and int(length) <= self.hold

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
        except UpstreamError as error:
            self.outcome = blame(error)
            raise
        if piece:
            return piece
        self.outcome = self.exchange.outcome(self.response.status)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        forward, self.forward = self.forward, None
        if forward is not None:
            self.exchange.tier.finish(forward, self.outcome)
            await self.response.aclose()
