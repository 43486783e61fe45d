"""Where a read, a decision and a write are one step without a lock: on which interpreter, for which keys.

CPython with its global interpreter lock lets another thread in only where a function is called or a loop
jumps back. Statements that only subscript, compare, add and store, over locals, slots and dicts of built-in
keys, do neither: other threads see all of them or nothing. A lock would say the same on every interpreter, at
100 ns of the 250 that a take of a throttle costs, or a sixth of a common write to a cache.

That is not a promise of the language, so it is held in two ways. Tests disassemble those statements on the
interpreter that runs them and find no instruction that could let another thread in. And everywhere else (a
free-threaded build, another implementation, keys whose hash or comparison is written in Python) a lock is
taken. A trace function written in Python, as a debugger installs, is called between lines and does let others
in; a bound is exact for a program that nobody steps through.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["ATOMIC", "PLAIN", "is_plain", "locked", "one_step"]

ATOMIC: bool = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether statements without a call are one step for other threads."""
PLAIN = frozenset({str, bytes, int, float, bool, type(None)})
"""Types of keys whose hash and comparison with each other run no Python code."""


class _Guarded(Protocol):
    @property
    def _lock(self) -> Any: ...  # a threading.RLock, which is not a type


_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound=_Guarded)


def is_plain(key: Hashable) -> bool:
    """Whether hashing and comparing ``key`` runs no Python code: str, bytes, numbers, tuples of those."""
    return type(key) in PLAIN or (type(key) is tuple and all(type(part) in PLAIN for part in key))


def locked(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """Return ``method`` run under its object's ``_lock``."""

    @wraps(method)
    def run(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._lock:
            return method(self, *args, **kwargs)

    return run


def one_step(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """Return ``method``, whose last statements must be one step, with a lock where they are not."""
    return method if ATOMIC else locked(method)
