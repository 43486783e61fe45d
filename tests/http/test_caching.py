"""The rules of a shared cache: what is stored, for whom, for how long, and what is answered with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.http.cache_decisions import Confirmed, Fetch, Keep, Mismatch, Pass, Serve
from replicated.http.caching import HttpCacheRules
from replicated.http.dates import format_date
from replicated.http.fields import find, find_all
from replicated.http.message import Headers, Request, Response
from replicated.http.stored import Stored

UNIX = 1_800_000_000.0
DATE = format_date(int(UNIX))


def header(**fields: str) -> Headers:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]


def get(method: str = "GET", target: bytes = b"/", **fields: str) -> Request:
    return Request(method, target, [(b"host", b"h"), *header(**fields)])


def answer(status: int = 200, body: bytes = b"0123456789", **fields: str) -> Response:
    return Response(status, [(b"date", DATE), *header(**fields)], body)


class Fridge:
    """What a driver is to the rules, without loop and bound: one key, a clock set by hand."""

    def __init__(self, rules: HttpCacheRules | None = None) -> None:
        self.rules = rules or HttpCacheRules()
        self.now = 1000.0
        self.variants: tuple[Stored, ...] = ()

    def lookup(self, request: Request) -> Serve | Fetch:
        return self.rules.lookup(request, self.variants, self.now)

    def receive(self, request: Request, response: Response) -> Keep | Pass | Confirmed | Mismatch:
        fetch = self.lookup(request)
        assert isinstance(fetch, Fetch)
        unix = UNIX + self.now - 1000.0
        decision = self.rules.received(request, fetch, response, now=self.now, unix=unix, delay=0.0)
        if isinstance(decision, Keep):
            assert isinstance(response.body, bytes)
            whole = decision.stored.with_body(response.body)
            assert whole is not None
            self.variants = self.rules.merge(self.variants, whole)
        elif isinstance(decision, Confirmed) and decision.stored is not None:
            self.variants = self.rules.merge(self.variants, decision.stored)
        return decision

    def hit(self, request: Request) -> Response:
        decision = self.lookup(request)
        assert isinstance(decision, Serve)
        return decision.response

    def miss(self, request: Request) -> Fetch:
        decision = self.lookup(request)
        assert isinstance(decision, Fetch)
        return decision


def filled(rules: HttpCacheRules | None = None, asked: Request | None = None, **fields: str) -> Fridge:
    fridge = Fridge(rules)
    assert isinstance(fridge.receive(asked or get(), answer(**fields)), Keep)
    return fridge


def test_fresh_then_stale() -> None:
    """A response answers while it is fresh, saying its age, and not a moment longer."""
    fridge = filled(cache_control="max-age=60")
    fridge.now += 59.5
    response = fridge.hit(get())
    assert (response.status, response.body) == (200, b"0123456789")
    assert find(response.headers, b"age") == b"59"
    assert find(response.headers, b"cache-status") == b"replicated; hit"
    assert find(response.headers, b"content-length") == b"10"
    fridge.now += 0.5
    assert fridge.miss(get()).why == b"fwd=stale"


def test_age_counts() -> None:
    """What a response spent in caches before this one is part of its age, and uses up its freshness."""
    fridge = filled(cache_control="max-age=60", age="50")
    fridge.now += 9
    assert find_all(fridge.hit(get()).headers, b"age") == [b"59"]
    fridge.now += 1
    fridge.miss(get())
    assert isinstance(Fridge().receive(get(), answer(cache_control="max-age=60", age="60")), Pass)


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ({}, {"cache_control": "no-store, max-age=60"}),
        ({}, {"cache_control": "private, max-age=60"}),
        ({}, {"cache_control": "max-age=60", "set_cookie": "a=b"}),
        ({}, {"cache_control": "public, s-maxage=60", "set_cookie": "a=b"}),
        ({}, {"cache_control": "max-age=60", "vary": "*"}),
        ({}, {"cache_control": "max-age=60", "vary": "accept, *"}),
        ({}, {"etag": '"a"'}),
        ({}, {"cache_control": "max-age=0"}),
        ({"authorization": "x"}, {"cache_control": "max-age=60"}),
        ({"cookie": "a=b"}, {"cache_control": "max-age=60"}),
        ({"cookie": "a=b"}, {"cache_control": "max-age=60", "vary": "accept"}),
        ({"cookie": "a=b", "authorization": "x"}, {"cache_control": "max-age=60", "vary": "cookie"}),
        ({"cache_control": "no-store"}, {"cache_control": "max-age=60"}),
    ],
)
def test_never_shared(asked: dict[str, str], fields: dict[str, str]) -> None:
    """What is or may be for one user alone is not stored, whatever else it says."""
    for policy in (HttpCacheRules(), HttpCacheRules(grace=60, keep=60)):
        assert isinstance(Fridge(policy).receive(get(**asked), answer(**fields)), Pass)


def test_other_methods_and_parts_are_not_stored() -> None:
    """A HEAD's answer, a part and a 304 that nobody here asked for are passed on."""
    assert isinstance(Fridge().receive(get("HEAD"), answer(cache_control="max-age=60")), Pass)
    assert isinstance(Fridge().receive(get(range="bytes=0-1"), answer(206, cache_control="max-age=60")), Pass)
    assert isinstance(Fridge().receive(get(), answer(304, b"", cache_control="max-age=60")), Pass)


