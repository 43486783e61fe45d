"""The HTTP cache at work: one fetch for many, whatever becomes of it, and nothing stored that is not true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicated.adapters.http_date import http_date
from replicated.adapters.proxy.http_cache import HttpCache
from replicated.http.caching import HttpCacheRules
from replicated.http.dates import parse_date
from replicated.http.fields import find
from replicated.http.identity import Identity
from replicated.http.message import Request, Response
from replicated.testing import ManualClock

Play = Callable[[Request], Awaitable[Response]]


def get(method: str = "GET", target: bytes = b"/", **fields: str) -> Request:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return Request(method, target, [(b"host", b"h"), *headers])


def answer(status: int = 200, body: bytes = b"page", **fields: str) -> Response:
    fields.setdefault("cache_control", "max-age=60")
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return Response(status, headers, body)


class Origin:
    """A handler that plays a script, the last scene for ever, and counts."""

    def __init__(self, *scenes: Response | Exception | Play) -> None:
        self.scenes = list(scenes)
        self.asked: list[Request] = []
        self.closed = 0

    async def __call__(self, request: Request) -> Response:
        self.asked.append(request)
        scene = self.scenes.pop(0) if len(self.scenes) > 1 else self.scenes[0]
        if isinstance(scene, Exception):
            raise scene
        response = (
            Response(scene.status, list(scene.headers), scene.body)
            if isinstance(scene, Response)
            else await scene(request)
        )

        async def close() -> None:
            self.closed += 1

        response.close = close
        return response


class Scene:
    """A response that waits to be told to go on: head, then each piece of its body."""

    def __init__(self, *pieces: bytes, **fields: str) -> None:
        self.pieces = pieces
        self.fields = fields
        self.head = asyncio.Event()
        self.body = asyncio.Semaphore(0)
        self.error: Exception | None = None
        self.read = 0

    async def __call__(self, request: Request) -> Response:
        await self.head.wait()
        response = answer(**self.fields)
        response.body = self.stream()
        return response

    async def stream(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            await self.body.acquire()
            self.read += 1
            yield piece
        await self.body.acquire()
        if self.error is not None:
            raise self.error

    def go(self) -> None:
        self.head.set()
        for _ in range(len(self.pieces) + 1):
            self.body.release()


async def whole(response: Response) -> bytes:
    try:
        if isinstance(response.body, bytes):
            return response.body
        return b"".join([piece async for piece in response.body])
    finally:
        await response.close()


async def fetched(cache: HttpCache, request: Request) -> tuple[int, bytes, str]:
    response = await cache(request)
    body = await whole(response)
    return response.status, body, (find(response.headers, b"cache-status") or b"").decode()


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 5))


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def make(origin: Origin, **arguments: Any) -> HttpCache:
    arguments.setdefault("size", 100_000)
    return HttpCache(origin, **arguments)


# -- one request after another --------------------------------------------------------------------------


def test_a_page_is_fetched_once() -> None:
    """The second request for a page is answered without the origin, and each response is closed."""

    async def story() -> None:
        origin = Origin(answer())
        cache = make(origin)
        assert await fetched(cache, get()) == (200, b"page", "replicated; fwd=uri-miss; stored")
        assert await fetched(cache, get()) == (200, b"page", "replicated; hit")
        assert await fetched(cache, get("HEAD")) == (200, b"", "replicated; hit")
        assert await fetched(cache, get(range="bytes=1-2")) == (206, b"ag", "replicated; hit")
        assert (len(origin.asked), origin.closed) == (1, 1)

    run(story)


def test_keys_are_what_is_believed() -> None:
    """Host, scheme and target tell pages apart; what a stranger forwards does not."""

    async def story() -> None:
        origin = Origin(answer())
        cache = make(origin)
        await fetched(cache, get())
        other = get()
        other.headers = [(b"host", b"other")]
        tls = get()
        tls.scheme = "https"
        for request in (other, tls, get(target=b"/?"), get(target=b"/%2f")):
            await fetched(cache, request)
        assert len(origin.asked) == 5
        await fetched(cache, get(x_forwarded_host="other", x_forwarded_proto="https"))
        assert len(origin.asked) == 5

    run(story)


WORDS = [
    "max-age",
    "s-maxage",
    "public",
    "private",
    "no-cache",
    "stale-while-revalidate",
    "must-revalidate",
    "only-if-cached",
    "bytes",
    "1-2",
    "-1",
    "0",
    "1",
    "1e9",
    "99999999999999999999",
    "=",
    ",",
    '"',
    ";",
    ":",
    "*",
    "\\",
    "-",
    "W/",
    "ÿ",
]
WORDS += [" ", "Thu, 01 Jan 1970 00:00:00 GMT"]
VALUE = st.lists(st.sampled_from(WORDS), max_size=6).map("".join)
SAID = [
    "age",
    "cache-control",
    "cdn-cache-control",
    "content-length",
    "content-type",
    "date",
    "etag",
    "expires",
    "last-modified",
    "pragma",
    "surrogate-key",
    "cache-tag",
    "vary",
    "warning",
]
ASKED = ["cache-control", "if-none-match", "if-modified-since", "if-range", "range", "pragma"]


@given(
    st.lists(st.tuples(st.sampled_from(SAID), VALUE)),
    st.lists(st.tuples(st.sampled_from(ASKED), VALUE), max_size=3),
)
@settings(max_examples=150)
def test_malformed_fields_are_no_error(said: list[tuple[str, str]], asked: list[tuple[str, str]]) -> None:
    """Whatever stands in the fields that caches read, on either side, each request gets its answer."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in said]
    request = get()
    request.headers += [(name.encode(), value.encode("latin-1")) for name, value in asked]

    async def story() -> None:
        cache = make(Origin(Response(200, headers, b"page")))
        for _ in range(3):
            response = await cache(request)
            assert response.status in (200, 206, 304, 416, 504)
            if response.status == 200:
                assert await whole(response) == b"page"
            await response.close()
        await cache.aclose()

    asyncio.run(story())


