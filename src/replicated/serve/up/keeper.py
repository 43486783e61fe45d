"""Keeps the replicas of a stack running, and changes it under load so that no request is lost.

It decides when a replica is started again, and in which order a change is made: whoever is to go is taken off
the list that the tier before it reads, then asked to end; whoever comes is listed when it can serve.
How processes are started and killed, and what a stack is, is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

from ...adapters.probes import HttpProbe, Probe, tcp_probe
from ...replica import Replica
from ..supervisor import Supervisor
from .stack import Process, Stack, Tier

__all__ = ["Keeper"]

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a replica that ended is started again; they double each time."""
STEADY = 10.0
"""Seconds of running after which a replica has no past."""
NOTICE = 2.5
"""Seconds from a change of a list until whoever reads it, once a second, has probed whom it names."""
PATIENCE = 60.0
"""Seconds that a replica may take until it can serve, before a change goes on without it."""
LOOK = 0.1
"""Seconds between two looks whether it can."""


class Kept:
    """One replica, started again whenever it ends, until it is told to.

    Args:
        process: What to run.
        tier: Whose replica it is.
        supervisor: Starts it.
        say: Told in a line what happened.
    """

    def __init__(
        self, process: Process, tier: Tier, supervisor: Supervisor, say: Callable[[str], None]
    ) -> None:
        self.process = process
        self.tier = tier
        self.supervisor = supervisor
        self.say = say
        self.ending = asyncio.Event()
        self.task = asyncio.create_task(self.keep(), name=process.name)

    async def keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        name = self.process.name
        while not self.ending.is_set():
            began = loop.time()
            try:
                child = await self.supervisor.run(
                    name, *self.process.command, environment=self.process.environment
                )
            except OSError as error:
                what = f"cannot start: {error.strerror or error}"
            else:
                # Told to end while it started, it was not there to be asked.
                status = await (child.stop(0) if self.ending.is_set() else child.wait())
                what = f"ended with {status}"
            if self.ending.is_set():
                break
            if loop.time() - began > STEADY:
                pause = FIRST_PAUSE
            self.say(f"{name} {what}; it is started again in {pause:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.ending.wait()
            pause = min(2 * pause, LONGEST_PAUSE)

    async def end(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end with a signal, make it after the tier's time, and wait until it is gone."""
        self.ending.set()
        child = self.supervisor.children.get(self.process.name)
        if child is not None:
            await child.stop(self.tier.stop, number)
        await self.task

    async def serves(self) -> bool:
        """Wait until it can serve; return whether it can, in time."""
        replica = Replica(self.process.name, self.process.url)
        probe: Probe = tcp_probe
        if self.tier.probe is not None:
            probe = HttpProbe(self.tier.probe, tls=unverified() if self.tier.tls else None)
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while asyncio.get_running_loop().time() < deadline and not self.ending.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    if await probe(replica) is None:
                        return True
            await asyncio.sleep(LOOK)
        self.say(f"{self.process.name} cannot serve after {PATIENCE:g} s")
        return False


def unverified() -> ssl.SSLContext:
    """Return a context that takes any certificate: it is made out to whom its clients know a tier by, not to
    where one of its replicas listens.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Keeper:
    """The replicas of one stack.

    Args:
        stack: What is to run.
        supervisor: Starts processes; entered, and left, by whoever made it.
        directory: For the lists of members; exists, and is nobody else's.
        say: Told in a line what happened.
    """

    def __init__(
        self, stack: Stack, supervisor: Supervisor, directory: Path, say: Callable[[str], None]
    ) -> None:
        self.stack = stack
        self.supervisor = supervisor
        self.directory = directory
        self.say = say
        self.kept: dict[str, list[Kept]] = {}
        self.changing = asyncio.Lock()

    def start(self) -> None:
        """Start every replica; none waits for another: readiness is what orders them."""
        for tier in self.stack.tiers.values():
            self.kept[tier.name] = [self.keep(tier, number) for number in range(1, tier.replicas + 1)]
            self.list_members(tier.name)

    async def change(self, stack: Stack) -> bool:
        """Become another stack, from behind to front: whoever is new is there before others send to it.

        Returns:
            Whether it did. A new replica that cannot serve ends the change: what it was to replace is gone,
            and all others are left as they are.
        """
        async with self.changing:
            self.stack = stack
            for tier in stack.tiers.values():
                if not await self.grow(tier):
                    return False
            for name in reversed(self.kept.copy()):
                tier_now = stack.tiers.get(name)
                await self.shrink(name, 0 if tier_now is None else tier_now.replicas)
            return True

    async def roll(self) -> bool:
        """Replace every replica by a new one of the same kind, one at a time; return as ``change`` does."""
        async with self.changing:
            for tier in self.stack.tiers.values():
                for kept in [*self.kept[tier.name]]:
                    if not await self.replace(tier, kept):
                        return False
            return True

    async def stop(self) -> None:
        """End all of it, from the front to the back, so that nobody is left without those behind it.

        The tier in front goes on serving for its drain delay, for a balancer before it to notice. Nobody
        stands before the others any more: SIGINT is how ``replicated serve`` is told not to wait for one.
        """
        for name in reversed(self.kept.copy()):
            tier = self.stack.tiers.get(name)
            alone = tier is not None and tier.upstream is not None and self.stack.before(name)
            number = signal.SIGINT if alone else signal.SIGTERM
            await asyncio.gather(*(kept.end(number) for kept in self.kept.pop(name)))

    def kill(self) -> None:
        """End all of it at once, also while it is being stopped."""
        for tier in self.kept.values():
            for kept in tier:
                kept.ending.set()
        for child in self.supervisor.children.values():
            child.kill()

    # -- the steps of a change ---------------------------------------------------------------------------

    def keep(self, tier: Tier, number: int) -> Kept:
        process = self.stack.process(tier, number, self.directory)
        return Kept(process, tier, self.supervisor, self.say)

    def list_members(self, name: str, without: Kept | None = None) -> None:
        """Say who the replicas of a tier are, to the tiers before it."""
        members = [kept.process for kept in self.kept[name] if kept is not without]
        if not members:
            return  # a list of nobody would be taken for a mistake, rightly
        path = self.directory / f"{name}.members"
        written = path.with_suffix(".new")
        written.write_text("".join(f"{process.name}={process.url}\n" for process in members))
        os.replace(written, path)

    async def grow(self, tier: Tier) -> bool:
        """Replace the replicas of a tier that are to be run otherwise, and add those that it lacks."""
        kept = self.kept.setdefault(tier.name, [])
        for number, one in enumerate(kept[: tier.replicas], 1):
            one.tier = tier
            changed = one.process != self.stack.process(tier, number, self.directory)
            if changed and not await self.replace(tier, one):
                return False
        while len(kept) < tier.replicas:
            new = self.keep(tier, len(kept) + 1)
            kept.append(new)
            if not await new.serves():
                return False
            self.say(f"{new.process.name} serves at {new.process.url}")
            self.list_members(tier.name)
            await self.notice(tier.name)
        return True

    async def replace(self, tier: Tier, old: Kept) -> bool:
        """Put a new replica in the place of an old one, under its name."""
        kept = self.kept[tier.name]
        place = kept.index(old)
        await self.retire(tier.name, old)
        new = kept[place] = self.keep(tier, place + 1)
        if not await new.serves():
            return False
        self.say(f"{new.process.name} is replaced")
        self.list_members(tier.name)
        await self.notice(tier.name)  # else the next one would go before this one is sent to
        return True

    async def shrink(self, name: str, replicas: int) -> None:
        """End the replicas of a tier that are too many, the last first."""
        kept = self.kept[name]
        while len(kept) > replicas:
            await self.retire(name, kept[-1])
            self.say(f"{kept.pop().process.name} is gone")
        if not kept:
            del self.kept[name]

    async def retire(self, name: str, old: Kept) -> None:
        """End one replica, after those before it have stopped sending to it."""
        self.list_members(name, without=old)
        await self.notice(name)
        await old.end()

    async def notice(self, name: str) -> None:
        """Give the tiers before this one the time to act on its list."""
        if self.stack.before(name) and len(self.kept[name]) > 1:
            await asyncio.sleep(NOTICE)
