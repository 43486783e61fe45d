"""The circle: every node's points in order, as one immutable snapshot.

It decides who owns a position (the node of the first point at or after it, past the last point the first)
and in which order the others follow. It may not know of keys, weights or hash functions.

A change makes a new circle that shares nothing mutable with the old one, so a reader that holds either is
right. Positions and owners are flat arrays, ten bytes a point: a list of ints would take 44, and copying it
would touch the reference count of every one of them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from operator import le

from ..errors import EmptyRing
from .index import indexed, reindexed
from .slots import MAX_WIDTH, SLOTS_A_POINT, Slots, painted, repainted

__all__ = ["Circle"]

SLOTS_A_BUCKET = 8
"""A power of two. With 256 slots, 10 to 20 points, a change of membership need not renumber many buckets."""


class Circle:
    """Points on the positions ``[0, 2**bits)``.

    Attributes:
        bits: The width of a position.
        ends: The position of every point, ascending. A point ends the arc that its node owns.
        owners: The number of every point's node; ``names[number]`` is the node.
        names: The nodes by number. Number 0 is None, which in a slot means "unsure"; a number that a node
            has left is an empty str until another takes it.
        live: How many nodes have a point.
        slots: The slot table, see there.
        shift: What takes a position to its slot.
        index: How many points lie before each bucket of ``2**SLOTS_A_BUCKET`` slots.
    """

    __slots__ = ("bits", "ends", "index", "live", "names", "owners", "shift", "slots")

    def __init__(
        self,
        bits: int,
        ends: array[int],
        owners: array[int],
        names: tuple[str | None, ...],
        tables: tuple[Slots, int, array[int]] | None = None,
    ) -> None:
        self.bits = bits
        self.ends = ends
        self.owners = owners
        self.names = names
        self.live = len(names) - 1 - names.count("")
        self.slots: Slots
        if tables:
            self.slots, self.shift, self.index = tables
        else:
            self.slots, self.shift = painted(ends, owners, bits)
            self.index = indexed(ends, bits, min(self.shift + SLOTS_A_BUCKET, bits))

    @classmethod
    def of(cls, bits: int, points: Mapping[str, Sequence[int]]) -> Circle:
        """Build the circle of ``points``, of nodes with one at least.

        Where two lie on one position, that of the node named first wins. O(P log P) for P points.
        """
        names: tuple[str | None, ...] = (None, *points)
        code = "B" if len(names) <= 1 << 8 else "H" if len(names) <= 1 << 16 else "I"
        ats = list(chain.from_iterable(points.values()))
        numbers = array(
            code, chain.from_iterable(map(repeat, range(1, len(names)), map(len, points.values())))
        )
        # The sort is stable, so equal positions stay in the order of the nodes. As floats they compare much
        # faster than as ints of 64 bits; that two of them fall on one float the wrong way round is so rare
        # that it is only looked for.
        order = sorted(range(len(ats)), key=list(map(float, ats)).__getitem__)
        ends = list(map(ats.__getitem__, order))
        if not all(map(le, ends, islice(ends, 1, None))):
            order.sort(key=lambda place: (ats[place], place))
            ends = list(map(ats.__getitem__, order))
        owners = array(code, map(numbers.__getitem__, order))
        return cls(bits, array("I" if bits <= 32 else "Q", ends), owners, names)

    def changed(
        self,
        gone: Mapping[str, Sequence[int]],
        come: Mapping[str, Sequence[int]],
        leaving: Collection[str],
    ) -> Circle | None:
        """Return the circle without the points ``gone`` and with the points ``come``, or None.

        Args:
            gone: The points that nodes of this circle lose.
            come: The points that nodes, of this circle or new, gain.
            leaving: The nodes that lose all of theirs.

        None means that only a build from scratch is right: two of the points share a position, where the
        whole membership tells who wins, or there are more nodes than a number of this width can name; or
        that it is cheaper, since the slot table has to change its size. Otherwise it costs copies of flat
        memory and one Python step a point that changes.
        """
        changes = [(at, node, False) for node, ats in gone.items() for at in ats]
        changes += [(at, node, True) for node, ats in come.items() for at in ats]
        changes.sort()
        size = len(self.ends) + sum(map(len, come.values())) - sum(map(len, gone.values()))
        fewest = min(SLOTS_A_POINT // 2 * size, 1 << MAX_WIDTH)
        if len({at for at, _, _ in changes}) < len(changes) or not (
            fewest <= len(self.slots) <= 4 * SLOTS_A_POINT * size
        ):
            return None
        names = list(self.names)
        numbers = {name: number for number, name in enumerate(names) if name}
        free = [number for number, name in enumerate(names) if name == ""]
        for node in come.keys() - numbers.keys():
            if not free:
                free.append(len(names))
                names.append("")
            numbers[node] = free.pop()
            names[numbers[node]] = node
        for node in leaving:
            names[numbers[node]] = ""
        if len(names) > 1 << 8 * self.owners.itemsize:
            return None

        ends, owners = self.ends[:0], self.owners[:0]
        copied = 0
        for at, node, joins in changes:
            place = bisect_left(self.ends, at, copied)
            if joins and self.ends[place : place + 1].count(at):
                return None
            if not joins:  # of several on this position, the one that is this node's
                place = self.owners.index(numbers[node], place)
            ends += self.ends[copied:place]
            owners += self.owners[copied:place]
            if joins:
                ends.append(at)
                owners.append(numbers[node])
            copied = place if joins else place + 1
        ends += self.ends[copied:]
        owners += self.owners[copied:]
        arcs = {bisect_left(ends, at) % size for at, _, _ in changes}
        slots = repainted(self.slots, self.shift, ends, owners, arcs)
        index = reindexed(
            self.index,
            min(self.shift + SLOTS_A_BUCKET, self.bits),
            ((at, 1 if joins else -1) for at, _, joins in changes),
        )
        return Circle(self.bits, ends, owners, tuple(names), (slots, self.shift, index))

    def place(self, position: int) -> int:
        """Return the place of the first point at or after ``position``; their number past the last one."""
        bucket = position >> self.shift >> SLOTS_A_BUCKET
        return bisect_left(self.ends, position, self.index[bucket], self.index[bucket + 1])

    def owner(self, position: int) -> str:
        """Return the node that owns ``position``, by bisection within a bucket.

        Raises:
            EmptyRing: There is no point.
        """
        bucket = position >> self.shift >> SLOTS_A_BUCKET  # as `place`, without the call
        ends, index = self.ends, self.index
        place = bisect_left(ends, position, index[bucket], index[bucket + 1])
        if place == len(ends):
            if not place:
                raise EmptyRing("the ring has no node with a weight above zero")
            place = 0
        return self.names[self.owners[place]]  # type: ignore[return-value]  # a point has a name

    def first(self, position: int, count: int) -> list[str]:
        """Return the first ``count`` of ``walk``, fewer if there are fewer.

        For the few that are mostly asked for, a list of what was met and a slice of the points that follow
        take half the time of a generator and a set.
        """
        if count <= 8:
            place = self.place(position)
            found: list[int] = []
            for number in self.owners[place : place + 2 * count + 2]:
                if number not in found:
                    found.append(number)
                    if len(found) == count:
                        names = self.names
                        return [names[number] for number in found]  # type: ignore[misc]  # a point has a name
        return list(islice(self.walk(position), count))

    def walk(self, position: int) -> Iterator[str]:
        """Yield every node that has a point, in the order in which their points follow ``position``."""
        owners, names = self.owners, self.names
        start = self.place(position)
        seen: set[int] = set()
        for place in chain(range(start, len(owners)), range(start)):
            number = owners[place]
            if number not in seen:
                seen.add(number)
                yield names[number]  # type: ignore[misc]  # a point has a name
                if len(seen) == self.live:
                    return
