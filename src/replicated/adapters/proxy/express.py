"""The short way of a request whose replica answers at once and in one piece, as most do: without a task.

Carries out the first attempt of ``Exchange`` while nothing about it is remarkable: the request is written to
a connection that is idle, and the answer that comes whole is handed on as it is. Whatever else happens (a
replica that is late or breaks off, a body that streams, a status that is tried elsewhere) is handed over,
with the attempt under way, to the exchange itself: nothing about failures is decided here.

A task, its coroutines and the futures that wake them are half of what a small request costs, and an answer
that is there when it is read needs none of them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from ...decision import Decision, Forward
from ...http.forwarding import forwarded_response
from ...http.message import Headers, Request, Response
from ...outcome import Outcome
from ..engine.connection import Connection
from ..engine.failures import judge
from ..engine.origin import origin_of
from ..engine.upstream import Underway
from .racing import SAFE

if TYPE_CHECKING:
    from .exchange import Exchange

__all__ = ["Express", "Whole"]


class Whole(NamedTuple):
    """An answer that needs nothing done to it.

    Attributes:
        status: Its status.
        lines: Its status line and its header, without the end of the last line.
        dated: Whether Date is among them.
        headers: The same header, line by line, with what belongs to the replica's connection.
        body: As long as Content-Length says.
        served_by: The id of the replica that answered.
    """

    status: int
    lines: bytes
    dated: bool
    headers: Headers
    body: bytes
    served_by: str


class Express:
    """A request, and its answer for whoever awaits it. Made for every request, hence lean.

    Whoever has no task to await it in calls ``start``; and ``close``, where nobody needs the answer any more
    and nobody has awaited it.

    Attributes:
        decision: Where the request goes; None before that is decided, and after it is over.
        underway: The attempt that was sent.
        due: What its lateness is counted from, by the tier's clock.
        late: Whether it was late.
    """

    __slots__ = ("decision", "due", "exchange", "late", "request", "told", "underway")

    told: Callable[[Whole | None], None]
    due: float

    def __init__(self, exchange: Exchange, request: Request) -> None:
        self.exchange = exchange
        self.request = request
        self.decision: Decision | None = None
        self.underway: Underway | None = None
        self.late = False

    def __await__(self) -> Generator[Any, None, Response]:
        answered: asyncio.Future[Whole | None] = asyncio.get_running_loop().create_future()
        if self.decision is None and self.start(functools.partial(settle, answered)):
            try:
                whole = yield from answered
            except BaseException:
                self.close()
                raise
            if whole is not None:
                headers = forwarded_response(whole.headers, whole.status)
                return Response(whole.status, headers, whole.body, served_by=whole.served_by)
        try:
            return (yield from self.exchange.carry(self.request, self).__await__())
        finally:
            self.close()  # what was not taken, since something failed before

    def start(self, told: Callable[[Whole | None], None]) -> bool:
        """Send the request, if that needs no waiting; return whether it was sent.

        What goes wrong here goes wrong once more, and is raised, where it is awaited.

        Args:
            told: Called once after that, with the answer; or with None, where it is to be awaited after all.
        """
        self.told = told
        try:
            return self.sent()
        except Exception:
            return False

    def sent(self) -> bool:
        exchange, request = self.exchange, self.request
        tier, method, peer, scheme = exchange.tier, request.method, request.peer, request.scheme
        ready = tier.readiness.ready
        if ready is not exchange.ready:
            exchange.let_go(ready)
        key = None
        if exchange.affinity is not None:
            key = exchange.key(exchange.identity.client(peer, scheme, request.headers), request)
        forward = self.decision = tier.decide(key)
        if not isinstance(forward, Forward):
            return False
        rest = exchange.head_rest if request.short else exchange.new_head_rest
        head = b"%b %b%b" % (
            method.encode("latin-1"),
            request.target,
            rest(tuple(request.headers), peer, scheme),
        )
        underway = self.underway = exchange.upstream.begin(origin_of(forward.replica.url), method, head)
        if underway is None:
            return False
        underway.connection.told = self.heard
        underway.connection.interim = request.interim
        racing = exchange.racing
        if racing is not None and key is None and method in SAFE:
            self.due = forward.started
            racing.enter(self)
        return True

    def heard(self, connection: Connection) -> None:
        """Hand on the answer that has come, if it is whole and all that there is to say."""
        exchange, forward, underway = self.exchange, self.decision, self.underway
        assert isinstance(forward, Forward)
        assert underway is not None
        racing = exchange.racing
        hedged = racing is not None and racing.waiting.pop(self, self) is None
        head = connection.response
        if head is None or head.plain is None or not connection.complete:
            self.told(None)
            return
        self.decision = self.underway = None
        whole = Whole(
            head.status, head.plain, head.dated, head.headers, connection.take(), forward.replica.id
        )
        underway.pool.end(connection)
        try:
            latency = max(0.0, exchange.tier.now() - forward.started)
            if hedged and head.status < 500:
                exchange.hedging.observe(latency)
            exchange.tier.finish(forward, judge(head.status, head.headers, latency))
        finally:
            self.told(whole)  # whatever a strategy of somebody's own has raised

    def overdue(self) -> None:
        """Hand over what is late, to be set against a second attempt."""
        assert self.underway is not None
        self.underway.connection.told = None
        self.late = True
        self.told(None)

    def taken(self) -> tuple[Decision | None, Underway | None, bool]:
        """Return what is decided, what is under way and whether that is late; they are the caller's now."""
        taken = self.decision, self.underway, self.late
        self.decision = self.underway = None
        return taken

    def close(self) -> None:
        """Give up what nobody will await."""
        decision, underway, _ = self.taken()
        if underway is not None:
            underway.connection.told = None
            underway.connection.abort()
            underway.end()
            if self.exchange.racing is not None:
                self.exchange.racing.waiting.pop(self, None)
        if isinstance(decision, Forward):
            self.exchange.tier.finish(decision, Outcome.cancelled("the client went away"))


def settle(answered: asyncio.Future[Whole | None], whole: Whole | None) -> None:
    if not answered.done():
        answered.set_result(whole)
