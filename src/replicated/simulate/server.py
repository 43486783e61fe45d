"""A simulated replica: a queue before a number of workers, and what can be wrong with it.

It works off requests in the order of their coming and says how long each takes; who sends them, and when
things go wrong, is decided elsewhere.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

__all__ = ["Behaviour", "Server"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a replica serves.

    Args:
        workers: Requests that it works on at a time; the others wait in line.
        slow: By what its service times are multiplied.
        failing: The fraction of requests that it fails, within ``refusal`` seconds.
        refusal: Seconds until a refused or failed request is answered.
        memory: How many keys it holds in memory, the last used ones; 0 for none.
        miss: Seconds that a request takes on top whose key is not in its memory.
        cold: By what service times are multiplied right after a start; it falls to 1 with ``warm_after``.
        warm_after: Requests after which a start is forgotten but for 1/e.

    Raises:
        ValueError: One of them is out of its range.
    """

    workers: int = 1
    slow: float = 1.0
    failing: float = 0.0
    refusal: float = 0.001
    memory: int = 0
    miss: float = 0.0
    cold: float = 1.0
    warm_after: float = 100.0

    def __post_init__(self) -> None:
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 1:
            raise ValueError(f"workers must be a whole number of 1 or more, not {self.workers!r}")
        if not 0 <= self.failing <= 1:
            raise ValueError(f"failing must be a fraction from 0 to 1, not {self.failing!r}")
        for name in ("slow", "warm_after"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {getattr(self, name)!r}")
        for name in ("refusal", "memory", "miss"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more and finite, not {getattr(self, name)!r}")
        if not 1 <= self.cold < math.inf:
            raise ValueError(f"cold must be 1 or more and finite, not {self.cold!r}")


class Server:
    """One replica's process.

    Attributes:
        up: Whether it runs at all.
        life: How often it was started; what was in its hands in an earlier life is lost.
        line: What waits.
        working: What it works on, by identity.
        served: Requests worked off in this life.
        total: Requests taken in all lives.
        peak: The most that it ever had, waiting or worked on.
    """

    __slots__ = ("behaviour", "life", "line", "memory", "peak", "served", "total", "up", "working")

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.up = True
        self.life = 0
        self.line: deque[Any] = deque()
        self.working: dict[int, Any] = {}
        self.served = 0
        self.total = 0
        self.peak = 0
        self.memory: OrderedDict[str, None] = OrderedDict()

    @property
    def held(self) -> int:
        """How many requests are in its hands."""
        return len(self.line) + len(self.working)

    def seconds(self, work: float, key: str | None) -> float:
        """Return how long it takes for ``work`` that carries ``key``, now, and remember the key."""
        behaviour = self.behaviour
        seconds = work * behaviour.slow
        if behaviour.cold > 1:
            seconds *= 1 + (behaviour.cold - 1) * math.exp(-self.served / behaviour.warm_after)
        if behaviour.memory and key is not None:
            if key in self.memory:
                self.memory.move_to_end(key)
            else:
                seconds += behaviour.miss
                self.memory[key] = None
                if len(self.memory) > behaviour.memory:
                    self.memory.popitem(last=False)
        return seconds

    def stop(self) -> list[Any]:
        """Die, and return what was in its hands."""
        lost = [*self.working.values(), *self.line]
        self.up = False
        self.life += 1
        self.working, self.line = {}, deque()
        return lost

    def start(self) -> None:
        """Run again, cold and with nothing in memory."""
        self.up = True
        self.served = 0
        self.memory = OrderedDict()
