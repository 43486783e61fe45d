"""How this room refuses numbers that cannot work: by name, with the value, and with what would be right."""

from __future__ import annotations

import math

__all__ = ["count", "fraction", "number", "seconds"]


def number(name: str, value: object) -> float:
    """Return ``value`` when it is a number, which a bool is not. TypeError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    return value


def seconds(name: str, value: object, *, above: bool) -> None:
    """Refuse what is no finite duration; ``above`` refuses zero as well."""
    span = number(name, value)
    if not (0 < span < math.inf or (span == 0 and not above)):
        raise ValueError(
            f"{name} must be {'above 0' if above else '0 or more'} seconds, finite, not {value!r}"
        )


def count(name: str, value: object, *, least: int) -> None:
    """Refuse what is no whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")


def fraction(name: str, value: object) -> None:
    """Refuse what is not from 0 to 1."""
    if not 0 <= number(name, value) <= 1:
        raise ValueError(f"{name} must be a fraction from 0 to 1, not {value!r}")
