"""A limit that is shared over HTTP: by the processes of a tier, and by an application's middleware."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from replicated import Replica
from replicated.adapters.asgi import ThrottleMiddleware
from replicated.adapters.redis_throttle import AsyncRedisThrottle, RedisThrottle
from replicated.http.message import Request
from replicated.serve.admin import Admin
from replicated.serve.options import ServeOptions
from replicated.serve.service import Service

pytest.importorskip("redis.asyncio", reason="the client is an extra")


def options(nowhere: str, server: Any, **more: Any) -> ServeOptions:
    asked = {"throttle": 0.001, "burst": 3.0, "throttle_redis": f"unix://{server.socket}", **more}
    return ServeOptions((Replica("a", nowhere),), throttle_deadline=5.0, **asked)


async def ask(service: Service, times: int, address: str = "10.0.0.1") -> list[Any]:
    answers = []
    for _ in range(times):
        response = await service.handler(Request("POST", b"/", [], address, body=Unread()))
        answers.append(response)
    return answers


class Unread:
    """A body that nobody may read: whoever is admitted finds no replica."""

    def __aiter__(self) -> Unread:
        return self

    async def __anext__(self) -> bytes:
        raise AssertionError("a body was read")


def test_replicas_of_a_tier_share_one_limit(nowhere: str, shared_redis: Any) -> None:
    """However many processes name one server, a client has one limit there, and each says what is left."""

    async def story() -> None:
        shared_redis.client().flushall()
        asked = options(nowhere, shared_redis, ratelimit_fields=True)
        async with Service(asked) as one, Service(asked) as two:
            answers = [*await ask(one, 2), *await ask(two, 2)]
            assert [answer.status == 429 for answer in answers] == [False, False, False, True]
            said = [dict(answer.headers)[b"ratelimit"].partition(b";t=")[0] for answer in answers]
            assert said == [b'"default";r=%d' % left for left in (2, 1, 0, 0)]
            [other] = await ask(two, 1, "10.0.0.2")
            assert other.status != 429
        async with Service(options(nowhere, shared_redis, name="another")) as another:
            [answer] = await ask(another, 1)
            assert answer.status != 429
            assert b"ratelimit" not in dict(answer.headers)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("down", "refused"), [("local", [False] * 3 + [True]), ("open", [False] * 4), ("closed", [True] * 4)]
)
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_without_the_server(nowhere: str, own_redis: Any, down: Any, refused: list[bool], end: str) -> None:
    """When the server dies or hangs in the middle of load, the policy decides, after one deadline."""

    async def story() -> None:
        asked = ServeOptions(
            (Replica("a", nowhere),),
            throttle=0.001,
            burst=3.0,
            throttle_redis=f"unix://{own_redis.socket}",
            throttle_deadline=0.2,
            throttle_down=down,
            ratelimit_fields=True,
        )
        async with Service(asked) as service:
            getattr(own_redis, end)()
            answers = await ask(service, 4)
            assert [answer.status == 429 for answer in answers] == refused
            for answer in answers:
                assert (b"ratelimit" in dict(answer.headers)) == (down == "local")
                assert answer.status != 429 or int(dict(answer.headers)[b"retry-after"]) >= 1

    asyncio.run(story())


def test_a_block_is_for_all(nowhere: str, own_redis: Any) -> None:
    """Whoever is refused by one process is blocked at all, and by each alone once the server has gone."""

    async def story() -> None:
        asked = options(nowhere, own_redis, throttle=0.01, burst=1.0, throttle_block=600.0)
        async with Service(asked, counted=True) as one, Service(asked) as two:
            answers = [*await ask(one, 4), *await ask(two, 1)]
            own_redis.kill()
            answers += await ask(one, 4)
            waits = [int(dict(answer.headers).get(b"retry-after", 0)) for answer in answers]
            refused = [590 < wait <= 600 for wait in waits]
            assert refused == [False, True, True, True, True, False, True, True, True]
            told = Admin(one, lambda: 0).families()
            assert {family.name: list(family.values) for family in told if "throttle" in family.name} == {
                "replicated_throttle_refused_total": [({}, 6)],
                "replicated_throttle_failures_total": [({}, 1)],
                "replicated_throttle_fallbacks_total": [({}, 4)],
            }

    asyncio.run(story())


@pytest.mark.parametrize("down", ["local", "closed"])
def test_shadow_refuses_nobody(nowhere: str, own_redis: Any, down: str) -> None:
    """In shadow mode nobody is refused, with the server or without; what would have been is counted."""

    async def story() -> None:
        told = down == "local"
        more = {"throttle_shadow": True, "throttle_down": down, "ratelimit_fields": told}
        async with Service(options(nowhere, own_redis, **more)) as service:
            answers = await ask(service, 5)
            own_redis.kill()
            answers += await ask(service, 5)
            assert 429 not in [answer.status for answer in answers]
            assert service.shared is not None
            assert service.shared.stats().refused == 2 + (2 if told else 5)
            if told:
                said = [dict(answer.headers)[b"ratelimit"].partition(b";t=")[0] for answer in answers]
                assert said == [b'"default";r=%d' % left for left in (2, 1, 0, 0, 0) * 2]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"throttle": None, "burst": None}, "throttle_redis needs a throttle"),
        ({"throttle_block": -5.0}, "block must not be negative, not -5.0"),
        ({"throttle_block": -5.0, "throttle_down": "open"}, "block must be from 0 seconds to 70 years"),
        ({"throttle_down": "maybe"}, "throttle_down must be one of local, open, closed, not 'maybe'"),
        ({"throttle_redis": "http://there"}, "(?i)url must"),
    ],
)
def test_what_cannot_be_shared(more: dict[str, Any], message: str) -> None:
    """What makes no sense beside a shared throttle is refused in one sentence."""
    asked = {"throttle": 1.0, "throttle_redis": "redis://127.0.0.1:1", **more}
    with pytest.raises(ValueError, match=message):
        Service(ServeOptions((Replica("a", "http://127.0.0.1:1"),), **asked))


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redis-py the flag says what to install."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.delitem(sys.modules, "replicated.adapters.redis_client", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'replicated-tier\[redis\]'"):
        Service(
            ServeOptions((Replica("a", "http://127.0.0.1:1"),), throttle=1.0, throttle_redis="redis://there")
        )


@pytest.mark.parametrize("later", [True, False])
def test_the_middleware_says_what_the_answer_said(shared_redis: Any, later: bool) -> None:
    """Fields come from the answer to the take: a request costs one question."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def story() -> None:
        with shared_redis.client() as plain:
            plain.flushall()
            client: Any = shared_redis.client(later=True) if later else plain
            make: Any = AsyncRedisThrottle if later else RedisThrottle
            app = ThrottleMiddleware(echo, make(client, 0.001, 2), fields=True)
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": "http", "method": "GET", "path": "/", "client": ("10.0.0.1", 1), "headers": []}
            await app(scope, None, send)  # type: ignore[arg-type]
            plain.config_resetstat()
            for _ in range(2):
                await app(scope, None, send)  # type: ignore[arg-type]
            assert plain.info("commandstats")["cmdstat_evalsha"]["calls"] == 2
            starts = [message for message in sent if message["type"] == "http.response.start"]
            assert [start["status"] for start in starts] == [200, 200, 429]
            for start, left in zip(starts, (1, 0, 0), strict=True):
                found = dict(start["headers"])
                assert found[b"ratelimit"].startswith(b'"default";r=%d;' % left)
                assert found[b"ratelimit-policy"] == b'"default";q=2;w=2000'
            if later:
                await client.aclose()

    asyncio.run(story())
