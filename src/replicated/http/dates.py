"""HTTP dates, read strictly and written in one form (RFC 9110, 5.6.7). No clock is known here."""

from __future__ import annotations

import datetime
import functools
import re
from email.utils import formatdate

from .fields import find
from .message import Headers

__all__ = ["date_of", "format_date", "parse_date"]

MONTHS = (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec")
CLOCK = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
WEEKDAY = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
DATE_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        WEEKDAY + rb", (?P<day>\d\d) (?P<month>[a-z]{3}) (?P<year>\d{4}) " + CLOCK + rb" GMT",
        rb"[a-z]{6,9}, (?P<day>\d\d)-(?P<month>[a-z]{3})-(?P<year>\d\d) " + CLOCK + rb" GMT",
        WEEKDAY + rb" (?P<month>[a-z]{3}) (?P<day>[ \d]\d) " + CLOCK + rb" (?P<year>\d{4})",
    )
)
"""The three forms that a recipient must read (RFC 9110, 5.6.7), and nothing that looks like them."""


def date_of(headers: Headers, name: bytes) -> float | None:
    """Return the date in a field, or None where there is no such field or it is no date."""
    value = find(headers, name)
    return None if value is None else parse_date(value)


@functools.lru_cache(1024)
def parse_date(value: bytes) -> float | None:
    """Return an HTTP date as Unix seconds, or None where it is none (RFC 9110, 5.6.7)."""
    for form in DATE_FORMS:
        found = form.fullmatch(value)
        if found is not None:
            break
    else:
        return None
    year = int(found["year"])
    if year < 100:  # two digits, and POSIX's rule for them
        year += 2000 if year < 69 else 1900
    try:
        month = MONTHS.index(found["month"].lower()) + 1
        day, hour, minute, second = (int(found[name]) for name in ("day", "hour", "minute", "second"))
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
    except ValueError:
        return None
    return moment.timestamp()


@functools.lru_cache(64)
def format_date(unix: int) -> bytes:
    """Return Unix seconds as HTTP writes them."""
    return formatdate(unix, usegmt=True).encode()
