"""Which event loop a server runs on. What runs on it is not known here."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable

__all__ = ["loop_factory"]


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest loop that is installed, for ``asyncio.Runner``: uvloop's, or None."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory
