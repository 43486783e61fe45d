"""httpx clients, balanced: a transport that sends each request to a replica that the tier picks.

``httpx.Client(transport=ReplicatedTransport(tier), base_url="http://service")``: the host in the URL names
the service and is what the replicas see as Host; where the request goes, the tier decides. Both transports
serve httpx and httpx2. They act on what is decided about attempts, and decide nothing themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..affinity import Affinity
from ..tier import Tier
from .httpx_attempts import Attempts
from .httpx_names import Names, NoReplicaError, RefusedError, names_of
from .httpx_upstream import Carrier, origin_of

if TYPE_CHECKING:
    import httpx
    import httpx2

    class SyncTransport(httpx.BaseTransport, httpx2.BaseTransport):  # type: ignore[misc]
        """What both take for a transport."""

    class AsyncTransport(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):  # type: ignore[misc]
        """What both take for a transport."""

else:
    from .httpx_names import httpx

    SyncTransport, AsyncTransport = httpx.BaseTransport, httpx.AsyncBaseTransport

__all__ = ["AsyncReplicatedTransport", "NoReplicaError", "RefusedError", "ReplicatedTransport"]

ThrottleKey = Callable[[Any], str | None]


class ReplicatedTransport(SyncTransport):
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
        inner: Carries the requests; by default the client's own kind of transport.
    """

    def __init__(
        self,
        tier: Tier,
        *,
        affinity: Affinity | None = None,
        throttle_key: ThrottleKey | None = None,
        inner: httpx.BaseTransport | httpx2.BaseTransport | None = None,
    ) -> None:
        self.tier = tier
        self.affinity = affinity
        self.throttle_key = throttle_key
        self.inner = inner
        self._own: dict[Names, Any] = {}

    def handle_request(self, request: Any) -> Any:
        """Send a request to a replica."""
        names = names_of(type(request))
        inner = self.inner or self._own.get(names)
        if inner is None:  # the first to put one in its place is everybody's
            inner = self._own.setdefault(names, names.module.HTTPTransport())
        attempts = Attempts(self.tier, names, request, self.affinity, self.throttle_key)
        refused: Any = None
        while True:
            try:
                if refused is not None:
                    with contextlib.suppress(names.TransportError):  # it has had its blame
                        refused.close()
                response = inner.handle_request(readdressed(request, attempts.forward.replica.url))
            except BaseException as error:
                attempts.failed(error)
                continue
            ending = attempts.answered(response.status_code)
            if ending is not None:
                if response.is_closed:  # read before it came here, as a cache's or a mock's answer is
                    ending.outcome = ending.whole
                    ending.finish()
                else:
                    response.stream = names.sync_body(response.stream, ending)
                return response
            refused = response

    def close(self) -> None:
        """Close the inner transport."""
        for inner in (self.inner, *self._own.values()):
            if inner is not None:
                inner.close()