def test_a_trusted_peer_names_the_page() -> None:
    """What a trusted proxy forwards as scheme and host is the key; where it says no host, Host is."""

    async def story() -> None:
        origin = Origin(answer())
        cache = make(origin, identity=Identity(["10.0.0.0/8"]))
        seen = []
        for fields in (
            {"x_forwarded_host": "other", "x_forwarded_proto": "https"},
            {"x_forwarded_for": "1.2.3.4"},
        ):
            request = get(**fields)
            request.peer = "10.0.0.1"
            await fetched(cache, request)
            seen.append(set(cache.pages.store))
        assert seen == [{"https://other/"}, {"https://other/", "http://h/"}]

    run(story)


def test_expiry_and_validation() -> None:
    """A stale page is validated; a 304 makes it fresh again, and another answer takes its place."""

    async def story() -> None:
        clock = ManualClock()
        origin = Origin(answer(etag='"a"'), Response(304, [(b"x", b"1")]), answer(body=b"new"))
        cache = make(origin, clock=clock)
        await fetched(cache, get())
        clock.advance(61)
        assert await fetched(cache, get()) == (200, b"page", "replicated; fwd=stale; fwd-status=304")
        assert find(origin.asked[1].headers, b"if-none-match") == b'"a"'
        assert (await fetched(cache, get()))[2] == "replicated; hit"
        clock.advance(61)
        assert (await fetched(cache, get()))[1] == b"new"
        assert (await fetched(cache, get()))[1:] == (b"new", "replicated; hit")
        assert origin.closed == 3

    run(story)


