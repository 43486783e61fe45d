"""The exact slot table: which node owns a whole slice of the circle, where one arc covers it.

It may not know how points came about. The circle is cut into 2**k equal slots, so a hash finds its slot with
one shift. A slot that lies inside a single arc holds the number of the arc's owner. A slot that holds a point
holds 0, and the search falls to bisection: the answers are those of bisection, always.

Why: bisection over n points makes log2(n) comparisons, each of which boxes an int and, in a large ring,
misses the processor's cache; at 1,000 nodes that is ten times the cost of the hash itself. With 12 to 24
slots a point no more than 8 % of the keys meet a slot that holds a point. A slot takes one byte up to 255
nodes and two up to 65,535, so that the table stays in the cache. The table of single bytes is a ``bytes``,
which CPython indexes in half the time that an ``array`` takes.

Tried and rejected: a slot as a pointer to the name (8 bytes a slot; at 1,000 nodes half as fast, for the
cache misses); the top bits alone, without a fall-back (not exact); bisection between bounds taken from an
index of the top bits (exact, but two look-ups and still three comparisons a key).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import chain
from operator import mul, sub
from typing import TypeAlias

__all__ = ["MAX_WIDTH", "SLOTS_A_POINT", "Slots", "painted", "repainted"]

Slots: TypeAlias = "bytes | array[int]"
"""The number of every slot's owner, or 0."""

SLOTS_A_POINT = 12
"""At least; the next power of two makes it up to twice as many."""

MAX_WIDTH = 24
"""Bits that choose the slot, at most: past a million points memory counts more than a cache miss."""


def painted(ends: array[int], owners: array[int], bits: int) -> tuple[Slots, int]:
    """Return the slot table over the arcs that end at ``ends``, and the shift from a hash to its slot.

    O(slots), in C but for one Python step a point.

    Args:
        ends: The last position of every arc, ascending; equal ones make empty arcs.
        owners: The number of every arc's owner, at least 1. The table has the same item type.
        bits: Positions lie in ``[0, 2**bits)``.
    """
    if not ends:
        return b"\0", bits
    width = min((SLOTS_A_POINT * len(ends) - 1).bit_length(), MAX_WIDTH, bits)
    shift = bits - width
    cells = [end >> shift for end in ends]
    # An arc owns the slots behind its predecessor's, up to its own end's; what lies past the last point
    # belongs to the first. Joining bytes keeps the run lengths in C.
    gaps = map(sub, cells, chain((-1,), cells))
    units = {owner: array(owners.typecode, [owner]).tobytes() for owner in set(owners)}
    runs = map(mul, map(units.__getitem__, owners), gaps)
    tail = units[owners[0]] * ((1 << width) - 1 - cells[-1])
    slots = array(owners.typecode, b"".join(chain(runs, (tail,))))
    for cell in cells:
        slots[cell] = 0
    return _frozen(slots), shift


def repainted(slots: Slots, shift: int, ends: array[int], owners: array[int], arcs: Iterable[int]) -> Slots:
    """Return ``slots`` with ``arcs``, given by their place in ``ends``, painted anew.

    A copy, and O(slots of the arcs). A change of membership repaints as many arcs as points came or went.
    """
    slots = array(owners.typecode, slots)
    for arc in arcs:
        # The slots of both points fall back; those between them have one owner. Before the first point and
        # past the last it is one arc in two pieces.
        first, last = ends[arc - 1] >> shift, ends[arc] >> shift
        unit = array(owners.typecode, [owners[arc]])
        if arc:
            if first + 1 < last:
                slots[first + 1 : last] = unit * (last - first - 1)
        else:
            slots[first + 1 :] = unit * (len(slots) - first - 1)
            slots[:last] = unit * last
        slots[first] = slots[last] = 0
    return _frozen(slots)


def _frozen(slots: array[int]) -> Slots:
    return slots.tobytes() if slots.itemsize == 1 else slots