class AsyncReplicatedTransport(AsyncTransport):
    """Balances the requests of an ``httpx.AsyncClient``; otherwise as ``ReplicatedTransport``.

    Carries them itself, over connections that a cancelled request cannot harm, and in a fraction of the time
    that httpx's transport takes. It speaks HTTP/1.1 and keeps httpx's timeouts. Over TLS a replica must have
    a certificate for the host of the request's URL, or for its extension ``sni_hostname``. HTTP/2, proxies,
    WebSockets and trio take another transport as ``inner``.

    Args:
        tier: Decides who serves.
        affinity: What requests are kept on one replica by.
        throttle_key: Whom a request counts against; by default nobody.
        inner: Carries the requests in place of this.
        tls: For replicas at https; by default the system's trust, verified.
        max_idle: Connections to a replica that are kept for later.
        max_connections: Requests under way at once; the next one waits its turn, for the client's ``pool``
            timeout. 100, as in httpx; None for any number. Where the tier has a strategy that says which
            replica is full, that is not waited for.

    Raises:
        ValueError: ``max_idle`` is not an integer of at least 0, ``max_connections`` none of at least 1, or
            ``tls`` is given beside ``inner``.
    """

    def __init__(
        self,
        tier: Tier,
        *,
        affinity: Affinity | None = None,
        throttle_key: ThrottleKey | None = None,
        inner: httpx.AsyncBaseTransport | httpx2.AsyncBaseTransport | None = None,
        tls: ssl.SSLContext | None = None,
        max_idle: int = 64,
        max_connections: int | None = 100,
    ) -> None:
        if inner is not None and tls is not None:
            raise ValueError("tls must be None beside inner, which has its own")
        if isinstance(max_idle, bool) or not isinstance(max_idle, int) or max_idle < 0:
            raise ValueError(f"max_idle must be an integer of at least 0, not {max_idle!r}")
        if max_connections is not None and (
            isinstance(max_connections, bool) or not isinstance(max_connections, int) or max_connections < 1
        ):
            raise ValueError(f"max_connections must be an integer of at least 1, not {max_connections!r}")
        self.tier = tier
        self.affinity = affinity
        self.throttle_key = throttle_key
        self.inner = inner
        self.tls = tls
        self.max_idle = max_idle
        self.max_connections = max_connections
        self.members = tier.replicas
        # A connection belongs to its event loop, and a program may run one after the other.
        self._carriers: WeakKeyDictionary[asyncio.AbstractEventLoop, Carrier] = WeakKeyDictionary()

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request to a replica."""
        names = names_of(type(request))
        if self.inner is not None:
            return await self.balanced(names, request, None)
        carrier = self.carrier(names)
        await carrier.enter(names, request)
        try:
            return await self.balanced(names, request, carrier)
        except BaseException:
            carrier.leave()
            raise

    async def balanced(self, names: Names, request: Any, carrier: Carrier | None) -> Any:
        """Send a request to one replica after the other, by a carrier of ours or by ``inner``."""
        attempts = Attempts(self.tier, names, request, self.affinity, self.throttle_key)
        refused: Any = None
        while True:
            try:
                if refused is not None:
                    with contextlib.suppress(names.TransportError):  # it has had its blame
                        await refused.aclose()
                url = attempts.forward.replica.url
                response: Any
                if carrier is not None:
                    response = await carrier.carry(names, request, url)
                else:
                    inner: Any = self.inner
                    response = await inner.handle_async_request(readdressed(request, url))
            except BaseException as error:
                attempts.failed(error, untouched=carrier is not None and isinstance(error, names.not_sent))
                continue
            ending = attempts.answered(response.status_code)
            if ending is not None:
                if carrier is not None:
                    response.stream.tell(ending, carrier.leave)
                elif response.is_closed:  # read before it came here, as a cache's or a mock's answer is
                    ending.outcome = ending.whole
                    ending.finish()
                else:
                    response.stream = names.async_body(response.stream, ending)
                return response
            refused = response

    def carrier(self, names: Names) -> Carrier:
        """Return what carries requests in the event loop that runs."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise names.module.UnsupportedProtocol(
                "this transport runs on asyncio: elsewhere give one of the client's own as inner"
            ) from None
        carrier = self._carriers.get(loop)
        if carrier is None:
            carrier = self._carriers[loop] = Carrier(self.tls, self.max_idle, self.max_connections)
        if self.tier.replicas is not self.members:
            self.let_go()
        return carrier

    def let_go(self) -> None:
        """Close what is idle to those who have left, or moved."""
        members = self.tier.replicas
        for url in {gone.url for gone in self.members} - {member.url for member in members}:
            with contextlib.suppress(ValueError):  # one without an address has no connections either
                self._carriers[asyncio.get_running_loop()].forget(url)
        self.members = members

    async def aclose(self) -> None:
        """Close the inner transport, or the connections that are idle."""
        if self.inner is not None:
            await self.inner.aclose()
        elif self._carriers:
            carrier = self._carriers.pop(asyncio.get_running_loop(), None)
            if carrier is not None:
                carrier.close()


def readdressed(request: Any, address: str) -> Any:
    """Return the request as it goes to a replica: its address, and all else as the user chose.

    Raises:
        ValueError: ``address`` does not say where a replica listens.
    """
    origin = origin_of(address)
    url = request.url
    extensions = request.extensions
    if origin.tls and "sni_hostname" not in extensions:
        # The certificate is the service's: what an address cannot name, the user's URL does.
        extensions = {**extensions, "sni_hostname": url.host}
    return type(request)(
        request.method,
        url.copy_with(scheme="https" if origin.tls else "http", host=origin.host, port=origin.port),
        headers=request.headers,
        stream=request.stream,
        extensions=extensions,
    )
