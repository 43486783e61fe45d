"""How old a response is, and for how long a shared cache may answer with it (RFC 9111, 4.2).

Reads header fields and does arithmetic with the instants it is given; reads no clock, keeps nothing, and
does not know what was asked before. Where a field is malformed, the reading that keeps a response for less
long is taken, except where the RFC says otherwise.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from .dates import date_of, parse_date
from .fields import find, find_all
from .message import Headers, Response

__all__ = ["Directives", "Lifetime", "Policy", "delta", "directives", "initial_age", "structured"]

Directives: TypeAlias = Mapping[bytes, bytes]
"""Names in lower case, and their arguments without quotes; empty for those that have none."""

MOST_SECONDS = 2**31
"""What a longer delta-seconds is taken for (RFC 9111, 1.2.2)."""
# A quote that is never closed runs to the end: then no input makes the search try twice.
DIRECTIVE = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.?)*"?)+', re.DOTALL)
QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"')

# A dictionary of structured fields (RFC 9651, 3.2), as far as it takes to tell a sound one from a broken one.
SF_ITEM = (
    rb'-?\d{1,12}\.\d{1,3}|-?\d{1,15}|"(?:[ !#-\[\]-~]|\\["\\])*"'
    rb"|[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*|:[A-Za-z0-9+/=]*:|\?[01]"
)
SF_KEY = rb"[a-z*][a-z0-9_\-.*]*"
SF_PARAMETERS = rb"(?:; *" + SF_KEY + rb"(?:=(?:" + SF_ITEM + rb"))?)*"
SF_MEMBER = re.compile(rb"(" + SF_KEY + rb")(?:=(" + SF_ITEM + rb"))?" + SF_PARAMETERS)
SF_COMMA = re.compile(rb"[ \t]*,[ \t]*")

ASSUMABLE = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
"""What may be kept without a word on how long (RFC 9110, 15.1); a 206 is never kept."""
MOST_ASSUMED = 86400.0
"""Seconds that are assumed at most, as Apache's CacheMaxExpire."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """For how long a response may answer, in seconds of its age.

    Args:
        fresh: Without asking; 0 where it must be validated each time.
        grace: Beyond that while a new one is fetched (stale-while-revalidate, RFC 5861).
        keep: Beyond that when a new one cannot be had (stale-if-error, RFC 5861).
        assumed: Whether the response said nothing of it itself.
    """

    fresh: float
    grace: float = 0.0
    keep: float = 0.0
    assumed: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator adds to what responses say.

    Args:
        ttl: Seconds for responses that do not say how long they keep; None leaves it to ``heuristic``.
        heuristic: Fraction of the time since Last-Modified for which one that says nothing is kept (RFC 9111,
            4.2.2); 0 for not at all. Apache's CacheLastModifiedFactor and Squid's refresh_pattern are 0.1
            and 0.2.
        grace: Seconds beyond its lifetime that a response is served while a new one is fetched.
        keep: Seconds beyond its lifetime that a response is served when a new one cannot be had.

    Raises:
        ValueError: One of them is negative, NaN or infinite, or ``ttl`` is 0.
    """

    ttl: float | None = None
    heuristic: float = 0.1
    grace: float = 0.0
    keep: float = 0.0

    def __post_init__(self) -> None:
        if self.ttl is not None and (isinstance(self.ttl, bool) or not 0 < self.ttl < float("inf")):
            raise ValueError(f"ttl must be seconds above zero, or None, not {self.ttl!r}")
        for name in ("heuristic", "grace", "keep"):
            value = getattr(self, name)
            if isinstance(value, bool) or not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, not {value!r}")

    def lifetime(self, response: Response, *, credentials: Set[bytes], unix: float) -> Lifetime | None:
        """Return for how long a shared cache may answer with ``response``; None when it may not keep it.

        Args:
            response: Its status and headers.
            credentials: Which of authorization and cookie the request carried, beside those in the key.
            unix: The time of day when it came, for a Date that is missing or none.
        """
        said, targeted = spoken(response.headers)
        if b"must-understand" in said:  # no-store is then for caches that do not know the status (5.2.2.3)
            forbidden = b"private" in said or response.status not in ASSUMABLE
        else:
            forbidden = b"private" in said or b"no-store" in said
        if forbidden:
            return None
        # RFC 9111 (3.5) speaks of Authorization. A Cookie says who asks just as well, and must-revalidate is
        # no word on sharing where nothing but a cookie tells users apart.
        if credentials and said.keys().isdisjoint(PUBLIC if b"cookie" in credentials else SHAREABLE):
            return None
        fresh = explicit(said, response.headers, unix, targeted=targeted)
        assumed = fresh is None
        if fresh is None:
            fresh = None if credentials else self.assume(response, said, unix)
            if fresh is None:
                return None
        if not said.keys().isdisjoint(NEVER_STALE):
            return Lifetime(fresh, assumed=assumed)
        # s-maxage forbids stale answers as proxy-revalidate does, unless the same field allows them.
        silent = fresh > 0 and b"s-maxage" not in said
        grace, keep = said.get(b"stale-while-revalidate"), said.get(b"stale-if-error")
        return Lifetime(
            fresh,
            delta(grace) if grace is not None else self.grace * silent,
            delta(keep) if keep is not None else self.keep * silent,
            assumed,
        )

    def assume(self, response: Response, said: Directives, unix: float) -> float | None:
        """Return the lifetime of a response that says nothing of it, if one may be assumed."""
        if b"no-cache" in directives(response.headers, b"pragma"):
            return None
        if self.ttl is not None:
            return self.ttl if response.status in ASSUMABLE else None
        if response.status not in ASSUMABLE and b"public" not in said:
            return None
        modified = date_of(response.headers, b"last-modified")
        if modified is None or not self.heuristic:
            return None
        made = date_of(response.headers, b"date")
        since = (unix if made is None else made) - modified
        return min(max(0.0, since * self.heuristic), MOST_ASSUMED)


