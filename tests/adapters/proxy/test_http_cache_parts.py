"""Requests for ranges of what the cache does not have: what it keeps of the answers, and whom it asks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicated.adapters.proxy.http_cache import HttpCache
from replicated.http.caching import HttpCacheRules
from replicated.http.fields import find
from replicated.http.message import Body, Request, Response
from replicated.http.ranges import content_range, partial, spans
from replicated.serve.options import ServeOptions
from replicated.serve.service import Service
from replicated.testing import ManualClock

BODY = bytes(range(256)) * 40


class Files:
    """An origin that answers ranges of one body, whole or as a stream, and counts what it sent."""

    def __init__(self, body: bytes = BODY, *, streams: bool = False, **fields: str) -> None:
        self.body = body
        self.streams = streams
        self.fields = {"etag": '"a"', "cache_control": "max-age=60", **fields}
        self.asked: list[Request] = []
        self.sent = 0
        self.gate: asyncio.Event | None = None
        self.status: int | None = None

    async def __call__(self, request: Request) -> Response:
        self.asked.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if self.status is not None:
            return Response(self.status, [(b"content-length", b"0")])
        headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in self.fields.items()]
        etag, none_match = find(headers, b"etag"), find(request.headers, b"if-none-match")
        if none_match is not None and none_match == etag:
            return Response(304, headers)
        wanted, of = find(request.headers, b"range"), find(request.headers, b"if-range")
        response = Response(200, [*headers, (b"content-length", b"%d" % len(self.body))], self.body)
        if wanted is not None and of in (None, etag) and request.method == "GET":
            found = [
                (first, last, self.body[first : last + 1])
                for first, last in spans(wanted, len(self.body)) or ()
            ]
            response = partial(headers, len(self.body), found)
        assert isinstance(response.body, bytes)
        self.sent += len(response.body)
        if request.method == "HEAD":
            response.body = b""
        elif self.streams:
            response.body = pieces(response.body)
        return response


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 1000):
        await asyncio.sleep(0)
        yield body[at : at + 1000]


async def read(body: Body) -> bytes:
    return body if isinstance(body, bytes) else b"".join([piece async for piece in body])


class Shop:
    """A cache before an origin, on a clock set by hand."""

    def __init__(self, origin: Files, **options: Any) -> None:
        self.clock = ManualClock()
        self.origin = origin
        options.setdefault("size", 200_000)
        self.cache = HttpCache(origin, clock=self.clock, **options)

    async def get(
        self, wanted: str | None = None, method: str = "GET", **fields: str
    ) -> tuple[int, bytes, str]:
        if wanted is not None:
            fields["range"] = f"bytes={wanted}"
        headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
        response = await self.cache(Request(method, b"/", [(b"host", b"h"), *headers]))
        try:
            body = await read(response.body)
        finally:
            await response.close()
        said = (find(response.headers, b"cache-status") or b"").decode()
        return response.status, body, said.removeprefix("replicated; ")


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 10))


@pytest.mark.parametrize("streams", [False, True])
def test_parts_answer_for_themselves_and_what_lies_within(streams: bool) -> None:
    """A part that has come answers for itself and for less until it is stale; for more it is asked for."""

    async def story() -> None:
        shop = Shop(Files(streams=streams))
        assert await shop.get("100-199") == (206, BODY[100:200], "fwd=uri-miss; stored")
        assert await shop.get("100-199") == (206, BODY[100:200], "hit")
        assert await shop.get("150-159", if_range='"a"') == (206, BODY[150:160], "hit")
        assert (await shop.get("110-119,150-159,190-199"))[1:] == (BODY[110:200], "hit")
        assert (await shop.get("99999-"))[::2] == (416, "hit")
        assert len(shop.origin.asked) == 1
        assert await shop.get("200-299") == (206, BODY[200:300], "fwd=uri-miss; stored")
        assert await shop.get("150-250") == (206, BODY[150:251], "hit")
        assert (await shop.get("50-150"))[2] == "fwd=uri-miss; stored"
        assert shop.origin.sent == 301
        shop.clock.advance(60)
        assert (await shop.get("100-199"))[2] == "fwd=uri-miss; stored"

    run(story)


@pytest.mark.parametrize("streams", [False, True])
def test_parts_become_a_page(streams: bool) -> None:
    """When the last part has come the page is whole, for every request, and nothing came twice."""

    async def story() -> None:
        shop = Shop(Files(streams=streams))
        for wanted in ("5000-", "0-999", "2000-4999", "1000-1999"):
            assert (await shop.get(wanted))[0] == 206
        assert shop.origin.sent == len(BODY)
        assert await shop.get() == (200, BODY, "hit")
        assert (await shop.get(method="HEAD"))[::2] == (200, "hit")
        assert await shop.get("0-0,9000-9000") == await shop.get("0-0,9000-9000")
        assert (await shop.get("-5"))[1:] == (BODY[-5:], "hit")
        assert len(shop.origin.asked) == 4
        assert list(shop.cache.pages.store) == ["http://h/"]

    run(story)


def test_a_part_that_is_all_is_a_page() -> None:
    """`bytes=0-`, as players ask, brings the page, also where it has no entity tag."""

    async def story() -> None:
        shop = Shop(Files(etag="W/x"))
        assert await shop.get("0-") == (206, BODY, "fwd=uri-miss; stored")
        assert await shop.get() == (200, BODY, "hit")
        assert (await shop.get("-7"))[1:] == (BODY[-7:], "hit")
        assert len(shop.origin.asked) == 1

    run(story)


def test_another_version_takes_the_place_of_all_parts() -> None:
    """No answer is ever of two versions: the first part of a new one ends what was kept of the old."""

    async def story() -> None:
        shop = Shop(Files())
        await shop.get("0-99")
        shop.origin.body = BODY[::-1]
        shop.origin.fields["etag"] = '"b"'
        assert (await shop.get("100-199"))[1] == BODY[::-1][100:200]
        assert await shop.get("0-99") == (206, BODY[::-1][:100], "fwd=uri-miss; stored")
        assert (await shop.get("0-199"))[1:] == (BODY[::-1][:200], "hit")
        # Of a whole page too.
        shop.origin.fields["etag"] = '"c"'
        assert (await shop.get())[2] == "fwd=uri-miss; stored"
        shop.origin.body, shop.origin.fields["etag"] = BODY, '"d"'
        assert (await shop.get("0-99", cache_control="no-cache"))[1] == BODY[:100]
        assert (await shop.get("0-150"))[1:] == (BODY[:151], "fwd=uri-miss; stored")

    run(story)


def test_a_page_that_is_older_takes_no_parts_away() -> None:
    """A stale page that another cache has shared leaves the parts of a younger version as they are."""

    async def story() -> None:
        shop = Shop(Files())
        await shop.get()
        pages = shop.cache.pages
        [old] = pages.get("http://h/")
        shop.clock.advance(61)
        pages.drop("http://h/")
        shop.origin.fields["etag"] = '"b"'
        await shop.get("0-99")
        assert pages.keep("http://h/", old, pages.turn())
        assert (await shop.get("0-99"))[2] == "hit"
        assert (await shop.get("100-199"))[2] == "fwd=stale; stored"
        assert pages.get("http://h/") == ()
        assert (await shop.get("0-199"))[2] == "hit"

    run(story)


# Few ranges, that touch: one from before a change, one from after it, and then one across both.
PLACES = st.tuples(st.just("range"), st.sampled_from([0, 10, 20]), st.sampled_from([9, 19, 29]))
STEPS = st.one_of(
    PLACES,
    PLACES,
    st.tuples(st.just("quietly"), st.just(0), st.just(0)),
    st.tuples(st.just("range"), st.integers(0, 40), st.integers(0, 40)),
    st.tuples(st.just("resume"), st.integers(0, 40), st.integers(0, 3)),
    st.tuples(st.sampled_from(["all", "change", "purge", "reload"]), st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([1, 30, 61]), st.just(0)),
)


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=25), st.booleans())
def test_no_answer_is_of_two_versions(steps: list[tuple[str, int, int]], streams: bool) -> None:
    """Whatever is asked, changed and purged, an answer is a slice of the version that its tag names."""

    async def story() -> None:
        version = 0

        def body() -> bytes:
            return b"%d" % (version % 10) * 40

        shop = Shop(Files(body(), etag='"0"', streams=streams), largest=60)
        lives = {0: 0.0}  # versions, and when they were replaced
        for what, first, more in steps:
            fields: dict[str, str] = {}
            if what == "change":
                lives[version] = shop.clock()
                version += 1
                shop.origin.body, shop.origin.fields["etag"] = body(), f'"{version}"'
                shop.cache.forget("http://h/")
                continue
            if what == "quietly":  # changed, and the cache is not told
                lives[version] = shop.clock()
                version += 1
                shop.origin.body, shop.origin.fields["etag"] = body(), f'"{version}"'
                continue
            if what == "purge":
                shop.cache.forget("http://h/")
                continue
            if what == "wait":
                shop.clock.advance(first)
                continue
            if what in ("range", "resume"):
                fields["range"] = f"bytes={first}-{first + more}"
            if what == "resume":
                fields["if_range"] = f'"{max(0, version - more)}"'
            if what == "reload":
                fields["cache_control"] = "no-cache"
            headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
            response = await shop.cache(Request("GET", b"/", [(b"host", b"h"), *headers]))
            got = await read(response.body)
            await response.close()
            if response.status == 416:
                continue
            said = find(response.headers, b"etag")
            assert said is not None
            of = int(said.strip(b'"'))
            span = content_range(response.headers)
            assert got == (b"%d" % (of % 10)) * (40 if span is None else span.last + 1 - span.first)
            assert (response.status == 206) == (span is not None)
            assert of == version or (what != "reload" and shop.clock() - lives[of] < 60)
            if what == "resume" and span is not None:
                assert f'"{of}"' == fields["if_range"]

    run(story)


def test_what_if_range_brings_extends_parts_only() -> None:
    """The answer to If-Range may lack what its client knows: it extends what is there, and begins nothing."""

    async def story() -> None:
        shop = Shop(Files(content_type="text/x"))
        assert (await shop.get("0-99", if_range='"a"'))[2] == "fwd=uri-miss"
        await shop.get("0-99")
        del shop.origin.fields["content_type"]
        assert (await shop.get("100-199", if_range='"a"'))[2] == "fwd=uri-miss; stored"
        assert (await shop.get("0-199"))[2] == "hit"
        [parts] = shop.cache.pages.parts("http://h/")
        assert find(parts.headers, b"content-type") == b"text/x"
        assert (await shop.get("0-9", if_range='"old"'))[:2] == (200, BODY)
        assert await shop.get() == (200, BODY, "hit")
        # An entity tag that another version has by now extends nothing.
        shop = Shop(Files())
        await shop.get("0-99")
        shop.origin.fields["etag"] = '"b"'
        assert (await shop.get("100-199", if_range='"b"'))[:2] == (206, BODY[100:200])
        assert (await shop.get("0-99"))[2] == "hit"

    run(story)


def test_a_range_of_a_stale_page_is_cut_from_it_once_it_is_confirmed() -> None:
    """A range validates the stale page: what still holds answers, and for all who come after."""

    async def story() -> None:
        shop = Shop(Files())
        await shop.get()
        shop.clock.advance(61)
        assert await shop.get("5-9") == (206, BODY[5:10], "fwd=stale; fwd-status=304")
        assert await shop.get() == (200, BODY, "hit")
        shop.clock.advance(61)
        shop.origin.fields["etag"] = '"b"'
        assert await shop.get("5-9") == (206, BODY[5:10], "fwd=stale; stored")
        assert shop.origin.sent == len(BODY) + 5
        shop.origin.status = 503
        assert (await shop.get("100-109"))[0] == 503

    run(story)


def test_many_who_want_one_range_make_one_request() -> None:
    """Those who ask for the same range wait for one answer; who asks for another one does not."""

    async def story() -> None:
        shop = Shop(Files(streams=True))
        shop.origin.gate = asyncio.Event()
        waiting = [asyncio.ensure_future(shop.get(wanted)) for wanted in ("0-99", "00-99", "5-50") * 50]
        while len(shop.origin.asked) < 2:
            await asyncio.sleep(0)
        shop.origin.gate.set()
        answers = await asyncio.gather(*waiting)
        assert {body for _, body, _ in answers} == {BODY[:100], BODY[5:51]}
        assert len(shop.origin.asked) == 2
        assert not shop.cache.flights

    run(story)


def test_a_range_that_cannot_be_kept_makes_nobody_wait() -> None:
    """After a part that was not storable, requests for it go side by side; the page is no worse for it."""

    async def story() -> None:
        shop = Shop(Files(etag="W/x"))
        shop.origin.gate = asyncio.Event()
        first = asyncio.ensure_future(shop.get("0-99"))
        await asyncio.sleep(0)
        shop.origin.gate.set()
        assert (await first)[2] == "fwd=uri-miss"
        shop.origin.gate = asyncio.Event()
        waiting = [asyncio.ensure_future(shop.get("0-99")) for _ in range(3)]
        while len(shop.origin.asked) < 4:
            await asyncio.sleep(0)
        shop.origin.gate.set()
        await asyncio.gather(*waiting)
        assert "http://h/" not in shop.cache.unstorable

    run(story)


@pytest.mark.parametrize("streams", [False, True])
def test_a_page_whose_parts_cannot_be_kept_is_fetched_once_that_is_no_more(streams: bool) -> None:
    """Without a strong tag parts come again, until they were as much as the page: then that is fetched."""

    async def story() -> None:
        shop = Shop(Files(etag="W/x", streams=streams))
        for turn in range(1, 11):
            assert (await shop.get(f"0-{len(BODY) // 10 - 1}"))[:2] == (206, BODY[: len(BODY) // 10])
            assert (len(shop.origin.asked), bool(shop.cache.tasks)) == (turn, turn == 10)
        while shop.cache.tasks:
            await asyncio.sleep(0)
        assert find(shop.origin.asked[-1].headers, b"range") is None
        assert await shop.get("5-9") == (206, BODY[5:10], "hit")
        assert await shop.get() == (200, BODY, "hit")
        assert (len(shop.origin.asked), shop.origin.sent) == (11, 2 * len(BODY))
        await shop.cache.aclose()

    run(story)


def test_pages_that_are_not_fetched_whole() -> None:
    """A page that is too large or may not be stored is not fetched whole, nor one that is known not to be."""

    async def story() -> None:
        for said, largest in (("max-age=60", 5000), ("no-store", None)):
            shop = Shop(Files(etag="W/x", cache_control=said), largest=largest)
            for _ in range(5):
                await shop.get("1-9000")
            assert not shop.cache.tasks
        shop = Shop(Files(etag="W/x"))
        shop.cache.unstorable.set("http://h/", True)
        for _ in range(5):
            await shop.get("1-9000")
        assert not shop.cache.tasks

    run(story)


@pytest.mark.parametrize("streams", [False, True])
def test_parts_that_lie_about_their_length(streams: bool) -> None:
    """A part that is not as long as it says is passed on as it is, and not kept."""

    async def story() -> None:
        files = Files()

        async def short(request: Request) -> Response:
            response = await files(request)
            body = await read(response.body)
            response.headers = [line for line in response.headers if line[0] != b"content-length"]
            response.body = pieces(body[:-1]) if streams else body[:-1]
            return response

        shop = Shop(files)
        shop.cache.inner = short
        for _ in range(2):
            assert (await shop.get("0-99"))[:2] == (206, BODY[:99])
        assert len(files.asked) == 2

    run(story)


def test_parts_that_are_too_large_pass() -> None:
    """A part beyond the largest passes, announced or not; smaller ones of the same page are kept."""

    async def story() -> None:
        shop = Shop(Files(streams=True), largest=1000)
        assert (await shop.get("0-5000"))[1:] == (BODY[:5001], "fwd=uri-miss; detail=too-large")
        assert (await shop.get("0-99"))[2] == "fwd=uri-miss; stored"
        for at in range(0, 3000, 500):
            await shop.get(f"{at}-{at + 499}")
        assert (await shop.get("2000-2999"))[2] == "hit"
        assert (await shop.get("0-99"))[2] == "fwd=uri-miss; stored"
        assert shop.cache.pages.store.currsize < 5000

    run(story)


def test_changes_reach_parts() -> None:
    """What is purged, by URL or tag, or changed by an unsafe request, is gone in parts too."""

    async def story() -> None:
        shop = Shop(Files(surrogate_key="shoes"))
        cache = shop.cache
        for forget in (
            lambda: cache.forget("http://h/"),
            lambda: cache.forget("http://h/", soft=True),
            lambda: cache.purge(b"shoes") == 1,
            lambda: cache.purge(b"shoes", soft=True) == 1,
        ):
            assert (await shop.get("0-99"))[2] == "fwd=uri-miss; stored"
            assert forget()
            assert not cache.forget("http://h/")
            assert cache.purge(b"shoes") == 0
        await shop.get("0-99")
        await shop.get(method="POST")
        shop.origin.gate = asyncio.Event()
        asked = asyncio.ensure_future(shop.get("0-99"))
        while shop.origin.asked[-1].method == "POST":
            await asyncio.sleep(0)
        cache.forget("http://h/")  # while it is on its way
        shop.origin.gate.set()
        assert (await asked)[2] == "fwd=uri-miss"
        assert (await shop.get("0-99"))[2] == "fwd=uri-miss; stored"

    run(story)


def test_parts_are_for_whom_the_rules_let_have_them() -> None:
    """Variants of a part stand beside each other, and what is assumed is not for those with credentials."""

    async def story() -> None:
        shop = Shop(Files(vary="accept-language"))
        await shop.get("0-99", accept_language="de")
        assert (await shop.get("0-99", accept_language="fr"))[2] == "fwd=uri-miss; stored"
        assert (await shop.get("0-99", accept_language="de"))[2] == "hit"
        assert (await shop.get("0-99", accept_language="de", cache_control="max-age=0"))[2] != "hit"
        assert (await shop.get("0-99", accept_language="de", if_none_match='"z"'))[2] != "hit"
        files = Files()
        del files.fields["cache_control"]
        shop = Shop(files, rules=HttpCacheRules(ttl=60))
        await shop.get("0-99")
        assert (await shop.get("0-99"))[2] == "hit"
        assert (await shop.get("0-99", cookie="a=b"))[2] == "fwd=uri-miss"

    run(story)


def test_parts_through_a_whole_tier(scripted: Any) -> None:
    """Parts that stream over loopback, longer than is held back, are kept as the short ones are."""
    body = BODY * 40

    async def play(peer: Any) -> None:
        while head := await peer.head():
            wanted = re.search(rb"range: bytes=(\d+)-(\d+)", head)
            assert wanted is not None
            first, last = map(int, wanted.groups())
            await peer.send(
                b'HTTP/1.1 206 Partial Content\r\ncache-control: max-age=60\r\netag: "a"\r\n'
                b"content-range: bytes %d-%d/%d\r\ncontent-length: %d\r\n\r\n"
                % (first, last, len(body), last + 1 - first),
                body[first : last + 1],
            )

    async def story() -> None:
        half = len(body) // 2
        async with scripted(play) as replica:
            asked = ServeOptions((replica.replica(),), cache=2**23)
            async with Service(asked) as service:

                async def get(*wanted: tuple[bytes, bytes]) -> tuple[int, bytes]:
                    request = Request("GET", b"/", [(b"host", b"h"), *wanted], "127.0.0.1")
                    response = await service.handler(request)
                    try:
                        return response.status, await read(response.body)
                    finally:
                        await response.close()

                for _ in range(2):
                    for first, last in ((0, half - 1), (half, len(body) - 1)):
                        got = await get((b"range", b"bytes=%d-%d" % (first, last)))
                        assert got == (206, body[first : last + 1])
                assert await get() == (200, body)  # which the replica would not have answered

    run(story)


def test_coded_bodies_have_no_parts_in_one_body() -> None:
    """Several ranges of a coded body are answered whole: a reader would decode the parts' body itself."""

    async def story() -> None:
        shop = Shop(Files(content_encoding="br"))
        await shop.get()
        assert await shop.get("0-0,900-900") == (200, BODY, "hit")
        assert (await shop.get("0-0"))[0] == 206

    run(story)
