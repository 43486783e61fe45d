"""One tier of a service, put together from what was asked for: gate, throttle, cache, exchange, probes.

Composition only. Whatever decides something stands in a room or in ``http``; whatever acts, in an adapter.
"""

from __future__ import annotations

import contextlib

from .. import affinity
from ..adapters.asgi import ReadinessEndpoint
from ..adapters.asgi_front import HandlerApp
from ..adapters.exchange import Exchange, ThrottleKey, admission, gatekeeper
from ..adapters.http_cache import HttpCache
from ..adapters.probes import HttpProbe, ProbeLoop
from ..adapters.upstream import Upstream
from ..balance import LeastLoaded, PowerOfTwo, RandomChoice, RingHash, RoundRobin, Strategy
from ..http.caching import HttpCacheRules
from ..http.framing import Limits
from ..http.identity import Client, Identity, address_key
from ..http.message import Handler, Request
from ..readiness import OutlierDetector, ProbePolicy, ReadinessTracker
from ..throttle import Throttle
from ..tier import Tier
from .options import STRATEGIES, THROTTLE_KEYS, ServeOptions

__all__ = ["Service"]


class Service(HandlerApp):
    """A tier as an ASGI application: ``service.app`` answers, probes and all.

    Args:
        options: What was asked for.

    Raises:
        ValueError: It cannot be.
    """

    def __init__(self, options: ServeOptions) -> None:
        if not options.replicas:
            raise ValueError("a tier needs at least one upstream")
        self.options = options
        self.tier = tier(options)
        self.upstream = Upstream()
        self.probe = None if options.probe is None else HttpProbe(options.probe)
        self.was_ready = False
        self.running = contextlib.AsyncExitStack()
        super().__init__(self.pipeline())
        self.app = ReadinessEndpoint(
            self, ready=self.can_serve, live_path=options.live_path, ready_path=options.ready_path
        )

    def pipeline(self) -> Handler:
        """Return the handlers, in the order of the pattern."""
        options = self.options
        identity = Identity(options.trusted)
        handler: Handler = Exchange(
            self.tier,
            self.upstream,
            identity=identity,
            affinity=None if options.affinity is None else affinity.parse(options.affinity),
            pseudonym=options.name,
        )
        if options.cache is not None:
            rules = HttpCacheRules(
                ttl=options.ttl,
                grace=options.cache_grace or 0.0,
                keep=options.cache_keep or 0.0,
                name=options.name,
            )
            handler = cache = HttpCache(handler, size=options.cache, rules=rules, identity=identity)
            self.running.push_async_callback(cache.aclose)
        else:
            for name in ("ttl", "cache_grace", "cache_keep"):
                if getattr(options, name) is not None:
                    raise ValueError(f"{name} needs a cache")
        if self.tier.throttle is not None:
            handler = admission(handler, self.tier, identity, throttle_key(options.throttle_by))
        limits = Limits(body=options.body_limit, header_bytes=options.header_limit)
        return gatekeeper(handler, limits, options.name.encode("latin-1"))

    def can_serve(self) -> bool:
        """Return whether somebody behind this tier was ever ready.

        Only ever: a cache whose replicas are all down still has what it holds, and says 503 for the rest
        at once. Were it to turn unready as well, one fault would take down every tier in front of it.
        """
        self.was_ready = self.was_ready or bool(self.tier.readiness.ready)
        return self.was_ready

    async def startup(self) -> None:
        """Start the probes."""
        if self.probe is not None:
            await self.running.enter_async_context(ProbeLoop(self.tier.readiness, self.probe))

    async def shutdown(self) -> None:
        """Stop the probes, and close the connections that are idle."""
        await self.running.aclose()
        await self.upstream.aclose()


def tier(options: ServeOptions) -> Tier:
    """Return the tier that decides."""
    policy = None
    if options.probe is not None:
        policy = ProbePolicy(
            period=options.probe_period, timeout=options.probe_timeout, failure_threshold=2, jitter=0.1
        )
    throttle = None
    if options.throttle is not None:
        burst = max(1.0, options.throttle) if options.burst is None else options.burst
        throttle = Throttle(options.throttle, burst)
    elif options.burst is not None:
        raise ValueError("burst needs a throttle")
    return Tier(
        options.replicas,
        strategy=strategy(options),
        readiness=ReadinessTracker(policy, outliers=OutlierDetector()),
        throttle=throttle,
    )


def strategy(options: ServeOptions) -> Strategy:
    """Return the strategy by its name."""
    if options.affinity is not None and options.strategy != "ring-hash":
        raise ValueError(f"affinity needs the strategy ring-hash: {options.strategy} keeps nobody anywhere")
    if options.strategy == "ring-hash" and options.affinity is None:
        raise ValueError("the strategy ring-hash needs an affinity, such as cookie:session or path")
    if options.bound is not None and options.affinity is None:
        raise ValueError("bound needs an affinity: without one nobody is kept anywhere")
    match options.strategy:
        case "power-of-two":
            return PowerOfTwo()
        case "round-robin":
            return RoundRobin()
        case "least-loaded":
            return LeastLoaded()
        case "ring-hash":
            # Without a bound unless one is asked for: a session that moves is lost, and two caches that
            # share a path allow its client twice.
            # With a bound, four requests of slack: where few are in flight, the bound alone would move a key
            # for its second concurrent request.
            return RingHash(options.bound, slack=0 if options.bound is None else 4)
        case "random":
            return RandomChoice()
        case unknown:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {unknown!r}")


def throttle_key(parts: tuple[str, ...]) -> ThrottleKey:
    """Return whom a request counts against."""
    for part in parts:
        if part not in THROTTLE_KEYS:
            raise ValueError(f"throttle-by must be of {', '.join(THROTTLE_KEYS)}, not {part!r}")
    by_address, by_path = "client-address" in parts, "path" in parts

    def key(client: Client, request: Request) -> str:
        return f"{address_key(client.address) if by_address else ''} {request.path if by_path else ''}"

    return key
