"""PURGE: whoever may, makes the cache forget just what was named; nobody else makes it forget anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from replicated.adapters.asgi import CacheMiddleware
from replicated.adapters.proxy.http_cache import HttpCache
from replicated.adapters.proxy.purging import Purging
from replicated.http.fields import find
from replicated.http.message import Request, Response
from replicated.http.stored import surrogate_tags
from replicated.testing import ManualClock


def ask(target: bytes = b"/", method: str = "GET", peer: str = "127.0.0.1", **fields: str) -> Request:
    host = fields.pop("host", "h")
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return Request(method, target, [(b"host", host.encode()), *headers], peer)


class Origin:
    """Answers each target with its tags, storable; PURGE would be seen here if it came so far."""

    def __init__(self, **tags: dict[str, str]) -> None:
        self.tags = {name.encode(): fields for name, fields in tags.items()}
        self.asked: list[str] = []

    async def __call__(self, request: Request) -> Response:
        self.asked.append(request.method)
        fields = self.tags.get(request.target.lstrip(b"/"), {})
        fields = {"cache-control": "max-age=60", **fields}
        headers = [(name.encode(), value.encode()) for name, value in fields.items()]
        return Response(200, headers, b"page")


async def status(handler: Purging, request: Request) -> str:
    return (find((await handler(request)).headers, b"cache-status") or b"").decode()


async def purged(handler: Purging, request: Request) -> int:
    response = await handler(request)
    assert (response.status, find(response.headers, b"cache-control")) == (200, b"no-store")
    assert isinstance(response.body, bytes)
    assert find(response.headers, b"content-length") == b"%d" % len(response.body)
    return int(json.loads(response.body)["purged"])


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 5))


def make(origin: Origin, **arguments: Any) -> Purging:
    return Purging(HttpCache(origin, size=100_000), **arguments)


def test_a_url_is_purged() -> None:
    """PURGE forgets the URL that it names, query and host exactly, under both schemes, and says how many."""

    async def story() -> None:
        origin = Origin()
        handler = make(origin)
        secure = ask()
        secure.scheme = "https"
        kept = [ask(b"/?a"), ask(b"/b"), ask(host="other")]
        for request in (ask(), secure, *kept):
            await handler(request)
        assert await purged(handler, ask(method="PURGE")) == 2
        assert await purged(handler, ask(method="PURGE")) == 0
        for request in (ask(), secure):
            assert await status(handler, request) == "replicated; fwd=uri-miss; stored"
        for request in kept:
            assert await status(handler, request) == "replicated; hit"
        assert "PURGE" not in origin.asked

    run(story)


def test_tags_are_purged() -> None:
    """PURGE with tags forgets whatever carries one of them, each page once, and not the URL that it names."""

    async def story() -> None:
        handler = make(
            Origin(
                a={"surrogate-key": "shoes all"},
                b={"cache-tag": "hats, all"},
                c={"surrogate-key": "coats"},
            )
        )
        pages = [ask(b"/a"), ask(b"/b"), ask(b"/c"), ask(b"/")]
        for request in pages:
            await handler(request)
        assert await purged(handler, ask(b"/", "PURGE", surrogate_key="Shoes sho")) == 0
        assert await purged(handler, ask(b"/", "PURGE", surrogate_key="all shoes")) == 2
        assert await purged(handler, ask(b"/", "PURGE", cache_tag="coats,x")) == 1
        assert await status(handler, pages[3]) == "replicated; hit"

    run(story)


def test_tags_are_read_as_their_fields_are_written() -> None:
    """Surrogate-Key is split at white space and Cache-Tag at commas, over all lines, each once."""
    headers = [
        (b"surrogate-key", b" a,b  c\td"),
        (b"cache-tag", b"x y, c ,,"),
        (b"surrogate-key", b"c"),
        (b"etag", b"e"),
    ]
    assert surrogate_tags(headers) == [b"a,b", b"c", b"d", b"x y"]


def test_no_tag_is_no_url() -> None:
    """A PURGE whose field names no tag is a mistake, and does not fall back to the URL."""

    async def story() -> None:
        handler = make(Origin())
        await handler(ask())
        assert (await handler(ask(method="PURGE", surrogate_key=" "))).status == 400
        assert await status(handler, ask()) == "replicated; hit"

    run(story)


@pytest.mark.parametrize(
    ("peer", "fields"),
    [
        ("203.0.113.9", {}),
        ("203.0.113.9", {"x_forwarded_for": "127.0.0.1"}),
        ("203.0.113.9", {"forwarded": "for=127.0.0.1"}),
        ("203.0.113.9", {"x_real_ip": "127.0.0.1", "surrogate_key": "t"}),
        ("", {}),
        ("unix:", {}),
        ("::2", {}),
        # An edge on the same machine passes on what a stranger sends.
        ("127.0.0.1", {"x_forwarded_for": "203.0.113.9"}),
        ("127.0.0.1", {"via": "1.1 edge"}),
        ("127.0.0.1", {"x_real_ip": "203.0.113.9"}),
        ("::1", {"forwarded": "for=203.0.113.9", "cache_tag": "t"}),
    ],
)
def test_strangers_purge_nothing(peer: str, fields: dict[str, str]) -> None:
    """Who is not in an allowed network, by the connection, gets 405 whatever it says; nothing goes."""

    async def story() -> None:
        origin = Origin()
        origin.tags[b""] = {"surrogate-key": "t"}
        handler = make(origin)
        await handler(ask())
        response = await handler(ask(method="PURGE", peer=peer, **fields))
        assert (response.status, find(response.headers, b"allow")) == (405, b"GET, HEAD")
        assert await status(handler, ask()) == "replicated; hit"
        assert origin.asked == ["GET"]

    run(story)


def test_networks_are_what_is_allowed() -> None:
    """The networks given take the place of loopback; a mapped IPv4 address is that address."""

    async def story() -> None:
        handler = make(Origin(), allowed=["10.0.0.0/8"])
        for peer, allowed in (
            ("10.1.2.3", 200),
            ("::ffff:10.1.2.3", 200),
            ("127.0.0.1", 405),
            ("11.0.0.1", 405),
        ):
            assert (await handler(ask(method="PURGE", peer=peer))).status == allowed
        for peer in ("127.0.0.1", "127.1.2.3", "::1"):
            assert (await make(Origin())(ask(method="PURGE", peer=peer))).status == 200
        assert (await make(Origin(), allowed=())(ask(method="PURGE"))).status == 405

    run(story)


def test_networks_that_cannot_be() -> None:
    """What is not a list of networks is refused, by the argument's name."""
    with pytest.raises(ValueError, match=r"allowed.*10\.0\.0\.1/8"):
        make(Origin(), allowed=["10.0.0.1/8"])
    with pytest.raises(TypeError, match="allowed"):
        make(Origin(), allowed="10.0.0.0/8")


