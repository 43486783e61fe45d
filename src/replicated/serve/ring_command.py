"""``replicated ring``: who owns what under any layout, where keys live, and what a change would move.

It decides how a question on the command line becomes tables, and how their answers are shown. Nothing is
asked of a running service: the answer follows from names and weights.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table as Grid

from ..ring import HashRing, JumpHash, Maglev, Rendezvous, layouts
from .ring_picture import Sector, draw, sectors

__all__ = ["ring"]

TABLES: dict[str, Callable[..., Any]] = {
    "jump": JumpHash,
    "maglev": Maglev,
    "rendezvous": Rendezvous,
}
AnyTable = HashRing | JumpHash | Maglev | Rendezvous


def parse_nodes(values: Iterable[str]) -> dict[str, float]:
    """Read ``NAME`` and ``NAME=WEIGHT``; a name may hold an equals sign if a weight follows.

    Raises:
        ValueError: A weight is no number, or a name comes twice.
    """
    nodes: dict[str, float] = {}
    for value in values:
        name, equals, weight = value.rpartition("=")
        if not equals:
            name, weight = value, "1"
        if name in nodes:
            raise ValueError(f"node {name!r} comes twice")
        try:
            nodes[name] = float(weight)
        except ValueError:
            raise ValueError(f"weight of {name!r} must be a number, not {weight!r}") from None
    return nodes


def maker(spec: str, vnodes: int | None) -> Callable[[Mapping[str, float]], AnyTable]:
    """Return what makes the table that ``NAME`` or ``NAME:setting=value,…`` names.

    Raises:
        ValueError: There is no such layout or table, it has no such setting, or a value cannot be one.
    """
    name, _, rest = spec.partition(":")
    settings = {}
    for pair in filter(None, rest.split(",")):
        setting, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"settings must be name=value, not {pair!r}")
        settings[setting] = _value(value)
    known = [*layouts.__all__, *TABLES]
    if name not in known:
        raise ValueError(f"layout must be one of {', '.join(sorted(known))}, not {name!r}")
    kind = TABLES.get(name) or getattr(layouts, name)
    allowed = [one for one in inspect.signature(kind).parameters if one not in ("nodes", "ids")]
    for setting in settings:
        if setting not in allowed:
            raise ValueError(f"{name} has no setting {setting!r}, it has {', '.join(allowed) or 'none'}")
    if name in TABLES:
        if vnodes is not None:
            raise ValueError(f"{name} has no virtual nodes")
        return lambda nodes: kind(nodes, **settings)
    layout = kind(**settings)
    return lambda nodes: HashRing(nodes, vnodes=vnodes, layout=layout)


def _value(text: str) -> int | bool | str:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isascii() and text.isdigit() else text


@click.command("ring", short_help="Shares, moves and owners of a ring, for any layout.")
@click.argument("nodes", metavar="NODE[=WEIGHT]...", nargs=-1, required=True)
@click.option(
    "--layout",
    "spec",
    default="xxh3",
    show_default=True,
    metavar="NAME[:SETTING=VALUE,...]",
    help=f"A layout ({', '.join(layouts.__all__)}) or a table ({', '.join(TABLES)}). "
    "Nodes are taken in the order given.",
)
@click.option("--vnodes", type=int, help="Virtual nodes a unit of weight, of the default layout.")
@click.option(
    "--add", metavar="NODE[=WEIGHT]", multiple=True, help="Show what adding it would move, or a new weight."
)
@click.option("--remove", metavar="NODE", multiple=True, help="Show what removing it would move.")
@click.option("--key", "keys", multiple=True, help="Show where it lives, and where next.")
@click.option("--count", type=click.IntRange(1), default=3, show_default=True, help="Nodes shown a key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every share as an exact fraction.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Draw the circle into an .svg or .png; with a change, the circle before inside.",
)
def ring(
    nodes: tuple[str, ...],
    spec: str,
    vnodes: int | None,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    keys: tuple[str, ...],
    count: int,
    as_json: bool,
    plot: Path | None,
) -> None:
    r"""Show who owns what of the hash space, where keys live, and what a change would move.

    Shares and moves are exact, summed over the circle and not sampled. Examples:

    \b
      replicated ring a b c --add d --key user:42
      replicated ring 10.0.0.1:80 10.0.0.2:80=2 --layout nginx
      replicated ring a b c --layout maglev:size=1009 --plot ring.svg
    """
    try:
        make = maker(spec, vnodes)
        members = parse_nodes(nodes)
        before = make(members)
        after = before
        if add or remove:
            changed = {**members, **parse_nodes(add)}
            for name in remove:
                if name not in members:
                    raise ValueError(f"node {name!r} cannot be removed, it is not one")
                del changed[name]
            after = make(changed)
        report = report_of(before, after, keys, count)
        if plot is not None:
            picture(plot, spec, before, after)
    except (ValueError, LookupError, ImportError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        show(report, Console())


def report_of(before: AnyTable, after: AnyTable, keys: Iterable[str], count: int) -> dict[str, Any]:
    """Return all that is shown, as JSON has it: fractions as text, and as floats beside."""
    report: dict[str, Any] = {"nodes": _shares(before)}
    if after is not before:
        report["after"] = _shares(after)
        moved: dict[tuple[str, str], Fraction] = before.moved(after)  # type: ignore[arg-type]
        report["moved"] = [
            {"from": source, "to": target, **_part(part)}
            for (source, target), part in sorted(moved.items(), key=lambda move: (-move[1], move[0]))
        ]
        report["moved_total"] = _part(sum(moved.values(), Fraction()))
    report["keys"] = [
        {"key": key, "owners": before.owners(key, count)}
        | ({"after": after.owners(key, count)} if after is not before else {})
        for key in keys
    ]
    return report


def _shares(table: AnyTable) -> list[dict[str, Any]]:
    shares = table.shares()
    return [{"node": node, "weight": weight, **_part(shares[node])} for node, weight in table.nodes.items()]


def _part(part: Fraction) -> dict[str, Any]:
    return {"part": float(part), "exact": str(part)}


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print ``report`` as tables."""
    grid = Grid("node", title="Shares of the hash space", title_justify="left")
    grid.add_column("weight", justify="right")
    grid.add_column("share", justify="right")
    grid.add_column("after", justify="right")
    after = {row["node"]: row["part"] for row in report.get("after", [])}
    weights = {row["node"]: row["weight"] for row in [*report["nodes"], *report.get("after", [])]}
    shares = {row["node"]: row["part"] for row in report["nodes"]}
    for node, weight in weights.items():
        grid.add_row(node, f"{weight:g}", _percent(shares.get(node)), _percent(after.get(node)))
    if not after:
        grid.columns.pop()
    console.print(grid)
    if "moved" in report:
        moves = Grid("from", "to", title="What would move", title_justify="left")
        moves.add_column("part", justify="right")
        for move in report["moved"]:
            moves.add_row(move["from"], move["to"], _percent(move["part"]))
        moves.add_section()
        moves.add_row("all", "", _percent(report["moved_total"]["part"]))
        console.print(moves)
    if report["keys"]:
        lives = Grid("key", "owner, and next", title="Where keys live", title_justify="left")
        if "after" in report["keys"][0]:
            lives.add_column("after")
        for row in report["keys"]:
            lives.add_row(row["key"], *(", ".join(row[side]) for side in ("owners", "after") if side in row))
        console.print(lives)


def _percent(part: float | None) -> str:
    return "" if part is None else f"{part:.3%}"


def picture(path: Path, title: str, before: AnyTable, after: AnyTable) -> None:
    """Draw ``after``, and ``before`` inside it where it is another one."""
    tables = [after] if after is before else [after, before]
    shares = {node: float(share) for node, share in after.shares().items()}
    draw(path, title, [_circle(table) for table in tables], shares)


def _circle(table: AnyTable) -> list[Sector]:
    if isinstance(table, HashRing):
        return sectors(list(table.arcs()), table.layout.bits)
    met: list[Sector] = []
    at = 0.0
    for node, share in table.shares().items():  # no circle: the shares side by side
        met.append(Sector(at, at + float(share), node))
        at += float(share)
    return met
