"""What a table is: the contract that every ring, Maglev table, rendezvous and jump hash keeps."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Protocol, Self, runtime_checkable

from .keys import Key

__all__ = ["Table", "checked_count"]


@runtime_checkable
class Table(Protocol):
    """Maps every key to its owner and to its whole preference order.

    The mapping is a function of the membership and the parameters: the same in every process, on every
    platform, under every ``PYTHONHASHSEED``. Any number of threads may read while one changes it; a reader
    sees the membership before or after, never a mixture.

    A node of weight 0 is drained: it is remembered, and counts for ``len`` and ``in``, but owns nothing and
    is in no preference order.

    Whatever takes a key raises TypeError when it is neither str nor bytes, ValueError when it is a str that
    UTF-8 cannot encode, and EmptyRing when there is no node with a weight above 0.
    """

    @property
    def nodes(self) -> dict[str, float]:
        """The membership, a copy: node -> weight."""
        ...

    def __len__(self) -> int:
        """How many nodes there are, drained ones included."""
        ...

    def __contains__(self, node: object) -> bool:
        """Whether ``node`` is a member, drained or not."""
        ...

    def owner(self, key: Key) -> str:
        """Return the node where ``key`` lives."""
        ...

    def owners(self, key: Key, count: int) -> list[str]:
        """Return the first ``count`` nodes of the preference order; fewer if there are fewer."""
        ...

    def walk(self, key: Key) -> Iterator[str]:
        """Return the preference order, lazily: every node with a weight above 0 once, the owner first."""
        ...

    def shares(self) -> dict[str, Fraction]:
        """Return for every node the exact part of all hashes that it owns; together they are 1."""
        ...

    def moved(self, other: Self) -> dict[tuple[str, str], Fraction]:
        """Return ``(from, to)`` -> the exact part of all hashes that changes owner with ``other``."""
        ...


def checked_count(count: int) -> int:
    """Return ``count`` if it can be a number of nodes asked for.

    Raises:
        TypeError: It is not an int.
        ValueError: It is below 1.
    """
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"count must be an int, not {count!r}")
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count!r}")
    return count
