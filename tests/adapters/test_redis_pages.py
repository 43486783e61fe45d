"""Pages that caches share in a real server, which is stopped, killed and lied to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from replicated.adapters.asgi import CacheMiddleware
from replicated.adapters.proxy.http_cache import HttpCache
from replicated.adapters.proxy.purging import Purging
from replicated.adapters.redis_pages import MOST_WRITES, RedisPages
from replicated.http.caching import HttpCacheRules
from replicated.http.fields import find
from replicated.http.message import Request, Response

redis = pytest.importorskip("redis.asyncio", reason="the client is an extra")


class Origin:
    """Answers each target with a number that counts, under headers that can be changed."""

    def __init__(self, **fields: str) -> None:
        self.asked = 0
        self.fields = {"cache_control": "max-age=60", **fields}
        self.gate: asyncio.Event | None = None
        self.down = False

    async def __call__(self, request: Request) -> Response:
        self.asked += 1
        number = self.asked
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise OSError("no origin")
        headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in self.fields.items()]
        return Response(200, headers, b"%b %d" % (request.target, number))


class Member:
    """One cache of a tier."""

    def __init__(
        self, client: Any, origin: Any, *, rules: HttpCacheRules | None = None, **options: Any
    ) -> None:
        options.setdefault("deadline", 5.0)  # where the server is well, the machine may still be busy
        self.level = RedisPages(client, **options)
        self.cache = HttpCache(origin, size=1_000_000, level=self.level, rules=rules)

    async def get(self, target: bytes = b"/", method: str = "GET", **fields: str) -> tuple[bytes, str]:
        headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
        response = await self.cache(Request(method, target, [(b"host", b"h"), *headers]))
        assert isinstance(response.body, bytes)
        return response.body, (find(response.headers, b"cache-status") or b"").decode()

    async def settled(self) -> None:
        """Let all that is on its way to the server arrive."""
        while self.level.tasks:
            await asyncio.sleep(0.001)


@pytest.fixture
def run(shared_redis: Any) -> Callable[[Callable[[Any], Coroutine[Any, Any, None]]], None]:
    """Tell a story about a server that is empty at its beginning."""

    def told(story: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        async def begun() -> None:
            async with shared_redis.client(later=True) as client:
                await client.flushall()
                await story(client)

        asyncio.run(asyncio.wait_for(begun(), 20))

    return told


def test_what_one_has_fetched_the_others_serve(run: Any) -> None:
    """A page that one member has stored is a hit of another, which then has it too, with its age and tags."""

    async def story(client: Any) -> None:
        origin = Origin(surrogate_key="shoes")
        ours, theirs = Member(client, origin), Member(client, origin)
        assert await ours.get() == (b"/ 1", "replicated; fwd=uri-miss; stored")
        await ours.settled()
        assert await theirs.get() == (b"/ 1", "replicated; hit")
        assert await theirs.get() == (b"/ 1", "replicated; hit")
        assert (origin.asked, theirs.level.stats().hits, theirs.level.stats().misses) == (1, 1, 0)
        [[mine], [yours]] = [member.cache.pages.store["http://h/"] for member in (ours, theirs)]
        assert 0 <= mine.born - yours.born < 1  # never younger than it is
        assert theirs.cache.purge(b"shoes") == 1
        await theirs.settled()

    run(story)


def test_applications_share_too(run: Any) -> None:
    """What one application's middleware has stored, another process's serves."""
    asked = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        headers = [(b"cache-control", b"max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"page"})

    async def story(client: Any) -> None:
        for _ in range(2):
            front = CacheMiddleware(app, level=RedisPages(client, deadline=5.0))
            transport = httpx.ASGITransport(front)
            async with httpx.AsyncClient(transport=transport, base_url="http://h") as visitor:
                assert (await visitor.get("/")).text == "page"
            await front.cache.aclose()
        assert asked == ["/"]

    run(story)


def test_many_misses_are_one_question(run: Any) -> None:
    """Where many requests miss a page in one member, the server is asked once, as the origin is."""

    async def story(client: Any) -> None:
        origin = Origin()
        origin.gate = asyncio.Event()
        ours = Member(client, origin)
        asked = [asyncio.ensure_future(ours.get()) for _ in range(200)]
        while not origin.asked:
            await asyncio.sleep(0)
        origin.gate.set()
        assert {body for body, _ in await asyncio.gather(*asked)} == {b"/ 1"}
        assert ours.level.stats().misses == 1
        await ours.settled()

    run(story)


def test_heads_and_ranges_look_there_too(run: Any) -> None:
    """HEAD, ranges and those who want it young are answered from what is shared, before the origin is."""

    async def story(client: Any) -> None:
        origin = Origin()
        ours = Member(client, origin)
        await ours.get(b"/page")
        await ours.settled()
        for method, fields, body in (
            ("HEAD", {}, b""),
            ("GET", {"range": "bytes=1-4"}, b"page"),
            ("GET", {"range": "bytes=1-4", "if_range": '"x"'}, b"/page 1"),
            ("GET", {"range": "bytes=-1,-1"}, b"1"),
            ("GET", {"cache_control": "max-age=50"}, b"/page 1"),
        ):
            theirs = Member(client, origin)
            assert await theirs.get(b"/page", method, **fields) == (body, "replicated; hit")
            assert await theirs.get(b"/page") == (b"/page 1", "replicated; hit")
            assert (theirs.level.stats().hits, theirs.level.stats().misses) == (1, 0)
        assert origin.asked == 1
        third = Member(client, origin)
        for method, fields in (
            ("HEAD", {"cache_control": "no-cache"}),
            ("HEAD", {"if_match": '"x"'}),
            ("GET", {"range": "bytes=0-1", "if_none_match": "*", "pragma": "no-cache"}),
        ):
            await third.get(b"/page", method, **fields)
        assert (origin.asked, third.level.stats().hits, third.level.stats().misses) == (4, 0, 0)

    run(story)


def test_many_heads_and_ranges_are_one_question(run: Any) -> None:
    """Where heads and different ranges of one page are asked for at once, the server is asked for it once."""

    async def story(client: Any) -> None:
        origin = Origin()
        ours, theirs = Member(client, origin), Member(client, origin)
        await ours.get(b"/page")
        await ours.settled()
        asked = [theirs.get(b"/page", "HEAD") for _ in range(50)]
        asked += [theirs.get(b"/page", range=f"bytes=0-{last}") for last in range(50)]
        assert {said for _, said in await asyncio.gather(*asked)} == {"replicated; hit"}
        stats = theirs.level.stats()
        assert (origin.asked, stats.hits, stats.misses) == (1, 1, 0)

    run(story)


def test_heads_of_what_cannot_be_stored_do_not_look(run: Any) -> None:
    """A page that is known not to be storable is not looked for with each HEAD."""

    async def story(client: Any) -> None:
        ours = Member(client, Origin(cache_control="no-store"))
        await ours.get()
        for _ in range(3):
            await ours.get(b"/", "HEAD")
        assert ours.level.stats().misses == 1

    run(story)


def test_parts_that_became_a_page_are_shared(run: Any) -> None:
    """When the parts of a page are complete, other members have it too."""

    async def parts(request: Request) -> Response:
        first = 0 if b"0-4" in (find(request.headers, b"range") or b"") else 5
        headers = [(b"cache-control", b"max-age=60"), (b"etag", b'"a"'), (b"surrogate-key", b"shoes")]
        headers.append((b"content-range", b"bytes %d-%d/10" % (first, first + 4)))
        return Response(206, headers, b"0123456789"[first : first + 5])

    async def story(client: Any) -> None:
        ours, theirs = Member(client, parts), Member(client, Origin())
        await ours.get(range="bytes=0-4")
        assert await ours.get(range="bytes=5-") == (b"56789", "replicated; fwd=uri-miss; stored")
        await ours.settled()
        assert await theirs.get() == (b"0123456789", "replicated; hit")
        assert ours.cache.purge(b"shoes") == 1
        await ours.settled()
        assert (await Member(client, Origin()).get())[0] == b"/ 1"

    run(story)


def test_variants_stand_beside_each_other(run: Any) -> None:
    """Members that fetched different variants share both, until the page varies by something else."""

    async def story(client: Any) -> None:
        origin = Origin(vary="Accept")
        ours, theirs, third = (Member(client, origin) for _ in range(3))
        await ours.get(accept="a")
        await ours.settled()
        assert await theirs.get(accept="b") == (b"/ 2", "replicated; fwd=vary-miss; stored")
        await theirs.settled()
        assert (await third.get(accept="a"))[0] == b"/ 1"
        assert (await third.get(accept="b"))[0] == b"/ 2"
        assert third.level.stats().hits == 1  # both came at once
        origin.fields["vary"] = "X"
        await ours.get(accept="c")
        await ours.settled()
        fourth = Member(client, origin)
        assert await fourth.get(accept="a") == (b"/ 3", "replicated; hit")

    run(story)


def test_what_is_stale_there_is_validated_or_refreshed(run: Any) -> None:
    """A page in its grace answers from there too, and what one member refreshes the others take over."""

    async def story(client: Any) -> None:
        rules = HttpCacheRules(grace=100)
        origin = Origin(cache_control="max-age=10", age="10")
        ours, theirs, third = (Member(client, origin, rules=rules) for _ in range(3))
        await ours.get()
        await ours.settled()
        assert (await theirs.get())[1].startswith("replicated; hit; ttl=")
        await asyncio.sleep(0)
        origin.fields["age"] = "0"
        while theirs.cache.tasks:
            await asyncio.sleep(0.001)
        assert origin.asked == 2
        await theirs.settled()
        assert (await theirs.get())[0] == b"/ 2"
        assert await third.get() == (b"/ 2", "replicated; hit")
        # The first has its old copy still: its refresh finds what the second one has left there.
        assert (await ours.get())[0] == b"/ 1"
        while ours.cache.tasks:
            await asyncio.sleep(0.001)
        assert (await ours.get(), origin.asked) == ((b"/ 2", "replicated; hit"), 2)

    run(story)


def test_what_went_stale_there_is_validated(run: Any) -> None:
    """A stale page from the server lends the member that finds it the validators that it did not have."""

    async def story(client: Any) -> None:
        origin = Origin(cache_control="max-age=10", age="10", etag='"e"')
        ours = Member(client, origin)
        await ours.get()
        await ours.settled()
        asked: list[Request] = []

        async def confirms(request: Request) -> Response:
            asked.append(request)
            return Response(304, [(b"etag", b'"e"'), (b"cache-control", b"max-age=10")])

        theirs = Member(client, confirms)
        assert await theirs.get() == (b"/ 1", "replicated; fwd=stale; fwd-status=304")
        assert find(asked[0].headers, b"if-none-match") == b'"e"'
        await theirs.settled()
        assert await Member(client, origin).get() == (b"/ 1", "replicated; hit")

    run(story)


def test_what_was_changed_is_gone_everywhere(run: Any) -> None:
    """After a purge by URL or tag, or an unsafe request, members that did not hold the page fetch it anew."""

    async def story(client: Any) -> None:
        origin = Origin(cache_tag="a, b")
        ours = Member(client, origin)
        purging = Purging(ours.cache)
        for number, purge in enumerate(
            [
                Request("PURGE", b"/", [(b"host", b"h")], "127.0.0.1"),
                Request("PURGE", b"/", [(b"cache-tag", b"b")], "127.0.0.1"),
                Request("DELETE", b"/", [(b"host", b"h")]),
            ],
            1,
        ):
            origin.asked = number * 10
            await Member(client, origin).get()  # leaves it there
            await ours.get()
            await ours.settled()
            done = await purging(purge)
            if purge.method == "PURGE":
                assert (done.status, done.body) == (200, b'{"purged": 1, "shared": true}')
            await ours.settled()
            other = Member(client, origin)
            assert (await other.get())[1].startswith("replicated; fwd=uri-miss"), purge
            await other.settled()

    run(story)


def test_a_fetch_that_began_before_a_change_brings_nothing_back(run: Any) -> None:
    """What a member was fetching while another purged it is neither shared nor taken from what is shared."""

    async def story(client: Any) -> None:
        for tag in (None, b"t"):
            slow, quick = Origin(surrogate_key="t"), Origin(surrogate_key="t")
            slow.gate = asyncio.Event()
            theirs, ours = Member(client, slow), Member(client, quick)
            fetching = asyncio.ensure_future(theirs.get())
            while not slow.asked:
                await asyncio.sleep(0.001)
            await ours.level.find("x")  # so that it knows the time there
            if tag is None:
                ours.cache.forget("http://h/")
            else:
                ours.cache.purge(tag)
            await ours.settled()
            slow.gate.set()
            assert (await fetching)[0] == b"/ 1"
            await theirs.settled()
            assert await client.keys("pages:page*") == []
            assert quick.asked == 0

    run(story)


def test_an_older_answer_does_not_replace_a_younger_one(run: Any) -> None:
    """Of two members' answers the one whose fetch began later stays, whichever arrives last."""

    async def story(client: Any) -> None:
        slow, quick = Origin(), Origin(x="quick")
        slow.gate = asyncio.Event()
        theirs, ours = Member(client, slow), Member(client, quick)
        fetching = asyncio.ensure_future(theirs.get())
        while not slow.asked:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.005)
        await ours.get()
        await ours.settled()
        slow.gate.set()
        await fetching
        await theirs.settled()
        [value] = await client.hvals("pages:page http://h/")
        assert b"quick" in value

    run(story)


