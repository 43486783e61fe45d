"""The hash ring: a membership and the circle of its points, changed as one.

It decides what changes there are, and that readers never see half of one. Where points lie is the layout's
business, how they are searched the circle's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

from ..errors import EmptyRing, UnknownReplica
from .arcs import Arc, Explanation, arc_at, arcs, moved, shares
from .circle import Circle
from .foreign_circles import LastCircle, NearestCircle
from .keys import Key, encoded
from .layout import Layout, Rule, Xxh3
from .slots import Slots
from .table import checked_count
from .weights import Nodes, checked_node, checked_weight, weights_of

__all__ = ["MAX_POINTS", "HashRing"]

MAX_POINTS = 8_388_608
"""What one ring may hold; Envoy's limit too."""

_CIRCLES: dict[Rule, type[Circle]] = {"next": Circle, "nearest": NearestCircle, "last": LastCircle}
_encode = str.encode  # takes no one else's `encode` for a str's, and spares the look-up of a method


class _Snapshot(NamedTuple):
    weights: dict[str, float]
    plan: dict[str, tuple[str, int]]
    circle: Circle


# What `owner` unpacks: the hash of a key, slots, the shift to them, names by number, and all the rest.
_Now: TypeAlias = tuple[Callable[[bytes], int], Slots, int, tuple[str | None, ...], _Snapshot]


