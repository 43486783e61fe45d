"""What a cache holds of a response, and what it answers with it: whole, in part, or `you have it already`.

Knows nothing of freshness: whoever calls has decided that the response may be used. A stored response is
never changed; its header lines are shared by every answer made of it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from .dates import date_of, parse_date
from .fields import entity_tag_matches, find, find_all
from .message import Headers, Request, Response
from .ranges import DESCRIBES_BODY, partial, spans

__all__ = ["TAG_FIELDS", "Stored", "matches", "not_modified", "selecting", "surrogate_tags"]

TAG_FIELDS = frozenset((b"surrogate-key", b"cache-tag"))
"""The fields by which an origin names its responses, as Fastly and Cloudflare call them."""

CASELESS = frozenset((b"accept", b"accept-charset", b"accept-encoding", b"accept-language"))
MOST_REMEMBERED = 256
"""Bytes of a request's field that is remembered as Vary compares it: there are few short ones."""
OVERHEAD = 1500
"""Bytes that Python takes for one stored response beyond its text, measured with sys.getsizeof."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A response that is kept.

    Instants are seconds of a clock that runs evenly, not the time of day: one that is set back must not
    make anything young again.

    Attributes:
        status: The status code.
        headers: As they are served again, without Age.
        body: Whole.
        vary: The request's fields that Vary names, with the values that selected this response.
        born: The instant of age 0.
        fresh_until: The instant from which it must be validated.
        grace_until: The instant until which it may answer while it is validated.
        keep_until: The instant until which it may answer when it cannot be validated.
        assumed: Whether its lifetime is an assumption, which requests with credentials do not share.
    """

    status: int
    headers: Headers
    body: bytes
    vary: tuple[tuple[bytes, bytes], ...]
    born: float
    fresh_until: float
    grace_until: float
    keep_until: float
    assumed: bool

    @property
    def size(self) -> int:
        """Bytes that it takes, roughly."""
        return OVERHEAD + self.held + sum(len(name) + len(value) + 150 for name, value in self.headers)

    @property
    def held(self) -> int:
        """Bytes that its body takes."""
        return len(self.body)

    @property
    def validators(self) -> Headers:
        """The request's fields that ask whether it still holds; none where nothing can be asked."""
        pairs = ((b"if-none-match", b"etag"), (b"if-modified-since", b"last-modified"))
        return [
            (condition, value) for condition, name in pairs if (value := find(self.headers, name)) is not None
        ]

    @property
    def tags(self) -> list[bytes]:
        """The names under which the origin may ask for it to be forgotten."""
        return surrogate_tags(self.headers)

    def aged(self, now: float) -> Stored:
        """Return it as if its freshness had ended by ``now``, and its grace began there."""
        early = max(0.0, self.fresh_until - now)
        return replace(
            self,
            fresh_until=self.fresh_until - early,
            grace_until=self.grace_until - early,
            keep_until=self.keep_until - early,
        )

    def with_body(self, body: bytes) -> Stored | None:
        """Return it with its body, or None when that is not as long as it was announced to be."""
        length = find(self.headers, b"content-length")
        if length is not None:
            return replace(self, body=body) if length == b"%d" % len(body) else None
        if self.status == 204:
            return replace(self, body=body)
        return replace(self, body=body, headers=[*self.headers, (b"content-length", b"%d" % len(body))])

    def answer(self, request: Request, age: Headers, *, conditional: bool = True) -> Response:
        """Return the answer to a request that this response may answer.

        Args:
            request: With conditions and a range of its own, perhaps.
            age: The lines that say how old the answer is and how it came about.
            conditional: False where the request is known to have neither.
        """
        head = request.method == "HEAD"
        if conditional and self.status == 200:
            if not_modified(request.headers, self.headers):
                kept = [line for line in self.headers if line[0] not in DESCRIBES_BODY]
                return Response(304, [*kept, *age])
            part = None if head else self.part(request.headers)
            if part is not None:
                part.headers += age
                return part
        return Response(self.status, [*self.headers, *age], b"" if head else self.body)

    @property
    def length(self) -> int:
        """Bytes of the whole body."""
        return len(self.body)

    def cut(self, first: int, last: int) -> bytes | None:
        """Return the bytes from the first to the last one, or None where they are not here."""
        return self.body[first : last + 1]

    def part(self, request: Headers) -> Response | None:
        """Return the ranges that are asked for, 416 where there are none such, or None to answer whole."""
        wanted = find_all(request, b"range")
        if len(wanted) != 1 or not self.same(find(request, b"if-range")):
            return None
        asked = spans(wanted[0], self.length)
        if asked is None or (len(asked) > 1 and find(self.headers, b"content-encoding") is not None):
            return None  # a multipart body is not coded, though each of its parts would be
        parts: list[tuple[int, int, bytes]] = []
        for first, last in asked:
            piece = self.cut(first, last)
            if piece is None:
                return None
            parts.append((first, last, piece))
        return partial(self.headers, self.length, parts)

    def same(self, if_range: bytes | None) -> bool:
        """Return whether the client's part is of this very response (RFC 9110, 13.1.5): strongly."""
        if if_range is None:
            return True
        if if_range.startswith(b'"'):
            return if_range == find(self.headers, b"etag")
        # A date is as strong as an entity tag where the response was not changed within its second.
        modified, made = date_of(self.headers, b"last-modified"), date_of(self.headers, b"date")
        return modified is not None and made is not None and made > modified == parse_date(if_range)


def surrogate_tags(headers: Headers) -> list[bytes]:
    """Return the tags that header lines name, each once: Surrogate-Key separates them by white space, and
    Cache-Tag by commas. Both name the same tags, exactly as they are written.
    """
    tags: dict[bytes, None] = {}
    for name, value in headers:
        if name == b"surrogate-key":
            tags |= dict.fromkeys(value.split())
        elif name == b"cache-tag":
            tags |= dict.fromkeys(tag for part in value.split(b",") if (tag := part.strip(b" \t")))
    return list(tags)


def selecting(request: Headers, name: bytes) -> bytes:
    """Return the value of a request's field as Vary compares it: all lines as one, white space at commas
    dropped, and case where the field has none.
    """
    values = find_all(request, name)
    value = values[0] if len(values) == 1 else b",".join(values)
    caseless = name in CASELESS
    return plain(value, caseless) if len(value) <= MOST_REMEMBERED else plain.__wrapped__(value, caseless)


@functools.lru_cache(4096)
def plain(value: bytes, caseless: bool) -> bytes:
    """Return a field's value as Vary compares it."""
    plain = b",".join([part.strip(b" \t") for part in value.split(b",")])
    return plain.lower() if caseless else plain


def matches(stored: Stored, request: Headers) -> bool:
    """Return whether a stored response was selected by the same values that this request carries."""
    return all(selecting(request, name) == value for name, value in stored.vary)


def not_modified(request: Headers, response: Headers) -> bool:
    """Return whether the client's own validators say that it has this very response (RFC 9110, 13.2.2)."""
    tags = find_all(request, b"if-none-match")
    if tags:
        etag = find(response, b"etag")
        return etag is not None and entity_tag_matches(b", ".join(tags), etag)
    since = date_of(request, b"if-modified-since")
    if since is None:
        return False
    modified = date_of(response, b"last-modified")
    if modified is None:
        modified = date_of(response, b"date")  # RFC 9111, 4.3.2
    return modified is not None and modified <= since