def test_what_lies_there_is_not_believed(run: Any) -> None:
    """Garbage, responses that set cookies or split headers, keys of another type and floods are misses."""

    async def story(client: Any) -> None:
        name = "pages:page http://h/"
        origin = Origin()
        writer = Member(client, origin)
        await writer.get()
        await writer.settled()
        [(field, good)] = (await client.hgetall(name)).items()
        assert good[:16].isdigit()
        for bad in (
            b"",
            b"garbage",
            good[:40],
            good[16:],
            good.replace(b"max-age=60", b"max\\r\\na: b"),
            good.replace(b'"cache-control"', b'"set-cookie"'),
            good + b"more",
            b"9" * 16 + good[16:],
        ):
            await client.hset(name, field, bad)
            origin.asked = 0
            reader = Member(client, origin)
            assert await reader.get() == (b"/ 1", "replicated; fwd=uri-miss; stored"), bad
            assert reader.level.stats().failures == 1
            await reader.settled()  # it writes over it
        for plant in (
            client.set(name, b"a string"),
            client.hset(name, mapping={str(number): good for number in range(17)}),
            client.hset(name, "big", b"1" * 2**20),
            client.set("pages:key http://h/", b"garbage"),
            client.hset(name, field, good.replace(b"max-age=60", b"surrogate-key: a b")),
        ):
            await client.delete(name)
            await plant
            origin.asked = 0
            reader = Member(client, origin)
            assert (await reader.get())[0] == b"/ 1"
            await reader.settled()

    run(story)