PUBLIC = frozenset((b"public", b"s-maxage"))
SHAREABLE = PUBLIC | {b"must-revalidate"}
NEVER_STALE = frozenset((b"no-cache", b"must-revalidate", b"proxy-revalidate"))


def spoken(headers: Headers) -> tuple[Directives, bool]:
    """Return what a response says to caches like this one, and whether it says it to them in particular.

    CDN-Cache-Control is for the caches that an origin's operator runs, and where it is there and sound,
    Cache-Control and Expires are for others (RFC 9213).
    """
    targeted = find_all(headers, b"cdn-cache-control")
    if targeted:
        said = structured(b", ".join(targeted))
        if said:
            return said, True
    return directives(headers, b"cache-control"), False


def explicit(said: Directives, headers: Headers, unix: float, *, targeted: bool) -> float | None:
    """Return the lifetime that a response states, or None where it states none."""
    if b"no-cache" in said:
        return 0.0
    for name in (b"s-maxage", b"max-age"):
        if name in said:
            return delta(said[name])
    expires = [] if targeted else find_all(headers, b"expires")
    if not expires:
        return None
    until = parse_date(expires[0]) if len(expires) == 1 else None
    if until is None:
        return 0.0  # `Expires: 0` and everything else that is no date has passed (RFC 9111, 5.3)
    made = date_of(headers, b"date")
    return max(0.0, until - (unix if made is None else made))


def initial_age(headers: Headers, unix: float, delay: float) -> float:
    """Return the age of a response as it comes, in seconds (RFC 9111, 4.2.3).

    Args:
        headers: Its own.
        unix: The time of day.
        delay: Seconds from the request to here: it may have been made at their beginning.
    """
    made = date_of(headers, b"date")
    apparent = 0.0 if made is None else max(0.0, unix - made)
    value = (find(headers, b"age") or b"").partition(b",")[0].strip(b" \t")  # of several, the first counts
    stated = delta(value)  # what is no number is ignored; so RFC 9111, 5.1
    # A Date has whole seconds: less than one is no age, or every response with `max-age=1` would be half old.
    return max(apparent if apparent >= 1 else 0.0, stated + delay)


def directives(headers: Headers, name: bytes) -> Directives:
    """Return the directives of Cache-Control, or of a field that is written as it is, over all its lines."""
    lines = find_all(headers, name)
    return parse_directives(b",".join(lines)) if lines else EMPTY


EMPTY: Directives = MappingProxyType({})


@functools.lru_cache(1024)
def parse_directives(value: bytes) -> Directives:
    """Read ``max-age=60, private="set-cookie"``; of a directive that comes twice, the shorter one counts."""
    found: dict[bytes, bytes] = {}
    for part in DIRECTIVE.findall(value):
        name, _, argument = part.partition(b"=")
        name, argument = name.strip(b" \t").lower(), argument.strip(b" \t")
        quoted = QUOTED.fullmatch(argument)
        if quoted is not None:
            argument = quoted[1]
        if name and (name not in found or delta(argument) < delta(found[name])):
            found[name] = argument
    return MappingProxyType(found)


@functools.lru_cache(1024)
def structured(value: bytes) -> Directives | None:
    """Read a dictionary of structured fields; None where it is broken anywhere, as RFC 9651 (4.2) demands."""
    found: dict[bytes, bytes] = {}
    at = 0
    value = value.strip(b" \t")
    while True:
        member = SF_MEMBER.match(value, at)
        if member is None:
            return None
        name, argument = member[1], member[2] or b""
        if name in DELTAS and not argument.isdigit():
            return None  # of the wrong type: a lifetime that is none must not count as one
        found[name] = argument
        if member.end() == len(value):
            return MappingProxyType(found)
        comma = SF_COMMA.match(value, member.end())
        if comma is None:
            return None
        at = comma.end()


DELTAS = frozenset((b"max-age", b"s-maxage", b"stale-while-revalidate", b"stale-if-error"))


def delta(argument: bytes) -> float:
    """Return delta-seconds (RFC 9111, 1.2.2); what is none counts as 0, which is stale."""
    return float(min(int(argument.lstrip(b"0")[:12] or b"0"), MOST_SECONDS)) if argument.isdigit() else 0.0
