"""What went through a tier, counted: answers by status and by their time, attempts by replica.

Counts, and decides nothing. One event loop counts, so that there is no lock.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

from ..balance import Strategy
from ..clock import Clock, monotonic
from ..http.fields import find
from ..http.message import Handler, Request, Response
from ..outcome import Outcome, Verdict
from ..replica import Replica
from .exposition import Family

__all__ = ["Traffic"]

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: those of Prometheus's own clients, and two below them: a hit takes less than a millisecond."""


class Traffic:
    """The counters of one tier.

    Attributes:
        statuses: Answers by status.
        hits: Answers out of the cache.
        in_flight: Attempts by replica that have not ended.
        attempts: Attempts by replica and by who was to blame for their end.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        self.clock = clock
        self.statuses: Counter[int] = Counter()
        self.hits = 0
        self.times = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.in_flight: Counter[str] = Counter()
        self.attempts: Counter[tuple[str, Verdict]] = Counter()

    def handler(self, inner: Handler) -> Handler:
        """Return a handler that counts the answers of another one."""

        def handle(request: Request) -> Awaitable[Response]:
            began = self.clock()
            answering = inner(request)
            if isinstance(answering, Response):
                return self.counted(answering, began)
            return later(answering, began)

        async def later(answering: Awaitable[Response], began: float) -> Response:
            return self.counted(await answering, began)

        return handle

    def counted(self, response: Response, began: float) -> Response:
        """Count an answer to what was asked at ``began``."""
        taken = self.clock() - began
        self.seconds += taken
        self.times[bisect_left(BOUNDS, taken)] += 1
        self.statuses[response.status] += 1
        said = find(response.headers, b"cache-status")
        if said is not None and b"; hit" in said:
            self.hits += 1
        return response

    def strategy(self, inner: Strategy) -> Strategy:
        """Return a strategy that counts the attempts of another one."""
        return Counted(inner, self)

    def families(self, replicas: Sequence[Replica]) -> Iterator[Family]:
        """Return the figures; those of replicas that have left, and have nothing in flight, are forgotten."""
        names = {replica.id for replica in replicas}
        for name in {name for name, _ in self.attempts} - names:
            if not self.in_flight[name]:
                del self.in_flight[name]
                for verdict in Verdict:
                    self.attempts.pop((name, verdict), None)
        yield Family(
            "replicated_responses_total",
            "counter",
            "Answers, by status.",
            [({"code": str(status)}, count) for status, count in sorted(self.statuses.items())],
        )
        counts = list(itertools.accumulate(self.times))
        buckets = zip((*(f"{bound:g}" for bound in BOUNDS), "+Inf"), counts, strict=True)
        yield Family(
            "replicated_response_seconds",
            "histogram",
            "From a request's head to its answer's.",
            [
                *(({"": "_bucket", "le": bound}, count) for bound, count in buckets),
                ({"": "_sum"}, self.seconds),
                ({"": "_count"}, counts[-1]),
            ],
        )
        yield Family("replicated_cache_hits_total", "counter", "Answers out of the cache.", [({}, self.hits)])
        yield Family(
            "replicated_attempts_in_flight",
            "gauge",
            "Attempts under way, by replica.",
            [({"replica": name}, self.in_flight[name]) for name in sorted(names | set(self.in_flight))],
        )
        yield Family(
            "replicated_attempts_total",
            "counter",
            "Attempts that have ended, by replica and by who was to blame.",
            [
                ({"replica": name, "verdict": verdict.value}, count)
                for (name, verdict), count in sorted(
                    self.attempts.items(), key=lambda item: (item[0][0], item[0][1].value)
                )
            ],
        )


class Counted:
    """A strategy that counts on the way."""

    def __init__(self, inner: Strategy, traffic: Traffic) -> None:
        self.inner = inner
        self.traffic = traffic
        self.pick: Any = inner.pick  # the very same, marks and all

    def started(self, replica: Replica) -> None:
        """Count an attempt."""
        self.inner.started(replica)
        self.traffic.in_flight[replica.id] += 1

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Count its end."""
        self.traffic.in_flight[replica.id] -= 1
        self.traffic.attempts[replica.id, outcome.verdict] += 1
        self.inner.finished(replica, outcome)

    def __repr__(self) -> str:
        return repr(self.inner)
