"""``replicated up``: a stack file in, its processes running until a signal says otherwise."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from ..supervisor import Supervisor
from .keeper import Keeper
from .stack import Stack, read_stack

__all__ = ["up"]


@click.command(short_help="A stack of tiers on this machine, as a file says it.")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False), default="stack.toml")
@click.option("--check", is_flag=True, help="Print what would run, and run nothing.")
@click.option("--quiet", is_flag=True, help="Do not print what the replicas print.")
def up(file: Path, check: bool, quiet: bool) -> None:
    """Run the tiers of a stack FILE, stack.toml by default, and keep them running.

    A replica that ends is started again. SIGHUP reads the file again and changes what runs, one replica
    at a time and without a lost request; SIGUSR2 replaces every replica so, for new code. SIGTERM and
    Ctrl-C end everything from the front to the back; a second one at once.
    """
    stack = load(file)
    if check:
        for tier in stack.tiers.values():
            command = " ".join(tier.command or ("replicated serve", *tier.flags))
            for number in range(1, tier.replicas + 1):
                name, url = tier.numbered(number)
                click.echo(f"{name:<9} {url:<23} {command}")
        return
    with tempfile.TemporaryDirectory(prefix="replicated-up-") as directory:
        asyncio.run(run(file, stack, Path(directory), None if quiet else echo))


def load(file: Path) -> Stack:
    """Read a stack file; what is wrong with it is one line."""
    try:
        return read_stack(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{file}: {error}") from None


def echo(name: str, line: str) -> None:
    click.echo(f"{name:<10} | {line}")


def say(line: str) -> None:
    click.echo(f"replicated: {line}", err=True)


async def run(file: Path, stack: Stack, directory: Path, on_line: Callable[[str, str], None] | None) -> None:
    """Run a stack until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    changes: set[asyncio.Task[None]] = set()

    async with Supervisor(on_line=on_line, directory=file.resolve().parent) as supervisor:
        keeper = Keeper(stack, supervisor, directory, say)

        def begin(read: Callable[[], Stack | None]) -> None:
            task = asyncio.create_task(change(keeper, read))
            changes.add(task)
            task.add_done_callback(changes.discard)

        def stop() -> None:
            if stopping.is_set():
                keeper.kill()
            stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, begin, lambda: load(file))
        loop.add_signal_handler(signal.SIGUSR2, begin, lambda: None)
        keeper.start()
        for tier in stack.tiers.values():
            urls = [tier.numbered(number)[1] for number in range(1, tier.replicas + 1)]
            say(f"{tier.name} listens at {', '.join(urls)}")
        try:
            await stopping.wait()
            for task in changes:
                task.cancel()
            await asyncio.gather(*changes, return_exceptions=True)
            say("stopping from the front to the back; a second signal stops at once")
            await keeper.stop()
        finally:
            keeper.kill()


async def change(keeper: Keeper, read: Callable[[], Stack | None]) -> None:
    """Make the change that a signal asked for: to what the file says now, or to the same anew."""
    try:
        stack = read()
    except click.ClickException as error:
        say(f"{error.format_message()}; nothing changes")
        return
    made = await (keeper.roll() if stack is None else keeper.change(stack))
    say("the change is made" if made else "the change ends here; what is left runs as before")
