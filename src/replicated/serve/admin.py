"""What an operator asks of a running tier, on a socket of its own: figures, replicas, and to forget pages.

Composition and presentation only: the tier knows, the cache forgets. Who may ask is decided by who can reach
the socket.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from ..adapters.proxy.http_cache import HttpCache
from ..adapters.proxy.purging import Purging
from ..adapters.redis_throttle import AsyncRedisThrottle, RedisThrottleStats
from ..http.fields import problem
from ..http.message import Request, Response
from ..readiness import State
from ..throttle import Throttle, ThrottleStats
from .exposition import CONTENT_TYPE, Family, exposition
from .service import Service

__all__ = ["Admin"]

ANYBODY = ("0.0.0.0/0", "::/0")


class Admin:
    """A handler: GET /metrics for Prometheus, GET /replicas for people, PURGE for what the cache holds.

    Args:
        service: The tier that is asked about; it counts its traffic.
        connections: How many clients are connected to it.

    Raises:
        ValueError: The tier does not count its traffic.
    """

    def __init__(self, service: Service, connections: Callable[[], int]) -> None:
        if service.traffic is None:
            raise ValueError("service must count its traffic: Service(options, counted=True)")
        self.service = service
        self.traffic = service.traffic
        self.connections = connections
        self.purging = None if service.cache is None else Purging(service.cache, allowed=ANYBODY)

    async def __call__(self, request: Request) -> Response:
        """Answer."""
        if request.method == "PURGE":
            if self.purging is None:
                return problem(404, "this tier has no cache")
            return await self.purging.purge(request)
        pages: dict[str, Callable[[], tuple[bytes, bytes]]] = {
            "/metrics": lambda: (CONTENT_TYPE, exposition(self.families())),
            "/replicas": lambda: (b"application/json", json.dumps(self.replicas(), indent=1).encode()),
        }
        page = pages.get(request.path)
        if page is None:
            return problem(404, f"there is {', '.join(pages)}, and PURGE")
        if request.method not in ("GET", "HEAD"):
            return problem(405, "this is asked with GET", [(b"allow", b"GET, HEAD")])
        kind, body = page()
        headers = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        return Response(200, headers, b"" if request.method == "HEAD" else body)

    def replicas(self) -> list[dict[str, Any]]:
        """Return of each replica what it is and why."""
        tier = self.service.tier
        told = []
        for replica in tier.replicas:
            why = tier.readiness.explain(replica)
            told.append(
                {
                    "id": replica.id,
                    "url": replica.url,
                    "weight": replica.weight,
                    "zone": replica.zone,
                    "state": why.state,
                    "serves": why.serves,
                    "in_flight": self.traffic.in_flight[replica.id],
                    "why": str(why),
                }
            )
        return told

    def families(self) -> Iterator[Family]:
        """Return all figures."""
        service = self.service
        tier = service.tier
        ready = tier.readiness.ready
        yield Family("replicated_connections", "gauge", "Clients connected.", [({}, self.connections())])
        yield from self.traffic.families(tier.replicas)
        yield Family(
            "replicated_replica_serves",
            "gauge",
            "Whether a replica is in the ready set.",
            [({"replica": member.id}, member.id in ready.by_id) for member in tier.replicas],
        )
        states = {member.id: tier.readiness.state(member) for member in tier.replicas}
        yield Family(
            "replicated_replica_state",
            "gauge",
            "1 for the state that a replica is in.",
            [
                ({"replica": name, "state": state.value}, state is found)
                for name, found in states.items()
                for state in State
            ],
        )
        yield Family(
            "replicated_panic", "gauge", "Whether too few are fit, so that others serve.", [({}, ready.panic)]
        )
        if service.cache is not None:
            yield from cached(service.cache)
        throttle = service.shared or tier.throttle
        if isinstance(throttle, Throttle | AsyncRedisThrottle):
            yield from throttled(throttle.stats())


def throttled(seen: ThrottleStats | RedisThrottleStats) -> Iterator[Family]:
    """Return the figures of a throttle, this process's own or a shared one."""
    told = [("refused", "Requests refused, or in shadow mode those that would have been.")]
    if isinstance(seen, ThrottleStats):
        yield Family("replicated_throttle_keys", "gauge", "Keys that are remembered.", [({}, seen.keys)])
        told += [("overflowed", "Requests of new keys that found no place.")]
    else:
        told += [
            ("failures", "Questions that the server of the shared throttle did not answer in time."),
            ("fallbacks", "Requests that were decided about without it."),
        ]
    for name, text in told:
        yield Family(f"replicated_throttle_{name}_total", "counter", text, [({}, getattr(seen, name))])


def cached(cache: HttpCache) -> Iterator[Family]:
    """Return the figures of a cache."""
    stats = cache.pages.store.stats()
    yield Family("replicated_cache_entries", "gauge", "URLs that are kept.", [({}, stats.entries)])
    yield Family("replicated_cache_bytes", "gauge", "What they weigh.", [({}, stats.size)])
    yield Family("replicated_cache_max_bytes", "gauge", "What they may weigh.", [({}, stats.maxsize)])
    evictions = [({"reason": name}, getattr(stats, name)) for name in ("capacity", "expired", "purged")]
    yield Family("replicated_cache_evictions_total", "counter", "URLs forgotten, by reason.", evictions)
