"""Figures as Prometheus reads them: its text format, version 0.0.4.

Knows how figures are written, and none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

__all__ = ["CONTENT_TYPE", "Family", "exposition"]

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Family(NamedTuple):
    """A figure with its values, one for each set of labels.

    Attributes:
        name: As Prometheus wants it: ``[a-z_]+``, with ``_total`` behind what only grows.
        kind: What it is.
        text: What it says, in one line.
        values: By labels; for a histogram the name's suffix is the first of the key.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    values: Iterable[tuple[Mapping[str, str], float]]


def exposition(families: Iterable[Family]) -> bytes:
    """Return families as text. A label ``""`` is no label, but what comes behind the family's name."""
    lines: list[str] = []
    for family in families:
        lines += (f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}")
        for labels, value in family.values:
            said = ",".join(f'{name}="{text.translate(ESCAPED)}"' for name, text in labels.items() if name)
            name = family.name + labels.get("", "")
            lines.append(f"{name}{{{said}}} {number(value)}" if said else f"{name} {number(value)}")
    return "\n".join([*lines, ""]).encode()


def number(value: float) -> str:
    """Return a number in full: a counter that is rounded stands still."""
    return str(int(value)) if value == int(value) else repr(value)
