"""The throttle's middleware: whom it counts, what it says, and on which answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from replicated import Replica, Throttle, Tier, affinity
from replicated.adapters.asgi import CacheMiddleware, ReverseProxy, ThrottleMiddleware
from replicated.adapters.asgi_throttle import by_address_and_path
from replicated.adapters.proxy.admission import admission
from replicated.http.identity import Identity
from replicated.http.message import Request, Response
from replicated.testing import ManualClock
from replicated.throttle import Limit, Limits, PathTemplates

Message = dict[str, Any]
FIELDS = (b"ratelimit", b"ratelimit-policy")


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 10))


async def call(app: Any, target: str = "/", kind: str = "http", **scope: Any) -> list[Message]:
    """Ask an application in process whose client sends nothing more; return what it sent."""
    sent: list[Message] = []
    path, _, query = target.partition("?")
    whole = {
        "type": kind,
        "http_version": "1.1",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "client": ("10.0.0.1", 5),
        "headers": [(b"host", b"h")],
        **({"method": "GET"} if kind == "http" else {}),
        **scope,
    }

    async def receive() -> Message:
        raise AssertionError("a body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    await app(whole, receive, send)
    return sent


async def echo(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({"type": "websocket.accept", "headers": []})


def said(message: Message) -> list[bytes]:
    found = dict(message.get("headers", ()))
    return [found[name] for name in FIELDS if name in found]


def test_fields_are_on_the_answers_that_count() -> None:
    """Admitted and refused answers say what is left; those of nobody and of sockets do not."""

    async def story() -> None:
        def key(client: Any, request: Request) -> str | None:
            return None if request.path == "/free" else client.address

        app = ThrottleMiddleware(echo, Throttle(0.5, 2, clock=ManualClock()), key=key, fields=True)
        answers = [(await call(app, kind="websocket"))[0]]
        assert answers == [{"type": "websocket.accept", "headers": []}]
        first, *rest = await call(app)
        assert said(first) == [b'"default";r=0;t=2', b'"default";q=2;w=4']
        assert rest == [
            {"type": "http.response.body", "body": b"hello", "more_body": True},
            {"type": "http.response.body", "body": b""},
        ]
        [refused, body] = await call(app, headers=[(b"content-length", b"9")], method="POST")
        assert refused["status"] == 429
        assert said(refused) == said(first)
        assert dict(refused["headers"])[b"content-type"] == b"application/problem+json"
        assert json.loads(body["body"])["status"] == 429
        [refused, _] = await call(app, kind="websocket", extensions={"websocket.http.response": {}})
        assert said(refused) == said(first)
        assert not said((await call(app, "/free"))[0])
        quiet = ThrottleMiddleware(echo, Throttle(1, 1))
        assert [said((await call(quiet))[0]) for _ in range(2)] == [[], []]

    run(story)


def test_several_limits_each_say_what_is_left() -> None:
    """Limits go where a throttle goes, and each has a member in both fields."""

    async def story() -> None:
        limits = Limits(Limit("second", 10, 10), Limit("hour", 500 / 3600, 500), clock=ManualClock())
        [start, *_] = await call(ThrottleMiddleware(echo, limits, fields=True))
        assert said(start) == [
            b'"second";r=9;t=1, "hour";r=499;t=8',
            b'"second";q=10;w=1, "hour";q=500;w=3600',
        ]

    run(story)


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_a_websocket_is_refused_over_any_version(version: str) -> None:
    """A WebSocket's scope has no method, and over HTTP/2 no length either: it is refused all the same."""

    async def story() -> None:
        app = ThrottleMiddleware(echo, Throttle(1, 1, clock=ManualClock()))
        await call(app)
        able = {"websocket.http.response": {}}
        [start, _] = await call(app, kind="websocket", scheme="wss", http_version=version, extensions=able)
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
        for extensions in ({}, None):
            assert await call(app, kind="websocket", http_version=version, extensions=extensions) == [
                {"type": "websocket.close", "code": 1008}
            ]

    run(story)


def test_a_throttle_that_answers_later_is_waited_for() -> None:
    """Any object that takes will do, a coroutine too."""

    class Later:
        async def take(self, key: object, cost: object = 1) -> float:
            await asyncio.sleep(0)
            return 1.5

    async def story() -> None:
        [start, _] = await call(ThrottleMiddleware(echo, Later()))
        assert (start["status"], dict(start["headers"])[b"retry-after"]) == (429, b"2")

    run(story)
    with pytest.raises(TypeError, match="fields need a throttle that tells what is left"):
        ThrottleMiddleware(echo, Later(), fields=True)