def test_answers_to_other_questions_are_none(run: Any) -> None:
    """A client that hands out another one's answer brings no page, no purge and no confirmation."""

    class Muddled:
        def __init__(self, client: Any) -> None:
            self.client = client
            self.last: Any = None

        async def eval(self, *arguments: Any) -> Any:
            now, self.last = self.last, await self.client.eval(*arguments)
            return now

    async def story(client: Any) -> None:
        origin = Origin(surrogate_key="t")
        first = Member(client, origin)
        await first.get()
        await first.settled()
        muddled = Member(Muddled(client), origin)
        assert await muddled.level.find("http://h/") == []
        assert await muddled.level.find("http://h/") == []
        muddled.cache.purge(b"t")
        assert not await muddled.cache.confirmed()
        # Where only the question about tags goes astray, the page is none either.
        second = Member(client, origin)
        evaluate, calls = client.eval, iter([True, False])

        async def once(*arguments: Any) -> Any:
            return await evaluate(*arguments) if next(calls) else None

        client.eval = once
        assert await second.level.find("http://h/") == []
        client.eval = evaluate

    run(story)


def test_a_server_short_of_memory_forgets_no_purge(run: Any) -> None:
    """Where the server lets go of what it knew of a tag, pages that carry it are misses, purged or not."""

    async def story(client: Any) -> None:
        origin = Origin(surrogate_key="t")
        first = Member(client, origin)
        await first.get(b"/a")
        await first.settled()
        assert await client.delete("pages:tag t") == 1  # evicted
        second = Member(client, origin)
        await second.get(b"/b")  # begins a new generation
        await second.settled()
        third = Member(client, origin)
        assert (await third.get(b"/b"))[1] == "replicated; hit"
        assert (await third.get(b"/a"))[1] == "replicated; fwd=uri-miss; stored"
        await third.settled()
        assert (await Member(client, origin).get(b"/a"))[1] == "replicated; hit"

    run(story)