def test_shared_with_credentials_by_word_only() -> None:
    """A public answer to one with credentials serves everybody; a Cookie that Vary names is a key."""
    fridge = filled(asked=get(cookie="a=b", authorization="x"), cache_control="public, max-age=60")
    fridge.hit(get())
    fridge.hit(get(cookie="c=d"))
    fridge = filled(asked=get(cookie="a=b"), cache_control="max-age=60", vary="Cookie")
    fridge.hit(get(cookie="a=b"))
    fridge.miss(get(cookie="c=d"))
    fridge.miss(get())


def test_assumed_lifetimes_are_for_the_anonymous() -> None:
    """What is only assumed to be cacheable is neither stored for nor served to a request with credentials."""
    rules = HttpCacheRules(ttl=60, keep=60)
    assert isinstance(Fridge(rules).receive(get(cookie="a=b"), answer()), Pass)
    assert isinstance(Fridge(rules).receive(get(cookie="a=b"), answer(vary="cookie")), Pass)
    fridge = filled(rules)
    fridge.hit(get())
    fridge.miss(get(cookie="a=b"))
    fridge.miss(get(authorization="x"))
    fridge.now += 61
    assert rules.rescue(get(cookie="a=b"), fridge.variants, fridge.now, b"") is None
    assert rules.rescue(get(), fridge.variants, fridge.now, b"") is not None


def test_stated_lifetimes_serve_those_with_cookies() -> None:
    """An answer given to the anonymous that states its lifetime serves those with a cookie too."""
    assert filled(cache_control="max-age=60").hit(get(cookie="a=b")).status == 200


def test_hop_by_hop_fields_are_not_stored() -> None:
    """What belongs to one connection is not served on another."""
    fridge = filled(
        cache_control="max-age=60", connection="x-hop", x_hop="1", proxy_authentication_info="n", x_end="2"
    )
    names = {name for name, _ in fridge.hit(get()).headers}
    assert b"x-end" in names
    assert not names & {b"x-hop", b"connection", b"proxy-authentication-info"}


def test_undated_is_dated() -> None:
    """A response without a Date gets that of its arrival, once."""
    fridge = Fridge()
    fridge.receive(get(), Response(200, header(cache_control="max-age=60"), b""))
    fridge.now += 30
    assert find(fridge.hit(get()).headers, b"date") == DATE


# -- Vary -----------------------------------------------------------------------------------------------


def test_variants() -> None:
    """Each combination of what Vary names is a response of its own, and its absence another one."""
    fridge = Fridge()
    for language in ("de", "fr"):
        asked = get(accept_language=language)
        fridge.receive(asked, answer(cache_control="max-age=60", vary="Accept-Language", x=language))
    for language in ("de", "fr"):
        assert find(fridge.hit(get(accept_language=language)).headers, b"x") == language.encode()
    assert fridge.miss(get(accept_language="it")).why == b"fwd=vary-miss"
    fridge.miss(get())


def test_variants_are_compared_as_fields() -> None:
    """White space, lines and, where there is none, case make no difference; anything else does."""
    fridge = filled(asked=get(accept="a, b"), cache_control="max-age=60", vary="accept, x-key")
    split = get()
    split.headers += [(b"accept", b"A"), (b"accept", b" b ")]
    fridge.hit(split)
    fridge.miss(get(accept="b, a"))
    fridge = filled(asked=get(x_key="a"), cache_control="max-age=60", vary="x-key")
    fridge.miss(get(x_key="A"))


