"""What the demo proves about the running service: a function a step, a number measured from outside each.

A step drives traffic, does harm where harm is its subject, and returns a ``Fact`` that holds or does not.
Nothing here prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from ssl import SSLContext

import httpx

from ..supervisor import Supervisor
from .topology import BURST, RATE, Topology
from .visitors import Answer, Load, Visitor

__all__ = ["STEPS", "Fact", "Stage"]

PAGES = [f"/module/{name}" for name in
         ("json", "asyncio", "argparse", "collections", "email.message", "http.client", "logging", "pathlib",
          "random", "re", "sqlite3", "ssl", "statistics", "string", "tarfile", "urllib.request", "uuid",
          "zipfile", "decimal", "datetime")]  # fmt: skip


ATTEMPTS = 2000
"""Requests after which a replica that none has reached is held to be out of reach."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What one step found.

    Args:
        claim: What should be true.
        measured: What was measured, in words and numbers.
        holds: Whether it is true.
    """

    claim: str
    measured: str
    holds: bool


@dataclass(slots=True)
class Stage:
    """What the steps share: the processes, and where clients come in.

    Args:
        topology: The tiers.
        supervisor: Runs them.
        tls: What clients trust.
    """

    topology: Topology
    supervisor: Supervisor
    tls: SSLContext
    visitors: int = 0

    @contextlib.asynccontextmanager
    async def visiting(self, count: int) -> AsyncIterator[list[Visitor]]:
        """Lend ``count`` visitors whom nobody has seen before."""
        async with contextlib.AsyncExitStack() as stack:
            numbers = range(self.visitors, self.visitors + count)
            self.visitors += count
            yield [await stack.enter_async_context(Visitor(self.topology.url, self.tls, n)) for n in numbers]

    async def stats(self, name: str) -> dict[str, float]:
        """Ask an application replica itself what it has seen."""
        async with httpx.AsyncClient() as client:
            response = await client.get(f"{self.topology.nodes[name].url}/stats")
            found: dict[str, float] = response.json()
            return found

    @property
    def apps(self) -> list[str]:
        """The names of the application replicas."""
        return [node.name for node in self.topology.tier("app")]


async def readiness(stage: Stage) -> Fact:
    """Ask from the first moment on, while the indexes are still being built."""
    claim = "a replica gets no request before it is ready"
    async with stage.visiting(1) as [visitor]:
        await stage.topology.until_ready(stage.supervisor, "edge", timeout=60)
        early: list[Answer] = []
        # The edge is ready once one replica is: whoever is not yet ready must get none of this.
        while not all([(await stage.stats(name))["ready_at"] for name in stage.apps]):
            early.append(await visitor.ask(f"/search?q={len(early)}"))
            await asyncio.sleep(0.02)
        for name in stage.topology.nodes:
            await stage.topology.until_ready(stage.supervisor, name)
        await until_balanced(stage, visitor)
    seen = [await stage.stats(name) for name in stage.apps]
    building = [s["ready_at"] - s["started_at"] for s in seen]
    waited = min(s["first_request_at"] - s["ready_at"] for s in seen)
    before = sum(s["requests_before_ready"] for s in seen)
    return Fact(
        claim,
        f"alive for {min(building):.1f} to {max(building):.1f} s before ready; {before:.0f} requests in that "
        f"time, the first {waited:.2f} s after it",
        before == 0 and waited > 0,
    )


async def until_balanced(stage: Stage, visitor: Visitor) -> None:
    """Ask until every replica has answered: from then on all are ready to the tier before them."""
    missing = set(stage.apps)
    for attempt in range(ATTEMPTS):
        missing.discard((await visitor.ask(f"/search?q=warm{attempt}")).replica)
        if not missing:
            return
        await asyncio.sleep(0.01)
    raise RuntimeError(f"no request reaches {', '.join(sorted(missing))}")


async def spreading(stage: Stage) -> Fact:
    """Ask for what nobody has cached, without a session, from several addresses at once."""
    claim = "requests without a session spread over all ready replicas"
    async with stage.visiting(6) as visitors:
        batches = await asyncio.gather(
            *(ask_each(v, [f"/search?q=spread-{n}-{i}" for i in range(50)]) for n, v in enumerate(visitors))
        )
    counts = Counter(answer.replica for batch in batches for answer in batch)
    total = counts.total()
    shares = {name: counts[name] / total for name in stage.apps}
    words = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    # Each share is a third; 300 picks deviate by less than 0.17 from it in all but one of a billion runs.
    return Fact(claim, f"{total} requests: {words}", all(abs(s - 1 / 3) < 0.17 for s in shares.values()))


async def ask_each(visitor: Visitor, paths: list[str]) -> list[Answer]:
    return [await visitor.ask(path) for path in paths]


async def stickiness(stage: Stage) -> Fact:
    """Follow one visitor, by way of either cache replica, while others come and go."""
    claim = "one session stays on one replica over 200 requests"
    async with stage.visiting(4) as [visitor, *others]:
        await visitor.ask("/history?page=json", "POST")
        async with Load(others, [("GET", f"/search?q=crowd{n}") for n in range(97)]):
            answers = [await visitor.ask("/history")]
            for number in range(199):
                path = "/history" if number % 2 else f"/nowhere/{number}"
                answers.append(await visitor.ask(path))
        page = await visitor.client.get("/history")
    replicas = Counter(answer.replica for answer in answers)
    remembered = "/module/json" in page.text
    return Fact(
        claim,
        f"{len(answers)} requests, all answered by {', '.join(replicas)}; its history is "
        f"{'there' if remembered else 'lost'}",
        len(answers) == 200 and len(replicas) == 1 and "" not in replicas and remembered,
    )


async def caching(stage: Stage) -> Fact:
    """Read the same pages as several visitors, one after the other."""
    claim = "a page that was asked for before comes from the cache tier"
    async with stage.visiting(5) as [first, *others]:
        cold = await ask_each(first, PAGES)
        warm = [answer for visitor in others for answer in await ask_each(visitor, PAGES)]
    misses = [answer.seconds for answer in cold if answer.status == 200 and not answer.cached]
    hits = [answer.seconds for answer in warm if answer.status == 200 and answer.cached]
    ratio = len(hits) / len(warm)
    if not misses or not hits:
        return Fact(claim, f"{len(misses)} misses, {len(hits)} hits", False)
    uncached, cached = statistics.median(misses), statistics.median(hits)
    return Fact(
        claim,
        f"median {uncached * 1e3:.1f} ms uncached, {cached * 1e3:.1f} ms cached "
        f"({uncached / cached:.0f} x); hit ratio {ratio:.0%}",
        cached < uncached and ratio > 0.95,
    )


async def throttling(stage: Stage) -> Fact:
    """Let one client ask for one page as fast as it can; others ask for it, and it for others."""
    claim = (
        f"a client beyond {RATE}/s (burst {BURST}) gets 429 with a right Retry-After, others are not touched"
    )
    path = PAGES[0]
    async with stage.visiting(2) as [greedy, modest]:
        admitted, refused = 0, None
        began = time.perf_counter()
        while refused is None and admitted < 20 * BURST:
            batch = await asyncio.gather(*(greedy.ask(path) for _ in range(10)))
            admitted += sum(answer.status == 200 for answer in batch)
            refused = next((answer for answer in batch if answer.status == 429), None)
        allowed = BURST + RATE * (time.perf_counter() - began) + 1
        others = [await modest.ask(path), await modest.ask(path), await greedy.ask(PAGES[1])]
        if refused is None or refused.retry_after is None:
            return Fact(claim, f"{admitted} requests and never 429", False)
        await asyncio.sleep(refused.retry_after)
        after = await greedy.ask(path)
    return Fact(
        claim,
        f"429 after {admitted} requests (allowed {allowed:.0f}), Retry-After {refused.retry_after} s, then "
        f"{after.status}; others: {', '.join(str(answer.status) for answer in others)}",
        BURST <= admitted <= allowed and after.status == 200 and all(a.status == 200 for a in others),
    )


async def killing(stage: Stage) -> Fact:
    """Kill an application replica without warning, then a cache replica, under load and with sessions."""
    claim = "SIGKILL of an application and of a cache replica: no failed request, no other session moves"
    async with stage.visiting(30) as sessions, stage.visiting(6) as crowd:
        homes = [(await session.ask("/history")).replica for session in sessions]
        asked = [("GET", path) for path in PAGES] + [("GET", f"/search?q=kill{n}") for n in range(61)]
        async with Load(crowd, asked) as load:
            await asyncio.sleep(0.5)
            victim = Counter(homes).most_common(1)[0][0]
            await stage.supervisor.kill(victim)
            await asyncio.sleep(1)
            after = [(await session.ask("/history")) for session in sessions]
            await stage.supervisor.kill("cache-1")
            await asyncio.sleep(1)
            again = [(await session.ask("/history")) for session in sessions]
        for name in (victim, "cache-1"):
            await stage.supervisor.restart(name)
        for name in (victim, "cache-1"):
            await stage.topology.until_ready(stage.supervisor, name)
    stayed = [home for home in homes if home != victim]
    moved = sum(
        home != answer.replica
        for answers in (after, again)
        for home, answer in zip(homes, answers, strict=True)
        if home != victim
    )
    failed = load.failures + [answer for answer in (*after, *again) if answer.failed]
    return Fact(
        claim,
        f"{len(load.answers) + len(after) + len(again)} requests, {len(failed)} failed{first_of(failed)}; "
        f"{moved} of {len(stayed)} sessions on other replicas moved, {len(homes) - len(stayed)} lost theirs",
        not failed and not moved and bool(stayed) and "" not in homes,
    )


async def rolling(stage: Stage) -> Fact:
    """Restart the application replicas one after another, under load that also writes."""
    claim = "a rolling restart of all application replicas: no failed request"
    asked = [("GET", path) for path in PAGES] + [("GET", f"/search?q=roll{n}") for n in range(61)]
    asked += [("POST", f"/history?page={page.rpartition('/')[2]}") for page in PAGES]
    statuses = []
    began = time.perf_counter()
    async with stage.visiting(6) as crowd, Load(crowd, asked) as load:
        for name in stage.apps:
            statuses.append(await stage.supervisor.terminate(name))
            await stage.supervisor.restart(name)
            await stage.topology.until_ready(stage.supervisor, name)
            await asyncio.sleep(0.6)  # the tier before it probes every 0.25 s
    seconds = time.perf_counter() - began
    early = [await stage.stats(name) for name in stage.apps]
    unready = sum(s["requests_before_ready"] for s in early)
    return Fact(
        claim,
        f"{len(load.answers)} requests in {seconds:.0f} s, {len(load.failures)} failed"
        f"{first_of(load.failures)}; exit statuses {', '.join(map(str, statuses))}",
        not load.failures and not any(statuses) and not unready,
    )


def first_of(failures: list[Answer]) -> str:
    """Return the first failure in words, for a fact that does not hold."""
    return f" ({failures[0].path}: {failures[0].error or failures[0].status})" if failures else ""


STEPS: tuple[Callable[[Stage], Awaitable[Fact]], ...] = (
    readiness,
    spreading,
    stickiness,
    caching,
    throttling,
    killing,
    rolling,
)
