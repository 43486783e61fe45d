"""``replicated simulate``: what a tier would do with so much traffic, under virtual time.

It decides how a question on the command line becomes a simulation, and how its report is shown. No process is
started and nothing is sent: a million requests take less than a minute.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as Grid

from ..balance import LeastLoaded, Load, PeakEwma, PowerOfTwo, RandomChoice, RingHash, RoundRobin, Strategy
from ..clock import Clock
from ..readiness import OutlierDetector, ProbePolicy, ReadinessTracker, SlowStart
from ..replica import Replica
from ..simulate import (
    Arrivals,
    Behaviour,
    Incident,
    Report,
    Restart,
    Service,
    Simulation,
    constant,
    exponential,
    lognormal,
    poisson,
    recorded,
    trace,
    zipf,
)
from ..simulate import bursts as in_bursts
from ..simulate import rolling as rolling_restart
from ..tier import Tier

__all__ = ["simulate"]

MakeStrategy = Callable[[Clock, random.Random], Strategy]


def strategies(name: str, load: str, bound: float, slack: int) -> MakeStrategy:
    """Return what makes the strategy of that name."""

    def make(clock: Clock, rng: random.Random) -> Strategy:
        busy: Load | None = PeakEwma(clock=clock) if load == "peak-ewma" else None
        match name:
            case "round-robin":
                return RoundRobin()
            case "random":
                return RandomChoice(rng=rng)
            case "least-loaded":
                return LeastLoaded(busy, rng=rng)
            case "ring-hash":
                return RingHash(bound or None, slack=slack, fallback=PowerOfTwo(busy, rng=rng))
        return PowerOfTwo(busy, rng=rng)

    return make


def numbers(path: Path) -> list[float]:
    """Read a file of numbers, one a line, in seconds.

    Raises:
        ValueError: A line is no number.
    """
    found = []
    for place, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.strip():
            try:
                found.append(float(line))
            except ValueError:
                raise ValueError(f"{path}:{place} must be a number of seconds, not {line!r}") from None
    return found


def service_of(text: str) -> Service:
    """Read ``exponential:MEAN``, ``lognormal:MEAN[:SIGMA]``, ``constant:SECONDS`` or ``@FILE``.

    Raises:
        ValueError: It is none of these.
    """
    if text.startswith("@"):
        return recorded(numbers(Path(text[1:])))
    name, *values = text.split(":")
    makers: dict[str, Callable[..., Service]] = {
        "constant": constant,
        "exponential": exponential,
        "lognormal": lognormal,
    }
    if name not in makers or not 1 <= len(values) <= (2 if name == "lognormal" else 1):
        forms = "exponential:MEAN, lognormal:MEAN:SIGMA, constant:SECONDS or @FILE"
        raise ValueError(f"service must be {forms}, not {text!r}")
    return makers[name](*[_number("service", value) for value in values])


def incident(text: str) -> tuple[str, list[float]]:
    """Read ``REPLICA=NUMBER[:NUMBER...]``.

    Raises:
        ValueError: It is not of that form.
    """
    name, equals, rest = text.rpartition("=")
    if not equals or not name:
        raise ValueError(f"a replica and its numbers must be written as r0=10, not {text!r}")
    return name, [_number(name, value) for value in rest.split(":")]


def several(name: str, text: str, form: str, least: int, most: int) -> list[float]:
    """Read numbers with colons between them.

    Raises:
        ValueError: They are not numbers, too few or too many.
    """
    values = text.split(":")
    if not least <= len(values) <= most:
        raise ValueError(f"{name} must be written as {form}, in seconds, not {text!r}")
    return [_number(name, value) for value in values]


@click.command("simulate", short_help="What a tier would do with so much traffic, under virtual time.")
@click.option("--replicas", type=click.IntRange(1), default=10, show_default=True)
@click.option(
    "--routers", type=click.IntRange(1), default=1, show_default=True, help="Tiers that decide alone."
)
@click.option("--rate", type=float, default=500.0, show_default=True, help="Requests a second, Poisson.")
@click.option(
    "--bursts",
    metavar="RATE:EVERY:LASTING",
    help="And at another rate in the first LASTING of every EVERY seconds, 2000:10:1.",
)
@click.option(
    "--trace",
    "trace_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Times of arrival instead, one a line, in seconds.",
)
@click.option(
    "--service",
    default="exponential:0.01",
    show_default=True,
    metavar="SPEC",
    help="exponential:MEAN, lognormal:MEAN:SIGMA, constant:SECONDS, or @FILE, in seconds.",
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="That a replica has.")
@click.option(
    "--strategy",
    default="power-of-two",
    show_default=True,
    type=click.Choice(["power-of-two", "round-robin", "random", "least-loaded", "ring-hash"]),
)
@click.option("--load", default="in-flight", show_default=True, type=click.Choice(["in-flight", "peak-ewma"]))
@click.option("--bound", type=float, default=1.25, show_default=True, help="Of ring-hash; 0 for none.")
@click.option("--slack", type=click.IntRange(0), default=0, show_default=True, help="Of ring-hash.")
@click.option("--keys", type=click.IntRange(0), default=0, show_default=True, help="Affinity keys; 0: none.")
@click.option("--skew", type=float, default=1.0, show_default=True, help="Zipf exponent of keys.")
@click.option("--slow", multiple=True, metavar="REPLICA=FACTOR", help="One whose work takes longer, r0=10.")
@click.option("--failing", multiple=True, metavar="REPLICA=SHARE", help="One that fails requests, r0=0.2.")
@click.option(
    "--restart", multiple=True, metavar="REPLICA=AT:DOWN[:GRACE]", help="One that restarts, r0=30:2:5."
)
@click.option(
    "--rolling", metavar="AT:EVERY:DOWN[:GRACE]", help="A restart of one replica after the other, 30:10:2:5."
)
@click.option("--slow-start", type=float, default=0.0, show_default=True, help="Seconds; 0: none.")
@click.option(
    "--probe-period", type=float, default=0.0, show_default=True, help="Seconds; 0: nobody is probed."
)
@click.option("--outliers", is_flag=True, help="Eject replicas that fail requests.")
@click.option("--requests", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same run.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the latencies into an SVG file."
)
def simulate(
    replicas: int,
    routers: int,
    rate: float,
    bursts: str | None,
    trace_file: Path | None,
    service: str,
    workers: int,
    strategy: str,
    load: str,
    bound: float,
    slack: int,
    keys: int,
    skew: float,
    slow: tuple[str, ...],
    failing: tuple[str, ...],
    restart: tuple[str, ...],
    rolling: str | None,
    slow_start: float,
    probe_period: float,
    outliers: bool,
    requests: int,
    seed: int,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Run the objects of production under virtual time, and report what clients would see.

    Replicas are named r0, r1 and so on.
    """

    def make(clock: Clock, rng: random.Random) -> Tier:
        readiness = ReadinessTracker(
            ProbePolicy(period=probe_period) if probe_period else None,
            outliers=OutlierDetector() if outliers else None,
            slow_start=SlowStart(slow_start) if slow_start else None,
            clock=clock,
            rng=rng,
        )
        members = [Replica(f"r{i}") for i in range(replicas)]
        chosen = strategies(strategy, load, bound, slack)(clock, rng)
        return Tier(members, strategy=chosen, readiness=readiness, clock=clock)

    try:
        special: dict[str, Behaviour] = {}
        for name, (factor, *_) in map(incident, slow):
            special[name] = Behaviour(workers=workers, slow=factor)
        for name, (share, *_) in map(incident, failing):
            factor = special[name].slow if name in special else 1.0
            special[name] = Behaviour(workers=workers, slow=factor, failing=share)
        arrivals: Arrivals = poisson(rate)
        if bursts is not None:
            peak, every, lasting = several("bursts", bursts, "RATE:EVERY:LASTING", 3, 3)
            arrivals = in_bursts(rate, peak, every=every, lasting=lasting)
        if trace_file is not None:
            times = numbers(trace_file)
            arrivals, requests = trace(times), min(requests, len(times))
        incidents: list[Incident] = [
            Restart(name, *_restart(times)) for name, times in map(incident, restart)
        ]
        if rolling is not None:
            at, every, *rest = several("rolling", rolling, "AT:EVERY:DOWN[:GRACE]", 3, 4)
            names = [f"r{i}" for i in range(replicas)]
            incidents += rolling_restart(
                names, at=at, every=every, **dict(zip(("down", "grace"), rest, strict=False))
            )
        simulation = Simulation(
            make,
            arrivals=arrivals,
            service=service_of(service),
            keys=zipf(keys, skew) if keys else None,
            routers=routers,
            behaviour=Behaviour(workers=workers),
            special=special,
            incidents=incidents,
            seed=seed,
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("requests", total=requests)
        report = simulation.run(requests, progress=lambda arrived: progress.update(task, completed=arrived))
    if plot is not None:
        plot.write_text(drawing(report), "utf-8")
    if as_json:
        click.echo(json.dumps(json.loads(report.to_json()), indent=1))
    else:
        show(report, Console())


def show(report: Report, console: Console) -> None:
    """Print a report as a table."""
    grid = Grid(show_header=False)
    grid.add_column()
    grid.add_column(justify="right")
    for line in report.table().splitlines()[2:]:
        grid.add_row(*[cell.strip() for cell in line.strip("|").split("|")])
    console.print(grid)


def drawing(report: Report) -> str:
    """Return the latencies by percentile as an SVG picture, milliseconds on a logarithmic scale."""
    times = [max(time, 1e-6) * 1000 for time in report.percentiles if report.answered] or [1.0]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)) + 1e-9)
    width, height, left, top = 640, 360, 70, 20

    def y(milliseconds: float) -> float:
        return top + height * (high - math.log10(milliseconds)) / max(1, high - low)

    points = " ".join(f"{left + width * i / 100:.1f},{y(time):.1f}" for i, time in enumerate(times, 1))
    text = 'font-family="sans-serif" font-size="12" fill="#555"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 30}" height="{top + height + 50}">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end" {text}>{10.0**power:g} ms</text>'
        )
    for percent in (0, 25, 50, 75, 100):
        at = left + width * percent / 100
        parts.append(f'<text x="{at}" y="{top + height + 20}" text-anchor="middle" {text}>{percent} %</text>')
    title = f"latency by percentile, {report.answered:,} answers, seed {report.seed}"
    parts.append(f'<text x="{left}" y="{top + height + 42}" {text}>{title}</text>')
    parts.append(f'<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="2"/>')
    return "\n".join([*parts, "</svg>", ""])


def _restart(times: list[float]) -> list[float]:
    if not 2 <= len(times) <= 3:
        raise ValueError("a restart must be written as r0=AT:DOWN or r0=AT:DOWN:GRACE, in seconds")
    return times


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{name} must have numbers, not {value!r}") from None
