"""What the arcs of a circle amount to: exact shares, what a change moves, ranges for whoever moves data.

It may not know how a circle is searched. All is summed in integers over every arc, nothing is sampled, and
given out as fractions: a share of a 64-bit circle does not fit a float, and shares as floats do not sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, groupby
from operator import itemgetter, sub
from typing import NamedTuple

from ..errors import EmptyRing
from .circle import Circle
from .keys import Key

__all__ = ["Arc", "Explanation", "arc_at", "arcs", "moved", "shares"]


class Arc(NamedTuple):
    """The positions from ``first`` to ``last``, both included, which ``node`` owns."""

    first: int
    last: int
    node: str


class Explanation(NamedTuple):
    """Why a key lives where it does.

    Attributes:
        key: What was asked.
        position: Where the key lies on the circle.
        arc: The positions around it, up to the points before and after, and who owns them.
        order: The key's preference order, the owner first.
        drained: The members that own nothing.
    """

    key: Key
    position: int
    arc: Arc
    order: tuple[str, ...]
    drained: tuple[str, ...]

    def __str__(self) -> str:
        text = (
            f"{self.key!r} lies at {self.position:#x}, in the arc {self.arc.first:#x} to {self.arc.last:#x}"
            f" of {self.arc.node}"
        )
        if self.order[1:]:
            text += f"; next are {', '.join(self.order[1:])}"
        if self.drained:
            text += f"; drained: {', '.join(self.drained)}"
        return text


def arc_at(circle: Circle, position: int) -> Arc:
    """Return the arc of a single point around ``position``; there is a point. O(log P)."""
    ends = circle.ends
    place = circle.place(position)
    first = ends[place - 1] + 1 if place else 0
    last = ends[place] if place < len(ends) else (1 << circle.bits) - 1
    return Arc(first, last, circle.owner(position))


def shares(nodes: Iterable[str], circle: Circle) -> dict[str, Fraction]:
    """Return the part of ``circle`` that each of ``nodes`` owns; nothing at all if it has no point. O(P)."""
    totals = [0] * len(circle.names)
    if circle.ends:
        # An arc is as long as the way from the point before it; the first one begins past the last point.
        lengths = map(sub, circle.ends, chain((0,), circle.ends))
        for number, length in zip(circle.owners, lengths, strict=True):
            totals[number] += length
        totals[circle.owners[0]] += (1 << circle.bits) - circle.ends[-1]
    owned = dict(zip(circle.names, totals, strict=True))
    return {node: Fraction(owned.get(node, 0), 1 << circle.bits) for node in nodes}


def arcs(circle: Circle) -> Iterator[Arc]:
    """Yield the arcs of ``circle`` from position 0 on, a run of points of one node as one arc. O(P).

    The arc over the end of the positions comes in two pieces, as the first and the last.
    """
    if not circle.ends:
        return
    top = (1 << circle.bits) - 1
    points = zip(chain(circle.owners, circle.owners[:1]), chain(circle.ends, (top,)), strict=True)
    first = 0
    for number, run in groupby(points, itemgetter(0)):
        *_, (_, last) = run
        if last >= first:  # points on one position leave empty arcs
            yield Arc(first, last, circle.names[number])
            first = last + 1


def moved(before: Circle, after: Circle) -> dict[tuple[str, str], Fraction]:
    """Return the part of the positions that each pair of owners hands over.

    Both circles have the same width. O(P): the arcs of both are merged.

    Raises:
        EmptyRing: One of them has no point.
    """
    if not before.ends or not after.ends:
        raise EmptyRing("what moves is asked of a ring that has no node with a weight above zero")
    lengths: dict[tuple[str, str], int] = {}
    mine, theirs = arcs(before), arcs(after)
    a, b = next(mine), next(theirs)
    reached = 0
    while True:
        last = min(a.last, b.last)
        if a.node != b.node:
            pair = (a.node, b.node)
            lengths[pair] = lengths.get(pair, 0) + last + 1 - reached
        reached = last + 1
        if reached == 1 << before.bits:
            return {pair: Fraction(length, reached) for pair, length in lengths.items()}
        if a.last == last:
            a = next(mine)
        if b.last == last:
            b = next(theirs)
