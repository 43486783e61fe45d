"""Who can serve at one instant: the immutable snapshot that strategies read.

A tuple of the replicas that are ready, which knows the membership it was taken from. Membership, readiness
and effective weights change together, under one version, by swapping one of these for another; readers take
no lock. A strategy recognises an unchanged membership by the identity of ``members``, so a readiness change
never makes it rebuild what depends on the members alone, such as a ring.

It knows nothing of why a replica is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from itertools import accumulate, compress

from ..replica import Replica
from .membership import Membership

__all__ = ["ReadySet"]

_NO_RAMP: Mapping[str, float] = {}


class ReadySet(tuple[Replica, ...]):
    """The replicas that can serve, in the order in which they joined.

    Build one from any replicas with ``ReadySet(replicas)``; a tracker builds them with
    ``ReadySet.of``. Indexing, iteration and length are the tuple's own.

    Attributes:
        members: The whole membership, ready or not. The same object as long as the membership is the same.
        version: Grows by one with every change of membership, readiness or effective weight.
        ramp: By id, the fraction of its own weight that a replica which warms up gets now, for those below 1.
        draining: Replicas that take no new session, but may go on serving those they have; not in the tuple.
        panic: Whether replicas that were judged unfit are in, because too few would be left without them.
    """

    members: Membership
    version: int
    ramp: Mapping[str, float]
    draining: tuple[Replica, ...]
    panic: bool

    def __new__(cls, replicas: Iterable[Replica] = ()) -> ReadySet:
        """Take ``replicas`` as a membership of which everyone is ready."""
        return cls.of(Membership(replicas), None, 0)

    @classmethod
    def of(
        cls,
        members: tuple[Replica, ...],
        ready_ids: Collection[str] | None,
        version: int,
        *,
        ramp: Mapping[str, float] = _NO_RAMP,
        draining: tuple[Replica, ...] = (),
        panic: bool = False,
    ) -> ReadySet:
        """Take those of ``members`` whose id is in ``ready_ids`` (None: all of them). O(n).

        ``members`` is kept when it is a ``Membership``, such as another snapshot's; else it is made one.
        """
        if not isinstance(members, Membership):
            members = Membership(members)
        if ready_ids is None:
            self = tuple.__new__(cls, members)
        else:
            self = tuple.__new__(cls, compress(members, map(ready_ids.__contains__, members.ids)))
        self.members = members
        self.version = version
        self.ramp = ramp
        self.draining = draining
        self.panic = panic
        return self

    @cached_property
    def by_id(self) -> dict[str, Replica]:
        """The replicas that can serve, by id; built once a snapshot."""
        return {replica.id: replica for replica in self}

    @cached_property
    def eligible(self) -> tuple[Replica, ...]:
        """The replicas with a weight above zero: those that a strategy may pick."""
        # Never the set itself, which would keep itself alive until the collector of cycles comes by.
        if len(self) == len(self.members) and self.members.even:
            return self.members
        return tuple(self) if self.members.even else tuple([replica for replica in self if replica.weight])

    @cached_property
    def even(self) -> bool:
        """Whether all that may be picked have the same effective weight, so that weights need no reading."""
        if self.ramp:
            return False
        return self.members.even or len({replica.weight for replica in self.eligible}) <= 1

    @cached_property
    def weights(self) -> dict[str, float]:
        """The effective weight of each that may be picked, by id: its own, or a part while it warms up."""
        ramp = self.ramp
        return {r.id: r.weight * ramp.get(r.id, 1.0) for r in self.eligible}

    @cached_property
    def total_weight(self) -> float:
        """The sum of the effective weights; summed once a snapshot, since many picks ask."""
        return math.fsum(self.weights.values())

    @cached_property
    def draw(self) -> tuple[tuple[Replica, ...], list[float] | None]:
        """``eligible``, and the running sums of their effective weights; None for those when they are even.

        All that a random pick needs, behind one look-up.
        """
        return self.eligible, None if self.even else list(accumulate(self.weights.values()))

    def weight(self, replica: Replica | str) -> float:
        """Return the effective weight of a replica: 0.0 for one that is not in the set."""
        return self.weights.get(replica if isinstance(replica, str) else replica.id, 0.0)

    def keeps(self, replica_id: str) -> Replica | None:
        """Return the replica of that id if it can serve the sessions it has: it is ready, or draining."""
        found = self.by_id.get(replica_id)
        return found or next((replica for replica in self.draining if replica.id == replica_id), None)

    def only(self, ids: Collection[str]) -> ReadySet:
        """Return the same snapshot with only the replicas named, of the same membership. O(n)."""
        return ReadySet.of(
            self.members,
            self.by_id.keys() & ids,
            self.version,
            ramp=self.ramp,
            draining=self.draining,
            panic=self.panic,
        )

    def without(self, ids: Collection[str]) -> ReadySet:
        """Return the same snapshot less the replicas named, of the same membership. O(n)."""
        return self.only(self.by_id.keys() - ids)
