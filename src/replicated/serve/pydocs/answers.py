"""HTTP as the demo's application needs it: a request read from ASGI, an answer written to it.

It decides what every answer carries and how much of a body is listened to. It knows no path and no page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import parse_qs

__all__ = [
    "Answer",
    "Message",
    "Receive",
    "Request",
    "Scope",
    "Send",
    "json",
    "page",
    "redirect",
    "swallow",
    "text",
]

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_MOST_BODY = 4096
_MOST_FIELDS = 20
_HTML = "text/html; charset=utf-8"


class Request:
    """What an answer may depend on. Fields that come several times are joined as RFC 9110 5.3 has it."""

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._scope = scope

    def header(self, name: str) -> str:
        """Return the value of a header in lower case, or an empty string."""
        wanted = name.encode("ascii")
        values = [value.decode("latin-1") for key, value in self._scope["headers"] if key == wanted]
        return (";" if name == "cookie" else ",").join(values)

    @cached_property
    def _query(self) -> dict[str, list[str]]:
        try:
            return parse_qs(self._scope["query_string"].decode("latin-1"), max_num_fields=_MOST_FIELDS)
        except ValueError:
            return {}

    def query(self, name: str) -> str:
        """Return a field of the query, the first where there are several, or an empty string."""
        return self._query.get(name, [""])[0]

    def cookie(self, name: str) -> str:
        """Return a cookie, or an empty string."""
        for pair in self.header("cookie").split(";"):
            key, _, value = pair.partition("=")
            if key.strip() == name:
                return value.strip()
        return ""

    def has(self, etag: str) -> bool:
        """Whether the client says that it has the content of that tag (If-None-Match, weak comparison)."""
        tags = [tag.strip().removeprefix("W/") for tag in self.header("if-none-match").split(",")]
        return etag in tags or "*" in tags


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: nothing is streamed."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    async def send(self, send: Send, extra: tuple[tuple[str, str], ...], *, head: bool) -> None:
        """Write it, with Content-Length, and without the body to a HEAD."""
        headers = [*self.headers, *extra]
        # RFC 9110 8.6: a 204 must not carry the length, and a 304 only that of the content it stands for.
        if self.status not in {204, 304}:
            headers.append(("content-length", str(len(self.body))))
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers],
            }
        )
        await send({"type": "http.response.body", "body": b"" if head else self.body})


def text(status: int, words: str = "", *headers: tuple[str, str]) -> Answer:
    """Return an answer for programs, which no cache keeps."""
    body = words or HTTPStatus(status).phrase
    return Answer(
        status,
        f"{body}\n".encode(),
        (("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store"), *headers),
    )


def page(status: int, html: str, cache: str, *headers: tuple[str, str]) -> Answer:
    """Return an answer for people, kept by caches as ``cache`` says."""
    body = html.encode("utf-8", "xmlcharrefreplace")
    return Answer(status, body, (("content-type", _HTML), ("cache-control", cache), *headers))


def json(document: bytes) -> Answer:
    """Return an answer that is JSON already, which no cache keeps."""
    return Answer(200, document, (("content-type", "application/json"), ("cache-control", "no-store")))


def redirect(location: str, *headers: tuple[str, str]) -> Answer:
    """Return an answer that repeats the request elsewhere, with its method."""
    return Answer(307, b"", (("location", location), ("cache-control", "no-store"), *headers))


async def swallow(receive: Receive) -> bool:
    """Read a body and forget it; return False as soon as it is longer than anybody here would send."""
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return True
        total += len(message.get("body", b""))
        if total > _MOST_BODY:
            return False
        if not message.get("more_body", False):
            return True