def test_a_304_to_one_with_credentials_is_not_stored() -> None:
    """A 304 to somebody in particular answers that one, and leaves what is stored as it was."""

    async def story() -> None:
        clock = ManualClock()
        origin = Origin(answer(etag='"a"'), Response(304, [(b"x-user", b"alice")]))
        cache = make(origin, clock=clock)
        await fetched(cache, get())
        clock.advance(61)
        response = await cache(get(cookie="a=b"))
        assert find(response.headers, b"x-user") == b"alice"
        [stored] = cache.pages.store["http://h/"]
        assert find(stored.headers, b"x-user") is None

    run(story)


def test_a_304_about_something_else_is_asked_again() -> None:
    """Where a 304 names another entity tag, the page is asked for once more, whole."""

    async def story() -> None:
        clock = ManualClock()
        origin = Origin(answer(etag='"a"'), Response(304, [(b"etag", b'"b"')]), answer(body=b"b", etag='"b"'))
        cache = make(origin, clock=clock)
        await fetched(cache, get())
        clock.advance(61)
        assert (await fetched(cache, get()))[:2] == (200, b"b")
        assert find(origin.asked[2].headers, b"if-none-match") is None
        assert (await fetched(cache, get()))[1:] == (b"b", "replicated; hit")
        assert not cache.flights

    run(story)


def test_what_is_too_large_passes() -> None:
    """A body beyond the largest is passed on, announced or not, and not stored."""

    async def story() -> None:
        for announced in (True, False):
            scene = Scene(b"12345", b"67890", **({"content_length": "10"} if announced else {}))
            scene.go()
            origin = Origin(scene)
            cache = make(origin, largest=7)
            assert (await fetched(cache, get()))[:2] == (200, b"1234567890")
            assert not cache.pages.store
            assert "http://h/" in cache.unstorable  # nobody waits for the next one
            assert (cache.flights, cache.allowance.held, origin.closed) == ({}, 0, 1)

    run(story)


def test_what_breaks_off_is_not_stored() -> None:
    """A body cut short, by an error or by its own length, reaches the client as it is and is not stored."""

    async def story() -> None:
        scene = Scene(b"12345")
        scene.error = RuntimeError("broken")
        scene.go()
        short = Scene(b"12345", content_length="9")
        short.go()
        origin = Origin(scene, short, answer(content_length="9"))
        cache = make(origin)
        with pytest.raises(RuntimeError, match="broken"):
            await fetched(cache, get())
        for _ in range(2):
            assert (await fetched(cache, get()))[0] == 200
        assert not cache.pages.store
        assert (cache.flights, cache.allowance.held, origin.closed) == ({}, 0, 3)

    run(story)


def test_streams_pass_at_once() -> None:
    """Each piece of a body goes on as it comes, and the whole of it is stored."""

    async def story() -> None:
        scene = Scene(b"a", b"b")
        scene.head.set()
        cache = make(Origin(scene))
        response = await cache(get())
        assert not isinstance(response.body, bytes)
        for piece in (b"a", b"b"):
            scene.body.release()
            assert await anext(response.body) == piece
        assert not cache.pages.store
        scene.body.release()
        with pytest.raises(StopAsyncIteration):
            await anext(response.body)
        await response.close()
        await response.close()
        assert (await fetched(cache, get()))[1:] == (b"ab", "replicated; hit")

    run(story)


def test_a_slow_reader_holds_no_more_than_is_allowed() -> None:
    """Bodies are read ahead of their readers up to a bound that they share; beyond it nothing is stored."""

    async def story() -> None:
        scenes = [Scene(*[b"x" * 100] * 20) for _ in range(3)]
        for scene in scenes:
            scene.go()
        cache = make(Origin(*scenes), size=3000, largest=2500)
        responses = [await cache(get(target=b"/%d" % n)) for n in range(3)]
        await settle()
        assert cache.allowance.held <= 3300
        assert [scene.read for scene in scenes] == [20, 11, 1]
        for response in responses:
            assert len(await whole(response)) == 2000
        assert cache.allowance.held == 0

    run(story)


