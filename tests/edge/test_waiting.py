"""Clients that take their time with a head: each is let go in the end, and keeps nobody else waiting."""

from __future__ import annotations

from typing import Any


def test_slow_heads_are_let_go(edge: Any, slow: Any) -> None:
    """A head that trickles in is a 408 after ten seconds; who says nothing is closed without a word."""
    edge.settle()  # others are served meanwhile
    trickled, silent = slow
    assert trickled.result(30).startswith(b"HTTP/1.1 408 ")
    assert silent.result(30) == b""
