"""The time of day as HTTP writes it. How a date is written is not decided here."""

from __future__ import annotations

import time

from ..http.dates import format_date

__all__ = ["http_date"]


def http_date() -> bytes:
    """Return the time of day as HTTP writes it."""
    return format_date(int(time.time()))
