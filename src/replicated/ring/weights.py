"""What a membership is: names, each with a weight; and which ones are refused.

It may not know what a weight means to a table, only that 0 is "none of the keys" and that NaN is nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TypeAlias

__all__ = ["Nodes", "checked_node", "checked_weight", "weights_of", "whole"]

Nodes: TypeAlias = Iterable[str] | Mapping[str, float]
"""Names, all of weight 1, or a mapping of name to weight."""


def checked_node(node: str) -> str:
    """Return ``node`` if it can be the name of one.

    Raises:
        TypeError: It is not a str.
        ValueError: It is empty, or UTF-8 cannot encode it.
    """
    if not isinstance(node, str):
        raise TypeError(f"node must be a str, not {node!r}")
    if not node:
        raise ValueError("node must not be empty: its name is what is hashed")
    try:
        node.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"node must be text that UTF-8 can encode, not {node!r}") from error
    return node


def checked_weight(node: str, weight: float) -> float:
    """Return ``weight`` if it can be one.

    Raises:
        TypeError: It is not a number; a bool is none.
        ValueError: It is negative, NaN or infinite.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise TypeError(f"weight of {node!r} must be a number, not {weight!r}")
    if not 0 <= weight <= sys.float_info.max:  # an int can be too large as well
        raise ValueError(f"weight of {node!r} must be finite and not negative, not {weight!r}")
    return weight


def weights_of(nodes: Nodes) -> dict[str, float]:
    """Return the membership that ``nodes`` describes, in the order given.

    Raises:
        TypeError: ``nodes`` is one str, which would be a membership of its letters, or holds what is no name
            or no weight.
        ValueError: A name comes twice, is empty or cannot be encoded; or a weight is none.
    """
    if isinstance(nodes, str | bytes):
        raise TypeError(f"nodes must be several names, not the single one {nodes!r}")
    if isinstance(nodes, Mapping):
        return {checked_node(node): checked_weight(node, weight) for node, weight in nodes.items()}
    weights: dict[str, float] = {}
    for node in nodes:
        if checked_node(node) in weights:
            raise ValueError(f"nodes must be distinct, but {node!r} comes twice")
        weights[node] = 1
    return weights


def whole(weights: Mapping[str, float], system: str) -> dict[str, int]:
    """Return the weights above 0 as ints, for a ring whose ``system`` knows no others.

    Raises:
        ValueError: A weight is not a whole number, or does not fit 32 bits.
    """
    for node, weight in weights.items():
        if weight != int(weight) or weight >= 1 << 32:
            raise ValueError(f"weight of {node!r} must be whole and below 2**32 for {system}, not {weight!r}")
    return {node: int(weight) for node, weight in weights.items() if weight}
