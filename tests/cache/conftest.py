"""What the cache's tests share: a clock that stands still until it is told."""

from __future__ import annotations

import pytest


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()