def test_a_changed_vary_drops_what_was_stored_by_the_old_one() -> None:
    """Once a page varies by another field, what was stored without it serves nobody."""
    fridge = filled(cache_control="max-age=60")
    fridge.receive(
        get(cache_control="no-cache", x_user="a"), answer(cache_control="max-age=60", vary="x-user")
    )
    fridge.hit(get(x_user="a"))
    fridge.miss(get(x_user="b"))


def test_variants_are_bounded() -> None:
    """A field that differs with every client does not fill the cache."""
    fridge = Fridge()
    for n in range(50):
        fridge.receive(get(x=str(n)), answer(cache_control="max-age=60", vary="x"))
    assert len(fridge.variants) == 16
    fridge.hit(get(x="49"))


# -- conditions and parts of the client's own -----------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"if_none_match": '"a"'}, 304),
        ({"if_none_match": 'W/"a"'}, 304),
        ({"if_none_match": '"b", "a"'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"b"'}, 200),
        ({"if_none_match": '"b"', "if_modified_since": DATE.decode()}, 200),
        ({"if_modified_since": DATE.decode()}, 304),
        ({"if_modified_since": format_date(int(UNIX) - 1000).decode()}, 304),
        ({"if_modified_since": format_date(int(UNIX) - 1001).decode()}, 200),
        ({"if_modified_since": "yesterday"}, 200),
    ],
)
def test_not_modified(asked: dict[str, str], status: int) -> None:
    """The client's validators are answered from what is stored; entity tags before dates."""
    modified = format_date(int(UNIX) - 1000).decode()
    fridge = filled(
        cache_control="max-age=60", etag='"a"', last_modified=modified, content_type="x", content_length="10"
    )
    response = fridge.hit(get(**asked))
    assert response.status == status
    names = [name for name, _ in response.headers]
    assert (b"content-length" in names) == (b"content-type" in names) == (status == 200)
    assert names.count(b"etag") == 1
    assert response.body == (b"" if status == 304 else b"0123456789")


def test_date_stands_in_for_last_modified() -> None:
    """A response without Last-Modified was not modified after its Date."""
    fridge = filled(cache_control="max-age=60")
    assert fridge.hit(get(if_modified_since=DATE.decode())).status == 304
    assert fridge.hit(get(if_none_match='"a"')).status == 200


@pytest.mark.parametrize(
    ("wanted", "status", "span", "body"),
    [
        ("bytes=0-1", 206, "bytes 0-1/10", b"01"),
        ("bytes=8-", 206, "bytes 8-9/10", b"89"),
        ("bytes=8-99", 206, "bytes 8-9/10", b"89"),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=-99", 206, "bytes 0-9/10", b"0123456789"),
        ("Bytes=0-0", 206, "bytes 0-0/10", b"0"),
        ("bytes=10-", 416, "bytes */10", b""),
        ("bytes=-0", 416, "bytes */10", b""),
        ("bytes=5-2", 200, None, b"0123456789"),
        ("bytes=0-1,3-4", 206, "bytes 0-4/10", b"01234"),
        ("lines=0-1", 200, None, b"0123456789"),
        ("bytes=a-b", 200, None, b"0123456789"),
    ],
)
def test_ranges(wanted: str, status: int, span: str | None, body: bytes) -> None:
    """Ranges are cut from what is stored, two that lie close as one; other units and nonsense get all."""
    response = filled(cache_control="max-age=60").hit(get(range=wanted))
    found = find(response.headers, b"content-range")
    assert (response.status, found, response.body) == (status, None if span is None else span.encode(), body)
    assert find(response.headers, b"content-length") == str(len(body)).encode()


@given(st.integers(0, 12), st.integers(0, 12))
def test_parts_are_slices(first: int, last: int) -> None:
    """Whatever range is asked for, the part is the slice that its Content-Range names."""
    response = filled(cache_control="max-age=60").hit(get(range=f"bytes={first}-{last}"))
    if response.status == 206:
        assert response.body == b"0123456789"[first : last + 1]
        assert find(response.headers, b"content-range") == b"bytes %d-%d/10" % (first, min(last, 9))
    else:
        assert response.status == (416 if first > 9 and first <= last else 200)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"a"', 206),
        ('"b"', 200),
        ('W/"a"', 200),
        (format_date(int(UNIX) - 9).decode(), 206),
        (format_date(int(UNIX) - 8).decode(), 200),
        ("yesterday", 200),
    ],
)
def test_if_range(condition: str, status: int) -> None:
    """A part is given only of the very response that the client holds the rest of."""
    modified = format_date(int(UNIX) - 9).decode()
    fridge = filled(cache_control="max-age=60", etag='"a"', last_modified=modified)
    assert fridge.hit(get(range="bytes=0-1", if_range=condition)).status == status


