"""The pairs and the values of a store, as views: what is seen of live entries without using them."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .store import Cache

__all__ = ["Items", "Values"]

K = TypeVar("K")
V = TypeVar("V")


class Items(ItemsView[K, V]):
    """The live pairs."""

    _mapping: Cache[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return ((entry.key, entry.value) for entry in self._mapping._entries())


class Values(ValuesView[V]):
    """The live values."""

    _mapping: Cache[Any, V]

    def __iter__(self) -> Iterator[V]:
        return (entry.value for entry in self._mapping._entries())
