"""Sessions that stay, over HTTP: a cookie for those that would move, and none for all others."""

from __future__ import annotations

from typing import Any

import pytest

from replicated import ReadinessTracker, Replica, RingHash, Tier
from replicated.adapters.exchange import Exchange
from replicated.adapters.session_pins import SessionPins
from replicated.affinity import cookie
from replicated.balance import Homes
from replicated.http.message import Headers, Request, Response
from replicated.pins import Pins
from replicated.testing import ManualClock

SECRET = b"sixteen bytes at least"
HOST = (b"host", b"example.com")


class Service:
    """An exchange whose replicas answer who they are; one that sees no cookie begins a session."""

    def __init__(self, tracker: ReadinessTracker, clock: ManualClock, *, session: str | None = "session"):
        self.tier = Tier(strategy=RingHash(None), readiness=tracker, clock=clock)
        pins = Pins(SECRET, wall=clock, ttl=100)
        self.exchange = Exchange(
            self.tier,
            self,  # type: ignore[arg-type]
            affinity=cookie("session"),
            pins=SessionPins(pins, Homes(keep=100, clock=clock), session=session),
            hedging=False,
        )
        self.timeouts = type("Timeouts", (), {"total": 100.0})()
        self.begun = 0

    async def send(
        self, origin: Any, method: str, target: bytes, headers: Headers, *_: Any, **__: Any
    ) -> Any:
        return Answer(origin.host, dict(headers).get(b"cookie", b""), self)

    def forget(self, origin: Any) -> None:
        pass


class Answer:
    """What a replica says: its name, and a session for who has none."""

    def __init__(self, host: str, cookies: bytes, service: Service) -> None:
        self.status, self.whole, self.body = 200, True, host.encode()
        self.headers = [(b"content-length", b"%d" % len(self.body))]
        if b"session=" not in cookies:
            service.begun += 1
            self.headers.append((b"set-cookie", b"session=s%d; Path=/" % service.begun))

    async def read_all(self, most: float, within: float) -> bytes:
        return self.body

    def close(self) -> None:
        pass


class Client:
    """A browser: it keeps its cookies."""

    def __init__(self) -> None:
        self.jar: dict[bytes, bytes] = {}

    async def ask(self, service: Service, scheme: str = "http") -> tuple[str, Response]:
        headers = [HOST]
        if self.jar:
            headers.append((b"cookie", b"; ".join([b"%b=%b" % pair for pair in self.jar.items()])))
        response = await service.exchange(Request("GET", b"/", headers, scheme=scheme))
        for field, line in response.headers:
            if field == b"set-cookie":
                name, _, value = line.partition(b";")[0].partition(b"=")
                self.jar[name] = value
        assert isinstance(response.body, bytes)
        return response.body.decode(), response


def replica(name: str) -> Replica:
    return Replica(name, f"http://{name}:80")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_scale_out_moves_no_session_and_takes_new_ones():
    """Old sessions stay, on any router; some need a cookie; new ones live on all replicas."""
    clock = ManualClock(1000.0)
    tracker = ReadinessTracker(replicas=[replica("a"), replica("b")], clock=clock)
    here, there = Service(tracker, clock), Service(tracker, clock)
    there.begun = 10_000
    clients = [Client() for _ in range(60)]
    for client in clients:
        await client.ask(here)
    homes = [(await client.ask(here))[0] for client in clients]
    for client, home in zip(clients, homes, strict=True):
        assert (await client.ask(there))[0] == home
    assert not any(b"replicated-pin" in client.jar for client in clients)

    tracker.add(replica("c"))
    for turn in range(4):
        clock.advance(60)
        for number, (client, home) in enumerate(zip(clients, homes, strict=True)):
            assert (await client.ask((here, there)[(number + turn) % 2]))[0] == home
    pinned = [client for client in clients if b"replicated-pin" in client.jar]
    assert 0 < len(pinned) < 40

    tracker.add(replica("d"))
    served = []
    for router in (here, there) * 20:
        client = Client()
        await client.ask(router)
        home, _ = await client.ask(router)
        assert (await client.ask((here, there)[router is here]))[0] == home
        served.append(home)
    assert set(served) == {"a", "b", "c", "d"}


@pytest.mark.anyio
async def test_the_cookie():
    """It is for the whole site, for nobody's scripts, for TLS where there is TLS, and for no shared cache."""
    clock = ManualClock(1000.0)
    tracker = ReadinessTracker(replicas=[replica("a"), replica("b")], clock=clock)
    service = Service(tracker, clock)
    clients = [Client() for _ in range(40)]
    for client in clients:
        await client.ask(service)
        await client.ask(service)
    tracker.add(replica("c"))
    for client in clients:
        home, response = await client.ask(service, "https")
        if b"replicated-pin" in client.jar:
            break
    line = next(line for field, line in response.headers if line.startswith(b"replicated-pin="))
    assert line.partition(b"; ")[2] == b"Path=/; Max-Age=100; HttpOnly; SameSite=Lax; Secure"
    assert (b"cache-control", b"private") in response.headers
    _, response = await client.ask(service)
    line = next(line for field, line in response.headers if line.startswith(b"replicated-pin="))
    assert line.endswith(b"SameSite=Lax")
    clock.advance(101)
    client.jar[b"replicated-pin"] = b"forged"
    assert (await client.ask(service))[0] == "c" != home


@pytest.mark.anyio
async def test_a_drain_needs_no_cookie():
    """A session stays where it is while that drains, and goes elsewhere when that is out."""
    clock = ManualClock(1000.0)
    tracker = ReadinessTracker(replicas=[replica("a"), replica("b")], clock=clock)
    service, client = Service(tracker, clock), Client()
    await client.ask(service)
    home, _ = await client.ask(service)
    tracker.drain(home)
    assert (await client.ask(service))[0] == home
    assert client.jar.keys() == {b"session"}
    tracker.maintain(home)
    assert (await client.ask(service))[0] != home


@pytest.mark.anyio
async def test_sessions_told_by_something_else():
    """Without the session's cookie all count as begun before, and the cookies of responses mean nothing."""
    clock = ManualClock(1000.0)
    tracker = ReadinessTracker(replicas=[replica("a")], clock=clock)
    service = Service(tracker, clock, session=None)
    tracker.add(replica("b"))
    for _ in range(20):
        client = Client()
        await client.ask(service)
        assert (await client.ask(service))[0] in ("a", "b")