def test_head_is_answered_from_a_get() -> None:
    """HEAD gets the header of the stored GET, length and all, and no body; never a part."""
    fridge = filled(cache_control="max-age=60")
    response = fridge.hit(get("HEAD", range="bytes=0-1"))
    assert (response.status, response.body) == (200, b"")
    assert find(response.headers, b"content-length") == b"10"


def test_lengths_that_lie() -> None:
    """A body that is not as long as it was announced to be is not stored; a 204 gets no length."""
    decision = Fridge().receive(get(), answer(204, b"", cache_control="max-age=60"))
    assert isinstance(decision, Keep)
    whole = decision.stored.with_body(b"")
    assert whole is not None
    assert find(whole.headers, b"content-length") is None
    short = replace(decision.stored, status=200, headers=[(b"content-length", b"3")])
    assert short.with_body(b"ab") is None


# -- what is asked of the replicas ----------------------------------------------------------------------


def test_validation() -> None:
    """What is stale is validated by its own validators; the client's conditions are answered from here."""
    fridge = filled(cache_control="max-age=60", etag='"a"', last_modified=DATE.decode())
    fridge.now += 61
    fetch = fridge.miss(get(if_none_match='"mine"', if_range="x", accept="y"))
    assert fetch.headers == [
        (b"host", b"h"),
        (b"accept", b"y"),
        (b"if-none-match", b'"a"'),
        (b"if-modified-since", DATE),
    ]
    assert (fetch.shareable, fetch.why) == (True, b"fwd=stale")
    asked = get(if_none_match='"a"')
    decision = fridge.receive(asked, answer(304, b"", etag='"a"', cache_control="max-age=90", x_new="1"))
    assert isinstance(decision, Confirmed)
    assert decision.response.status == 304
    hit = fridge.hit(get())
    assert hit.body == b"0123456789"
    assert find(hit.headers, b"x-new") == b"1"
    assert find_all(hit.headers, b"cache-control") == [b"max-age=90"]


def test_what_a_304_does_not_change() -> None:
    """A 304 updates what is stored, but for what describes the body, and a cookie, which is its client's."""
    fridge = filled(
        cache_control="max-age=1", etag='"a"', content_type="a", content_encoding="gzip", keep="k"
    )
    fridge.now += 2
    news = answer(304, b"", content_type="b", content_length="99", content_encoding="br", set_cookie="s=1")
    news.headers.append((b"cache-control", b"max-age=60"))
    decision = fridge.receive(get(), news)
    assert isinstance(decision, Confirmed)
    assert find(decision.response.headers, b"set-cookie") == b"s=1"
    stored = dict(fridge.hit(get()).headers)
    assert stored[b"content-type"] == b"a"
    assert stored[b"content-encoding"] == b"gzip"
    assert stored[b"content-length"] == b"10"
    assert stored[b"keep"] == b"k"
    assert b"set-cookie" not in stored


def test_a_304_has_an_age_of_its_own() -> None:
    """A 304 makes young what it confirms, by its own Date and Age, or by its arrival where it has none."""
    for told, left in (({}, 60), ({"age": "20"}, 40), ({"date": format_date(int(UNIX) + 90).decode()}, 50)):
        fridge = filled(cache_control="max-age=60", etag='"a"')
        fridge.now += 100
        decision = fridge.receive(get(), Response(304, header(**told)))
        assert isinstance(decision, Confirmed)
        assert [name for name, _ in decision.response.headers].count(b"date") == 1
        fridge.now += left - 1
        assert len(find_all(fridge.hit(get()).headers, b"age")) == 1
        fridge.now += 1
        fridge.miss(get())


