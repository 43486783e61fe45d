"""Circles by other systems' rules: HAProxy's, where the nearest point owns a position, and Varnish's.

It decides how such a circle is the same as one of arcs, so that owners, slots and shares need not know. Only
the preference order of the nearest goes its own way: both ways.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from .circle import Circle

__all__ = ["LastCircle", "NearestCircle"]


class LastCircle(Circle):
    """A circle on which the positions past the last point are that point's, instead of the first one's."""

    __slots__ = ()

    @classmethod
    def of(cls, bits: int, points: Mapping[str, Sequence[int]]) -> Circle:
        """Build the circle of ``points``, of nodes with one at least. O(P log P)."""
        plain = Circle.of(bits, points)
        ends = plain.ends[:-1] + array(plain.ends.typecode, [(1 << bits) - 1] if plain.ends else [])
        return cls(bits, ends, plain.owners, plain.names)


class NearestCircle(Circle):
    """A circle of nearest points; half-way between two, the one before owns.

    The positions nearest to a point are one arc, which ends half-way to the next point.

    Attributes:
        points: The positions of the points, ascending; ``ends`` are those of their arcs.
        point_owners: The number of every point's node.
    """

    __slots__ = ("point_owners", "points")

    points: array[int]
    point_owners: array[int]

    @classmethod
    def of(cls, bits: int, points: Mapping[str, Sequence[int]]) -> Circle:
        """Build the circle of ``points``, of nodes with one at least. O(P log P)."""
        plain = Circle.of(bits, points)
        at, owners = plain.ends, plain.owners
        after = at[1:] + at[:1]
        ends = [here + ((there - here) % (1 << bits) // 2) for here, there in zip(at, after, strict=True)]
        if at and at[0] == at[-1]:  # on one position, whose distance to itself is the whole circle
            ends[-1] = (1 << bits) - 1
        turn = 0
        if ends and ends[-1] >> bits:  # the last point's arc reaches over the end of the positions
            ends.insert(0, ends.pop() - (1 << bits))
            turn = -1
        circle = cls(bits, array(at.typecode, ends), owners[turn:] + owners[:turn], plain.names)
        circle.points, circle.point_owners = at, owners
        return circle

    def first(self, position: int, count: int) -> list[str]:
        """Return the first ``count`` of ``walk``, fewer if there are fewer."""
        return list(islice(self.walk(position), count))

    def walk(self, position: int) -> Iterator[str]:
        """Yield every node that has a point, by the distance of its nearest one.

        So the next in order is whom HAProxy picks when the ones before are down.
        """
        points, owners, size = self.points, self.point_owners, len(self.points)
        top = (1 << self.bits) - 1
        after = bisect_left(points, position)
        before = after - 1
        seen: set[int] = set()
        while len(seen) < self.live:
            if position - points[before % size] & top <= points[after % size] - position & top:
                number = owners[before % size]
                before -= 1
            else:
                number = owners[after % size]
                after += 1
            if number not in seen:
                seen.add(number)
                yield self.names[number]  # type: ignore[misc]  # a point has a name
