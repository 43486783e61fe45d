"""Which numbers this room takes for a size, a time and a share. It may not know what they are for."""

from __future__ import annotations

import math

__all__ = ["not_negative", "number", "share"]


def number(name: str, value: object) -> float:
    """Return ``value`` if it is a finite number and not a bool.

    Raises:
        TypeError: It is not a number.
        ValueError: It is NaN or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    return value


def not_negative(name: str, value: object) -> float:
    """Return ``value`` if it is a finite number of at least 0."""
    checked = number(name, value)
    if checked < 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")
    return checked


def share(name: str, value: object) -> float:
    """Return ``value`` if it is a fraction from 0 to 1."""
    checked = number(name, value)
    if not 0 <= checked <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {value!r}")
    return checked
