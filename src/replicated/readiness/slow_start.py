"""How much of its weight a replica gets that became ready a while ago.

A curve and nothing else: when it became ready is known elsewhere, and what a weight does is for strategies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .arguments import count, number

__all__ = ["SlowStart"]


@dataclass(frozen=True, slots=True)
class SlowStart:
    """Ramp up a replica that became ready, so that a cold one is not met by its whole share at once.

    The fraction after ``t`` seconds is ``max(minimum, (t / window) ** (1 / aggression))``: Envoy's formula,
    with its defaults for the last two. It moves in ``steps`` equal steps of time, each one new ready set.

    Args:
        window: Seconds until the full weight.
        aggression: 1 ramps linearly; more gives more, sooner.
        minimum: The fraction at the start; above 0, since a replica without traffic never warms up.
        steps: Steps a window.

    Raises:
        ValueError: One of them is out of its range.
    """

    window: float = 30.0
    aggression: float = 1.0
    minimum: float = 0.1
    steps: int = 20

    def __post_init__(self) -> None:
        for name in ("window", "aggression"):
            if not 0 < number(name, getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {getattr(self, name)!r}")
        if not 0 < number("minimum", self.minimum) <= 1:
            raise ValueError(f"minimum must be a fraction above 0 and at most 1, not {self.minimum!r}")
        count("steps", self.steps, least=1)

    @property
    def step(self) -> float:
        """Seconds from one step to the next."""
        return self.window / self.steps

    def fraction(self, age: float) -> float:
        """Return the fraction of its weight that a replica gets ``age`` seconds after it became ready."""
        # The epsilon puts an age of a whole number of steps on its step, whatever float made of it.
        done = math.floor(age / self.step + 1e-9)
        if done >= self.steps:
            return 1.0
        risen: float = (max(done, 0) / self.steps) ** (1 / self.aggression)
        return max(self.minimum, risen)
