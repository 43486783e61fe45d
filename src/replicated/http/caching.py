"""What a shared HTTP cache may answer by itself, what it must ask, and what it may keep (RFC 9111).

Values in, decisions out: no socket, no loop, no storage. hishel's state machine is the core of the
decision; what it leaves to its caller is here: the key, variants by Vary, conditional requests of the
client's own, and the two rules that a *shared* tier needs beyond the RFC: a response that sets a cookie is
never stored, and an assumed lifetime never touches a request that carries credentials.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime

import hishel

from .fields import entity_tag_matches, find, find_all, token_list
from .message import Headers, Request, Response

__all__ = ["Fetch", "HttpCacheRules", "Keep", "Pass", "Serve", "Stored"]

MOST_VARIANTS = 16
"""Variants kept under one key; a header that differs with every client must not fill the cache."""
CONDITIONAL = (b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since", b"if-range")
ASSUMABLE = frozenset((200, 203, 300, 301, 308, 404, 410))
NOT_FRESHENED = frozenset(
    (b"connection", b"content-encoding", b"content-length", b"content-range", b"content-type")
    + (b"keep-alive", b"transfer-encoding", b"vary")
)
"""What a 304 does not change of a stored response (RFC 9111, 3.2): it describes the body that is kept."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A response that is kept, with what the rules need to judge it later.

    Attributes:
        headers: As they are served again.
        body: Whole.
        vary: The request's fields that Vary names, with their values.
        entry: The same, as the rules see it; its lifetime may be an assumed one.
    """

    headers: Headers
    body: bytes
    vary: tuple[tuple[bytes, bytes], ...]
    entry: hishel.Entry

    @property
    def status(self) -> int:
        """The status code."""
        return self.entry.response.status_code

    @property
    def size(self) -> int:
        """Bytes that it takes, headers counted, Python's own overhead estimated."""
        return len(self.body) + 2 * sum(len(n) + len(v) + 100 for n, v in self.headers) + 1000


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer from the cache; ``freshened`` is to be stored in place of what it was, where it is given."""

    response: Response
    freshened: Stored | None = None


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the replicas, with ``headers`` in place of the request's own.

    Attributes:
        headers: To send; conditional where something stored can be validated.
        stored: What is validated by that, or None.
        state: Where the rules go on when the response's head is there.
        key: What a response would be stored under.
        shareable: Whether others who ask for the same may wait for this answer.
    """

    headers: Headers
    stored: Stored | None
    state: hishel.CacheMiss | hishel.NeedRevalidation
    key: str
    shareable: bool


@dataclass(frozen=True, slots=True)
class Keep:
    """Pass the response on, and keep it under ``key`` when its body is whole: ``entry`` with that body."""

    entry: Stored


@dataclass(frozen=True, slots=True)
class Pass:
    """Pass the response on and keep nothing; ``invalidates`` says that what is stored is out of date."""

    invalidates: bool = False


