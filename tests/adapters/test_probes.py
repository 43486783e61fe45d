"""Probes carried out: within their deadlines, each over a connection of its own, and none left behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from replicated import ProbePolicy, ReadinessTracker, Replica
from replicated.adapters.probes import HttpProbe, ProbeLoop, tcp_probe
from replicated.testing import ManualClock

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await main()

    return asyncio.run(bounded())


def tracker(*, clock: Any = None, **options: Any) -> ReadinessTracker:
    policy = ProbePolicy(**{"period": 0.01, "timeout": 1.0, "failure_threshold": 1, "jitter": 0.0, **options})
    return ReadinessTracker(policy) if clock is None else ReadinessTracker(policy, clock=clock)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (OK, None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 5\r\n\r\n", None),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n", "status 503"),
        (b"garbage\r\n\r\n", "not HTTP/1.1"),
        (b"", "lost before the response"),
    ],
)
def test_what_an_answer_means(scripted: Any, answer: bytes, failure: str | None) -> None:
    """2xx and 3xx are ready, all else is not, and the body is not waited for."""

    async def main() -> None:
        seen = []

        async def play(peer: Any) -> None:
            seen.append(await peer.request())
            await peer.send(answer)
            if answer:
                await peer.gone()

        async with scripted(play) as replica:
            result = await HttpProbe("/ready?x", host="app")(replica.replica())
            assert result is None if failure is None else failure in str(result)
            assert seen[0].startswith(b"GET /ready?x HTTP/1.1\r\nhost: app\r\n")
            await replica.quiet()

    run(main)


def test_every_probe_has_a_connection_of_its_own(scripted: Any, answers: Any) -> None:
    """A listener that is gone would not be noticed over a connection kept alive."""

    async def main() -> None:
        probe = HttpProbe()
        async with scripted(answers(OK)) as replica:
            for _ in range(3):
                assert await probe(replica.replica()) is None
            assert replica.accepted == 3
            await replica.quiet()

    run(main)


def test_an_accepted_connection_is_enough_for_tcp(scripted: Any, nowhere: str) -> None:
    """Who accepts is ready, who does not is not."""

    async def main() -> None:
        async def play(peer: Any) -> None:
            await peer.gone()

        async with scripted(play) as replica:
            assert await tcp_probe(replica.replica()) is None
            await replica.quiet()
        assert await tcp_probe(Replica("a", nowhere)) is not None

    run(main)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "readyz"}, "path must .*'readyz'"),
        ({"path": "/a b"}, "path must"),
        ({"path": "/a\r\n"}, "path must"),
        ({"path": "/\u00e9"}, "path must"),
        ({"host": "a\r\nb"}, "host must"),
        ({"host": ""}, "host must"),
    ],
)
def test_a_probe_that_cannot_be_sent_is_refused(options: dict[str, str], message: str) -> None:
    """A path or a host that would not stay on its line is a ValueError."""
    with pytest.raises(ValueError, match=message):
        HttpProbe(**options)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_a_loop_makes_replicas_ready_and_unready() -> None:
    """What a probe returns or raises reaches the tracker, also of who joins while the loop runs."""

    async def main() -> None:
        down: dict[str, Any] = {}

        async def probe(replica: Replica) -> str | None:
            if isinstance(down.get(replica.id), Exception):
                raise down[replica.id]
            return down.get(replica.id)

        known = tracker()
        async with ProbeLoop(known, probe) as loop:
            known.add(Replica("a"))
            known.add(Replica("b"))
            loop.wake()
            await until(lambda: len(known.ready) == 2)
            down["a"] = "busy"
            await until(lambda: [r.id for r in known.ready] == ["b"])
            assert "busy" in str(known.explain("a"))
            down["b"] = RuntimeError("oh")
            await until(lambda: not known.ready)
            assert "RuntimeError: oh" in str(known.explain("b"))
            down.clear()
            await until(lambda: len(known.ready) == 2)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_a_probe_has_its_time() -> None:
    """No answer within the timeout is a failure; probes under way end with the loop."""

    async def main() -> None:
        async def hang(replica: Replica) -> str | None:
            await asyncio.Event().wait()
            return None

        known = tracker(timeout=0.02)
        known.add(Replica("a"))
        async with ProbeLoop(known, hang):
            await until(lambda: "no answer within 0.02 s" in str(known.explain("a")))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_a_stalled_loop_blames_nobody() -> None:
    """A deadline that passed while this very loop was held up says nothing about the replica."""

    async def main() -> None:
        ticks = itertools.count(0.0, 100.0)  # each look at the clock is 100 s later than the last one

        async def hang(replica: Replica) -> str | None:
            await asyncio.Event().wait()
            return None

        clock = ManualClock()
        known = tracker(clock=clock, timeout=0.02)
        known.add(Replica("a"))
        probes = ProbeLoop(known, hang, clock=lambda: next(ticks))
        await probes.slots.acquire()
        await probes.one(Replica("a"))
        assert "no answer" not in str(known.explain("a"))
        assert probes.slots._value == 64

    run(main)


def test_no_more_probes_at_once_than_allowed() -> None:
    """A thousand replicas are probed a few at a time."""

    async def main() -> None:
        running = most = done = 0

        async def probe(replica: Replica) -> str | None:
            nonlocal running, most, done
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            done += 1
            return None

        known = tracker()
        for n in range(50):
            known.add(Replica(str(n)))
        async with ProbeLoop(known, probe, concurrency=3):
            await until(lambda: done > 200)
        assert most == 3

    run(main)


def test_who_leaves_during_a_probe_is_no_trouble() -> None:
    """The late answer of one who has left is dropped."""

    async def main() -> None:
        asked = asyncio.Event()
        go_on = asyncio.Event()
        answered = asyncio.Event()

        async def probe(replica: Replica) -> str | None:
            asked.set()
            await go_on.wait()
            answered.set()
            return None

        known = tracker()
        known.add(Replica("a"))
        async with ProbeLoop(known, probe) as loop:
            await asked.wait()
            known.remove("a")
            go_on.set()
            await answered.wait()
            await until(lambda: not loop.under_way)
            assert known.members == ()

    run(main)


def test_a_loop_that_cannot_probe_is_refused() -> None:
    """A loop needs a policy, and room for a probe."""
    with pytest.raises(ValueError, match="tracker must have a ProbePolicy"):
        ProbeLoop(ReadinessTracker(), tcp_probe)
    for value in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match=f"concurrency must be .*{value}"):
            ProbeLoop(tracker(), tcp_probe, concurrency=value)  # type: ignore[arg-type]
