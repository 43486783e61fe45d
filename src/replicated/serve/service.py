"""One tier of a service, put together from what was asked for: gate, throttle, cache, exchange, probes.

Composition only. Whatever decides something stands in a room or in ``http``; whatever acts, in an adapter.
"""

from __future__ import annotations

import contextlib
import functools

from .. import affinity
from ..adapters.engine.upstream import Timeouts, Upstream
from ..adapters.front.limits import FrontLimits
from ..adapters.membership import MembershipLoop
from ..adapters.probes import HttpProbe, ProbeLoop
from ..adapters.proxy.admission import ThrottleKey, admission
from ..adapters.proxy.exchange import Exchange
from ..adapters.proxy.gatekeeper import gatekeeper
from ..adapters.proxy.http_cache import HttpCache
from ..adapters.proxy.probe_answers import ProbeAnswers
from ..adapters.proxy.purging import Purging
from ..adapters.redis_throttle import AsyncRedisThrottle
from ..balance import Strategy
from ..http.caching import HttpCacheRules
from ..http.framing import Limits
from ..http.identity import Client, Identity, address_key
from ..http.message import Handler, Request
from ..throttle import PathTemplates, Throttle, normalized
from ..tier import Tier
from .balancing import balancing, readiness, session_pins
from .options import THROTTLE_KEYS, ServeOptions
from .shared_pages import shared_pages
from .shared_throttle import burst, shared_throttle
from .traffic import Traffic

__all__ = ["Service"]

NEEDS = {
    "affinity": ("pin",),
    "pin": ("pin_secret", "pin_hard", "pin_tenant"),
    "subset": ("subset_as",),
    "max_in_flight": ("queue",),
    "cache": ("ttl", "cache_grace", "cache_keep", "cache_redis", "purge_from"),
    "throttle": (
        "burst",
        "throttle_paths",
        "throttle_block",
        "throttle_shadow",
        "throttle_redis",
        "ratelimit_fields",
    ),
}
"""What makes no sense without something else."""


