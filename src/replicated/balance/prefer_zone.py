"""What is near first, and what is far for the part that the near ones lack capacity for.

Envoy's locality rule: a zone that lost replicas gives away traffic only when the loss exceeds what was set
aside for it. Who of the chosen replicas serves is another strategy's choice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from ..outcome import Outcome
from ..readiness import ReadySet
from ..replica import Replica
from .key_fraction import key_fraction
from .power_of_two import PowerOfTwo
from .strategy import Key, Pick, Strategy, as_strategy

__all__ = ["PreferZone"]


class _Views(NamedTuple):
    ready: ReadySet
    near: ReadySet
    far: ReadySet
    share: float


class PreferZone:
    """Choose among the replicas of one zone as long as they suffice, else a proportionate part elsewhere.

    The zone keeps ``min(1, overprovision * ready weight / whole weight)`` of the traffic. A key stays on one
    side as long as that share does not change, and few keys change sides when it does.

    Args:
        zone: The ``Replica.zone`` that is near.
        strategy: Who serves of the replicas chosen; ``PowerOfTwo()`` when left out.
        overprovision: How much more than its part a replica can take; Envoy's 1.4 means that a zone which
            has lost 28 percent of its replicas still keeps all its traffic.
        rng: Where chance comes from, for requests without a key.

    Raises:
        ValueError: ``overprovision`` is below 1.
    """

    __slots__ = ("_random", "_views", "overprovision", "strategy", "zone")

    def __init__(
        self,
        zone: str,
        strategy: Strategy | Pick | None = None,
        *,
        overprovision: float = 1.4,
        rng: random.Random | None = None,
    ) -> None:
        if not 1 <= overprovision < math.inf:
            raise ValueError(f"overprovision must be 1 or more and finite, not {overprovision!r}")
        self.zone = zone
        self.strategy = PowerOfTwo() if strategy is None else as_strategy(strategy)
        self.overprovision = overprovision
        self._random = (random.Random() if rng is None else rng).random
        self._views = self._look(ReadySet())

    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return the strategy's pick of the side that the request falls on, or else of the other."""
        if not isinstance(ready, ReadySet):
            ready = ReadySet(ready)
        views = self._views
        if views.ready is not ready:
            views = self._views = self._look(ready)
        sides = (views.near, views.far)
        if views.share < 1 and (key_fraction(key, self.zone) if key else self._random()) >= views.share:
            sides = (views.far, views.near)
        first, second = sides
        return self.strategy.pick(first, key) or self.strategy.pick(second, key)

    def started(self, replica: Replica) -> None:
        """Hear that a request goes to ``replica``."""
        self.strategy.started(replica)

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Hear how one ended."""
        self.strategy.finished(replica, outcome)

    def _look(self, ready: ReadySet) -> _Views:
        near = ready.only({replica.id for replica in ready if replica.zone == self.zone})
        far = ready.only({replica.id for replica in ready if replica.zone != self.zone})
        whole = sum([replica.weight for replica in ready.members if replica.zone == self.zone])
        share = self.overprovision * near.total_weight / whole if whole else 0.0
        return _Views(ready, near, far, share)
