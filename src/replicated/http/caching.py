"""What a shared HTTP cache may answer by itself, what it must ask, and what it may keep (RFC 9111).

Values in, decisions out: no socket, no loop, no storage, no clock. Every instant is handed in, of two kinds:
``now``, of a clock that runs evenly, for ages, and ``unix``, the time of day, for the dates in fields.

Stricter than the RFC on three points, each because one user's response must never reach another: a response
with Set-Cookie is not stored; what answers a request with a Cookie that is not part of the key is stored only
where it says `public` or `s-maxage`; and a lifetime that the response does not state itself never touches a
request with Cookie or Authorization. Looser on none. Requests' max-stale is ignored, as the RFC allows.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from .cache_decisions import Confirmed, Fetch, Keep, Mismatch, Pass, Serve
from .dates import format_date
from .demands import Demands
from .fields import find, problem, token_list
from .forwarding import forwarded_response
from .freshness import Policy, directives, initial_age
from .message import Headers, Request, Response
from .parts import Parts, strong
from .ranges import content_range, single
from .stored import Stored, matches, selecting

__all__ = ["RESCUED", "HttpCacheRules"]

S = TypeVar("S", bound=Stored)

MOST_VARIANTS = 16
"""Variants kept under one key; a header that differs with every client must not fill the cache."""
SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
OWN_CONDITIONS = frozenset((b"if-none-match", b"if-modified-since"))
CONDITIONS = OWN_CONDITIONS | {b"if-range"}
PRECONDITIONS = frozenset((b"if-match", b"if-unmodified-since"))
CREDENTIALS = frozenset((b"authorization", b"cookie"))
DEMANDS = frozenset((b"cache-control", b"pragma"))
WEIGHED = CONDITIONS | PRECONDITIONS | DEMANDS | {b"range"}
"""The request's fields that have a say in what a fresh response answers; most requests have none of them."""
SPECIAL = WEIGHED | CREDENTIALS
NOT_FRESHENED = frozenset(
    (b"connection", b"content-encoding", b"content-length", b"content-range", b"content-type")
    + (b"etag", b"keep-alive", b"set-cookie", b"transfer-encoding", b"vary")
)
"""What a 304 does not change of what is stored (RFC 9111, 3.2): it describes the body that is kept."""
NOT_STORED = frozenset((b"age", b"proxy-authentication-info"))
RESCUED = frozenset((500, 502, 503, 504))
"""Answers that stale-if-error speaks of (RFC 5861, 4)."""
VALIDATABLE = 600.0
"""Seconds that a stale response is kept to be validated; nginx's `inactive` is as long."""