@pytest.mark.parametrize("target", ["//", "/%2e/", "/?a=b", "/.", "/x/.."])
def test_a_spelling_of_a_path_mints_no_bucket(target: str) -> None:
    """However a path is spelt, it counts as one."""

    async def story() -> None:
        app = ThrottleMiddleware(echo, Throttle(1, 1, clock=ManualClock()))
        assert [(await call(app, each))[0]["status"] for each in ("/", target)] == [200, 429]

    run(story)


def test_templates_and_prefixes_by_choice() -> None:
    """Paths count by template and addresses by prefix, where that is asked for."""

    async def story() -> None:
        key = by_address_and_path(paths=PathTemplates(["/users/{id}"]), ipv4_prefix=24)
        app = ThrottleMiddleware(echo, Throttle(1, 1, clock=ManualClock()), key=key)
        statuses = [
            (await call(app, path, client=(address, 1)))[0]["status"]
            for path, address in (
                ("/users/1", "10.0.0.1"),
                ("/users/2", "10.0.0.2"),
                ("/users/1", "10.0.1.1"),
            )
        ]
        assert statuses == [200, 429, 200]

    run(story)
    with pytest.raises(ValueError, match="ipv6_prefix must be 0 to 128, not 129"):
        by_address_and_path(ipv6_prefix=129)


def test_an_identity_of_ones_own() -> None:
    """The identity says whom to believe; beside trusted networks there would be two that do."""

    async def story() -> None:
        app = ThrottleMiddleware(
            echo, Throttle(1, 1, clock=ManualClock()), identity=Identity(hops=1, header="forwarded")
        )
        for name, status in (
            (b"for=1.1.1.1", 200),
            (b"for=2.2.2.2", 200),
            (b"for=9.9.9.9, for=1.1.1.1", 429),
        ):
            [start, *_] = await call(app, headers=[(b"forwarded", name)])
            assert start["status"] == status

    run(story)
    with pytest.raises(ValueError, match="trusted must be left to the identity"):
        ThrottleMiddleware(echo, Throttle(1, 1), trusted=["::1"], identity=Identity())


def test_admission_says_what_is_left() -> None:
    """In front of a tier the fields are on the same answers: those of requests that count."""

    async def inner(request: Request) -> Response:
        return Response(200, [(b"a", b"b")])

    async def story() -> None:
        tier = Tier(throttle=Throttle(1, 1, clock=ManualClock()))
        handler = admission(inner, tier, Identity(), lambda client, _: client.address or None, fields=True)
        answers = [await handler(Request("GET", b"/", [], peer)) for peer in ("10.0.0.1", "10.0.0.1", "")]
        assert [answer.status for answer in answers] == [200, 429, 200]
        lines = [(b"ratelimit-policy", b'"default";q=1;w=1'), (b"ratelimit", b'"default";r=0;t=1')]
        assert answers[0].headers == [(b"a", b"b"), *lines]
        assert answers[1].headers[-2:] == lines
        assert answers[2].headers == [(b"a", b"b")]

    run(story)
    with pytest.raises(TypeError, match="fields need a throttle that tells what is left, not None"):
        admission(inner, Tier(), Identity(), lambda client, _: None, fields=True)


def test_identity_is_the_same_for_all() -> None:
    """A proxy and a cache believe by the same identity as a throttle does."""
    who = Identity(hops=1, header="forwarded")
    forwarded = [
        [(b"host", b"h"), (b"forwarded", b'for="[2001:db8::7]:1";host=%b' % host)] for host in (b"a", b"b")
    ]

    async def story() -> None:
        picked: list[Any] = []

        def nobody(ready: Any, key: Any = None) -> None:
            picked.append(key)

        tier = Tier([Replica("a", "http://127.0.0.1:1")], strategy=nobody)
        proxy = ReverseProxy(tier, affinity=affinity.parse("client-address"), identity=who)
        assert (await call(proxy, headers=forwarded[0]))[0]["status"] == 503
        assert picked == ["2001:db8::7"]
        asked: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            asked.append(scope)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})

        cache = CacheMiddleware(app, ttl=60, identity=who)
        for headers in (*forwarded, *forwarded):
            await call(cache, headers=headers)
        assert len(asked) == 2

    run(story)
    for make in (
        lambda: ReverseProxy(Tier(), trusted=["::1"], identity=who),
        lambda: CacheMiddleware(echo, trusted=["::1"], identity=who),
    ):
        with pytest.raises(ValueError, match="trusted must be left to the identity"):
            make()
