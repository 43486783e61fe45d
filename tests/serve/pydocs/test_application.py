"""The demo's application over ASGI: ready when its index is, cacheable pages, a history for each session."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from replicated.serve.pydocs import application as module_under_test
from replicated.serve.pydocs.application import Application, main
from replicated.serve.pydocs.documentation import Index
from replicated.serve.pydocs.history import History, is_session, new_session
from replicated.serve.pydocs.modules import Module
from replicated.serve.pydocs.pages import POLICY

SESSION = "A" * 22


def small_index() -> Index:
    named = ("json", "json.decoder", "queue", "sched")
    return Index(
        [
            *(
                Module(name, f"<{name}>", origin=str(importlib.import_module(name).__file__))
                for name in named
            ),
            Module("windows_only", "Elsewhere", origin="/nowhere/windows_only.py"),
            *(Module(f"many{n}", "one of many") for n in range(60)),
        ]
    )


class ManualClock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Ready:
    """An application whose index is built, and a client of it."""

    def __init__(self, **options: Any) -> None:
        self.app = Application("app-1", build=small_index, **options)

    def __call__(self, use: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        async def run() -> Any:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=self.app),  # type: ignore[arg-type]
                base_url="http://test",
            ) as client:
                await client.get("/livez")
                assert self.app._builder is not None
                await asyncio.to_thread(self.app._builder.join)
                return await use(client)

        return asyncio.run(run())

    def ask(self, path: str, method: str = "GET", **options: Any) -> httpx.Response:
        async def use(client: httpx.AsyncClient) -> httpx.Response:
            return await client.request(method, path, **options)

        answer = self(use)
        assert isinstance(answer, httpx.Response)
        return answer


@pytest.fixture
def ready() -> Ready:
    return Ready()


# Readiness


def test_alive_at_once_and_ready_when_the_index_is_built() -> None:
    """While the index is built `/livez` says 200 and everything else 503 with Retry-After."""
    release = threading.Event()

    def slow() -> Index:
        release.wait(10)
        return small_index()

    app = Application("app-1", build=slow)

    async def use() -> None:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/livez")).status_code == 200
            for path in ("/readyz", "/", "/search", "/module/json", "/history"):
                answer = await client.get(path)
                assert answer.status_code == 503
                assert answer.headers["retry-after"] == "1"
                assert answer.headers["cache-control"] == "no-store"
            stats = (await client.get("/stats")).json()
            assert stats["ready_at"] is None
            assert (stats["requests"], stats["requests_before_ready"], stats["modules"]) == (4, 4, 0)
            release.set()
            assert app._builder is not None
            await asyncio.to_thread(app._builder.join)
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/")).status_code == 200
            stats = (await client.get("/stats")).json()
            assert (stats["requests"], stats["requests_before_ready"], stats["modules"]) == (5, 4, 65)

    asyncio.run(use())


def test_an_index_that_cannot_be_built_ends_the_process_life(caplog: pytest.LogCaptureFixture) -> None:
    """Where building failed the replica never gets ready, and `/livez` asks for a new process."""

    def fail() -> Index:
        raise OSError("no such library")

    ready = Ready()
    ready.app = Application("app-1", build=fail)
    with caplog.at_level(logging.CRITICAL + 1, logger=module_under_test.__name__):
        assert ready.ask("/livez").status_code == 500
        assert ready.ask("/readyz").status_code == 503


def test_draining_is_unready_and_serves(ready: Ready) -> None:
    """After the signal to end, the balancer is told to go elsewhere and who comes is served still."""
    ready.app.drain()
    assert ready.ask("/readyz").status_code == 503
    assert ready.ask("/").status_code == 200


def test_lifespan_begins_to_build() -> None:
    """A server that speaks lifespan has the index built before the first request."""
    app = Application("app-1", build=small_index)

    async def use() -> list[str]:
        incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent: list[str] = []

        async def receive() -> dict[str, Any]:
            return incoming.pop(0)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan"}, receive, send)
        return sent

    assert asyncio.run(use()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert app._builder is not None
    app._builder.join()
    assert app._ready_at is not None


def test_other_scopes_are_refused() -> None:
    """A websocket is not for this application."""

    async def never(*_: Any) -> Any:
        raise AssertionError

    with pytest.raises(TypeError, match="websocket"):
        asyncio.run(Application(build=small_index)({"type": "websocket"}, never, never))


def test_stats_count_requests_and_not_probes() -> None:
    """`/stats` proves when the first request came, and names no visitor and no path."""
    now = iter(range(100, 200))
    ready = Ready(clock=lambda: float(next(now)))
    assert ready.ask("/stats").json()["first_request_at"] is None
    ready.ask("/")
    ready.ask("/search?q=private")
    answer = ready.ask("/stats")
    stats = answer.json()
    assert stats["started_at"] <= stats["ready_at"] <= stats["first_request_at"]
    assert stats["requests"] == 2
    assert stats["requests_before_ready"] == 0
    assert stats["replica"] == "app-1"
    assert answer.headers["cache-control"] == "no-store"
    assert "private" not in answer.text


# Pages


@pytest.mark.parametrize(
    ("path", "status", "cache"),
    [
        ("/", 200, "public, max-age=60"),
        ("/search", 200, "public, max-age=60"),
        ("/search?q=json", 200, "public, max-age=60"),
        ("/search?" + "a=1&" * 30, 200, "public, max-age=60"),
        ("/search?q=%FF%00", 200, "public, max-age=60"),
        ("/module/json", 200, "public, max-age=300"),
        ("/module/os", 404, "no-store"),
        ("/module/windows_only", 404, "no-store"),
        ("/module/", 404, "no-store"),
        ("/module/json/decoder", 404, "no-store"),
        ("/nothing", 404, "no-store"),
        ("/history", 307, "no-store"),
        ("/history?c=1", 200, "no-store"),
    ],
)
def test_every_answer_has_its_status_and_its_cache_life(
    ready: Ready, path: str, status: int, cache: str
) -> None:
    """GET and HEAD give the same headers, with Content-Length, the replica and the policy."""
    got, head = ready.ask(path), ready.ask(path, "HEAD")
    assert (got.status_code, got.headers["cache-control"]) == (status, cache)
    assert int(got.headers["content-length"]) == len(got.content)
    assert got.headers["x-replica"] == "app-1"
    assert got.headers["content-security-policy"] == POLICY
    assert head.status_code == status
    assert head.content == b""
    if status != 307:  # each has another cookie
        for answer in (got, head):
            answer.headers.pop("date")
        assert head.headers == got.headers


def test_a_module_outside_the_index_is_not_imported(ready: Ready) -> None:
    """A stranger cannot have a module imported by naming it."""
    sys.modules.pop("antigravity", None)
    assert ready.ask("/module/antigravity").status_code == 404
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/stats", "/search", "/module/json", "/nothing"])
def test_other_methods_are_refused(ready: Ready, path: str) -> None:
    """A method that is not there gets 405 and hears which are."""
    answer = ready.ask(path, "POST")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    answer = ready.ask("/history", "DELETE")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")


@pytest.mark.parametrize("path", ["/search?q=", "/module/", "/history?page=", "/"])
def test_what_a_visitor_sends_is_never_markup(ready: Ready, path: str) -> None:
    """Nothing of a request comes back unescaped."""
    assert "<b>x" not in ready.ask(path + "%22%3E%3Cb%3Ex").text
    assert "&lt;json&gt;" in ready.ask("/search?q=json").text


def test_search_shows_the_best(ready: Ready) -> None:
    """Of many only the best are shown, with how many there are."""
    many = ready.ask("/search?q=many").text
    assert many.count("/module/many") == 50
    assert "60 modules, the best 50 shown" in many
    assert "1 module<" in ready.ask("/search?q=queue").text


def test_a_page_is_revalidated_by_its_content(ready: Ready) -> None:
    """The ETag is of the content: the same from every replica, and 304 to who has it."""
    first = ready.ask("/module/queue")
    etag = first.headers["etag"]
    assert etag == f'"{hashlib.sha256(first.content).hexdigest()[:32]}"'
    other = Ready()
    for has in (etag, f'"x", W/{etag}', "*"):
        for replica in (ready, other, other):
            answer = replica.ask("/module/queue", headers={"if-none-match": has})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == etag
            assert answer.headers["cache-control"] == "public, max-age=300"
    assert ready.ask("/module/queue", headers={"if-none-match": '"other"'}).status_code == 200


def test_the_policy_lets_the_pages_own_script_and_style_run(ready: Ready) -> None:
    """The hashes in the policy are those of what the pages carry."""
    html = ready.ask("/module/json.decoder").text
    for tag in ("style", "script"):
        [(attributes, text)] = re.findall(rf"<{tag}([^>]*)>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in POLICY
    assert attributes == ' data-page="json.decoder"'
    assert "<script" not in ready.ask("/").text
    assert " style=" not in html


def test_probes_are_answered_while_a_page_is_rendered(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering leaves the event loop free."""
    rendering, release = threading.Event(), threading.Event()

    def slow(*_: Any) -> str:
        rendering.set()
        assert release.wait(10)
        return "late"

    monkeypatch.setattr(module_under_test, "render", slow)

    async def use(client: httpx.AsyncClient) -> None:
        page = asyncio.create_task(client.get("/module/json"))
        await asyncio.to_thread(rendering.wait, 10)
        assert (await client.get("/livez")).status_code == 200
        assert not page.done()
        release.set()
        assert "late" in (await page).text

    ready(use)


