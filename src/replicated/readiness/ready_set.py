"""Who can serve at one instant: the immutable snapshot that strategies read.

A tuple of the replicas that are ready, which knows the membership it was taken from. Membership and
readiness change together, under one version, by swapping one of these for another; readers take no lock.
A strategy recognises an unchanged membership by the identity of ``members``, so a readiness change never
makes it rebuild what depends on the members alone, such as a ring.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property

from ..replica import Replica

__all__ = ["ReadySet"]


class ReadySet(tuple[Replica, ...]):
    """The replicas that can serve, in the order in which they joined.

    Build one from any replicas with ``ReadySet(replicas)``; a tracker builds them with
    ``ReadySet.of``. Indexing, iteration and length are the tuple's own.

    Attributes:
        members: The whole membership, ready or not. The same object as long as the membership is the same.
        version: Grows by one with every change of membership or readiness.
    """

    members: tuple[Replica, ...]
    version: int

    def __new__(cls, replicas: Iterable[Replica] = ()) -> ReadySet:
        """Take ``replicas`` as a membership of which everyone is ready."""
        return cls.of(tuple(replicas), None, 0)

    @classmethod
    def of(cls, members: tuple[Replica, ...], ready_ids: Collection[str] | None, version: int) -> ReadySet:
        """Take those of ``members`` whose id is in ``ready_ids`` (None: all of them)."""
        ready = members if ready_ids is None else [r for r in members if r.id in ready_ids]
        self = tuple.__new__(cls, ready)
        self.members = members
        self.version = version
        return self

    @cached_property
    def by_id(self) -> dict[str, Replica]:
        """The replicas that can serve, by id; built once a snapshot."""
        return {replica.id: replica for replica in self}

    def without(self, ids: Collection[str]) -> ReadySet:
        """Return the same snapshot less the replicas named, of the same membership. O(n)."""
        return ReadySet.of(self.members, self.by_id.keys() - ids, self.version)
