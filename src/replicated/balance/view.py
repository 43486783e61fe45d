"""What a random pick needs of a ready set, taken apart once a snapshot instead of once a pick.

An attribute of a ready set costs as much as the random number that a pick is made of, so strategies keep the
parts of the snapshot that they saw last, and recognise it by identity. It chooses nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..readiness import ReadySet
from ..replica import Replica

__all__ = ["NOTHING", "View", "look"]

View: TypeAlias = tuple[ReadySet, tuple[Replica, ...], int, list[float] | None]
"""The snapshot seen, who of it may be picked, how many they are, and the running sums of their weights.

The sums are None when there are at least two to pick from and they are even: the case worth being fast in.
"""

NOTHING: View = (ReadySet(), (), 0, [])
"""Before anything was seen: nobody else has this ready set, so nothing is recognised as it."""


def look(ready: Sequence[Replica]) -> View:
    """Return the view of ``ready``. By that of a plain sequence, which may change, nothing is recognised."""
    snapshot = ready if isinstance(ready, ReadySet) else ReadySet(ready)
    candidates, sums = snapshot.draw
    if sums is None and len(candidates) < 2:
        sums = [1.0] * len(candidates)
    return snapshot, candidates, len(candidates), sums
