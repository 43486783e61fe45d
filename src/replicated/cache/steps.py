"""Where statements without a call are one step for other threads: on which interpreter, for which keys.

CPython with its global interpreter lock lets another thread in only where a function is called or a loop
jumps back. Statements that only read and write locals, slots and dicts of built-in keys do neither: other
threads see all of them or nothing. A hit moves its entry in the order by such statements, and a common write
is made of them, so that neither pays for a lock, which costs a sixth of such a write.

That is not a promise of the language. A test disassembles those statements on the interpreter that runs it.
Everywhere else (a free-threaded build, another implementation) and for keys whose hash or comparison may be
Python code, there is the lock. A trace function written in Python is called between lines and does let others
in: do not step through this room with a debugger while other threads are in it.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable

__all__ = ["ATOMIC", "PLAIN", "is_plain"]

ATOMIC: bool = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether statements without a call are one step for other threads."""

PLAIN = frozenset({str, bytes, int, float, bool, type(None)})
"""Types of keys whose hash and comparison with each other run no Python code."""


def is_plain(key: Hashable) -> bool:
    """Whether hashing and comparing ``key`` runs no Python code: one of those types, or a tuple of them."""
    return type(key) in PLAIN or (type(key) is tuple and all(type(part) in PLAIN for part in key))