# Sessions


def cookie(value: str) -> dict[str, str]:
    return {"cookie": f"other=1; session={value}"}


@pytest.mark.parametrize(
    "sent", [None, "short", "A" * 21 + ";", "A" * 21 + "é".encode().decode("latin-1"), "A" * 23]
)
@pytest.mark.parametrize(
    ("method", "query", "repeated"),
    [
        ("GET", "", "/history?c=1"),
        ("GET", "?page=a%26b", "/history?page=a%26b&c=1"),
        ("POST", "?page=json", "/history?page=json&c=1"),
    ],
)
def test_a_visitor_without_a_session_is_given_one_first(
    ready: Ready, sent: str | None, method: str, query: str, repeated: str
) -> None:
    """The same request is repeated with the cookie, so that its replica is the cookie's already."""
    headers = {} if sent is None else {"cookie": f"session={sent}".encode("latin-1")}
    answer = ready.ask("/history" + query, method, headers=headers)
    assert answer.status_code == 307
    assert answer.headers["location"] == repeated
    match = re.fullmatch(r"session=([^;]*); Path=/; HttpOnly; SameSite=Lax", answer.headers["set-cookie"])
    assert match is not None
    assert is_session(match[1])
    assert len(ready.app._history) == 0


def test_the_cookie_is_secure_where_the_edge_speaks_tls(ready: Ready) -> None:
    """X-Forwarded-Proto decides, since the replica itself never sees TLS."""
    answer = ready.ask("/history", headers={"x-forwarded-proto": "https"})
    assert answer.headers["set-cookie"].endswith("; Secure")