def test_a_304_to_somebody_in_particular() -> None:
    """What a 304 says to one with credentials is told to that one, and stored only where it may be shared."""
    fridge = filled(cache_control="max-age=1", etag='"a"')
    fridge.now += 2
    decision = fridge.receive(get(cookie="a=b"), answer(304, b"", x_user="alice"))
    assert isinstance(decision, Confirmed)
    assert decision.stored is None
    assert find(decision.response.headers, b"x-user") == b"alice"
    assert decision.response.body == b"0123456789"
    fridge.now += 1
    later = fridge.receive(get(), answer(304, b""))
    assert isinstance(later, Confirmed)
    assert find(later.response.headers, b"x-user") is None


def test_a_304_about_something_else() -> None:
    """A 304 with another entity tag is not about what is stored."""
    fridge = filled(cache_control="max-age=1", etag='"a"')
    fridge.now += 2
    assert isinstance(fridge.receive(get(), answer(304, b"", etag='"b"')), Mismatch)


def test_no_cache_is_validated_each_time() -> None:
    """no-cache stores what can be validated, and asks each time."""
    fridge = filled(cache_control="no-cache", etag='"a"')
    assert fridge.miss(get()).stored is not None
    assert isinstance(Fridge().receive(get(), answer(cache_control="no-cache")), Pass)


def test_parts_and_heads_of_what_is_not_there_are_asked_for_as_they_are() -> None:
    """Range and HEAD go on with the client's own conditions, and nobody waits for their answers."""
    for asked in (get(range="bytes=0-1", if_range='"a"'), get("HEAD", if_none_match='"a"')):
        fetch = Fridge().miss(asked)
        assert fetch.headers == asked.headers
        assert not fetch.shareable
        assert fetch.looks
    assert Fridge().miss(get(range="bytes=0-1")).shareable
    assert not Fridge().miss(get(range="bytes=0-1,5-6")).shareable


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_control": "no-cache"},
        {"pragma": "no-cache"},
        {"if_match": '"a"'},
        {"cache_control": "max-age=0"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_wants_it_from_the_origin_gets_it_from_there(method: str, fields: dict[str, str]) -> None:
    """What is stored elsewhere, or in parts, is nothing to those whom nothing stored would do."""
    fetch = Fridge().miss(get(method, range="bytes=0-1", **fields))
    assert (fetch.looks, fetch.ranged) == (False, False)


def test_a_range_of_what_is_stale_validates_it() -> None:
    """A range is asked for with what is stored as the condition: a 304 means that it is cut from that."""
    fridge = filled(cache_control="max-age=60", etag='"a"')
    fridge.now += 61
    asked = get(range="bytes=2-3", if_range='"a"')
    assert fridge.miss(asked).headers == [*asked.headers, (b"if-none-match", b'"a"')]
    decision = fridge.receive(asked, Response(304, header(etag='"a"', cache_control="max-age=60")))
    assert isinstance(decision, Confirmed)
    assert (decision.response.status, decision.response.body) == (206, b"23")
    assert fridge.hit(get()).body == b"0123456789"
    fridge.now += 61
    own = get(range="bytes=2-3", if_none_match='"b"')
    assert fridge.miss(own).headers == own.headers


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ({}, {"content_range": "bytes 0-4/10", "etag": '"a"'}),
        ({"range": "bytes=0-4"}, {"etag": '"a"'}),
        ({"range": "bytes=0-4"}, {"content_range": "bytes 0-4/*", "etag": '"a"'}),
        ({"range": "bytes=0-4"}, {"content_range": "bytes 4-0/10", "etag": '"a"'}),
        ({"range": "bytes=0-4"}, {"content_range": "bytes 0-10/10", "etag": '"a"'}),
        ({"range": "bytes=0-4"}, {"content_range": "lines 0-4/10", "etag": '"a"'}),
        ({"range": "bytes=0-4"}, {"content_range": "bytes 0-4/10"}),
        ({"range": "bytes=0-4"}, {"content_range": "bytes 0-4/10", "etag": 'W/"a"'}),
        ({"range": "bytes=0-4"}, {"content_range": "bytes 0-4/10", "etag": '"a"', "set_cookie": "a=b"}),
        (
            {"range": "bytes=0-4"},
            {"content_range": "bytes 0-4/10", "etag": '"a"', "cache_control": "no-cache"},
        ),
        (
            {"range": "bytes=0-4"},
            {"content_range": "bytes 0-4/10", "etag": '"a"', "cache_control": "private"},
        ),
        ({"range": "bytes=0-4", "cookie": "a=b"}, {"content_range": "bytes 0-4/10", "etag": '"a"'}),
        (
            {"range": "bytes=0-4"},
            {
                "content_range": "bytes 0-4/10",
                "etag": '"a"',
                "content_type": "Multipart/byteranges; boundary=a",
            },
        ),
    ],
)
def test_parts_that_are_not_kept(asked: dict[str, str], fields: dict[str, str]) -> None:
    """A part is kept where it says which it is, of what strong entity tag, and that it may be shared."""
    fields = {"cache_control": "max-age=60", **fields}
    assert isinstance(Fridge().receive(get(**asked), answer(206, b"01234", **fields)), Pass)