def test_what_is_too_large_or_over_is_not_sent(run: Any) -> None:
    """A page beyond the largest, with too many tags, or of no use any more stays in its member."""

    async def story(client: Any) -> None:
        ours = Member(client, Origin(), largest=1400)
        await ours.get()
        assert ours.level.stats().dropped == 1
        tagged = Member(client, Origin(surrogate_key=" ".join(f"t{number}" for number in range(65))))
        await tagged.get()
        assert tagged.level.stats().dropped == 1
        [stored] = ours.cache.pages.store["http://h/"]
        tagged.level.keep("http://h/", stored, asked=stored.born, until=tagged.level.clock() - 1)
        assert tagged.level.stats().dropped == 1
        assert await client.keys("*") == []

    run(story)


def test_variants_of_a_page_are_bounded(run: Any) -> None:
    """A page with more variants than may be read is begun anew, in number and in bytes."""

    async def story(client: Any) -> None:
        ours = Member(client, Origin(vary="accept"), largest=4000)
        for number in range(40):
            await ours.get(accept=str(number))
            await ours.settled()
            assert sum(map(len, await client.hvals("pages:page http://h/"))) <= 4000
        many = Member(client, Origin(vary="accept"))
        for number in range(20):
            await many.get(b"/m", accept=str(number))
            await many.settled()
            assert await client.hlen("pages:page http://h/m") <= 16

    run(story)


def test_a_stopped_server_costs_one_deadline(own_redis: Any) -> None:
    """While the server stands still pages are served, and one request waits for it; purges reach it later."""

    async def story() -> None:
        async with own_redis.client(later=True) as client:
            origin = Origin()
            ours = Member(client, origin, deadline=0.05, retry_every=30)
            await ours.get(b"/warm")
            await ours.settled()
            own_redis.stop()
            for number in range(5):
                await ours.get(b"/%d" % number)
            assert ours.level.stats().failures == 1
            assert ours.level.stats().dropped == 5
            done = await Purging(ours.cache)(Request("PURGE", b"/warm", [(b"host", b"h")], "127.0.0.1"))
            assert (done.status, done.body) == (202, b'{"purged": 1, "shared": false}')
            assert ours.level.stats().owed == 2
            own_redis.go_on()
            # It lies there still, and is not taken by who knows better.
            ours.level.link.deadline = 5.0
            ours.level.link.ask_again = 0.0
            assert await ours.level.find("http://h/warm") == []
            assert await ours.cache.confirmed()
            assert await client.exists("pages:page http://h/warm") == 0
            await ours.cache.aclose()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_dead_server_is_no_error(own_redis: Any) -> None:
    """After the server is killed pages are fetched and served, and closing the cache waits for nothing."""

    async def story() -> None:
        async with own_redis.client(later=True) as client:
            origin = Origin()
            ours = Member(client, origin, retry_every=1e-9)
            await ours.get()
            await ours.settled()
            own_redis.kill()
            for target in (b"/a", b"/b"):
                assert (await ours.get(target))[1] == "replicated; fwd=uri-miss; stored"
            assert (await ours.get(b"/a"))[1] == "replicated; hit"
            ours.cache.forget("http://h/a")
            assert not await ours.cache.confirmed()
            await ours.cache.aclose()
            assert "owed=1" in repr(ours.level.stats())

    asyncio.run(asyncio.wait_for(story(), 20))