def test_a_reader_that_leaves_ends_the_fetch() -> None:
    """Where nobody else waits, a reader that leaves takes the fetch with it."""

    async def story() -> None:
        scene = Scene(b"a", b"b")
        scene.head.set()
        origin = Origin(scene)
        cache = make(origin)
        response = await cache(get())
        await response.close()
        assert (cache.flights, origin.closed, len(cache.pages.store)) == ({}, 1, 0)

    run(story)


# -- many at once ---------------------------------------------------------------------------------------


def test_many_wait_for_one() -> None:
    """Five hundred requests for a cold page make one fetch, and all get its answer."""

    async def story() -> None:
        scene = Scene(b"page")
        origin = Origin(scene)
        cache = make(origin)
        waiting = [asyncio.ensure_future(fetched(cache, get())) for _ in range(500)]
        await settle()
        scene.go()
        assert {(status, body) for status, body, _ in await asyncio.gather(*waiting)} == {(200, b"page")}
        assert len(origin.asked) == 1

    run(story)


def test_a_slow_reader_delays_nobody() -> None:
    """Those who wait for a page get it when it is whole, though its first reader has not read a byte."""

    async def story() -> None:
        scene = Scene(b"a" * 1000, b"b")
        scene.go()
        cache = make(Origin(scene), patience=1000)
        slow = await cache(get())
        assert (await fetched(cache, get()))[2] == "replicated; hit"
        assert len(await whole(slow)) == 1001

    run(story)


def test_the_leader_leaves_before_the_head() -> None:
    """When the request that fetches is cancelled, one of those who wait fetches in its place."""

    async def story() -> None:
        scene = Scene(b"page")
        origin = Origin(scene)
        cache = make(origin)
        leader = asyncio.ensure_future(fetched(cache, get()))
        waiting = [asyncio.ensure_future(fetched(cache, get())) for _ in range(10)]
        await settle()
        leader.cancel()
        await settle()
        scene.go()
        assert {body for _, body, _ in await asyncio.gather(*waiting)} == {b"page"}
        assert len(origin.asked) == 2
        with pytest.raises(asyncio.CancelledError):
            await leader

    run(story)


def test_the_leader_leaves_within_the_body() -> None:
    """When the client that fetches goes away mid-stream, the fetch goes on for those who wait."""

    async def story() -> None:
        scene = Scene(b"pa", b"ge")
        scene.head.set()
        origin = Origin(scene)
        cache = make(origin)
        leader = await cache(get())
        waiting = [asyncio.ensure_future(fetched(cache, get())) for _ in range(3)]
        await settle()
        await leader.close()
        scene.go()
        assert {body for _, body, _ in await asyncio.gather(*waiting)} == {b"page"}
        assert (len(origin.asked), origin.closed, cache.allowance.held) == (1, 1, 0)

    run(story)


def test_patience_ends() -> None:
    """Who has waited long enough fetches alone, and an answer that comes is stored for the others."""

    async def story() -> None:
        slow = Scene(b"slow")
        origin = Origin(slow, answer(body=b"quick"))
        cache = make(origin, patience=0.02)
        leader = asyncio.ensure_future(fetched(cache, get()))
        await settle()
        assert (await fetched(cache, get()))[1] == b"quick"
        assert (await fetched(cache, get()))[2] == "replicated; hit"
        slow.go()
        assert (await leader)[1] == b"slow"

    run(story)


def test_what_cannot_be_shared_makes_nobody_wait() -> None:
    """After an answer that could not be stored, requests for the page go side by side for a while."""

    async def story() -> None:
        clock = ManualClock()
        private = Scene(b"mine", cache_control="private")
        origin = Origin(answer(cache_control="private"), private)
        cache = make(origin, clock=clock)
        await fetched(cache, get())
        waiting = [asyncio.ensure_future(fetched(cache, get(if_none_match='"x"'))) for _ in range(5)]
        await settle()
        assert len(origin.asked) == 6
        assert find(origin.asked[-1].headers, b"if-none-match") == b'"x"'
        for _ in waiting:
            private.go()
        await asyncio.gather(*waiting)
        clock.advance(11)
        origin.scenes = [answer()]
        await fetched(cache, get())
        assert (await fetched(cache, get()))[2] == "replicated; hit"

    run(story)


