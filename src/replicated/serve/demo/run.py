"""``replicated demo``: starts the three tiers, proves the pattern step by step, prints what it measured."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..certificates import self_signed
from ..supervisor import Supervisor
from .steps import STEPS, Fact, Stage
from .topology import Topology

__all__ = ["demo"]

PICTURE = """\
client ─TLS─► edge (1): terminates TLS, hashes on the path
                └─► cache (2): throttles by client and path, keeps pages
                      └─► application (3): probed; a session stays on one"""


async def demo(console: Console, *, host: str = "127.0.0.1", keep: bool = False) -> int:
    """Run the demo; return 0 when every fact holds, else 1.

    Args:
        console: Where to print.
        host: Where everything listens.
        keep: Leave it running at the end, until interrupted.
    """
    began = time.perf_counter()
    console.print(PICTURE, highlight=False)
    with tempfile.TemporaryDirectory(prefix="replicated-") as directory:
        cert, key = self_signed([host, "localhost"], Path(directory))
        topology = Topology(cert, key, host)
        async with Supervisor(grace=5) as supervisor:
            await topology.start(supervisor)
            stage = Stage(topology, supervisor, ssl.create_default_context(cafile=str(cert)))
            facts = [await prove(console, number, stage) for number in range(len(STEPS))]
            console.print(table(facts))
            console.print(f"{time.perf_counter() - began:.0f} s in all", highlight=False)
            if keep:
                await hold(console, topology)
    return 0 if all(fact.holds for fact in facts) else 1


async def prove(console: Console, number: int, stage: Stage) -> Fact:
    """Run one step, showing that it runs and what came out."""
    step = STEPS[number]
    title = f"({number + 1}/{len(STEPS)}) {step.__name__}"
    with console.status(f"{title}: {step.__doc__}"):
        try:
            fact = await step(stage)
        except Exception as error:  # a step that cannot be carried out proves nothing
            fact = Fact(step.__name__, f"{type(error).__name__}: {error}", False)
    mark = "[green]holds[/]" if fact.holds else "[bold red]FAILS[/]"
    console.print(f"{title} {mark}: {fact.measured}", highlight=False)
    return fact


def table(facts: list[Fact]) -> Table:
    """Return what was measured, a row a fact."""
    found = Table(title="What was measured", show_lines=True)
    found.add_column("", justify="right")
    found.add_column("fact", ratio=2)
    found.add_column("measured", ratio=3)
    found.add_column("")
    for number, fact in enumerate(facts, 1):
        verdict = "[green]holds[/]" if fact.holds else "[bold red]FAILS[/]"
        found.add_row(str(number), fact.claim, fact.measured, verdict)
    return found


async def hold(console: Console, topology: Topology) -> None:
    """Print where everything listens, and wait to be interrupted."""
    for node in reversed(topology.nodes.values()):
        console.print(f"{node.name:8} {node.url}", highlight=False)
    console.print("Ctrl-C takes everything down.")
    await asyncio.Event().wait()
