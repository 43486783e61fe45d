"""How a benchmark measures here: interleaved rounds, medians, ratios; a table to read and JSON to keep.

It may not know what it measures. The machine is shared and its clock drifts, so absolute figures only give
the order of magnitude: every contender runs once in every round, in a shuffled order, and what is compared
are the medians over the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

__all__ = ["by_itself", "emit", "interleaved", "per_call", "put", "simulated", "table"]


def interleaved(
    contenders: Mapping[str, Callable[[], object]], rounds: int = 7, *, floor: str | None = None
) -> dict[str, float]:
    """Return the median seconds that each contender takes, every one of them run once a round.

    With ``floor``, one of the contenders, the others' are the median of their ratio to it in the same round,
    times its own median: a machine that changes its pace between rounds then changes no ratio.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            run = contenders[name]
            gc.collect()
            gc.disable()
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
            gc.enable()
    medians = {name: statistics.median(times) for name, times in taken.items()}
    if floor is None:
        return medians
    return {
        name: medians[floor] * statistics.median([t / f for t, f in zip(times, taken[floor], strict=True)])
        for name, times in taken.items()
    }


def per_call(call: Callable[[Any], object], arguments: list[Any]) -> Callable[[], None]:
    """Return a contender that makes one call an argument, in a plain loop as a user's code would."""

    def run() -> None:
        for argument in arguments:
            call(argument)

    return by_itself(run)


def by_itself(run: Callable[[], None]) -> Callable[[], None]:
    """Return a contender whose loop is its own.

    CPython specialises a call site for what it calls most, and keeps that with the code object: in a loop
    that all contenders share, who ran before decides whether a Python function takes 100 or 165 ns to call.
    """
    assert isinstance(run, FunctionType)
    own = run.__code__.replace()
    return FunctionType(own, run.__globals__, run.__name__, None, run.__closure__)


def table(title: str, seconds: Mapping[str, float], *, floor: str, calls: int = 1, unit: str = "ns") -> str:
    """Return a Markdown table of the figures a call and of their ratio to ``floor``."""
    scale = {"ns": 1e9, "us": 1e6, "ms": 1e3}[unit] / calls
    rows = [f"### {title}", "", f"| | {unit} | ratio to {floor} |", "|---|---:|---:|"]
    for name, value in sorted(seconds.items(), key=lambda item: item[1]):
        rows.append(f"| {name} | {value * scale:,.1f} | {value / seconds[floor]:.2f} |")
    return "\n".join([*rows, ""])


def emit(name: str, text: str, figures: Mapping[str, object], argv: list[str] | None = None) -> None:
    """Print the tables, and write what was measured as JSON where ``--json FILE`` says."""
    parser = argparse.ArgumentParser(description=f"benchmark: {name}")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options, _ = parser.parse_known_args(argv)
    print(text)
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine()}
        options.json.write_text(json.dumps({"name": name, **machine, "figures": figures}, indent=1) + "\n")


def put(page: Path, parts: Mapping[str, str]) -> None:
    """Put each text into a page of the documentation, between the two comments ``<!-- name -->`` of its name.

    Raises:
        ValueError: The page has no such place; nothing is written.
    """
    text = page.read_text("utf-8")
    for name, part in parts.items():
        mark = f"<!-- {name} -->"
        placed = f"{mark}\n\n{part.strip()}\n\n{mark}"
        text, places = re.subn(f"{mark}.*?{mark}", lambda _, placed=placed: placed, text, flags=re.DOTALL)
        if places != 1:
            raise ValueError(f"{page.name} must have one place between two {mark}, not {places}")
    page.write_text(text, "utf-8")


def simulated(script: str, table: Callable[[int, int], str], page: Path, name: str, requests: int) -> None:
    """Print what ``table(requests, seed)`` returns, and put it into a page where ``--write`` says so."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--requests", type=int, default=requests)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"put the table into {page.name}")
    options = parser.parse_args()
    note = f"`{script} --requests {options.requests} --seed {options.seed}`"
    text = f"{table(options.requests, options.seed).rstrip()}\n\n{note}"
    print(text)
    if options.write:
        put(page, {name: text})
