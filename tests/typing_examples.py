"""The public API as a user writes it: nothing here runs, mypy (strict) and pyright read it.

A line that must be an error carries an ignore; mypy reports the ignore when the line no longer is one.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Iterator, MutableMapping, Sequence
from fractions import Fraction
from typing import assert_never, assert_type

import httpx
import httpx2

from replicated import (
    Cache,
    Decision,
    Forward,
    HashRing,
    Hit,
    InFlight,
    LeastLoaded,
    NotServed,
    Outcome,
    OutlierDetector,
    PeakEwma,
    PowerOfTwo,
    ProbePolicy,
    RandomChoice,
    ReadinessTracker,
    ReadySet,
    Refuse,
    Replica,
    RingHash,
    RoundRobin,
    Strategy,
    Throttle,
    Tier,
    TokenBucket,
    Unavailable,
    affinity,
)
from replicated.adapters.asgi import CacheMiddleware, ReadinessEndpoint, ReverseProxy, ThrottleMiddleware
from replicated.adapters.asgi_front import Receive, Scope, Send
from replicated.adapters.httpx_transport import AsyncReplicatedTransport, NoReplicaError, ReplicatedTransport
from replicated.adapters.probes import HttpProbe, ProbeLoop
from replicated.cache import Loader, cached
from replicated.ring import Maglev, Rendezvous, layouts
from replicated.testing import ManualClock, RecordingStrategy, ScriptedProbe, StrategyContract
from replicated.throttle import Limit, Limits


def a_service(replicas: Iterable[Replica]) -> Tier:
    tracker = ReadinessTracker(
        ProbePolicy(period=2.0, failure_threshold=2, jitter=0.1), outliers=OutlierDetector()
    )
    cache: Cache[Hashable, object] = Cache(10_000, ttl=60)
    return Tier(
        replicas, strategy=RingHash(bound=1.25), readiness=tracker, throttle=Throttle(50, 100), cache=cache
    )


def every_decision(decision: Decision) -> float | Replica | object:
    match decision:
        case Refuse(retry_after=wait):
            return assert_type(wait, float)
        case Unavailable():
            return decision.retry_after
        case Hit():
            return decision.value
        case Forward():
            return assert_type(decision.replica, Replica)
        case _:
            assert_never(decision)


def the_way_back(tier: Tier) -> str:
    decision = tier.decide("user:42", throttle_key=("192.0.2.7", "/"), cache_key="/", cost=2)
    if isinstance(decision, Forward):
        tier.finish(decision, Outcome.failure("reset"))
        following = tier.retry(decision)
        assert_type(following, Forward | Unavailable)
    try:
        with tier.lease(b"user:42") as lease:
            assert_type(lease.replica, Replica)
            lease.finish(Outcome.success(0.2, value=b"page", ttl=5))
    except NotServed as error:
        return f"in {assert_type(error.retry_after, float)} s"
    return decision.explain()


def rings() -> None:
    ring = HashRing({"a": 1, "b": 2.5}, vnodes=256, layout=layouts.xxh3())
    assert_type(ring.owner("key"), str)
    assert_type(ring.owners(b"key", 2), list[str])
    assert_type(ring.walk("key"), Iterator[str])
    assert_type(ring.shares(), dict[str, Fraction])
    ring.add("c", weight=0.5)
    ring.owner(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for table in (Maglev(["a", "b"]), Rendezvous(["a", "b"])):
        assert_type(table.owner("key"), str)


def caches(clock: ManualClock) -> None:
    cache: Cache[str, int] = Cache(2, 1.5, None, clock)
    mapping: MutableMapping[str, int] = cache
    mapping["a"] = 1
    assert_type(cache.get("a"), int | None)
    assert_type(cache.get("a", 0), int)
    assert_type(cache.get("a", "none"), int | str)
    assert_type(cache.ttl("a"), float | None)
    cache.set("a", 2, ttl=5)
    cache["a"] = "two"  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]


@cached(ttl=5)
def squared(number: int) -> int:
    return number * number


def loading() -> None:
    loader: Loader[str, bytes] = Loader(Cache(10), lambda key: key.encode(), grace=5)
    assert_type(loader.get("a"), bytes)
    assert_type(loader.get_many(["a", "b"]), dict[str, bytes])
    loader.get(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(squared(3), int)
    squared("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def throttles() -> None:
    assert_type(TokenBucket(10, burst=20).take(3), float)
    throttle = Throttle(rate=0.5, burst=1, max_keys=1000)
    assert_type(throttle.take(("client", "/path"), cost=1), float)
    assert_type(throttle.peek("client"), float)
    throttle.refund("client")
    limits = Limits(Limit("second", 10, burst=10), Limit("hour", 1 / 7, burst=500, counts="takes"))
    assert_type(limits.take("client", 2).limit, str)


class Nearest:
    """A strategy written by a user, without a base class."""

    def __init__(self, zone: str) -> None:
        self.zone = zone
        self.others = PowerOfTwo(InFlight())

    def pick(self, ready: Sequence[Replica], key: str | bytes | None = None) -> Replica | None:
        return next((r for r in ready if r.zone == self.zone and r.weight), self.others.pick(ready, key))

    def started(self, replica: Replica) -> None:
        self.others.started(replica)

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        self.others.finished(replica, outcome)


def first(ready: Sequence[Replica], key: str | bytes | None = None) -> Replica | None:
    return ready[0] if ready else None


def strategies(rng: random.Random) -> list[Tier]:
    chosen: list[Strategy] = [
        RoundRobin(),
        RandomChoice(rng=rng),
        LeastLoaded(PeakEwma()),
        PowerOfTwo(rng=rng),
        RingHash(None),
        Nearest("here"),
        RecordingStrategy(first),
    ]
    assert_type(chosen[0].pick(ReadySet([Replica("a")])), Replica | None)
    Tier(strategy="round-robin")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return [Tier(strategy=first), *(Tier(strategy=strategy) for strategy in chosen)]


class TestNearest(StrategyContract):
    """The contract, as a user subclasses it."""

    def make(self) -> Strategy:
        return Nearest("here")


def probes(tracker: ReadinessTracker, clock: ManualClock) -> tuple[Replica, ...]:
    ScriptedProbe({"a": [False, True]}).run(tracker, clock, seconds=30)
    for replica in tracker.due():
        tracker.observe(replica, True, reason="200")
    assert_type(tracker.ready, ReadySet)
    return tracker.ready


def clients(tier: Tier) -> int:
    transport = ReplicatedTransport(tier, affinity=affinity.cookie("session"))
    try:
        with httpx.Client(transport=transport, base_url="http://service") as client:
            return client.get("/").status_code
    except NoReplicaError as error:
        return round(error.retry_after)


async def asynchronous(tier: Tier) -> int:
    async with httpx.AsyncClient(transport=AsyncReplicatedTransport(tier)) as client:
        return (await client.get("http://service/")).status_code


async def of_the_other_module(tier: Tier) -> int:
    inner = httpx2.AsyncHTTPTransport(http2=True)
    async with httpx2.AsyncClient(transport=AsyncReplicatedTransport(tier, inner=inner)) as client:
        return (await client.get("http://service/")).status_code


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def in_front_of_an_app() -> ReadinessEndpoint:
    kept = CacheMiddleware(app, size=2**20, ttl=5)
    return ReadinessEndpoint(ThrottleMiddleware(kept, Throttle(50, 100), trusted=["10.0.0.0/8"]))


async def a_proxy(tier: Tier) -> ReverseProxy:
    by = affinity.first_of(affinity.cookie("session"), affinity.client_address)
    async with ProbeLoop(tier.readiness, HttpProbe("/readyz")):
        return ReverseProxy(tier, affinity=by, trusted=["127.0.0.1"])
