"""Everyone, ready or not, and what follows from that alone: computed once a membership, not once a flip.

A flip of one replica's readiness among thousands should cost a few copies of flat memory. So what does not
depend on readiness stands here, and is carried from snapshot to snapshot by identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from ..replica import Replica

__all__ = ["Membership"]


class Membership(tuple[Replica, ...]):
    """A tuple of all replicas, in the order of joining."""

    @classmethod
    def checked(cls, replicas: Iterable[Replica]) -> Membership:
        """Return ``replicas`` as a membership. TypeError, or ValueError for an id that comes twice."""
        members, seen = cls(replicas), set[str]()
        for replica in members:
            if not isinstance(replica, Replica):
                raise TypeError(f"replicas must be of Replica, not {replica!r}")
            if replica.id in seen:
                raise ValueError(f"replicas must have ids of their own, but {replica.id!r} comes twice")
            seen.add(replica.id)
        return members

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Their ids, in the same order."""
        return tuple([replica.id for replica in self])

    @cached_property
    def even(self) -> bool:
        """Whether all have the same weight, and one above zero."""
        return all(replica.weight for replica in self) and len({replica.weight for replica in self}) <= 1