class Service:
    """A tier: ``service.handler`` answers, probes and all, from entering the service until leaving it.

    Args:
        options: What was asked for.
        counted: Whether its traffic is counted, for somebody to look at.

    Raises:
        ValueError: It cannot be.
    """

    def __init__(self, options: ServeOptions, *, counted: bool = False) -> None:
        if bool(options.replicas) == (options.members is not None):
            raise ValueError("a tier needs upstreams, or else a source of members, and not both")
        if options.proxy_protocol and not options.trusted:
            raise ValueError("proxy_protocol needs trusted networks: those that speak it, and nobody else")
        self.options = options
        self.identity = Identity(options.trusted, hops=options.trust_hops, header=options.trust_header)
        self.traffic = Traffic() if counted else None
        self.balancing = balancing(options)
        strategy = self.balancing.strategy
        self.tier = tier(options, strategy if self.traffic is None else self.traffic.strategy(strategy))
        self.waiting = self.balancing.waiting(self.tier)
        self.cache: HttpCache | None = None
        self.shared: AsyncRedisThrottle | None = None
        timeouts = Timeouts(
            connect=options.connect_timeout,
            first_byte=options.first_byte_timeout,
            read=options.read_timeout,
            total=options.total_timeout,
            tunnel=options.tunnel_timeout,
        )
        self.upstream = Upstream(timeouts=timeouts, max_connections=options.max_in_flight or 1024)
        self.probe = None if options.probe is None else HttpProbe(options.probe)
        self.was_ready = False
        self.running = contextlib.AsyncExitStack()
        self.limits = FrontLimits(
            Limits(body=options.body_limit, header_bytes=options.header_limit),
            header_time=options.header_timeout,
            body_time=options.body_timeout,
            write_time=options.write_timeout,
            least_rate=options.least_rate,
            keep_alive=options.keep_alive,
        )
        self.handler = ProbeAnswers(
            self.pipeline(),
            ready=self.can_serve,
            live_path=options.live_path,
            ready_path=options.ready_path,
        )

    def pipeline(self) -> Handler:
        """Return the handlers, in the order of the pattern."""
        options, identity = self.options, self.identity
        handler: Handler = Exchange(
            self.tier,
            self.upstream,
            identity=identity,
            affinity=None if options.affinity is None else affinity.parse(options.affinity),
            pseudonym=options.name,
            pins=session_pins(options),
            waiting=self.waiting,
            server_timing=options.server_timing,
        )
        if options.cache is not None:
            rules = HttpCacheRules(
                ttl=options.ttl,
                grace=options.cache_grace or 0.0,
                keep=options.cache_keep or 0.0,
                name=options.name,
            )
            level = shared_pages(options)
            if level is not None:
                self.running.push_async_callback(level[1].aclose)
            cache = HttpCache(
                handler,
                size=options.cache,
                rules=rules,
                identity=identity,
                level=None if level is None else level[0],
            )
            handler = self.cache = cache
            self.running.push_async_callback(cache.aclose)
            if options.purge_from or self.traffic is not None:  # tags are for those who purge, here or there
                handler = Purging(cache, allowed=options.purge_from)
        if options.throttle is not None:
            key, fields = throttle_key(options), options.ratelimit_fields
            shared = shared_throttle(options)
            if shared is None:
                handler = admission(handler, self.tier, identity, key, fields=fields)
            else:
                self.shared, client = shared
                handler = admission(handler, self.tier, identity, key, throttle=self.shared, fields=fields)
                self.running.push_async_callback(client.aclose)
        # The front has judged what stands in a request; whether it goes in circles, it cannot know.
        handler = gatekeeper(handler, None, options.name.encode("latin-1"))
        return handler if self.traffic is None else self.traffic.handler(handler)

    def can_serve(self) -> bool:
        """Return whether somebody behind this tier was ever ready.

        Only ever: a cache whose replicas are all down still has what it holds, and says 503 for the rest
        at once. Were it to turn unready as well, one fault would take down every tier in front of it.
        """
        self.was_ready = self.was_ready or bool(self.tier.readiness.ready)
        return self.was_ready

    async def __aenter__(self) -> Service:
        """Learn who the members are, and start the probes."""
        readiness = self.tier.readiness
        probes = None if self.probe is None else ProbeLoop(readiness, self.probe)

        def heard(_: object) -> None:
            if probes is not None:
                probes.wake()  # who is new is probed at once

        if self.waiting is not None:
            # Who is new or comes back has room. Traffic, probes and members are all of this loop.
            call_next = self.waiting.call_next
            self.running.callback(readiness.subscribe(lambda _: call_next()))

        if self.options.members is not None:
            members = MembershipLoop(readiness, self.options.members, on_event=heard)
            await self.running.enter_async_context(members)
        if probes is not None:
            await self.running.enter_async_context(probes)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop the probes, and close the connections that are idle."""
        await self.running.aclose()
        await self.upstream.aclose()


def tier(options: ServeOptions, strategy: Strategy) -> Tier:
    """Return the tier that decides."""
    for needed, names in NEEDS.items():
        for name in names:
            if getattr(options, needed) is None and getattr(options, name):
                raise ValueError(f"{name} needs {'an' if needed[0] in 'aeiou' else 'a'} {needed}")
    throttle = None
    if options.throttle is not None and options.throttle_redis is None:
        throttle = Throttle(
            options.throttle,
            burst(options),
            block=options.throttle_block,
            shadow=options.throttle_shadow,
        )
    return Tier(options.replicas, strategy=strategy, readiness=readiness(options), throttle=throttle)


def throttle_key(options: ServeOptions) -> ThrottleKey:
    """Return whom a request counts against.

    A path is counted under one name for all its spellings, or a client would mint a bucket with each.
    """
    parts, templates = options.throttle_by, options.throttle_paths
    for part in parts:
        if part not in THROTTLE_KEYS:
            raise ValueError(f"throttle-by must be of {', '.join(THROTTLE_KEYS)}, not {part!r}")
    by_address, by_path = "client-address" in parts, "path" in parts
    name = PathTemplates(templates, other=None).key if templates else normalized

    ipv4, ipv6 = options.throttle_prefixes
    address = functools.partial(address_key, ipv4_prefix=ipv4, ipv6_prefix=ipv6)
    address("")  # which says what is wrong with them

    def key(client: Client, request: Request) -> str:
        return f"{address(client.address) if by_address else ''} {name(request.path) if by_path else ''}"

    return key