class HashRing:
    """Consistent hashing on a circle of points (Karger et al., 1997).

    Adding a node moves only the keys that it takes over, removing one only the keys that it had; a change
    of weight moves keys between that node and others, never between others. (A layout of another system
    may do worse, as that system does.)

    Args:
        nodes: Names, or a mapping of name to weight. A weight may be a float; 0 drains the node.
        vnodes: Points a unit of weight; None for the layout's own number. More points even out the shares
            and cost memory: the documentation has the curve.
        layout: Where points lie and how keys are hashed. None is ``layouts.xxh3()``.

    Raises:
        TypeError: A node is not a str, or a weight is not a number.
        ValueError: A node comes twice or is empty; a weight is negative, NaN or infinite; ``vnodes`` is below
            1, or the layout fixes the number; the ring would hold more than ``MAX_POINTS`` points.
    """

    def __init__(self, nodes: Nodes = (), *, vnodes: int | None = None, layout: Layout | None = None) -> None:
        if layout is None:
            layout = Xxh3()
        if vnodes is not None:
            if not isinstance(layout, Xxh3):
                raise ValueError(f"vnodes must be None with {layout!r}, which has its own, not {vnodes!r}")
            layout = replace(layout, vnodes=vnodes)
        self._layout: Layout = layout
        self._lock = threading.Lock()
        self._swap(_Snapshot({}, {}, Circle.of(layout.bits, {})))
        self.replace(nodes)

    def owner(self, key: Key) -> str:
        """Return the node where ``key`` lives. O(1) for most keys, O(log P) with P points for the others.

        Raises:
            TypeError: ``key`` is neither str nor bytes.
            ValueError: ``key`` is a str that UTF-8 cannot encode.
            EmptyRing: No node has a weight above 0.
        """
        hash_key, slots, shift, names, snapshot = self._now
        try:
            position = hash_key(_encode(key))  # type: ignore[arg-type]  # bytes take the other way
        except (TypeError, UnicodeEncodeError):
            position = hash_key(encoded(key))
        return names[slots[position >> shift]] or snapshot.circle.owner(position)

    def owners(self, key: Key, count: int) -> list[str]:
        """Return the first ``count`` nodes of the key's preference order; fewer if there are fewer.

        Raises:
            TypeError: ``count`` is not an int, or as for ``owner``.
            ValueError: ``count`` is below 1, or as for ``owner``.
            EmptyRing: No node has a weight above 0.
        """
        hash_key, _, _, _, snapshot = self._now
        try:
            position = hash_key(_encode(key))  # type: ignore[arg-type]  # bytes take the other way
        except (TypeError, UnicodeEncodeError):
            position = hash_key(encoded(key))
        if count.__class__ is not int or count < 1:
            checked_count(count)
        if not snapshot.plan:
            raise EmptyRing("the ring has no node with a weight above zero")
        return snapshot.circle.first(position, count)

    def walk(self, key: Key) -> Iterator[str]:
        """Return the key's preference order, lazily: every node with a weight above 0 once, the owner first.

        The order of the others stays as it is when a node leaves or joins. A walk goes on over the
        membership that it began with.

        Raises:
            TypeError, ValueError, EmptyRing: As for ``owner``, at the call and not at the first step.
        """
        hash_key, _, _, _, snapshot = self._now
        position = hash_key(encoded(key))
        if not snapshot.plan:
            raise EmptyRing("the ring has no node with a weight above zero")
        return snapshot.circle.walk(position)

    def add(self, node: str, weight: float = 1) -> None:
        """Add ``node``. O(P) in copies of flat memory, one Python step a point of the node.

        Raises:
            TypeError: ``node`` is not a str, or ``weight`` is not a number.
            ValueError: ``node`` is a member already, or as for the ring itself.
        """
        checked_weight(checked_node(node), weight)
        with self._lock:
            weights = self._now[4].weights
            if node in weights:
                raise ValueError(f"node must be new, but {node!r} is a member")
            self._become({**weights, node: weight})

    def remove(self, node: str) -> None:
        """Remove ``node``: its keys go to the next of their preference orders, no other key moves.

        Raises:
            UnknownReplica: ``node`` is not a member (a LookupError).
        """
        with self._lock:
            weights = dict(self._now[4].weights)
            if weights.pop(node, None) is None:
                raise UnknownReplica(f"{node!r} is not a node of the ring")
            self._become(weights)

    def reweight(self, node: str, weight: float) -> None:
        """Give ``node`` another weight; 0 drains it.

        Raises:
            UnknownReplica: ``node`` is not a member (a LookupError).
            TypeError, ValueError: As for ``add``.
        """
        checked_weight(node, weight)
        with self._lock:
            weights = self._now[4].weights
            if node not in weights:
                raise UnknownReplica(f"{node!r} is not a node of the ring")
            self._become({**weights, node: weight})

    def replace(self, nodes: Nodes) -> None:
        """Make ``nodes`` the membership, in one swap however many come and go.

        Raises:
            TypeError, ValueError: As for the ring itself.
        """
        weights = weights_of(nodes)
        with self._lock:
            self._become(weights)

    def shares(self) -> dict[str, Fraction]:
        """Return for every node the exact part of the hash space that it owns; together they are 1. O(P)."""
        snapshot = self._now[4]
        return shares(snapshot.weights, snapshot.circle)

    def moved(self, other: HashRing) -> dict[tuple[str, str], Fraction]:
        """Return which part of the hash space changes owner when ``other`` takes this ring's place.

        Returns:
            ``(from, to)`` -> the exact part of the hash space, for every pair that it is not 0 for. O(P).

        Raises:
            TypeError: ``other`` is not a HashRing.
            ValueError: The two hash keys differently, so that no two positions are the same key's.
            EmptyRing: One of them has no node with a weight above 0.
        """
        if not isinstance(other, HashRing):
            raise TypeError(f"other must be a HashRing, not {other!r}")
        mine, theirs = self._now, other._now
        if mine[0] != theirs[0]:
            raise ValueError(f"other must hash keys as {self!r} does, not as {other!r}")
        return moved(mine[4].circle, theirs[4].circle)

    def arcs(self, node: str | None = None) -> Iterator[Arc]:
        """Return the ranges of positions that ``node`` owns, or all of them with their owners. O(P).

        The ranges are those of now. Data whose key has a ``position`` in one belongs to its node.

        Raises:
            UnknownReplica: ``node`` is not a member (a LookupError).
        """
        snapshot = self._now[4]
        if node is None:
            return arcs(snapshot.circle)
        if node not in snapshot.weights:
            raise UnknownReplica(f"{node!r} is not a node of the ring")
        return (arc for arc in arcs(snapshot.circle) if arc.node == node)

    def position(self, key: Key) -> int:
        """Return where ``key`` lies on the circle, in ``[0, 2**layout.bits)``.

        Raises:
            TypeError, ValueError: As for ``owner``.
        """
        return self._now[0](encoded(key))

    def explain(self, key: Key) -> Explanation:
        """Return why ``key`` lives where it does: its position, the arc around it, who comes next. O(P).

        Raises:
            TypeError, ValueError, EmptyRing: As for ``owner``.
        """
        hash_key, _, _, _, snapshot = self._now
        position = hash_key(encoded(key))
        if not snapshot.plan:
            raise EmptyRing("the ring has no node with a weight above zero")
        return Explanation(
            key,
            position,
            arc_at(snapshot.circle, position),
            tuple(snapshot.circle.walk(position)),
            tuple(node for node in snapshot.weights if node not in snapshot.plan),
        )

    @property
    def nodes(self) -> dict[str, float]:
        """The membership, a copy: node -> weight."""
        return dict(self._now[4].weights)

    @property
    def layout(self) -> Layout:
        """Where points lie and how keys are hashed."""
        return self._layout

    def __len__(self) -> int:
        return len(self._now[4].weights)

    def __contains__(self, node: object) -> bool:
        return node in self._now[4].weights

    def __eq__(self, other: object) -> bool:
        """Whether layout, membership and points are the same, and so every preference order."""
        if not isinstance(other, HashRing):
            return NotImplemented
        mine, theirs = self._now[4], other._now[4]
        return (
            self._layout == other._layout
            and mine.weights == theirs.weights
            and list(mine.plan.items()) == list(theirs.plan.items())
        )

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        snapshot = self._now[4]
        nodes = repr(snapshot.weights)
        if len(nodes) > 60:
            nodes = f"{len(snapshot.weights)} nodes"
        return f"<HashRing {nodes}, {len(snapshot.circle.ends)} points, {self._layout!r}>"

    def __copy__(self) -> HashRing:
        """Return a ring that changes on its own; the snapshot of now is shared. O(1)."""
        twin = object.__new__(HashRing)
        twin._layout = self._layout
        twin._lock = threading.Lock()
        twin._now = self._now
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> HashRing:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the membership and the layout, from which the points follow."""
        return _rebuilt, (self._now[4].weights, self._layout)

    def _become(self, weights: dict[str, float]) -> None:
        """Take on ``weights``; the lock is held."""
        plan = self._layout.plan(weights)
        size = sum(count for _, count in plan.values())
        if size > MAX_POINTS:
            raise ValueError(f"the ring would need {size} points, more than its limit of {MAX_POINTS}")
        circle = self._spliced(plan, size)
        if circle is None:
            points = {node: self._layout.points(*spec) for node, spec in plan.items()}
            circle = _CIRCLES[self._layout.rule].of(self._layout.bits, points)
        self._swap(_Snapshot(weights, plan, circle))

    def _spliced(self, plan: dict[str, tuple[str, int]], size: int) -> Circle | None:
        """Return the circle for ``plan`` made out of today's, or None where that is not to be had."""
        _, before, circle = self._now[4]
        if self._layout.rule != "next":
            return None  # the arcs of other rules depend on their neighbours
        changed = [node for node in before.keys() | plan.keys() if before.get(node) != plan.get(node)]
        effort = sum(before.get(node, ("", 0))[1] + plan.get(node, ("", 0))[1] for node in changed)
        # Precedence among those who stay may decide shared positions; a change of it is a new ring.
        stay = [node for node in before if node in plan]
        if 4 * effort > size or stay != [node for node in plan if node in before]:
            return None
        gone: dict[str, list[int]] = {}
        come: dict[str, list[int]] = {}
        for node in changed:
            old = self._layout.points(*before[node]) if node in before else []
            new = self._layout.points(*plan[node]) if node in plan else []
            if len(set(old)) < len(old) or len(set(new)) < len(new):
                return None  # which of two points on one position goes cannot be told by the position
            both = set(old).intersection(new)
            gone[node] = [at for at in old if at not in both]
            come[node] = [at for at in new if at not in both]
        return circle.changed(gone, come, before.keys() - plan.keys())

    def _swap(self, snapshot: _Snapshot) -> None:
        """Show ``snapshot`` to the readers.

        One attribute holds all that any of them needs, and `owner` unpacks it in one step: whoever has
        read it has one consistent state, without a lock.
        """
        circle = snapshot.circle
        hash_key = self._layout.key_hash(snapshot.weights)
        self._now: _Now = (hash_key, circle.slots, circle.shift, circle.names, snapshot)


def _rebuilt(weights: dict[str, float], layout: Layout) -> HashRing:
    return HashRing(weights, layout=layout)
