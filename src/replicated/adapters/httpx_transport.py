"""httpx clients, balanced: a transport that sends each request to a replica that the tier picks.

``httpx.Client(transport=ReplicatedTransport(tier), base_url="http://service")``: the host in the URL names
the service and is what the replicas see as Host; where the request goes, the tier decides. The transport
decides only what it takes a client to know: which requests can be repeated, and when one is over.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import assert_never

from ..affinity import Affinity, Facts
from ..errors import MissingExtra, NoReplica, Refused
from ..http.message import REPEATABLE, RETRIED
from ..outcome import Outcome
from ..tier import Forward, Hit, Refuse, Tier, Unavailable

try:
    import httpx
except ImportError:
    raise MissingExtra(__name__, "httpx") from None

__all__ = ["AsyncReplicatedTransport", "NoReplicaError", "RefusedError", "ReplicatedTransport"]

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout)
OURS = (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.PoolTimeout)
"""Failures of this side: no replica is to blame, and another one would change nothing."""


class NoReplicaError(NoReplica, httpx.ConnectError):
    """Nobody can serve; to httpx's users a ConnectError like any other, with a ``retry_after``."""

    def __init__(self, message: str, retry_after: float) -> None:
        NoReplica.__init__(self, message, retry_after)
        self._request = None


class RefusedError(Refused, httpx.TransportError):
    """The throttle said no, before anything was sent."""

    def __init__(self, message: str, retry_after: float) -> None:
        Refused.__init__(self, message, retry_after)
        self._request = None


@functools.lru_cache(4096)
def origin_of(url: str) -> httpx.URL:
    """Return where a replica listens.

    Raises:
        ValueError: The URL does not say.
    """
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.raw_path not in (b"", b"/"):
        raise ValueError(f"url must be http://host:port, not {url!r}")
    return parsed


class Attempts:
    """The attempts of one request: what both transports decide alike, between their calls."""

    def __init__(
        self,
        tier: Tier,
        affinity: Affinity | None,
        throttle_key: Callable[[httpx.Request], str | None] | None,
        request: httpx.Request,
    ) -> None:
        self.tier = tier
        self.request = request
        key = None
        if affinity is not None:
            path = request.url.raw_path.partition(b"?")[0].decode("latin-1")
            headers = [(name.lower(), value) for name, value in request.headers.raw]
            key = affinity(Facts(path=path, headers=headers))
        whom = throttle_key(request) if throttle_key else None
        decision = tier.decide(key, throttle_key=whom)
        match decision:
            case Forward():
                self.forward = decision
            case Refuse():
                raise RefusedError(decision.explain(), decision.retry_after)
            case Unavailable():
                raise NoReplicaError(decision.explain(), decision.retry_after)
            case Hit():
                raise AssertionError("nothing was asked of the cache")
            case _:
                assert_never(decision)

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent again: bytes can, a stream may be half consumed."""
        return isinstance(self.request.stream, httpx.ByteStream)

    def outgoing(self) -> httpx.Request:
        """Return the request as it goes to the replica: its address, and all else as the user chose."""
        origin = origin_of(self.forward.replica.url)
        request = self.request
        extensions = request.extensions
        if origin.scheme == "https" and "sni_hostname" not in extensions:
            # The certificate is the service's: what an address cannot name, the user's URL does.
            extensions = {**extensions, "sni_hostname": request.url.host}
        target = request.url.copy_with(scheme=origin.scheme, host=origin.host, port=origin.port)
        return httpx.Request(
            request.method, target, headers=request.headers, stream=request.stream, extensions=extensions
        )

    def failed(self, error: BaseException) -> None:
        """Finish the attempt, and go on to the next one or raise."""
        if not isinstance(error, httpx.TransportError) or isinstance(error, OURS):
            self.tier.finish(self.forward, Outcome.cancelled(type(error).__name__))
            raise error
        self.tier.finish(self.forward, blame(error))
        sent = not isinstance(error, NOT_SENT)
        if not self.replayable or (sent and self.request.method not in REPEATABLE) or not self.next():
            raise error

    def next(self) -> bool:
        """Go on to another replica, if the tier has one for a request whose attempt was finished."""
        decision = self.tier.retry(self.forward)
        if isinstance(decision, Forward):
            self.forward = decision
            return True
        return False

    def answered(self, status: int) -> Ending | None:
        """Return what finishes the attempt with the response's body, or None to try another replica."""
        forward, latency = self.forward, max(0.0, self.tier.now() - self.forward.started)
        if status < 500 or status == 501:
            return Ending(
                self.tier, forward, Outcome.success(latency), Outcome.cancelled("closed before its end")
            )
        failure = Outcome.failure(f"status {status}", latency)
        if status in RETRIED and self.replayable and self.request.method in REPEATABLE:
            self.tier.finish(forward, failure)
            return None if self.next() else Ending(self.tier, None, failure, failure)
        return Ending(self.tier, forward, failure, failure)


def blame(error: Exception) -> Outcome:
    return Outcome.failure(f"{type(error).__name__}: {error}")