def test_what_changes_while_it_is_told_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that comes while the server is told of the one before is told too; beyond a bound none is."""

    class Slow:
        def __init__(self) -> None:
            self.told: list[bytes] = []
            self.open = asyncio.Event()

        async def eval(self, script: str, count: int, *arguments: Any) -> Any:
            self.told.append(arguments[0])
            await self.open.wait()
            return [b"%d" % arguments[count], 1]

    async def story() -> None:
        client = Slow()
        level = RedisPages(client)
        level.change("a")
        while not client.told:
            await asyncio.sleep(0)
        level.change("a")
        monkeypatch.setattr("replicated.adapters.redis_pages.MOST_OWED", 2)
        level.change(b"b")
        level.change("c")
        client.open.set()
        assert await level.confirmed()
        assert client.told == [b"pages:key a", b"pages:key a", b"pages:tag b"]

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_cancelled_look_up_goes_on_for_those_who_wait() -> None:
    """Where the request that looks is cancelled, another takes its place, and nobody looks a second time."""

    class Slow:
        def __init__(self) -> None:
            self.asked = 0
            self.open = asyncio.Event()

        async def eval(self, *arguments: Any) -> Any:
            self.asked += 1
            await self.open.wait()

    async def story() -> None:
        client = Slow()
        ours = Member(client, Origin())
        asked = [asyncio.ensure_future(ours.get()) for _ in range(3)]
        while not client.asked:
            await asyncio.sleep(0)
        asked[0].cancel()
        await asyncio.wait(asked[:1])
        client.open.set()
        assert [body for body, _ in await asyncio.gather(*asked[1:])] == [b"/ 1", b"/ 1"]
        assert client.asked == 1
        with pytest.raises(asyncio.CancelledError):
            await asked[0]
        assert not ours.cache.flights

        client.open.clear()
        alone = asyncio.ensure_future(ours.get(b"/alone"))
        while client.asked < 2:
            await asyncio.sleep(0)
        alone.cancel()
        closing = asyncio.ensure_future(ours.cache.aclose())
        await asyncio.wait([alone])
        client.open.set()
        await closing
        assert not ours.cache.pages.looks

    asyncio.run(asyncio.wait_for(story(), 20))


def test_writes_do_not_pile_up() -> None:
    """A slow server holds so many writes and no more; who closes the cache ends them."""

    class Slow:
        async def eval(self, script: str, count: int, *arguments: Any) -> Any:
            if count > 2 or "HSET" in script:
                await asyncio.Event().wait()
            return [b"%d" % arguments[count], 1_700_000_000_000_000]

    async def story() -> None:
        ours = Member(Slow(), Origin())
        for number in range(MOST_WRITES + 5):
            await ours.get(b"/%d" % number)
        assert ours.level.stats().dropped == 5
        assert len(ours.level.tasks) == MOST_WRITES
        closing = asyncio.ensure_future(ours.cache.aclose())
        await asyncio.sleep(0)
        for task in list(ours.level.tasks.values()):
            task.cancel()
        await closing
        await asyncio.sleep(0)
        assert not ours.level.tasks

    asyncio.run(asyncio.wait_for(story(), 20))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"largest": 0}, ValueError),
        ({"largest": 1.5}, TypeError),
        ({"longest": 0}, ValueError),
        ({"deadline": float("nan")}, ValueError),
        ({"retry_every": "1"}, TypeError),
    ],
)
def test_what_cannot_be(options: dict[str, Any], error: type[Exception]) -> None:
    """Numbers that are none are refused by name."""
    with pytest.raises(error, match=next(iter(options))):
        RedisPages(None, **options)