def test_waiters_of_an_answer_that_is_not_theirs() -> None:
    """Those whose variant another's fetch did not bring fetch their own, and none gets another's."""

    async def story() -> None:
        async def tell(request: Request) -> Response:
            await asyncio.sleep(0)
            return answer(vary="x-user", body=find(request.headers, b"x-user") or b"")

        cache = make(Origin(tell))
        users = [str(n % 7) for n in range(30)]
        told = await asyncio.gather(*(fetched(cache, get(x_user=user)) for user in users))
        assert [body.decode() for _, body, _ in told] == users

    run(story)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_failure_is_shared(status: int) -> None:
    """When no replica answers the one that fetches, those who wait are told so, in words of our own."""

    async def story() -> None:
        gate = asyncio.Event()

        async def fail(request: Request) -> Response:
            await gate.wait()
            return answer(status, b"alice's page", cache_control="no-store", retry_after="7")

        origin = Origin(fail)
        cache = make(origin)
        waiting = [asyncio.ensure_future(cache(get())) for _ in range(20)]
        await settle()
        gate.set()
        first, *others = await asyncio.gather(*waiting)
        assert (first.status, first.body, len(origin.asked)) == (status, b"alice's page", 1)
        for response in others:
            assert response.status == status
            assert b"alice" not in bytes(response.body)  # type: ignore[arg-type]
            assert find(response.headers, b"retry-after") == b"7"
        assert not cache.flights

    run(story)


@pytest.mark.parametrize("failure", [RuntimeError("broken"), answer(500, b"crash", cache_control="no-store")])
def test_a_failure_of_one_request_is_not_shared(failure: Response | Exception) -> None:
    """A request that breaks its page breaks it for nobody else, and leaves nothing behind."""

    async def story() -> None:
        gate = asyncio.Event()

        async def fail(request: Request) -> Response:
            await gate.wait()
            if isinstance(failure, Exception):
                raise failure
            return failure

        origin = Origin(fail, answer())
        cache = make(origin)
        leader = asyncio.ensure_future(cache(get()))
        await settle()
        waiting = [asyncio.ensure_future(fetched(cache, get())) for _ in range(20)]
        await settle()
        gate.set()
        assert {(status, body) for status, body, _ in await asyncio.gather(*waiting)} == {(200, b"page")}
        assert len(origin.asked) == 2
        [outcome] = await asyncio.gather(leader, return_exceptions=True)
        assert outcome is failure if isinstance(failure, Exception) else outcome.status == 500
        assert not cache.flights

    run(story)


def test_failures_in_turn_are_bounded() -> None:
    """Behind a page that always fails, a request waits for a few fetches at most, then fails by itself."""

    async def story() -> None:
        async def fail(request: Request) -> Response:
            await asyncio.sleep(0)
            raise RuntimeError("broken")

        origin = Origin(fail)
        cache = make(origin)
        told = await asyncio.gather(*(cache(get()) for _ in range(50)), return_exceptions=True)
        assert {str(error) for error in told} == {"broken"}
        assert len(origin.asked) == 50
        assert not cache.flights

    run(story)


# -- stale answers --------------------------------------------------------------------------------------


