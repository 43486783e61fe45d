"""The throttle that replicas share, against EVALSHA of an empty script over the same client.

One caller, threads, and coroutines, each by one client; a decision and a bare EVALSHA of one key in turn.

    python benchmarks/bench_redis_throttle.py [--json FILE] [--write]

With ``--write`` the table is put into the page on the throttle.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from measure import emit, interleaved, put
from redis.backoff import NoBackoff
from redis.retry import Retry

from replicated.adapters.redis_throttle import AsyncRedisThrottle, RedisThrottle

PAGE = Path(__file__).parents[1] / "docs" / "throttle.md"
CALLS = 320
LIMITS: dict[str, tuple[int, int]] = {
    "owes nothing": (10**6, 10**9),
    "owes": (1, 10**6),
    "is refused": (1, 1),
}
FLOOR = "EVALSHA of an empty script"


@contextmanager
def server() -> Iterator[str]:
    """A server of one's own; yields its socket."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        raise SystemExit("neither valkey-server nor redis-server is installed")
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/s"
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--dir", directory]
        with subprocess.Popen([program, *options], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                next(line for line in process.stdout if "ready to accept" in line.lower())
                yield path
            finally:
                process.kill()


def by_threads(ask: Callable[[str], object], callers: int) -> Callable[[], None]:
    """A contender in which so many threads ask."""

    def each(name: str) -> None:
        for _ in range(CALLS // callers):
            ask(name)

    def run() -> None:
        threads = [threading.Thread(target=each, args=(f"client-{number}",)) for number in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run if callers > 1 else lambda: each("client-0")


def by_tasks(loop: asyncio.AbstractEventLoop, ask: Callable[[str], Any], callers: int) -> Callable[[], None]:
    """A contender in which so many coroutines ask."""

    async def each(name: str) -> None:
        for _ in range(CALLS // callers):
            await ask(name)

    async def all_of_them() -> None:
        await asyncio.gather(*(each(f"client-{number}") for number in range(callers)))

    return lambda: loop.run_until_complete(all_of_them())


def measured(path: str) -> dict[str, dict[str, float]]:
    """Seconds of ``CALLS`` decisions, for each kind of callers."""
    plain = redis.Redis(unix_socket_path=path, socket_timeout=5, retry=Retry(NoBackoff(), 0))
    later = redis.asyncio.Redis(unix_socket_path=path, socket_timeout=None, retry=Retry(NoBackoff(), 0))
    nothing = plain.script_load("return 0")
    loop = asyncio.new_event_loop()
    asked: dict[str, Callable[[str], Any]] = {FLOOR: lambda key: plain.evalsha(nothing, 1, key)}
    awaited: dict[str, Callable[[str], Any]] = {FLOOR: lambda key: later.evalsha(nothing, 1, key)}
    for name, limit in LIMITS.items():
        asked[name] = RedisThrottle(plain, *limit, prefix=f"{name}:").take
        awaited[name] = AsyncRedisThrottle(later, *limit, prefix=f"{name}:", deadline=5).take
    found = {}
    for callers in (1, 4):
        contenders = {name: by_threads(ask, callers) for name, ask in asked.items()}
        found[f"{callers} thread{'s' * (callers > 1)}"] = interleaved(contenders, rounds=25, floor=FLOOR)
    for callers in (1, 16):
        contenders = {name: by_tasks(loop, ask, callers) for name, ask in awaited.items()}
        found[f"{callers} coroutine{'s' * (callers > 1)}"] = interleaved(contenders, rounds=25, floor=FLOOR)
    loop.run_until_complete(later.aclose())
    loop.close()
    plain.close()
    return found


def main() -> None:
    """Measure, print, and write where asked to."""
    with server() as path:
        figures = measured(path)
    titles = " | ".join(f"a key that {name}" for name in LIMITS)
    rows = [
        "### Decisions a second by a server, as a part of what EVALSHA of an empty script reaches",
        "",
        f"| | {FLOOR}, us | {titles} |",
        "|---" + "|---:" * (1 + len(LIMITS)) + "|",
    ]
    for callers, taken in figures.items():
        parts = " | ".join(f"{taken[FLOOR] / taken[name]:.0%}" for name in LIMITS)
        rows.append(f"| {callers} | {taken[FLOOR] / CALLS * 1e6:.0f} | {parts} |")
    text = "\n".join([*rows, ""])
    emit("redis_throttle", text, figures, sys.argv[1:])
    if "--write" in sys.argv[1:]:
        put(PAGE, {"server": text})


if __name__ == "__main__":
    main()