def test_a_client_without_cookies_does_not_loop(ready: Ready) -> None:
    """Who comes back without the cookie is told, and nothing is recorded."""
    assert "no cookies" in ready.ask("/history?c=1").text
    assert ready.ask("/history?page=json&c=1", "POST").status_code == 400
    assert len(ready.app._history) == 0


def test_a_browser_gets_from_nothing_to_a_history(ready: Ready) -> None:
    """The first page read is in the history already, and each visitor sees their own."""

    async def use(client: httpx.AsyncClient) -> None:
        assert (await client.post("/history?page=json", follow_redirects=True)).status_code == 204
        assert (await client.post("/history?page=sched")).status_code == 204
        assert (await client.post("/history?page=json")).status_code == 204
        html = (await client.get("/history")).text
        assert html.index("/module/json") < html.index("/module/sched")
        assert html.count("/module/json") == 1
        assert "app-1" in html
        client.cookies.clear()
        assert "Nothing read yet" in (await client.get("/history", headers=cookie(SESSION))).text

    ready(use)
    assert ready.ask("/stats").json()["sessions"] == 1


@pytest.mark.parametrize(
    ("query", "options", "status"),
    [
        ("?page=json", {"content": b"x" * 4096}, 204),
        ("?page=json", {"content": b"x" * 4097}, 413),
        ("?page=json", {"headers": {"sec-fetch-site": "cross-site"}}, 403),
        ("?page=json", {"headers": {"sec-fetch-site": "same-origin"}}, 204),
        ("?page=os", {}, 400),
        ("", {}, 400),
    ],
)
def test_recording_takes_what_the_pages_send(
    ready: Ready, query: str, options: dict[str, Any], status: int
) -> None:
    """A body is ignored within a limit, another site is refused, and only modules are recorded."""
    options = {**options, "headers": {**options.get("headers", {}), **cookie(SESSION)}}
    answer = ready.ask("/history" + query, "POST", **options)
    assert answer.status_code == status
    assert ("content-length" in answer.headers) == (status != 204)


