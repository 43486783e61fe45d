"""What is done in which order when a stack runs, changes, fails and ends: processes that are made up."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from replicated.serve.up import keeper as where
from replicated.serve.up.keeper import Keeper
from replicated.serve.up.stack import Stack, read_stack


class MadeUp:
    """A child that ends when it is asked to, or made to."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(self, status: int) -> None:
        if not self.ended.done():
            self.log.append(f"{self.name} ends with {status}")
            self.ended.set_result(status)

    async def wait(self) -> int:
        return await asyncio.shield(self.ended)

    async def stop(self, grace: float, number: int = signal.SIGTERM) -> int:
        self.end(-number)
        return await self.wait()

    def kill(self) -> None:
        self.end(-9)


class MadeUpSupervisor:
    """Starts what is made up; ``broken`` says what cannot be started."""

    def __init__(self) -> None:
        self.children: dict[str, MadeUp] = {}
        self.log: list[str] = []
        self.broken = False

    async def run(self, name: str, *command: str, environment: Any = None) -> MadeUp:
        if self.broken:
            raise FileNotFoundError(2, "No such file or directory")
        self.log.append(f"{name} starts {command[-1]}")
        self.children[name] = MadeUp(name, self.log)
        return self.children[name]


def stack(apps: int, word: str = "one", front: bool = True) -> Stack:
    text = f'[app]\ncommand = "run {word}"\nreplicas = {apps}\nport = 9001\n'
    return read_stack(text + ('[front]\nupstream = "app"\nport = 8001\n' if front else ""))