class HttpCacheRules:
    """The rules of one shared cache.

    Args:
        ttl: Seconds that a response may be kept when it does not say so itself; None for what ``heuristic``
            says. Neither applies to requests with Cookie or Authorization (Varnish's default does the same).
        heuristic: Fraction of the time since Last-Modified that such a response is kept; at most a day.
        grace: Seconds beyond its lifetime that a response answers while a new one is fetched.
        keep: Seconds beyond its lifetime that a response answers when a new one cannot be had.
        name: What the cache calls itself in Cache-Status (RFC 9211).

    Raises:
        ValueError: A number is negative, NaN or infinite, or ``ttl`` is 0.
    """

    def __init__(
        self,
        *,
        ttl: float | None = None,
        heuristic: float = 0.1,
        grace: float = 0.0,
        keep: float = 0.0,
        name: str = "replicated",
    ) -> None:
        self.policy = Policy(ttl, heuristic, grace, keep)
        self.name = name.encode("latin-1")
        self.hit_line = (b"cache-status", self.name + b"; hit")

    def key(self, target: bytes, scheme: str, host: bytes) -> str:
        """Return what a response is stored under: scheme, authority, path and query, exactly."""
        return f"{scheme}://{host.decode('latin-1').lower()}{target.decode('latin-1')}"

    # -- before anyone is asked -------------------------------------------------------------------------

    def hit(
        self, request: Request, fields: Mapping[bytes, bytes], variants: Sequence[Stored], now: float
    ) -> Response | None:
        """Answer a GET where nothing needs to be weighed: most hits. None leaves it to ``lookup``.

        Args:
            request: As it came in, without a body.
            fields: Its header, of each field one line.
            variants: What is stored under its key.
            now: The instant.
        """
        if not variants or not WEIGHED.isdisjoint(fields):
            return None
        for stored in variants:
            if (not stored.assumed or CREDENTIALS.isdisjoint(fields)) and (
                not stored.vary or matches(stored, request.headers)
            ):
                if now >= stored.fresh_until:
                    return None
                age = age_line(int(now - stored.born))
                return Response(stored.status, [*stored.headers, age, self.hit_line], stored.body)
        return None

    def lookup(self, request: Request, variants: Sequence[Stored], now: float) -> Serve | Fetch:
        """Decide what to do with a GET or a HEAD.

        Args:
            request: As it came in, without a body.
            variants: What is stored under its key.
            now: The instant.
        """
        headers = request.headers
        special = {name for name, _ in headers if name in SPECIAL}
        anonymous = special.isdisjoint(CREDENTIALS)
        for stored in variants:
            if (anonymous or not stored.assumed) and (not stored.vary or matches(stored, headers)):
                break
        else:
            stored = None
        if special and not special.isdisjoint(PRECONDITIONS):
            # They are about the origin's own state.
            return Fetch(headers, None, False, b"bypass", looks=False)
        demands = None if special.isdisjoint(DEMANDS) else Demands.of(headers)
        if demands is not None and demands.cached_only:
            if stored is not None and now < stored.fresh_until and demands.allow(stored, now):
                return Serve(stored.answer(request, self.age(stored, now)))
            return Serve(self.marked(problem(504, "it is not in the cache"), b"fwd=request; fwd-status=504"))
        if stored is not None and (demands is None or demands.allow(stored, now)):
            if now < stored.fresh_until:
                return Serve(stored.answer(request, self.age(stored, now), conditional=bool(special)))
            if now < stored.grace_until:
                return Serve(stored.answer(request, self.age(stored, now)), self.whole(request, stored))
        return self.fetch(request, special, stored, variants, demands)

    def whole(self, request: Request, stored: Stored | None) -> Fetch:
        """Return how to fetch a page for everybody, beside a request: neither a HEAD nor a part would do.

        Args:
            request: What it is fetched on behalf of.
            stored: What is validated by that, or None.
        """
        headers = [line for line in request.headers if line[0] != b"range" and line[0] not in CONDITIONS]
        return self.fetch(Request("GET", request.target, headers), set(), stored, (), None)

    def part(self, request: Request, variants: Sequence[Parts], now: float) -> Response | None:
        """Return the answer to a request for ranges from the parts that are stored, if all of them are there.

        Args:
            request: One that ``lookup`` says to fetch, and that is ``ranged``.
            variants: What is stored of parts under its key.
            now: The instant.
        """
        headers = request.headers
        demands = Demands.of(headers)
        anonymous = not any(name in CREDENTIALS for name, _ in headers)
        for parts in variants:
            usable = now < parts.fresh_until and (anonymous or not parts.assumed)
            if usable and demands.allow(parts, now) and matches(parts, headers):
                part = parts.part(headers)
                if part is not None:
                    part.headers += self.age(parts, now)
                    return part
        return None

    def fetch(
        self,
        request: Request,
        special: set[bytes],
        stored: Stored | None,
        variants: Sequence[Stored],
        demands: Demands | None,
    ) -> Fetch:
        """Return what to ask the replicas, and how."""
        headers = request.headers
        why = b"fwd=stale" if stored is not None else b"fwd=vary-miss" if variants else b"fwd=uri-miss"
        shareable = demands is None or not demands.demanding
        looks = demands is None or not (demands.fresh or demands.most_age <= 0)
        if request.method != "GET":
            return Fetch(headers, None, False, why, looks)  # what comes is only a head
        validators = stored.validators if stored is not None else []
        if b"range" in special:
            if not special.isdisjoint(OWN_CONDITIONS):
                return Fetch(headers, None, False, why, looks)  # only the origin can answer both at once
            # Where what is stored still holds, the part is cut from that; else the part comes.
            shareable = shareable and b"if-range" not in special and single(headers) is not None
            return Fetch(
                headers + validators, stored if validators else None, shareable, why, looks, ranged=looks
            )
        if demands is not None and demands.demanding:
            why = b"fwd=request"
        if not validators:
            stored = None
        if not CONDITIONS.isdisjoint(special) or validators:
            # The client's own conditions are answered from what comes: whole, it serves the others too.
            headers = [line for line in headers if line[0] not in CONDITIONS] + validators
        return Fetch(headers, stored, shareable, why, looks)

    # -- when the head of the answer is there -----------------------------------------------------------

    def received(
        self, request: Request, fetch: Fetch, response: Response, *, now: float, unix: float, delay: float
    ) -> Keep | Pass | Confirmed | Mismatch:
        """Decide what to do with a response to a GET or a HEAD, whose head has come.

        Args:
            request: As it came in.
            fetch: What ``lookup`` decided.
            response: What a replica answered.
            now: The instant.
            unix: The same as the time of day.
            delay: Seconds that have passed since the replica was asked.
        """
        if response.status == 304 and fetch.stored is not None:
            return self.freshened(request, fetch.stored, response, now, unix, delay)
        if request.method != "GET" or response.status == 304 or find(response.headers, b"set-cookie"):
            return Pass()
        if response.status == 206:
            return self.part_received(request, response, now, unix, delay)
        stored = self.judged(request, response, now, unix, delay)
        return Pass() if stored is None else Keep(stored)

    def part_received(
        self, request: Request, response: Response, now: float, unix: float, delay: float
    ) -> Keep | Pass:
        """Decide what to do with a part (RFC 9111, 3.3): all of a body, or one that others fit to."""
        span = content_range(response.headers)
        kind = find(response.headers, b"content-type") or b""
        if span is None or kind.lower().startswith(b"multipart/") or not find(request.headers, b"range"):
            return Pass()  # it contradicts itself, or was not asked for
        headers = [line for line in response.headers if line[0] not in (b"content-length", b"content-range")]
        stored = self.judged(request, Response(200, headers), now, unix, delay)
        if stored is None:
            return Pass()
        if span.length < span.size and (strong(stored) is None or now >= stored.fresh_until):
            return Pass(span)
        return Keep(stored, span, extends=find(request.headers, b"if-range") is not None)

    def freshened(
        self, request: Request, stored: Stored, response: Response, now: float, unix: float, delay: float
    ) -> Confirmed | Mismatch:
        """Return what is stored, with what a 304 says of it (RFC 9111, 4.3.4)."""
        etag, same = find(response.headers, b"etag"), find(stored.headers, b"etag")
        if etag is not None and same is not None and etag.removeprefix(b"W/") != same.removeprefix(b"W/"):
            return Mismatch()
        news = [line for line in forwarded_response(response.headers) if line[0] not in NOT_FRESHENED]
        if find(news, b"date") is None:
            news.append((b"date", format_date(int(unix))))
        names = {name for name, _ in news}
        headers = [line for line in stored.headers if line[0] not in names] + news
        fresh = self.judged(request, Response(stored.status, headers), now, unix, delay)
        kept = None if fresh is None else replace(fresh, body=stored.body, vary=stored.vary)
        cookies = [line for line in response.headers if line[0] == b"set-cookie"]  # for this client alone
        told = replace(stored, headers=headers)
        return Confirmed(self.marked(told.answer(request, cookies), b"fwd=stale; fwd-status=304"), kept)

    def judged(
        self, request: Request, response: Response, now: float, unix: float, delay: float
    ) -> Stored | None:
        """Return what would be stored of a response, its body aside; None when it may not or need not be."""
        headers = [line for line in forwarded_response(response.headers) if line[0] not in NOT_STORED]
        vary = sorted(set(token_list(headers, b"vary")))
        if b"*" in vary or b"no-store" in directives(request.headers, b"cache-control"):
            return None
        credentials = {name for name, _ in request.headers if name in CREDENTIALS}
        lifetime = self.policy.lifetime(response, credentials=credentials.difference(vary), unix=unix)
        if lifetime is None or (lifetime.assumed and credentials):
            return None
        born = now - initial_age(response.headers, unix, delay)
        until = born + lifetime.fresh
        if find(headers, b"date") is None:
            headers.append((b"date", format_date(int(unix))))
        stored = Stored(
            status=response.status,
            headers=headers,
            body=b"",
            vary=tuple((name, selecting(request.headers, name)) for name in vary),
            born=born,
            fresh_until=until,
            grace_until=until + lifetime.grace,
            keep_until=until + lifetime.keep,
            assumed=lifetime.assumed,
        )
        return stored if stored.validators or self.useful_until(stored) > now else None

    def useful_until(self, stored: Stored) -> float:
        """Return the instant from which there is no use in a stored response."""
        last = max(stored.fresh_until, stored.grace_until, stored.keep_until)
        return max(last, stored.fresh_until + VALIDATABLE) if stored.validators else last

    def merge(self, variants: Sequence[S], stored: S) -> tuple[S, ...]:
        """Return ``variants`` with ``stored`` first, in place of what it replaces: its like, and those that
        were selected by other fields, since what a page varies by has changed.
        """
        names = [name for name, _ in stored.vary]
        others = [v for v in variants if v.vary != stored.vary and [name for name, _ in v.vary] == names]
        return (stored, *others)[:MOST_VARIANTS]

    # -- when it did not come, or changed something ----------------------------------------------------

    def rescue(self, request: Request, variants: Sequence[Stored], now: float, how: bytes) -> Response | None:
        """Return a stale answer where a fresh one cannot be had, if it and the client allow that."""
        if Demands.of(request.headers).demanding or any(n in PRECONDITIONS for n, _ in request.headers):
            return None
        anonymous = not any(name in CREDENTIALS for name, _ in request.headers)
        for stored in variants:
            usable = now < stored.keep_until and (anonymous or not stored.assumed)
            if usable and matches(stored, request.headers):
                age = age_line(int(now - stored.born))
                return self.marked(stored.answer(request, [age]), how + b"; detail=stale-if-error")
        return None

    def invalidated(self, request: Request, response: Response, scheme: str, host: bytes) -> list[str]:
        """Return the keys that a request has made untrue (RFC 9111, 4.4): its own, and those of the same
        authority that the answer names.
        """
        # An error leaves everything as it was; but a gateway's says nothing of how far the request came.
        if request.method in SAFE or not (200 <= response.status < 400 or response.status in (502, 504)):
            return []
        keys = [self.key(request.target, scheme, host)]
        origin = self.key(b"/", scheme, host)
        for name in (b"location", b"content-location"):
            named = find(response.headers, name)
            if named is None:
                continue
            target = named.partition(b"#")[0]
            whole = target.decode("latin-1")
            if target.startswith(b"/") and not target.startswith(b"//"):
                keys.append(self.key(target, scheme, host))
            elif whole.lower().startswith(origin):
                keys.append(self.key(target[len(origin) - 1 :], scheme, host))
        return keys

    # -- what answers say -------------------------------------------------------------------------------

    def age(self, stored: Stored, now: float) -> Headers:
        """Return the lines that an answer from the cache has beyond those stored."""
        age = age_line(int(now - stored.born))
        if now < stored.fresh_until:
            return [age, self.hit_line]
        return [age, (b"cache-status", b"%b; hit; ttl=%d" % (self.name, stored.fresh_until - now))]

    def marked(self, response: Response, how: bytes) -> Response:
        """Add to a response what this cache did (RFC 9211)."""
        headers = [*response.headers, (b"cache-status", self.name + b"; " + how)]
        return Response(response.status, headers, response.body, response.close)


@functools.lru_cache(4096)
def age_line(age: int) -> tuple[bytes, bytes]:
    """Return Age; it is remembered because writing a number takes a third of what a hit does."""
    return b"age", b"%d" % max(0, age)