def test_tags_stay_inside() -> None:
    """Clients never see the fields of tags, on a miss, a hit, a 304 or a pass; other fields they do."""

    async def story() -> None:
        tags = {"surrogate-key": "t", "cache-tag": "u", "etag": '"e"'}
        handler = make(Origin(a=tags))
        answers = [
            await handler(request)
            for request in (ask(b"/a"), ask(b"/a"), ask(b"/a", if_none_match='"e"'), ask(b"/a", "POST"))
        ]
        assert [response.status for response in answers] == [200, 200, 304, 200]
        for response in answers:
            names = {name for name, _ in response.headers}
            assert names.isdisjoint({b"surrogate-key", b"cache-tag"})
            assert b"etag" in names

    run(story)


def test_what_is_under_way_is_not_stored() -> None:
    """What a PURGE meets on its way from the origin reaches its client, and is not stored."""

    async def story() -> None:
        for fields in ({}, {"surrogate_key": "t"}):
            asked, go = asyncio.Event(), asyncio.Event()

            async def slow(
                request: Request, asked: asyncio.Event = asked, go: asyncio.Event = go
            ) -> Response:
                asked.set()
                await go.wait()
                return Response(200, [(b"cache-control", b"max-age=60"), (b"surrogate-key", b"t")], b"old")

            handler = Purging(HttpCache(slow, size=100_000))
            reading = asyncio.ensure_future(handler(ask()))
            await asked.wait()
            assert await purged(handler, ask(method="PURGE", **fields)) == 0
            go.set()
            assert (await reading).body == b"old"
            assert not handler.cache.pages.store

    run(story)


def test_a_soft_purge_lets_a_page_answer_while_it_is_fetched() -> None:
    """What is purged softly is stale at once: in its grace it answers, after that it is fetched; once purged
    it does not come back, and what was stale before is not given more time.
    """

    async def story() -> None:
        for named in ({}, {"surrogate_key": "t"}):
            clock = ManualClock()
            origin = Origin(
                p={"surrogate-key": "t", "cache-control": "max-age=60, stale-while-revalidate=10"}
            )
            handler = Purging(HttpCache(origin, size=100_000, clock=clock))
            soft = ask(b"/p", "PURGE", fastly_soft_purge="1", **named)
            assert await purged(handler, soft) == 0
            await handler(ask(b"/p"))
            clock.advance(1)
            assert await purged(handler, soft) == 1
            assert await status(handler, ask(b"/p")) == "replicated; hit; ttl=0"
            while handler.cache.tasks:
                await asyncio.sleep(0)
            assert await status(handler, ask(b"/p")) == "replicated; hit"
            assert origin.asked == ["GET", "GET"]
            assert await purged(handler, soft) == 1
            clock.advance(8)
            assert await purged(handler, soft) == 1
            clock.advance(2)
            assert await status(handler, ask(b"/p")) == "replicated; fwd=uri-miss; stored"
            assert await purged(handler, ask(b"/p", "PURGE", fastly_soft_purge="0", **named)) == 1
            assert not handler.cache.pages.store

    run(story)


def test_the_middleware_purges_only_where_it_is_told_to() -> None:
    """CacheMiddleware answers PURGE with networks to allow it from, and passes it on without."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"cache-control", b"max-age=60"), (b"surrogate-key", b"t")]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def call(cached: CacheMiddleware, method: str) -> tuple[int, bool]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        arriving = iter([{"type": "http.request"}])

        async def receive() -> Any:
            return next(arriving, None) or await asyncio.Event().wait()

        scope = {"type": "http", "method": method, "path": "/", "raw_path": b"/", "query_string": b"",
                 "headers": [(b"host", b"h")], "client": ("127.0.0.1", 1), "scheme": "http"}  # fmt: skip
        await cached(scope, receive, send)
        return sent[0]["status"], b"surrogate-key" in dict(sent[0]["headers"])

    async def story() -> None:
        assert await call(CacheMiddleware(app), "PURGE") == (202, True)
        cached = CacheMiddleware(app, purge_from=["127.0.0.1"])
        assert await call(cached, "GET") == (202, False)
        assert await call(cached, "PURGE") == (200, False)
        assert await call(CacheMiddleware(app, purge_from=["10.0.0.0/8"]), "PURGE") == (405, False)

    run(story)
