"""The application that the demo replicates: a searchable browser of this Python's documentation.

It decides which path is answered how. It stands for any service worth replicating: it is not ready until
its index is built, its pages cost processor time, and what a visitor has read is known to one replica only.
Which replica a visitor gets, and what is cached, is for the tiers before it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import math
import platform
import re
import threading
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import NoReturn
from urllib.parse import urlencode

from ...clock import Clock, monotonic
from . import answers, pages
from .answers import Answer, Receive, Request, Scope, Send
from .documentation import Index, build_index
from .history import History, is_session, new_session
from .rendering import CannotRender, render

__all__ = ["Application", "main"]

_log = logging.getLogger(__name__)

_PROBES = frozenset({"/livez", "/readyz", "/stats"})
_RETRY = ("retry-after", "1")
_BRIEFLY, _LONGER, _NEVER = "public, max-age=60", "public, max-age=300", "no-store"
_MOST_SHOWN = 50
_LONGEST_QUERY = 200
# Every content is what it says it is, and a page tells other sites nothing of where its reader was.
_ALWAYS = (
    ("content-security-policy", pages.POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
)


class Application:
    """An ASGI application; one process runs one of them, and is one replica.

    Building the index begins with the server's start-up (or the first request) in a thread of its own, so
    that `/livez` answers at once and `/readyz` says 503 until the rest can.

    Args:
        replica_id: What this replica is called; every answer carries it as `X-Replica`.
        build: What makes the index.
        history: Where reading is remembered.
        clock: Seconds for `/stats`. The default is the machine's monotonic clock, which all its processes
            share.

    Raises:
        ValueError: ``replica_id`` cannot be the value of a header.
    """

    def __init__(
        self,
        replica_id: str = "app",
        *,
        build: Callable[[], Index] = build_index,
        history: History | None = None,
        clock: Clock = monotonic,
    ) -> None:
        if re.fullmatch(r"[!-~]+", replica_id) is None:
            raise ValueError(f"replica_id must be printable ASCII without spaces, not {replica_id!r}")
        self._id = replica_id
        self._build = build
        self._clock = clock
        self._history = History(clock=clock) if history is None else history
        self._index: Index | None = None
        self._failed = False
        self._draining = False
        self._builder: threading.Thread | None = None
        self._etags: dict[str, str] = {}
        self._started_at = clock()
        self._ready_at: float | None = None
        self._first_request_at: float | None = None
        self._requests = 0
        self._requests_before_ready = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's scope, as ASGI 3 has it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            raise TypeError(f"scope must be of type http or lifespan, not {scope['type']!r}")
        request = Request(scope)
        self._begin()
        if request.path not in _PROBES:
            self._count()
        answer = await self._answer(request, receive)
        own = (("date", formatdate(usegmt=True)), ("x-replica", self._id))
        await answer.send(send, (*_ALWAYS, *own), head=request.method == "HEAD")

    def drain(self) -> None:
        """Say on `/readyz` that no more requests should come, and go on serving those that do."""
        self._draining = True

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._begin()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    def _begin(self) -> None:
        if self._builder is None:
            self._builder = threading.Thread(target=self._prepare, name="index", daemon=True)
            self._builder.start()

    def _prepare(self) -> None:
        try:
            index = self._build()
        except Exception:
            _log.exception("the index could not be built")
            self._failed = True
            return
        self._ready_at = self._clock()
        self._index = index

    def _count(self) -> None:
        self._requests += 1
        if self._index is None:
            self._requests_before_ready += 1
        if self._first_request_at is None:
            self._first_request_at = self._clock()

    async def _answer(self, request: Request, receive: Receive) -> Answer:
        path = request.path
        methods = "GET, HEAD, POST" if path == "/history" else "GET, HEAD"
        if request.method not in methods.split(", "):
            return answers.text(405, "", ("allow", methods))
        match path:
            case "/livez":
                if self._failed:  # nothing but a new process builds the index again
                    return answers.text(500, "the index could not be built")
                return answers.text(200)
            case "/stats":
                return self._stats()
        index = self._index
        if index is None:
            return answers.text(503, "the index is being built", _RETRY)
        match path:
            case "/readyz":
                return answers.text(503, "draining", _RETRY) if self._draining else answers.text(200)
            case "/":
                html = pages.home_page(list(index), platform.python_version())
                return answers.page(200, html, _BRIEFLY)
            case "/search":
                return self._search(index, request)
            case "/history":
                return await self._read(index, request, receive)
        if path.startswith("/module/"):
            return await self._module(index, request, path.removeprefix("/module/"))
        return self._missing("No such page", "There is nothing at this address.")

    def _stats(self) -> Answer:
        index = self._index
        return answers.json(
            json.dumps(
                {
                    "replica": self._id,
                    "started_at": self._started_at,
                    "ready_at": self._ready_at,
                    "first_request_at": self._first_request_at,
                    "requests": self._requests,
                    "requests_before_ready": self._requests_before_ready,
                    "modules": 0 if index is None else len(index),
                    "sessions": len(self._history),
                }
            ).encode()
        )

    def _search(self, index: Index, request: Request) -> Answer:
        query = request.query("q")[:_LONGEST_QUERY]
        return answers.page(200, pages.search_page(query, index.search(query), _MOST_SHOWN), _BRIEFLY)

    async def _module(self, index: Index, request: Request, name: str) -> Answer:
        module = index.get(name)
        if module is None:
            return self._missing("No such module", "It is not part of this documentation.")
        cache = ("cache-control", _LONGER)
        known = self._etags.get(name)
        if known is not None and request.has(known):
            return Answer(304, b"", (cache, ("etag", known)))
        try:
            # In a thread, or else no probe would be answered meanwhile.
            html = await asyncio.to_thread(lambda: pages.module_page(name, render(module, index)))
        except CannotRender as error:
            return self._missing("Not on this machine", f"{name} cannot be imported here. {error}")
        etag = f'"{hashlib.sha256(html.encode("utf-8", "xmlcharrefreplace")).hexdigest()[:32]}"'
        self._etags[name] = etag  # bounded by the index
        if request.has(etag):
            return Answer(304, b"", (cache, ("etag", etag)))
        return answers.page(200, html, _LONGER, ("etag", etag))

    async def _read(self, index: Index, request: Request, receive: Receive) -> Answer:
        name, session = request.query("page"), request.cookie("session")
        recording = request.method == "POST"
        if recording:
            if not await answers.swallow(receive):
                return answers.text(413)
            if request.header("sec-fetch-site") == "cross-site":
                return answers.text(403, "another site may not write into a history")
            if name not in index:
                return answers.text(400, "page must name a module of this documentation")
        if not is_session(session):
            if not request.query("c"):
                return self._introduce(request, name)
            if recording:
                return answers.text(400, "a history needs a cookie")
            return answers.page(200, pages.history_page((), self._id, kept=False), _NEVER)
        if recording:
            self._history.record(session, name)
            return Answer(204, b"", (("cache-control", _NEVER),))
        return answers.page(200, pages.history_page(self._history.of(session), self._id), _NEVER)

    def _introduce(self, request: Request, name: str) -> Answer:
        # The same request again, with the cookie: it comes to the replica that the cookie leads to, so that
        # the first entry is where the second will be. `c` ends it for who keeps no cookies.
        query = urlencode({"page": name, "c": "1"} if name else {"c": "1"})
        secure = "; Secure" if request.header("x-forwarded-proto") == "https" else ""
        cookie = f"session={new_session()}; Path=/; HttpOnly; SameSite=Lax{secure}"
        return answers.redirect(f"/history?{query}", ("set-cookie", cookie))

    def _missing(self, title: str, words: str) -> Answer:
        return answers.page(404, pages.message_page(title, words), _NEVER)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")  # one line, without the usage


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one replica of the application; `--help` says how.

    Returns:
        The exit status. What cannot work is one line on standard error, and ends with status 2.
    """
    parser = _Parser(prog="python -m replicated.serve.pydocs", description=__doc__)
    parser.add_argument("--listen", type=_address, default=("127.0.0.1", 8000), metavar="HOST:PORT")
    parser.add_argument("--id", default="app", help="what this replica is called")
    parser.add_argument(
        "--drain-delay",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="how long to go on serving, unready, after SIGTERM",
    )
    options = parser.parse_args(arguments)
    try:
        application = Application(options.id)
    except ValueError as error:
        parser.error(str(error))
    # Only here, so that any other ASGI server can run the application without them.
    from ...adapters.asgi import ReadinessEndpoint
    from ..lifeline import hold_lifeline
    from ..server import bind, run_asgi

    hold_lifeline()
    try:
        listener = bind(*options.listen)
    except OSError as error:
        parser.error(f"cannot listen on {':'.join(map(str, options.listen))}: {error.strerror}")
    endpoint = ReadinessEndpoint(application, live_path=None, ready_path=None)

    def drain() -> None:
        application.drain()
        endpoint.drain()  # and from now on every answer closes its connection

    return run_asgi(endpoint, listen=listener, on_drain=drain, drain_delay=options.drain_delay)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, not {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be seconds, finite and not negative, not {text!r}")
    return seconds