def test_grace_refreshes_beside_the_request() -> None:
    """Within its grace a page is answered stale at once, while one fetch brings a new one."""

    async def story() -> None:
        clock = ManualClock()
        scene = Scene(b"new")
        origin = Origin(answer(), scene)
        cache = make(origin, clock=clock, rules=HttpCacheRules(grace=30))
        await fetched(cache, get())
        clock.advance(70)
        for _ in range(5):
            assert await fetched(cache, get()) == (200, b"page", "replicated; hit; ttl=-10")
        await settle()
        assert len(origin.asked) == 2
        scene.go()
        await settle()
        assert await fetched(cache, get()) == (200, b"new", "replicated; hit")
        await cache.aclose()

    run(story)


def test_a_refresh_that_fails() -> None:
    """A refresh that fails is reported, not repeated with each request, and repeated after a rest."""

    async def story() -> None:
        said: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        clock = ManualClock()
        origin = Origin(answer(), RuntimeError("broken"))
        cache = make(origin, clock=clock, rules=HttpCacheRules(grace=30))
        await fetched(cache, get())
        clock.advance(61)
        for _ in range(5):
            assert (await fetched(cache, get()))[1] == b"page"
            await settle()
        assert (len(origin.asked), len(said)) == (2, 1)
        clock.advance(1)
        await fetched(cache, get())
        await settle()
        assert (len(origin.asked), len(said)) == (3, 2)
        assert not cache.flights

    run(story)


def test_a_refresh_ends_with_the_cache() -> None:
    """Closing the cache ends the refreshes that are under way."""

    async def story() -> None:
        clock = ManualClock()
        origin = Origin(answer(), Scene(b"never"))
        cache = make(origin, clock=clock, rules=HttpCacheRules(grace=30))
        await fetched(cache, get())
        clock.advance(61)
        for settled in (True, False):
            await fetched(cache, get())
            if settled:
                await settle()
            assert len(cache.tasks) == 1
            await cache.aclose()
            clock.advance(1)
        await settle()
        assert (cache.tasks, cache.flights) == (set(), {})

    run(story)


@pytest.mark.parametrize("failure", [RuntimeError("broken"), answer(503, b"down"), answer(500, b"down")])
def test_stale_if_error(failure: Response | Exception) -> None:
    """Where a page cannot be had, its stale copy answers, for those who wait too, and at once for a while."""

    async def story() -> None:
        clock = ManualClock()
        origin = Origin(answer(etag='"a"'), failure)
        cache = make(origin, clock=clock, rules=HttpCacheRules(keep=30))
        await fetched(cache, get())
        clock.advance(61)
        told = await asyncio.gather(*(fetched(cache, get()) for _ in range(10)))
        assert {(status, body) for status, body, _ in told} == {(200, b"page")}
        assert all("detail=stale-if-error" in how for _, _, how in told)
        assert len(origin.asked) == 2
        await fetched(cache, get())
        assert len(origin.asked) == 2
        clock.advance(30)
        if isinstance(failure, Exception):
            with pytest.raises(RuntimeError, match="broken"):
                await fetched(cache, get())
        else:
            assert (await fetched(cache, get()))[0] == failure.status
        assert origin.closed == len(origin.asked) - (2 if isinstance(failure, Exception) else 0)

    run(story)


# -- changes --------------------------------------------------------------------------------------------


def test_unsafe_requests_invalidate() -> None:
    """A page that was changed is fetched anew; one that could not be, or was only looked at, is not."""

    async def story() -> None:
        origin = Origin(answer())
        cache = make(origin)
        for method, status, hit in (("POST", 200, False), ("DELETE", 404, True), ("OPTIONS", 200, True)):
            await fetched(cache, get())
            origin.scenes = [answer(status), answer()]
            assert (await fetched(cache, get(method)))[2] == "replicated; fwd=method"
            assert ("hit" in (await fetched(cache, get()))[2]) == hit

    run(story)


def test_a_change_whose_end_nobody_saw() -> None:
    """An unsafe request that was broken off may have changed its page, and what is stored is forgotten."""

    async def story() -> None:
        origin = Origin(answer(), RuntimeError("broken"))
        cache = make(origin)
        await fetched(cache, get())
        with pytest.raises(RuntimeError, match="broken"):
            await fetched(cache, get("PUT"))
        assert not cache.pages.store

    run(story)


