"""The picture of a ring: who owns which part of the circle, and what a change would move.

It decides shapes, once, and writes them as SVG or, with Pillow, as PNG. It may not know of layouts or keys.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ..errors import MissingExtra
from ..ring import Arc

__all__ = ["Sector", "draw", "sectors"]

SIDE, LEGEND, ROW = 480, 300, 20
STEPS = 1440
"""Sectors a circle at most: a quarter of a degree is as fine as the picture is."""


class Sector(NamedTuple):
    """A part of the circle, in turns from the top, clockwise, and who owns it."""

    start: float
    end: float
    node: str


def sectors(arcs: Sequence[Arc], bits: int) -> list[Sector]:
    """Return the sectors of a circle of ``arcs``; of more than can be seen, those that a fine comb meets."""
    turn = 1 << bits
    if len(arcs) <= STEPS:
        return [Sector(arc.first / turn, (arc.last + 1) / turn, arc.node) for arc in arcs]
    met: list[Sector] = []
    at = 0
    for step in range(STEPS):
        middle = (2 * step + 1) * turn // (2 * STEPS)
        while arcs[at].last < middle:
            at += 1
        if met and met[-1].node == arcs[at].node:
            met[-1] = met[-1]._replace(end=(step + 1) / STEPS)
        else:
            met.append(Sector(step / STEPS, (step + 1) / STEPS, arcs[at].node))
    return met


def draw(path: Path, title: str, rings: Sequence[Sequence[Sector]], shares: Mapping[str, float]) -> None:
    """Write the picture of ``rings``, the outermost first, and a legend of ``shares``.

    Args:
        path: A file whose suffix is ``.svg`` or ``.png``.
        title: A line above it.
        rings: One circle each: a ring, and what it was before.
        shares: node -> its part, of the outermost ring.

    Raises:
        ValueError: The suffix is another one.
        MissingExtra: PNG is asked for, and Pillow is not installed.
        OSError: The file cannot be written.
    """
    nodes = sorted({sector.node for ring in rings for sector in ring} | shares.keys())
    colours = {node: _colour(number) for number, node in enumerate(nodes)}
    if path.suffix == ".svg":
        path.write_text(_svg(title, rings, shares, colours), encoding="utf-8")
    elif path.suffix == ".png":
        _png(path, title, rings, shares, colours)
    else:
        raise ValueError(f"the picture must be an .svg or a .png, not {path.name!r}")


def _colour(number: int) -> str:
    # Steps of the golden angle keep neighbours apart however many nodes there are.
    red, green, blue = colorsys.hls_to_rgb(number * 0.6180339887 % 1, 0.42 + 0.16 * (number % 2), 0.62)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _band(number: int) -> tuple[float, float]:
    """The outer and the inner radius of a ring."""
    return 200 - 60 * number, 150 - 60 * number


def _rows(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    """The lines of the legend, the largest share first; what does not fit is summed up."""
    rows = sorted(shares.items(), key=lambda row: (-row[1], row[0]))
    most = (SIDE - 60) // ROW
    if len(rows) > most:
        rest = rows[most - 1 :]
        rows = [*rows[: most - 1], (f"and {len(rest)} more", sum(share for _, share in rest))]
    return rows


def _svg(
    title: str,
    rings: Sequence[Sequence[Sector]],
    shares: Mapping[str, float],
    colours: Mapping[str, str],
) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE + LEGEND} {SIDE}" '
        f'font-family="sans-serif" font-size="13"><title>{escape(title)}</title>'
        f'<rect width="{SIDE + LEGEND}" height="{SIDE}" fill="#fff"/>'
        f'<text x="16" y="24" font-size="15">{escape(title)}</text>'
    ]
    for number, ring in enumerate(rings):
        outer, inner = _band(number)
        for sector in ring:
            # A whole circle has no two ends to draw between, so it comes in two halves.
            cuts = [sector.start, sector.end]
            if sector.end - sector.start > 0.5:
                cuts.insert(1, (sector.start + sector.end) / 2)
            for start, end in pairwise(cuts):
                shape = (
                    f"M{_point(start, outer)}A{outer} {outer} 0 0 1 {_point(end, outer)}"
                    f"L{_point(end, inner)}A{inner} {inner} 0 0 0 {_point(start, inner)}Z"
                )
                name = f"<title>{escape(sector.node)}</title>"
                parts.append(f'<path d="{shape}" fill="{colours[sector.node]}">{name}</path>')
    for row, (node, share) in enumerate(_rows(shares)):
        y = 60 + row * ROW
        colour = colours.get(node, "#999")
        parts.append(f'<rect x="{SIDE}" y="{y - 11}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{SIDE + 20}" y="{y}">{escape(node)}</text>')
        parts.append(f'<text x="{SIDE + LEGEND - 16}" y="{y}" text-anchor="end">{share:.2%}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _point(turn: float, radius: float) -> str:
    angle = 2 * math.pi * turn
    return f"{SIDE / 2 + radius * math.sin(angle):.2f} {SIDE / 2 + 10 - radius * math.cos(angle):.2f}"


def _png(
    path: Path,
    title: str,
    rings: Sequence[Sequence[Sector]],
    shares: Mapping[str, float],
    colours: Mapping[str, str],
) -> None:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise MissingExtra("a PNG picture", "plot") from None
    scale = 2  # for screens that show two dots where a length says one
    image = Image.new("RGB", ((SIDE + LEGEND) * scale, SIDE * scale), "#fff")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(13 * scale)
    pen.text((16 * scale, 10 * scale), title, "#000", font)
    x, y = SIDE * scale / 2, (SIDE / 2 + 10) * scale
    for number, ring in enumerate(rings):
        outer, inner = (radius * scale for radius in _band(number))
        for sector in ring:
            start, end = (turn * 360 - 90 for turn in (sector.start, sector.end))
            pen.pieslice((x - outer, y - outer, x + outer, y + outer), start, end, colours[sector.node])
        pen.ellipse((x - inner, y - inner, x + inner, y + inner), "#fff")
    for row, (node, share) in enumerate(_rows(shares)):
        top = (49 + row * ROW) * scale
        pen.rectangle((SIDE * scale, top, (SIDE + 12) * scale, top + 12 * scale), colours.get(node, "#999"))
        pen.text(((SIDE + 20) * scale, top - 2 * scale), node, "#000", font)
        text = f"{share:.2%}"
        right = (SIDE + LEGEND - 16) * scale - pen.textlength(text, font)
        pen.text((right, top - 2 * scale), text, "#000", font)
    image.save(path)
