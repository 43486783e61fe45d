"""How adapters refuse times that cannot work: by name, with the value, and with what would be right."""

from __future__ import annotations

import math

__all__ = ["seconds_above_zero"]


def seconds_above_zero(**numbers: object) -> None:
    """Refuse what is no finite number of seconds above zero, by its name."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{name} must be a number of seconds, not {number!r}")
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be seconds above zero, not {number!r}")