Story = Callable[[Keeper, MadeUpSupervisor, list[str]], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Stack, Story], None]:
    """Run a story about a keeper whose replicas can serve at once."""
    monkeypatch.setattr(where, "NOTICE", 0.0)
    monkeypatch.setattr(where, "LOOK", 0.001)
    monkeypatch.setattr(where, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(where, "PATIENCE", 0.02)

    async def ready(replica: Any) -> str | None:
        return None

    class Answered:
        """A probe by HTTP that finds what it asks for."""

        def __init__(self, path: str, *, tls: Any) -> None:
            assert tls is None

        async def __call__(self, replica: Any) -> str | None:
            return None

    monkeypatch.setattr(where, "tcp_probe", ready)
    monkeypatch.setattr(where, "HttpProbe", Answered)

    def play(first: Stack, story: Story) -> None:
        async def run() -> None:
            said: list[str] = []
            supervisor = MadeUpSupervisor()
            keeper = Keeper(first, supervisor, tmp_path, said.append)  # type: ignore[arg-type]
            keeper.start()
            await turns()
            try:
                await story(keeper, supervisor, said)
            finally:
                keeper.kill()
                await turns()

        asyncio.run(run())

    return play


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def members(keeper: Keeper, tier: str = "app") -> list[str]:
    lines = (keeper.directory / f"{tier}.members").read_text().splitlines()
    return [line.partition("=")[0] for line in lines]


def test_one_that_ends_is_started_again(play: Any) -> None:
    """Each time after a pause, which is said; also where it cannot even be started."""

    async def story(keeper: Keeper, supervisor: MadeUpSupervisor, said: list[str]) -> None:
        supervisor.children["app-1"].end(3)
        await turns()
        assert said == ["app-1 ended with 3; it is started again in 0.001 s"]
        supervisor.broken = True
        await asyncio.sleep(0.005)
        supervisor.children["app-2"].end(0)
        await asyncio.sleep(0.005)
        assert any("app-2 cannot start: No such file or directory" in line for line in said)
        supervisor.broken = False
        await asyncio.sleep(0.05)
        assert [line for line in supervisor.log if line.startswith("app-1 starts")] == [
            "app-1 starts one"
        ] * 2

    play(stack(2), story)


def test_a_roll_replaces_one_after_the_other(play: Any) -> None:
    """Each is off the list before it ends, and back on it before the next one goes."""

    async def story(keeper: Keeper, supervisor: MadeUpSupervisor, said: list[str]) -> None:
        listed: list[list[str]] = []
        retire = keeper.notice

        async def notice(name: str) -> None:
            listed.append(members(keeper, "app"))
            await retire(name)

        keeper.notice = notice  # type: ignore[method-assign]
        supervisor.log.clear()
        assert await keeper.roll()
        await turns()
        assert [line.rpartition(" ")[0] for line in supervisor.log] == [
            *("app-1 ends with", "app-1 starts", "app-2 ends with", "app-2 starts"),
            *("front-1 ends with", "front-1 starts"),
        ]
        assert listed[:4] == [["app-2"], ["app-1", "app-2"], ["app-1"], ["app-1", "app-2"]]

    play(stack(2), story)


def test_a_change_goes_from_behind_to_front(play: Any) -> None:
    """What differs is replaced, what is new is added, what is too many goes last; the rest is not touched."""

    async def story(keeper: Keeper, supervisor: MadeUpSupervisor, said: list[str]) -> None:
        supervisor.log.clear()
        assert await keeper.change(stack(3))
        assert supervisor.log == ["app-3 starts one"]
        assert members(keeper) == ["app-1", "app-2", "app-3"]
        supervisor.log.clear()
        assert await keeper.change(stack(1, "two"))
        assert supervisor.log == [
            *("app-1 ends with -15", "app-1 starts two", "app-3 ends with -15", "app-2 ends with -15"),
        ]
        assert members(keeper) == ["app-1"]
        supervisor.log.clear()
        assert await keeper.change(stack(1, "two", front=False))
        assert supervisor.log == ["front-1 ends with -15"]
        assert list(keeper.kept) == ["app"]

    play(stack(2), story)


def test_a_change_ends_where_one_cannot_serve(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not sent to, it is said, and the others stay as they are; the next change goes on from there."""

    async def never(replica: Any) -> str | None:
        return "not yet"

    async def story(keeper: Keeper, supervisor: MadeUpSupervisor, said: list[str]) -> None:
        probe = where.tcp_probe
        monkeypatch.setattr(where, "tcp_probe", never)
        assert not await keeper.change(stack(2, "two"))
        assert not await keeper.roll()
        assert said == ["app-1 cannot serve after 0.02 s"] * 2
        assert members(keeper) == ["app-2"]
        assert not await keeper.change(stack(3))
        monkeypatch.setattr(where, "tcp_probe", probe)
        assert await keeper.change(stack(2, "two"))
        assert members(keeper) == ["app-1", "app-2"]

    play(stack(2), story)


def test_all_of_it_ends_from_the_front(play: Any) -> None:
    """The tier in front is asked first; one behind it that is ours is told that nobody stands before it."""
    three = read_stack(
        '[app]\ncommand = "run"\nport = 9001\n'
        '[cache]\nupstream = "app"\nport = 9101\n[edge]\nupstream = "cache"\nport = 8001\n'
    )

    async def story(keeper: Keeper, supervisor: MadeUpSupervisor, said: list[str]) -> None:
        supervisor.log.clear()
        await keeper.stop()
        assert supervisor.log == ["edge-1 ends with -15", "cache-1 ends with -2", "app-1 ends with -15"]

    play(three, story)


def test_told_to_end_while_it_starts(play: Any) -> None:
    """It is ended as soon as it is there."""

    async def story(keeper: Keeper, supervisor: MadeUpSupervisor, said: list[str]) -> None:
        go_on = asyncio.Event()
        run = supervisor.run

        async def slowly(name: str, *command: str, environment: Any = None) -> MadeUp:
            await go_on.wait()
            return await run(name, *command)

        supervisor.run = slowly  # type: ignore[method-assign]
        new = keeper.keep(keeper.stack.tiers["app"], 7)
        await turns()
        ending = asyncio.create_task(new.end())
        await turns()
        go_on.set()
        await ending
        assert supervisor.log[-2:] == ["app-7 starts one", "app-7 ends with -15"]

    play(stack(1), story)


def test_a_tier_over_tls_is_probed_whatever_its_certificate(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made out to a name that clients know, and not to where a replica listens."""
    given: list[ssl.SSLContext | None] = []

    class Asked:
        def __init__(self, path: str, *, tls: ssl.SSLContext | None) -> None:
            given.append(tls)

        async def __call__(self, replica: Any) -> str | None:
            return None

    async def story(keeper: Keeper, supervisor: MadeUpSupervisor, said: list[str]) -> None:
        monkeypatch.setattr(where, "HttpProbe", Asked)
        assert await keeper.roll()
        plain, shown = given
        assert plain is None
        assert shown is not None
        assert (shown.verify_mode, shown.check_hostname) == (ssl.CERT_NONE, False)

    text = (
        '[app]\ncommand = "run"\nport = 9001\nprobe = "/"\n'
        '[edge]\nupstream = "app"\nport = 8001\ntls-self-signed = true\n'
    )
    play(read_stack(text), story)