def test_a_change_overtakes_a_fetch() -> None:
    """A fetch that began before its page was changed answers who asked, and is not stored."""

    async def story() -> None:
        scene = Scene(b"old")
        origin = Origin(scene, answer())
        cache = make(origin)
        leader = asyncio.ensure_future(fetched(cache, get()))
        await settle()
        await fetched(cache, get("POST"))
        scene.go()
        assert (await leader)[1] == b"old"
        assert not cache.pages.store
        assert (await fetched(cache, get()))[1] == b"page"

    run(story)


def test_purge_by_tag() -> None:
    """A tag takes with it every page that carries it, also one that is still being fetched."""

    async def story() -> None:
        scene = Scene(b"old", surrogate_key="shoes")
        origin = Origin(
            answer(surrogate_key="shoes all"), answer(cache_tag="all"), answer(surrogate_key="hats"), scene
        )
        cache = make(origin)
        for target in (b"/a", b"/b", b"/c"):
            await fetched(cache, get(target=target))
        leader = asyncio.ensure_future(fetched(cache, get(target=b"/d")))
        await settle()
        assert cache.purge(b"shoes") == 1
        scene.go()
        await leader
        assert set(cache.pages.store) == {"http://h/b", "http://h/c"}
        assert cache.purge(b"all") == 1

    run(story)


def test_a_get_with_a_body_passes() -> None:
    """A GET with a body asks for something that no key names: it is neither stored nor answered from here."""

    async def story() -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"query"

        origin = Origin(answer())
        cache = make(origin)
        await fetched(cache, get())
        asked = get()
        asked.body = body()
        assert (await fetched(cache, asked))[2] == "replicated; fwd=bypass"
        assert len(origin.asked) == 2

    run(story)


def test_rules_that_raise_leave_nothing_behind() -> None:
    """An error between the head and the answer closes the response and frees those who wait."""

    class Broken(HttpCacheRules):
        def received(self, *arguments: Any, **named: Any) -> Any:
            raise RuntimeError("broken rules")

    async def story() -> None:
        origin = Origin(answer())
        cache = make(origin, rules=Broken())
        with pytest.raises(RuntimeError, match="broken rules"):
            await fetched(cache, get())
        assert (cache.flights, origin.closed) == ({}, 1)

    run(story)


def test_cancelled_anywhere() -> None:
    """Wherever a request is cancelled, its response is closed, and the page can be fetched by the next."""

    async def story() -> None:
        for steps in range(1, 12):
            scene = Scene(b"pa", b"ge")
            scene.go()
            origin = Origin(scene, answer())
            cache = make(origin)
            task = asyncio.ensure_future(fetched(cache, get()))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await settle()
            assert (cache.flights, cache.allowance.held) == ({}, 0)
            assert (await fetched(cache, get()))[1] == b"page"
            # One that was cancelled before its response came has none to close.
            assert origin.closed in (len(origin.asked), len(origin.asked) - 1)

    run(story)


@pytest.mark.parametrize("name", ["size", "largest", "patience"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True])
def test_what_cannot_be_is_refused(name: str, value: float) -> None:
    """Bounds that are none are refused by name."""
    with pytest.raises(ValueError, match=f"{name} must be"):
        HttpCache(Origin(answer()), **{"size": 1000, name: value})


def test_http_date_is_a_date() -> None:
    """The time of day is written as HTTP reads it."""
    assert parse_date(http_date()) is not None


def test_nothing_larger_than_the_store() -> None:
    """A page that is larger than the whole store passes, and takes nothing with it."""

    async def story() -> None:
        cache = make(Origin(answer()), size=100, largest=1000)
        assert (await fetched(cache, get()))[1] == b"page"
        assert not cache.pages.store

    run(story)
