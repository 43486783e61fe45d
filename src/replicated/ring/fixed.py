"""What the tables that are built once have in common: membership, equality, pickling.

Maglev, rendezvous and jump hash keep no state that a change could save, so a change of membership is another
table, and the caller swaps one reference. It decides nothing about where a key lives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, Self

from ..errors import EmptyRing
from .keys import Key, encoded
from .table import checked_count
from .weights import Nodes, weights_of

__all__ = ["FixedTable"]


class FixedTable(ABC):
    """A table that never changes; one with other nodes is another one.

    Args:
        nodes: Names, or a mapping of name to weight; 0 drains a node.

    Raises:
        TypeError: A node is not a str, or a weight is not a number.
        ValueError: A node comes twice or is empty; a weight is negative, NaN or infinite.
    """

    def __init__(self, nodes: Nodes = ()) -> None:
        self._weights = weights_of(nodes)

    @abstractmethod
    def owner(self, key: Key) -> str:
        """Return the node where ``key`` lives."""

    @abstractmethod
    def walk(self, key: Key) -> Iterator[str]:
        """Return the key's preference order, lazily: every node with a weight above 0 once."""

    def owners(self, key: Key, count: int) -> list[str]:
        """Return the first ``count`` nodes of the key's preference order; fewer if there are fewer."""
        return list(islice(self.walk(key), checked_count(count)))

    @property
    def nodes(self) -> dict[str, float]:
        """The membership, a copy: node -> weight."""
        return dict(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __contains__(self, node: object) -> bool:
        return node in self._weights

    def _identity(self) -> tuple[Any, ...]:
        """What the mapping depends on, besides the class; the arguments that build the table again."""
        return (dict(sorted(self._weights.items())),)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(frozenset(self._weights.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._identity()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        nodes = repr(self._weights)
        return f"<{type(self).__name__} {nodes if len(nodes) <= 60 else f'{len(self)} nodes'}>"

    def _peer(self, other: object) -> Self:
        """Return ``other`` as a table of this class, of which what moves can be told."""
        if not isinstance(other, type(self)):
            raise TypeError(f"other must be a {type(self).__name__}, not {other!r}")
        if not any(self._weights.values()) or not any(other._weights.values()):
            raise self._empty()
        return other

    def _data(self, key: Key) -> bytes:
        """Return the bytes of ``key``, if there is a node that may own it."""
        data = encoded(key)
        if not any(self._weights.values()):
            raise self._empty()
        return data

    def _empty(self) -> EmptyRing:
        return EmptyRing("the table has no node with a weight above zero")