class HttpCacheRules:
    """The rules of one shared cache.

    Args:
        ttl: Seconds that a response may be kept when it does not say so itself; None for not at all. It
            applies to requests without Cookie and Authorization only (Varnish's default does the same).
        name: What the cache calls itself in Cache-Status (RFC 9211).

    Raises:
        ValueError: ``ttl`` is not above zero.
    """

    def __init__(self, *, ttl: float | None = None, name: str = "replicated") -> None:
        if ttl is not None and not 0 < ttl < float("inf"):
            raise ValueError(f"ttl must be seconds above zero, or None, not {ttl!r}")
        self.ttl = ttl
        self.name = name.encode("latin-1")
        self.options = hishel.CacheOptions(shared=True, supported_methods=["GET", "HEAD"])

    # -- before anyone is asked -------------------------------------------------------------------------

    def lookup(self, request: Request, scheme: str, host: bytes, variants: Sequence[Stored]) -> Serve | Fetch:
        """Decide what to do with a request.

        Args:
            request: As it came in.
            scheme: The scheme that the client used, as believed.
            host: The host that the client asked for, as believed.
            variants: What is stored under ``key``, newest first.
        """
        key = self.key(request, scheme, host)
        asked = hishel.Request(request.method, key, internal(request.headers, without=CONDITIONAL))
        stored = next(
            (v for v in variants if v.entry.request.method == request.method and matches(v, request)), None
        )
        state = hishel.IdleClient(options=self.options).next(asked, [stored.entry] if stored else [])
        match state:
            case hishel.FromCache():
                assert stored is not None
                age = int(state.entry.response.headers["age"])
                return Serve(self.served(request, stored, age, b"hit"))
            case hishel.NeedRevalidation():
                headers = [line for line in request.headers if line[0] not in CONDITIONAL]
                for name in ("if-none-match", "if-modified-since"):
                    if name in state.request.headers:
                        headers.append((name.encode(), state.request.headers[name].encode("latin-1")))
                return Fetch(headers, stored, state, key, shareable=True)
            case _:
                safe = request.method in ("GET", "HEAD")
                shareable = safe and find(request.headers, b"range") is None
                return Fetch(request.headers, None, state, key, shareable)

    def key(self, request: Request, scheme: str, host: bytes) -> str:
        """Return what a response is stored under: scheme, authority, path and query, exactly."""
        return f"{scheme}://{host.decode('latin-1').lower()}{request.target.decode('latin-1')}"

    # -- when the head of the answer is there -----------------------------------------------------------

    def received(
        self, request: Request, fetch: Fetch, response: Response, date: bytes
    ) -> Keep | Pass | Serve:
        """Decide what to do with a response whose head has come.

        Args:
            request: As it came in.
            fetch: What ``lookup`` decided.
            response: What a replica answered.
            date: Now, as an HTTP date, for a response that does not say when it was made.

        Returns:
            ``Serve`` when a 304 says that what is stored still holds.
        """
        if request.method not in ("GET", "HEAD"):
            return Pass(invalidates=response.status < 400)
        if response.status == 304 and fetch.stored is not None:
            freshened = self.freshened(fetch.stored, response, date)
            return Serve(self.served(request, freshened, 0, b"fwd=stale; fwd-status=304"), freshened)
        seen = self.seen(request, response, date)
        miss = hishel.CacheMiss(
            request=hishel.Request(request.method, fetch.key, internal(request.headers, without=CONDITIONAL)),
            options=self.options,
        )
        state = miss.next(seen)
        vary = token_list(response.headers, b"vary")
        if not isinstance(state, hishel.StoreAndUse) or b"*" in vary or find(response.headers, b"set-cookie"):
            return Pass()
        kept = state.response.headers
        headers = [line for line in response.headers if line[0].decode("latin-1") in kept]
        if find(headers, b"date") is None:
            headers.append((b"date", date))
        values = tuple((name, selecting(request, name)) for name in sorted(set(vary)))
        return Keep(Stored(headers, b"", values, hishel.Entry(uuid.uuid4(), miss.request, state.response)))

    def freshened(self, stored: Stored, response: Response, date: bytes) -> Stored:
        """Return what is stored, with what a 304 says of it."""
        fresh = [line for line in response.headers if line[0] not in NOT_FRESHENED]
        names = {name for name, _ in fresh} | {b"age", b"date"}
        headers = [line for line in stored.headers if line[0] not in names] + fresh
        if find(headers, b"date") is None:
            headers.append((b"date", date))
        seen = self.seen(None, Response(stored.status, headers), date)
        return replace(stored, headers=headers, entry=replace(stored.entry, response=seen))

    def seen(self, request: Request | None, response: Response, date: bytes) -> hishel.Response:
        """Return a response as the rules see it: dated, and with a lifetime where one may be assumed.

        A request of None stands for one that was judged before.
        """
        headers = internal(response.headers)
        if "date" not in headers:
            headers["date"] = date.decode("latin-1")
        anonymous = request is None or not (
            find(request.headers, b"cookie") or find(request.headers, b"authorization")
        )
        silent = "cache-control" not in headers and "expires" not in headers and "pragma" not in headers
        if self.ttl is not None and anonymous and silent and response.status in ASSUMABLE:
            headers["cache-control"] = f"s-maxage={max(1, int(self.ttl))}"
        return hishel.Response(response.status, headers)

    def merge(self, variants: Sequence[Stored], entry: Stored) -> tuple[Stored, ...]:
        """Return ``variants`` with ``entry`` first, in place of the one that it replaces."""
        others = (
            v
            for v in variants
            if v.vary != entry.vary or v.entry.request.method != entry.entry.request.method
        )
        return (entry, *others)[:MOST_VARIANTS]

    # -- answers ----------------------------------------------------------------------------------------

    def served(self, request: Request, stored: Stored, age: int, how: bytes) -> Response:
        """Return the stored response as it goes to this client: 304 where it has it already."""
        headers = [line for line in stored.headers if line[0] != b"age"]
        headers.append((b"age", str(age).encode()))
        status, body = stored.status, stored.body
        if status == 200 and not_modified(request.headers, headers):
            status, body = 304, b""
            headers = [line for line in headers if line[0] not in (b"content-length", b"content-type")]
        return self.marked(Response(status, headers, body), how)

    def marked(self, response: Response, how: bytes) -> Response:
        """Add to the response what this cache did (RFC 9211)."""
        response.headers.append((b"cache-status", self.name + b"; " + how))
        return response


def internal(headers: Headers, *, without: Sequence[bytes] = ()) -> hishel.Headers:
    """Return header lines as hishel holds them."""
    grouped: dict[str, str | list[str]] = {}
    for name, value in headers:
        if name not in without:
            lines = grouped.setdefault(name.decode("latin-1"), [])
            assert isinstance(lines, list)
            lines.append(value.decode("latin-1"))
    return hishel.Headers(grouped)


def selecting(request: Request, name: bytes) -> bytes:
    """Return the value of a request's field as Vary compares it: all lines, white space folded."""
    return b", ".join(b" ".join(value.split()) for value in find_all(request.headers, name))


def matches(stored: Stored, request: Request) -> bool:
    """Return whether a stored response was chosen by the same values that this request carries."""
    return all(selecting(request, name) == value for name, value in stored.vary)


def not_modified(request: Headers, response: Headers) -> bool:
    """Return whether the client's own validators say that it has this very response (RFC 9110, 13.2.2)."""
    if_none_match = b", ".join(find_all(request, b"if-none-match"))
    etag = find(response, b"etag")
    if if_none_match:
        return etag is not None and entity_tag_matches(if_none_match, etag)
    since, modified = find(request, b"if-modified-since"), find(response, b"last-modified")
    if since is None or modified is None:
        return False
    try:
        return parsedate_to_datetime(modified.decode()) <= parsedate_to_datetime(since.decode())
    except (ValueError, TypeError):  # not dates, or one with a zone and one without
        return False
