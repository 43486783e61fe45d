"""httpx clients, balanced: a transport that sends each request to a replica that the tier picks.

``httpx.Client(transport=ReplicatedTransport(tier), base_url="http://service")``: the host in the URL names
the service and is what the replicas see as Host; where the request goes, the tier decides. The transport
decides only what it takes a client to know: which requests can be repeated, and when one is over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeAlias, assert_never

from ..affinity import Affinity, Facts
from ..errors import MissingExtra, NoReplica, Refused
from ..outcome import Outcome
from ..tier import Forward, Hit, Refuse, Tier, Unavailable

try:
    import httpx
except ImportError:  # pragma: no cover - the environment without the extra has a test of its own
    raise MissingExtra(__name__, "httpx") from None

__all__ = ["AsyncReplicatedTransport", "NoReplicaError", "RefusedError", "ReplicatedTransport"]

REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
Finish: TypeAlias = Callable[[Outcome], None]


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
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        key = affinity(Facts(path=request.url.path, headers=headers)) if affinity else None
        whom = throttle_key(request) if throttle_key else None
        decision = tier.decide(key, throttle_key=whom)
        match decision:
            case Forward():
                self.forward = decision
            case Refuse():
                raise RefusedError(decision.explain(), decision.retry_after)
            case Unavailable():
                raise NoReplicaError(decision.explain(), decision.retry_after)
            case Hit():  # pragma: no cover - decided without a cache key
                raise AssertionError("nothing was asked of the cache")
            case _:
                assert_never(decision)

    def outgoing(self) -> httpx.Request:
        """Return the request as it goes to the replica: its address, and all else as the user chose."""
        url = httpx.URL(self.forward.replica.url)
        request = self.request
        extensions = request.extensions
        if url.scheme == "https" and "sni_hostname" not in extensions:
            # The certificate is the service's: what an address cannot name, the user's URL does.
            extensions = {**extensions, "sni_hostname": request.url.host}
        target = request.url.copy_with(scheme=url.scheme, host=url.host, port=url.port)
        return httpx.Request(
            request.method, target, headers=request.headers, stream=request.stream, extensions=extensions
        )

    def failed(self, error: BaseException) -> None:
        """Finish the attempt, and go on to the next one or raise."""
        forward = self.forward
        if not isinstance(error, httpx.TransportError):
            self.tier.finish(forward, Outcome.cancelled(type(error).__name__))
            raise error
        self.tier.finish(forward, Outcome.failure(f"{type(error).__name__}: {error}"))
        # A body that is bytes can be sent again; a stream may be half consumed.
        repeatable = isinstance(self.request.stream, httpx.ByteStream) and (
            self.request.method in REPEATABLE or isinstance(error, NOT_SENT)
        )
        decision = self.tier.retry(forward) if repeatable else None
        if not isinstance(decision, Forward):
            raise error
        self.forward = decision

    def finisher(self, status: int) -> Finish:
        """Return what ends the attempt at the end of the response's body."""
        forward = self.forward

        def finish(outcome: Outcome) -> None:
            if outcome.ok and status >= 500 and status != 501:
                outcome = Outcome.failure(f"status {status}")
            elif outcome.ok:
                outcome = Outcome.success(max(0.0, self.tier.now() - forward.started))
            self.tier.finish(forward, outcome)

        return finish


class Ending:
    """Finishes an attempt once, when the body is over or given up."""

    def __init__(self, finish: Finish) -> None:
        self.finish: Finish | None = finish
        self.outcome = Outcome.cancelled("closed before its end")

    def end(self) -> None:
        finish, self.finish = self.finish, None
        if finish is not None:
            finish(self.outcome)


class SyncBody(Ending, httpx.SyncByteStream):
    """A response's body that tells when it is over."""

    def __init__(self, stream: httpx.SyncByteStream, finish: Finish) -> None:
        super().__init__(finish)
        self.stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self.stream
        except httpx.TransportError as error:
            self.outcome = Outcome.failure(f"{type(error).__name__}: {error}")
            raise
        self.outcome = Outcome.success()

    def close(self) -> None:
        try:
            self.stream.close()
        finally:
            self.end()


class AsyncBody(Ending, httpx.AsyncByteStream):
    """A response's body that tells when it is over."""

    def __init__(self, stream: httpx.AsyncByteStream, finish: Finish) -> None:
        super().__init__(finish)
        self.stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self.stream:
                yield piece
        except httpx.TransportError as error:
            self.outcome = Outcome.failure(f"{type(error).__name__}: {error}")
            raise
        self.outcome = Outcome.success()

    async def aclose(self) -> None:
        try:
            await self.stream.aclose()
        finally:
            self.end()


class ReplicatedTransport(httpx.BaseTransport):
    """Balances the requests of an ``httpx.Client`` over the replicas of a tier.

    Repeatable requests whose replica fails before its response begins go on to another one, within the
    tier's retry budget. A ``NoReplicaError`` is raised when nobody can serve.

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
        self.inner = inner or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to a replica."""
        attempts = Attempts(self.tier, self.affinity, self.throttle_key, request)
        while True:
            try:
                response = self.inner.handle_request(attempts.outgoing())
                break
            except BaseException as error:
                attempts.failed(error)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = SyncBody(response.stream, attempts.finisher(response.status_code))
        return response

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
        self.inner = inner or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to a replica."""
        attempts = Attempts(self.tier, self.affinity, self.throttle_key, request)
        while True:
            try:
                response = await self.inner.handle_async_request(attempts.outgoing())
                break
            except BaseException as error:
                attempts.failed(error)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = AsyncBody(response.stream, attempts.finisher(response.status_code))
        return response

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self.inner.aclose()
