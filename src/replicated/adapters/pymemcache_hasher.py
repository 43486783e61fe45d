"""A hasher for ``pymemcache.client.hash.HashClient``: our rings decide which memcached holds a key.

It decides only how a ring is spoken to as pymemcache does, one node at a time and None for nobody. It does
not import pymemcache, which calls it.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import EmptyRing, UnknownReplica
from ..ring import HashRing, Key, Layout

__all__ = ["RingHasher"]


class RingHasher:
    """What ``HashClient(servers, hasher=RingHasher)`` asks for the server of a key.

    pymemcache names a server ``host:port`` and takes it out while it is dead; its keys go to the next of
    their preference orders meanwhile, and come back when it does. With settings, hand in a partial::

        HashClient(servers, hasher=functools.partial(RingHasher, layout=layouts.libmemcached()))

    With a layout that counts a node's points from the whole membership, or its place in it, taking out a
    server moves other keys too, as it does in that system.

    Args:
        layout: Where points lie and how keys are hashed; None for the default.
        weights: By the names that pymemcache gives the servers; who is not named weighs 1.

    Raises:
        ValueError: As for a ring, when a server is added whose weight cannot be one.
    """

    def __init__(self, layout: Layout | None = None, weights: Mapping[str, float] | None = None) -> None:
        self._ring = HashRing(layout=layout)
        self._weights = dict(weights or {})

    @property
    def ring(self) -> HashRing:
        """The ring as it is, of the servers that are in."""
        return self._ring

    def add_node(self, node: str) -> None:
        """Take ``node`` in; nothing happens if it is in."""
        if node not in self._ring:
            self._ring.add(node, self._weights.get(node, 1))

    def remove_node(self, node: str) -> None:
        """Take ``node`` out.

        Raises:
            ValueError: It is not in, as pymemcache's own hasher has it.
        """
        try:
            self._ring.remove(node)
        except UnknownReplica as error:
            raise ValueError(f"node must be in the ring to be removed, not {node!r}") from error

    def get_node(self, key: Key) -> str | None:
        """Return the server of ``key``, None if there is none.

        Raises:
            TypeError: ``key`` is neither str nor bytes.
            ValueError: ``key`` is a str that UTF-8 cannot encode.
        """
        try:
            return self._ring.owner(key)
        except EmptyRing:
            return None