class Ending:
    """Finishes an attempt once: when the body is over, or given up.

    Args:
        tier: Whose attempt it is.
        forward: What is finished; None when it was before.
        whole: How it ended when the body was whole.
        otherwise: How it ended when the body was not read to its end.
    """

    def __init__(self, tier: Tier, forward: Forward | None, whole: Outcome, otherwise: Outcome) -> None:
        self.tier = tier
        self.forward = forward
        self.whole = whole
        self.outcome = otherwise

    def finish(self) -> None:
        """Finish the attempt, if that was not done before."""
        forward, self.forward = self.forward, None
        if forward is not None:
            self.tier.finish(forward, self.outcome)


class SyncBody(httpx.SyncByteStream):
    """A response's body that tells when it is over."""

    def __init__(self, stream: httpx.SyncByteStream, ending: Ending) -> None:
        self.stream = stream
        self.ending = ending

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self.stream
        except httpx.TransportError as error:
            self.ending.outcome = blame(error)
            raise
        self.ending.outcome = self.ending.whole

    def close(self) -> None:
        """Close the body, and finish the attempt."""
        try:
            self.stream.close()
        finally:
            self.ending.finish()


class AsyncBody(httpx.AsyncByteStream):
    """A response's body that tells when it is over."""

    def __init__(self, stream: httpx.AsyncByteStream, ending: Ending) -> None:
        self.stream = stream
        self.ending = ending

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self.stream:
                yield piece
        except httpx.TransportError as error:
            self.ending.outcome = blame(error)
            raise
        self.ending.outcome = self.ending.whole

    async def aclose(self) -> None:
        """Close the body, and finish the attempt."""
        try:
            await self.stream.aclose()
        finally:
            self.ending.finish()


class ReplicatedTransport(httpx.BaseTransport):
    """Balances the requests of an ``httpx.Client`` over the replicas of a tier.

    Repeatable requests whose replica fails before its response begins, or answers 502, 503 or 504, go on to
    another one, within the tier's retry budget; a body that is a stream is never sent twice. A
    ``NoReplicaError`` is raised when nobody can serve, a ``RefusedError`` when the throttle says no.

    Every request of the client goes to the tier, whatever host its URL names. Where a client speaks to others
    as well, or follows redirects to them, mount it: ``mounts={"http://service": ReplicatedTransport(tier)}``.

    Args:
        tier: Decides who serves.
        affinity: What requests are kept on one replica by.
        throttle_key: Whom a request counts against; by default nobody.
        inner: Carries the requests; httpx's own transport by default.
    """

    def __init__(
        self,
        tier: Tier,
        *,
        affinity: Affinity | None = None,
        throttle_key: Callable[[httpx.Request], str | None] | None = None,
        inner: httpx.BaseTransport | None = None,
    ) -> None:
        self.tier = tier
        self.affinity = affinity
        self.throttle_key = throttle_key
        self.inner = httpx.HTTPTransport() if inner is None else inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to a replica."""
        attempts = Attempts(self.tier, self.affinity, self.throttle_key, request)
        refused: httpx.Response | None = None
        while True:
            try:
                if refused is not None:
                    with contextlib.suppress(httpx.TransportError):  # it has had its blame
                        refused.close()
                response = self.inner.handle_request(attempts.outgoing())
            except BaseException as error:
                attempts.failed(error)
                continue
            assert isinstance(response.stream, httpx.SyncByteStream)
            ending = attempts.answered(response.status_code)
            if ending is not None:
                if response.is_closed:  # read before it came here, as a cache's or a mock's answer is
                    ending.outcome = ending.whole
                    ending.finish()
                else:
                    response.stream = SyncBody(response.stream, ending)
                return response
            refused = response

    def close(self) -> None:
        """Close the inner transport."""
        self.inner.close()


class AsyncReplicatedTransport(httpx.AsyncBaseTransport):
    """Balances the requests of an ``httpx.AsyncClient``; otherwise as ``ReplicatedTransport``."""

    def __init__(
        self,
        tier: Tier,
        *,
        affinity: Affinity | None = None,
        throttle_key: Callable[[httpx.Request], str | None] | None = None,
        inner: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.tier = tier
        self.affinity = affinity
        self.throttle_key = throttle_key
        self.inner = httpx.AsyncHTTPTransport() if inner is None else inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to a replica."""
        attempts = Attempts(self.tier, self.affinity, self.throttle_key, request)
        refused: httpx.Response | None = None
        while True:
            try:
                if refused is not None:
                    with contextlib.suppress(httpx.TransportError):  # it has had its blame
                        await refused.aclose()
                response = await self.inner.handle_async_request(attempts.outgoing())
            except BaseException as error:
                attempts.failed(error)
                continue
            assert isinstance(response.stream, httpx.AsyncByteStream)
            ending = attempts.answered(response.status_code)
            if ending is not None:
                if response.is_closed:  # read before it came here, as a cache's or a mock's answer is
                    ending.outcome = ending.whole
                    ending.finish()
                else:
                    response.stream = AsyncBody(response.stream, ending)
                return response
            refused = response

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self.inner.aclose()