def test_parts_that_are_kept() -> None:
    """A part with a strong entity tag is kept, and all of a body also without; of it the part is no part."""
    fields = {"cache_control": "max-age=60", "content_range": "bytes 0-4/10", "content_length": "5"}
    rules, asked = HttpCacheRules(), get(range="bytes=0-4")

    def kept(**more: str) -> Keep:
        fetch = rules.lookup(asked, (), 1000.0)
        assert isinstance(fetch, Fetch)
        response = answer(206, b"01234", **{**fields, **more})
        decision = rules.received(asked, fetch, response, now=1000.0, unix=UNIX, delay=0.0)
        assert isinstance(decision, Keep)
        return decision

    assert kept(etag='"a"').span == (0, 4, 10)
    decision = kept(content_range="Bytes 0-4/5")
    assert (decision.span, decision.stored.status, decision.extends) == ((0, 4, 5), 200, False)
    assert {name for name, _ in decision.stored.headers} == {b"date", b"cache-control"}


def test_preconditions_go_to_the_origin() -> None:
    """If-Match and If-Unmodified-Since ask about the origin's state: they pass a fresh response by."""
    fridge = filled(cache_control="max-age=60", etag='"a"')
    for asked in (get(if_match='"a"'), get(if_unmodified_since=DATE.decode())):
        assert fridge.miss(asked).why == b"bypass"
        assert fridge.miss(asked).headers == asked.headers


@pytest.mark.parametrize(
    ("said", "served"),
    [
        ("no-cache", False),
        ("max-age=0", False),
        ("max-age=29", False),
        ("max-age=30", True),
        ("min-fresh=31", False),
        ("min-fresh=29", True),
        ("max-stale=100", True),
        ("no-store", True),
        ("nonsense", True),
    ],
)
def test_demands_of_requests(said: str, served: bool) -> None:
    """A client may ask for something younger than is fresh, and then nobody waits for its fetch."""
    fridge = filled(cache_control="max-age=60")
    fridge.now += 30
    decision = fridge.lookup(get(cache_control=said))
    assert isinstance(decision, Serve) == served
    if isinstance(decision, Fetch):
        assert (decision.shareable, decision.why) == (False, b"fwd=request")


def test_pragma() -> None:
    """Pragma: no-cache counts where there is no Cache-Control."""
    fridge = filled(cache_control="max-age=60")
    fridge.miss(get(pragma="no-cache"))
    fridge.hit(get(pragma="no-cache", cache_control="x"))
    fridge.hit(get(pragma="x"))


def test_only_if_cached() -> None:
    """Who wants nothing but what is cached gets that, or 504, and nobody is asked."""
    asked = get(cache_control="only-if-cached")
    assert Fridge().hit(asked).status == 504
    fridge = filled(cache_control="max-age=60", etag='"a"')
    assert fridge.hit(asked).status == 200
    assert fridge.hit(get(cache_control="only-if-cached, no-cache")).status == 504
    fridge.now += 60
    assert fridge.hit(asked).status == 504


# -- stale answers --------------------------------------------------------------------------------------


def test_grace() -> None:
    """Within its grace a stale response answers, and a whole one is fetched for everybody meanwhile."""
    fridge = filled(cache_control="max-age=60, stale-while-revalidate=30", etag='"a"')
    fridge.now += 70
    decision = fridge.lookup(get("HEAD", range="bytes=0-1", if_none_match='"x"', accept="y"))
    assert isinstance(decision, Serve)
    assert decision.refresh is not None
    assert decision.refresh.headers == [(b"host", b"h"), (b"accept", b"y"), (b"if-none-match", b'"a"')]
    assert decision.refresh.shareable
    assert find(decision.response.headers, b"cache-status") == b"replicated; hit; ttl=-10"
    fridge.miss(get(cache_control="no-cache"))
    fridge.now += 20
    fridge.miss(get())


