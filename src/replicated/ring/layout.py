"""What a layout is: where a node's points lie, and where a key is looked up. And the default one.

It decides positions and the order in which nodes win a shared one. It may not know how points are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, Protocol, TypeAlias

from .keys import xxh3

__all__ = ["DEFAULT_VNODES", "Layout", "Rule", "Xxh3"]

Rule: TypeAlias = Literal["next", "nearest", "last"]
"""Whose a position is: the next point's, the first at or after it, and past the last point the first one's;
the nearest point's; or as with "next", but past the last point that last one's."""

DEFAULT_VNODES = 384
"""Virtual nodes a unit of weight: of 10 equal nodes the busiest has 1.08 times the mean, of 100 1.14."""


class Layout(Protocol):
    """A recipe for a ring, of immutable objects that compare and pickle by value.

    Attributes:
        bits: The width of a position: 32 or 64.
        rule: Which point owns a position.
    """

    bits: ClassVar[int]
    rule: ClassVar[Rule]

    def key_hash(self, weights: Mapping[str, float]) -> Callable[[bytes], int]:
        """Return what gives the position of a key's bytes, of a ring with these members."""
        ...

    def plan(self, weights: Mapping[str, float]) -> dict[str, tuple[str, int]]:
        """Return for every node that has points its label and how many, in the order of precedence.

        The order decides who wins a position that two nodes share. Label and number together determine the
        points: a node for which both are as they were keeps its points.
        """
        ...

    def points(self, label: str, count: int) -> list[int]:
        """Return the positions of the ``count`` points of the node labelled so."""
        ...


@lru_cache(maxsize=8)
def numbered(count: int) -> tuple[bytes, ...]:
    """Return ``_0``, ``_1``, … as bytes: what tells the points of a node apart."""
    return tuple(b"_%d" % number for number in range(count))


@dataclass(frozen=True, slots=True)
class Xxh3:
    """The default layout: XXH3 of 64 bits for keys and points, a fixed number of points a unit of weight.

    Point i of a node is the hash of its name, an underscore and i in decimal. The last underscore ends the
    name, so no two points share a label, whatever the names; a name and a number side by side would
    (``a1`` and 2, ``a`` and 12). Hashing the name with seed i would spare the label, but for names of one
    to three letters XXH3 only adds the seed to the letters before it mixes, and the points of ``a1`` and
    ``a2`` would be the same set.

    Since a node's points depend on that node alone, a change moves the keys of the nodes that it names, and
    no others. Equal positions are ordered by name, so the order in which nodes came never matters.

    Args:
        vnodes: Points a unit of weight. A node with a weight above 0 has one at least.

    Raises:
        TypeError: ``vnodes`` is not an int.
        ValueError: ``vnodes`` is below 1.
    """

    vnodes: int = DEFAULT_VNODES

    bits: ClassVar[int] = 64
    rule: ClassVar[Rule] = "next"

    def __post_init__(self) -> None:
        if isinstance(self.vnodes, bool) or not isinstance(self.vnodes, int):
            raise TypeError(f"vnodes must be an int, not {self.vnodes!r}")
        if self.vnodes < 1:
            raise ValueError(f"vnodes must be at least 1, not {self.vnodes!r}")

    def key_hash(self, weights: Mapping[str, float]) -> Callable[[bytes], int]:
        """Return XXH3 of 64 bits."""
        return xxh3

    def plan(self, weights: Mapping[str, float]) -> dict[str, tuple[str, int]]:
        """Return every node with a weight above 0, by name."""
        served = sorted(node for node, weight in weights.items() if weight)
        return {node: (node, max(1, self._count(weights[node]))) for node in served}

    def _count(self, weight: float) -> int:
        # Beyond 2**53 a float is whole, and the product might be no float any more.
        return round(weight * self.vnodes) if weight < 1 << 53 else int(weight) * self.vnodes

    def points(self, label: str, count: int) -> list[int]:
        """Return the positions of ``count`` points."""
        prefix = label.encode()
        return [xxh3(prefix + suffix) for suffix in numbered(count)]