def test_a_body_in_pieces_and_a_client_that_leaves() -> None:
    """A body is counted over its pieces, and a disconnect in between is no error."""

    async def use(messages: list[dict[str, Any]]) -> int:
        app = Application(build=small_index)
        app._begin()
        assert app._builder is not None
        app._builder.join()
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/history",
            "query_string": b"page=json",
            "headers": [(b"cookie", b"a=b"), (b"cookie", b"session=" + SESSION.encode())],
        }
        await app(scope, receive, send)
        status = sent[0]["status"]
        assert isinstance(status, int)
        return status

    piece = {"type": "http.request", "body": b"x" * 2049, "more_body": True}
    assert asyncio.run(use([piece, {"type": "http.request"}])) == 204
    assert asyncio.run(use([piece, piece])) == 413
    assert asyncio.run(use([piece, {"type": "http.disconnect"}])) == 204


def test_history_is_bounded_and_tells_how_long_ago() -> None:
    """Sessions and entries have a limit each, idle sessions end, and a page tells the age of a visit."""
    clock = ManualClock()
    history = History(2, 3, clock=clock)
    for name in "abcd":
        history.record("one", name)
    assert [name for name, _ in history.of("one")] == ["d", "c", "b"]
    history.record("two", "a")
    history.record("three", "a")
    assert len(history) == 2
    ready = Ready(history=History(clock=clock))
    ready.ask("/history?page=json", "POST", headers=cookie(SESSION))
    for age, words in ((59.0, "just now"), (61.0, "1 min ago"), (3599.0, "59 min ago")):
        clock.now = age
        assert words in ready.ask("/history", headers=cookie(SESSION)).text
    ready.ask("/history?page=queue", "POST", headers=cookie(SESSION))
    clock.now += 3599.0
    assert "1 h ago" in ready.ask("/history", headers=cookie(SESSION)).text
    clock.now += 2.0
    assert "Nothing read yet" in ready.ask("/history", headers=cookie(SESSION)).text


def test_sessions_differ() -> None:
    """Every new session has a name of its own, in the form that is taken back."""
    made = {new_session() for _ in range(100)}
    assert len(made) == 100
    assert all(map(is_session, made))


# The program


@pytest.mark.parametrize("replica_id", ["", "a b", "a\r\nX-Evil: 1", "é"])
def test_an_id_that_is_no_header_is_refused(replica_id: str) -> None:
    """The replica's name goes into a header, so it must fit there."""
    with pytest.raises(ValueError, match="replica_id"):
        Application(replica_id)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "nowhere"], "HOST:PORT"),
        (["--listen", ":80"], "HOST:PORT"),
        (["--listen", "host:70000"], "HOST:PORT"),
        (["--listen", "host:x"], "HOST:PORT"),
        (["--id", "a b"], "replica_id"),
        (["--drain-delay", "-1"], "seconds"),
        (["--drain-delay", "nan"], "seconds"),
        (["--drain-delay", "soon"], "seconds"),
    ],
)
def test_bad_flags_end_with_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag that cannot work is one message and exit status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def program(*arguments: str) -> subprocess.Popen[str]:
    root = Path(module_under_test.__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-m", "replicated.serve.pydocs", *arguments],
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_program_serves_until_it_is_asked_to_end() -> None:
    """A process of its own is alive, gets ready, answers, drains at SIGTERM and exits with 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = program("--listen", f"127.0.0.1:{port}", "--id", "app-7")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            statuses = []
            deadline = time.monotonic() + 60
            while 200 not in statuses:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
                with contextlib.suppress(httpx.ConnectError):
                    statuses.append(client.get("/readyz").status_code)
            assert set(statuses) == {200, 503}
            answer = client.get("/module/json")
            assert answer.status_code == 200
            assert answer.headers["x-replica"] == "app-7"
            busy = program("--listen", f"127.0.0.1:{port}")
            _, words = busy.communicate(timeout=30)
            assert busy.returncode == 2
            assert words.count("\n") == 1
            assert f"cannot listen on 127.0.0.1:{port}" in words
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