def test_rescue() -> None:
    """When nothing better is to be had, a stale response answers as long as it and the client allow."""
    rules = HttpCacheRules(keep=30)
    fridge = filled(rules, asked=get(x="1"), cache_control="max-age=60", vary="x")
    fridge.now += 89
    rescued = rules.rescue(get(x="1"), fridge.variants, fridge.now, b"fwd=stale")
    assert rescued is not None
    assert find(rescued.headers, b"age") == b"89"
    assert find(rescued.headers, b"cache-status") == b"replicated; fwd=stale; detail=stale-if-error"
    assert rules.rescue(get(x="2"), fridge.variants, fridge.now, b"") is None
    assert rules.rescue(get(x="1", cache_control="no-cache"), fridge.variants, fridge.now, b"") is None
    assert rules.rescue(get(x="1", if_match='"a"'), fridge.variants, fridge.now, b"") is None
    assert rules.rescue(get(x="1"), fridge.variants, fridge.now + 1, b"") is None


def test_never_stale_against_a_must() -> None:
    """must-revalidate, proxy-revalidate, no-cache and s-maxage forbid what the operator allows."""
    rules = HttpCacheRules(grace=1000, keep=1000)
    for said in ("max-age=1, must-revalidate", "max-age=1, proxy-revalidate", "s-maxage=1"):
        fridge = filled(rules, cache_control=said)
        fridge.now += 2
        fridge.miss(get())
        assert rules.rescue(get(), fridge.variants, fridge.now, b"") is None


# -- what makes stored responses untrue -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status", "fields", "keys"),
    [
        ("POST", 200, {}, ["http://h/a?b"]),
        ("PUT", 204, {}, ["http://h/a?b"]),
        ("M-SEARCH", 302, {"location": "/c#d"}, ["http://h/a?b", "http://h/c"]),
        ("DELETE", 200, {"content_location": "HTTP://H/C"}, ["http://h/a?b", "http://h/C"]),
        ("POST", 200, {"location": "http://other/c"}, ["http://h/a?b"]),
        ("POST", 200, {"location": "//other/c"}, ["http://h/a?b"]),
        ("POST", 200, {"location": "https://h/c"}, ["http://h/a?b"]),
        ("POST", 502, {}, ["http://h/a?b"]),
        ("POST", 504, {}, ["http://h/a?b"]),
        ("POST", 404, {}, []),
        ("POST", 500, {}, []),
        ("GET", 200, {}, []),
        ("OPTIONS", 200, {}, []),
    ],
)
def test_invalidation(method: str, status: int, fields: dict[str, str], keys: list[str]) -> None:
    """A successful unsafe request makes its own page untrue, and those that its answer names on its host."""
    asked = get(method, b"/a?b")
    assert HttpCacheRules().invalidated(asked, answer(status, **fields), "http", b"H") == keys


def test_keys_are_exact() -> None:
    """Scheme, authority, path and query are the key as they are sent; only the host has no case."""
    key = HttpCacheRules().key
    keys = {
        key(target, scheme, host)
        for target in (
            b"/",
            b"/?",
            b"/a",
            b"/A",
            b"/a%2Fb",
            b"/a/b",
            b"/a?b=1&c",
            b"/a?c&b=1",
            b"//a",
            b"/\xff",
        )
        for scheme in ("http", "https")
        for host in (b"h", b"h:80", b"i")
    }
    assert len(keys) == 60
    assert key(b"/", "http", b"HOST") == key(b"/", "http", b"host")


def test_tags_and_weight() -> None:
    """A response carries the tags of both fields, and weighs more than its text."""
    stored = filled(cache_control="max-age=60", surrogate_key="a b", cache_tag="c,d").variants[0]
    assert stored.tags == [b"a", b"b", b"c", b"d"]
    assert stored.size > 10 + sum(len(name) + len(value) for name, value in stored.headers)


def test_what_is_of_no_use_any_more() -> None:
    """What can be validated is kept for a while after it went stale; the rest as long as it may answer."""
    rules = HttpCacheRules(grace=5, keep=7)
    plain = filled(rules, cache_control="max-age=60").variants[0]
    assert rules.useful_until(plain) == 1067
    tagged = filled(rules, cache_control="max-age=60", etag='"a"').variants[0]
    assert rules.useful_until(tagged) == 1660
