"""What it takes to choose who serves next: the interface of a strategy, and how a function is one.

The contract stands here, and no choice is made here. A strategy is not told why a replica is not ready, and
never asks whether one is: whoever is in the ready set can serve.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar, cast, runtime_checkable

from ..outcome import Outcome
from ..replica import Replica

__all__ = ["Key", "Pick", "Strategy", "as_strategy", "faithful", "is_faithful", "is_untimed", "untimed"]

F = TypeVar("F", bound=Callable[..., object])

Key: TypeAlias = str | bytes | None
"""What a request wants to be kept together by; None, and the empty ones, mean that it does not care."""

Pick: TypeAlias = Callable[[Sequence[Replica], Key], Replica | None]
"""A strategy reduced to its choice: ``def pick(ready, key=None)``."""


@runtime_checkable
class Strategy(Protocol):
    """Chooses who serves next, and hears how it went.

    One strategy serves one tier, whose threads call it at the same time. No call blocks, and none raises over
    an empty ready set or a missing key.
    """

    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Return the one of ``ready`` to serve next, or None when none of them may.

        Args:
            ready: The replicas that can serve, in the order in which they joined: a ``ReadySet``, whose
                identity and whose ``members`` may be used to keep what was computed from them, or any
                sequence of Replica. Not to be changed.
            key: What to keep together. A strategy that has no use for it ignores it; one that has treats a
                missing key as an ordinary balancing decision and never as a constant.

        Returns:
            A replica of ``ready`` with an effective weight above 0: one of weight 0 is never picked. Among
            the others, and all else being equal, the picks are in proportion to the weights.
        """
        ...

    def started(self, replica: Replica) -> None:
        """Hear that a request goes to ``replica``: its own pick, or someone else's choice."""
        ...

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Hear how a request ended, once for every ``started``, at the end of the stream.

        The replica may have left meanwhile: what is in flight outlives a change of membership.
        """
        ...


def untimed(finished: F) -> F:
    """Mark a ``finished`` that makes nothing of latencies, so that a tier need not measure them for it.

    The mark is the function's own: whoever overrides it is told latencies again.
    """
    finished.__dict__["untimed"] = True
    return finished


def faithful(pick: F) -> F:
    """Mark a ``pick`` that cannot return who is not in the set it is given, so that nobody need look.

    The function's own, like ``untimed``: an override is looked after again.
    """
    pick.__dict__["faithful"] = True
    return pick


def is_faithful(pick: Callable[..., object]) -> bool:
    """Return whether ``pick`` is marked as one whose choice needs no look."""
    return getattr(pick, "faithful", False) is True


def is_untimed(finished: Callable[..., object]) -> bool:
    """Return whether ``finished`` is marked as one that makes nothing of latencies."""
    return getattr(finished, "untimed", False) is True


class _Function:
    """A strategy made of a pick alone, which hears nothing."""

    __slots__ = ("pick",)

    def __init__(self, pick: Pick) -> None:
        self.pick = pick

    def started(self, replica: Replica) -> None:
        pass

    @untimed
    def finished(self, replica: Replica, outcome: Outcome) -> None:
        pass

    def __repr__(self) -> str:
        return f"as_strategy({self.pick!r})"


def as_strategy(strategy: Strategy | Pick) -> Strategy:
    """Return ``strategy`` as it is, or the strategy whose ``pick`` is the function given.

    Raises:
        TypeError: It is neither; a strategy's class, rather than an instance of it, is neither.
    """
    if isinstance(strategy, type):
        raise TypeError(f"strategy must be an instance: {strategy.__name__}(), not {strategy.__name__}")
    if isinstance(strategy, Strategy):
        return strategy
    if hasattr(strategy, "pick"):
        raise TypeError(f"strategy must have pick, started and finished: {strategy!r} has only some of them")
    if not callable(strategy):
        raise TypeError(f"strategy must be a Strategy or a function (ready, key=None), not {strategy!r}")
    try:
        inspect.signature(strategy).bind((), None)
    except TypeError:
        raise TypeError(f"strategy must take (ready, key=None), which {strategy!r} does not") from None
    except ValueError:
        pass  # some builtins have no signature to look at
    return cast(Strategy, _Function(strategy))
