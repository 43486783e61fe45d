"""A line chart as SVG, with a logarithmic x axis: enough for the curves of the documentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

__all__ = ["lines"]

COLOURS = ["#3f51b5", "#e65100", "#2e7d32", "#6a1b9a"]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 320, 56, 44, 40


def lines(title: str, x_title: str, curves: Mapping[str, Mapping[int, float]], *, low: float) -> str:
    """Return the picture of ``curves``, name -> x -> y, over a y axis that begins at ``low``."""
    xs = sorted({x for curve in curves.values() for x in curve})
    high = max(y for curve in curves.values() for y in curve.values())
    high += (high - low) * 0.08
    right, floor = WIDTH - 20, HEIGHT - BOTTOM

    def place(x: int, y: float) -> tuple[float, float]:
        along = math.log(x / xs[0]) / math.log(xs[-1] / xs[0]) if len(xs) > 1 else 0.5
        return LEFT + along * (right - LEFT), floor - (y - low) / (high - low) * (floor - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>'
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_title)}</text>'
    ]
    for step in range(5):
        value = low + (high - low) * step / 4
        y = place(xs[0], value)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for x in xs:
        parts.append(f'<text x="{place(x, low)[0]:.1f}" y="{floor + 16}" text-anchor="middle">{x:,}</text>')
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*item) for item in sorted(curve.items())))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        label = f'<text x="{right}" y="{TOP + 14 * number}" text-anchor="end" fill="{colour}">'
        parts.append(f"{label}{escape(name)}</text>")
    return "".join([*parts, "</svg>\n"])
