"""The very objects of production under virtual time: a discrete-event simulation around ``Tier``.

It plays the clients, the replicas and the clock. Every decision is made by the tiers that it was given; it
only lets time jump from one event to the next.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from heapq import heappop, heappush
from typing import Any, TypeAlias

from ..clock import Clock
from ..outcome import Outcome
from ..replica import Replica
from ..tier import Forward, Tier
from .incidents import Become, Incident, Restart
from .report import Report, confidence, quantile
from .server import Behaviour, Server
from .workload import Arrivals, Keys, Service

__all__ = ["MakeTier", "Simulation"]

MakeTier: TypeAlias = Callable[[Clock, random.Random], Tier]
"""Builds one router's tier on the clock and the chance of the simulation."""


class _Request:
    """One request on its way: its forward now, and what it needs."""

    __slots__ = ("arrived", "counts", "forward", "key", "tier", "work")

    def __init__(self, arrived: float, key: str | None, work: float, tier: Tier, counts: bool) -> None:
        self.arrived = arrived
        self.key = key
        self.work = work
        self.tier = tier
        self.counts = counts  # not in the warm-up
        self.forward: Forward


class Simulation:
    """Simulates clients, routers and replicas, each router deciding with a tier of its own.

    Args:
        make_tier: Builds a router's tier; called once a router. All must have the same members.
        arrivals: When requests come.
        service: How much work is in one.
        keys: Which affinity keys they carry; None: none.
        routers: How many tiers there are; a request comes to any of them.
        behaviour: How replicas serve.
        special: How some replicas serve otherwise, by id.
        incidents: What goes wrong, and when.
        seed: What repeats the run: the same seed gives the same run, event by event.

    Attributes:
        tiers: The routers' tiers.
        servers: The simulated replicas, by id.

    Raises:
        ValueError: There is no router, or someone named is no member.
    """

    def __init__(
        self,
        make_tier: MakeTier,
        *,
        arrivals: Arrivals,
        service: Service,
        keys: Keys | None = None,
        routers: int = 1,
        behaviour: Behaviour | None = None,
        special: Mapping[str, Behaviour] | None = None,
        incidents: Iterable[Incident] = (),
        seed: int = 0,
    ) -> None:
        if isinstance(routers, bool) or not isinstance(routers, int) or routers < 1:
            raise ValueError(f"routers must be a whole number of 1 or more, not {routers!r}")
        self.seed = seed
        # A generator for each purpose: another strategy then meets the very same arrivals, keys and work.
        draws = random.Random(seed)
        fork = [random.Random(draws.getrandbits(64)) for _ in range(5)]
        self._route, self._fate = fork[0].random, fork[1].random
        self._arrivals, self._work = arrivals(fork[2]), service(fork[3])
        self._key = (lambda: None) if keys is None else keys(fork[4])
        self._cell = [0.0]
        self.clock: Clock = partial(self._cell.__getitem__, 0)
        self.tiers = [make_tier(self.clock, random.Random(draws.getrandbits(64))) for _ in range(routers)]
        usual, special = Behaviour() if behaviour is None else behaviour, special or {}
        ids = [replica.id for replica in self.tiers[0].replicas]
        self.servers = {id: Server(special.get(id, usual)) for id in ids}
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._turn = 0
        self._latencies = array("d")
        self._last: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._ran, self._from = False, 0  # up to which request it is warming up
        self._begun = 0.0
        self._probed_at = [math.inf] * routers
        incidents = list(incidents)
        for id in [*special, *(incident.replica for incident in incidents)]:
            if id not in self.servers:
                raise ValueError(f"there is no replica {id!r} among the members")
        for incident in incidents:
            self._at(incident.at, self._befall, incident)
        for router, tier in enumerate(self.tiers):
            tier.readiness.subscribe(partial(self._plan_probe, router))
            self._plan_probe(router)

    @property
    def now(self) -> float:
        """Virtual seconds since the start."""
        return self._cell[0]

    def run(
        self,
        requests: int,
        *,
        warm_up: float = 0.1,
        watch: Callable[[Simulation], object] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Report:
        """Let ``requests`` arrive, work them all off, and return what it amounts to. Once a simulation.

        Args:
            requests: How many arrive; fewer where the arrivals end.
            warm_up: The fraction of them at the start that the report leaves out.
            watch: Called after every event, to assert what must always hold.
            progress: Called with the requests that have arrived, about a hundred times.
        """
        if self._ran:
            raise RuntimeError("a simulation runs once: build another one for another run")
        self._ran, self._from = True, int(requests * warm_up)
        self._left, self._arrived = requests, 0
        self._arrive_next()
        heap, cell, step = self._heap, self._cell, max(1, requests // 100)
        told = 0
        while heap and (self._left or self._open):
            at, _, act, subject = heappop(heap)
            cell[0] = at
            act(subject)
            if watch is not None:
                watch(self)
            if progress is not None and self._arrived - told >= step:
                told = self._arrived
                progress(told)
        return self._report()

    # Requests

    _open = 0
    _left = 0
    _arrived = 0

    def _arrive_next(self) -> None:
        at = next(self._arrivals, None)
        if at is None or not self._left:
            self._left = 0
            return
        self._left -= 1
        self._at(at, self._arrive, None)
        self._open += 1

    def _arrive(self, _: object) -> None:
        now = self._cell[0]
        self._arrived += 1
        if self._arrived == self._from + 1:
            self._begun = now
            for server in self.servers.values():
                server.total = server.peak = 0
        tier = self.tiers[int(self._route() * len(self.tiers))]
        request = _Request(now, self._key(), self._work(), tier, self._arrived > self._from)
        self._arrive_next()
        self._counts["requests"] += request.counts
        decision = tier.decide(request.key)
        if isinstance(decision, Forward):
            self._send(request, decision)
        else:
            self._counts["refused"] += request.counts
            self._open -= 1

    def _send(self, request: _Request, forward: Forward) -> None:
        request.forward = forward
        id = forward.replica.id
        server = self.servers[id]
        behaviour = server.behaviour
        if not server.up or (behaviour.failing and self._fate() < behaviour.failing):
            self._at(self._cell[0] + behaviour.refusal, self._fail, request)
            return
        server.total += 1
        if request.key is not None:
            last = self._last.get(request.key)
            self._last[request.key] = id
            if last is not None and request.counts:
                self._counts["stayed" if last == id else "moved"] += 1
        if len(server.working) < behaviour.workers:
            self._start(server, request)
        else:
            server.line.append(request)
        server.peak = max(server.peak, server.held)

    def _start(self, server: Server, request: _Request) -> None:
        server.working[id(request)] = request
        seconds = server.seconds(request.work, request.key)
        self._at(self._cell[0] + seconds, self._done, (server, server.life, request))

    def _done(self, subject: tuple[Server, int, _Request]) -> None:
        server, life, request = subject
        if server.life != life:
            return  # it died meanwhile, and the request was failed then
        del server.working[id(request)]
        server.served += 1
        now = self._cell[0]
        if request.counts:
            self._latencies.append(now - request.arrived)
        self._open -= 1
        request.tier.finish(request.forward, Outcome.success(now - request.forward.started))
        if server.line:
            self._start(server, server.line.popleft())

    def _fail(self, request: _Request) -> None:
        forward = request.forward
        waited = self._cell[0] - forward.started
        request.tier.finish(forward, Outcome.failure("refused", waited))
        again = request.tier.retry(forward)
        if isinstance(again, Forward):
            self._counts["retried"] += request.counts
            self._send(request, again)
        else:
            self._counts["failed"] += request.counts
            self._open -= 1

    # Incidents and probes

    def _befall(self, incident: Incident) -> None:
        id = incident.replica
        match incident:
            case Become():
                self.servers[id].behaviour = incident.behaviour
            case Restart():
                if incident.grace:
                    for tier in self.tiers:
                        tier.readiness.drain(id)
                self._at(self.now + incident.grace, self._stop, id)
                self._at(self.now + incident.grace + incident.down, self._restart, id)

    def _stop(self, id: str) -> None:
        for request in self.servers[id].stop():
            self._fail(request)

    def _restart(self, id: str) -> None:
        server = self.servers[id]
        server.start()
        for tier in self.tiers:
            members = [
                self._reborn(member, server.life) if member.id == id else member for member in tier.replicas
            ]
            tier.readiness.replace(members)
            tier.readiness.undrain(id)

    @staticmethod
    def _reborn(replica: Replica, life: int) -> Replica:
        return Replica(replica.id, replica.url, replica.weight, replica.zone, f"life {life}")

    def _plan_probe(self, router: int, event: object = None) -> None:
        at = self.tiers[router].readiness.next_due()
        if at is not None and at < self._probed_at[router]:
            self._probed_at[router] = at
            self._at(max(at, self.now), self._probe, (router, at))

    def _probe(self, subject: tuple[int, float]) -> None:
        router, at = subject
        if self._probed_at[router] != at:
            return  # another one was planned before it
        self._probed_at[router] = math.inf
        tracker = self.tiers[router].readiness
        for replica in tracker.due():
            server = self.servers[replica.id]
            tracker.observe(replica, server.up and self._fate() >= server.behaviour.failing)
        self._plan_probe(router)

    def _at(self, at: float, act: Callable[[Any], None], subject: object) -> None:
        # The turn breaks ties in the order of planning, so that a run is the same every time.
        self._turn += 1
        heappush(self._heap, (at, self._turn, act, subject))

    def _report(self) -> Report:
        counts, latencies = self._counts, self._latencies
        ordered = sorted(latencies)
        served = {id: server.total for id, server in self.servers.items()}
        mean = sum(served.values()) / len(served) if served else 0.0
        keyed = counts["stayed"] + counts["moved"]
        return Report(
            requests=counts["requests"],
            answered=len(latencies),
            refused=counts["refused"],
            failed=counts["failed"],
            retried=counts["retried"],
            mean=math.fsum(latencies) / len(latencies) if latencies else 0.0,
            error=confidence(latencies),
            p50=quantile(ordered, 0.5),
            p99=quantile(ordered, 0.99),
            p999=quantile(ordered, 0.999),
            peak_to_mean=max(served.values()) / mean if mean else 0.0,
            peak_held=max([server.peak for server in self.servers.values()], default=0),
            affinity=counts["stayed"] / keyed if keyed else 1.0,
            seed=self.seed,
            seconds=self.now - self._begun,
            served=served,
            percentiles=tuple([quantile(ordered, percent / 100) for percent in range(1, 101)]),
        )
