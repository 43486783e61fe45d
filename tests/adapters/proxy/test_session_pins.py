"""Sessions that stay, over HTTP: a cookie for those that would move, and none for all others."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from replicated import ReadinessTracker, ReadySet, Replica, RingHash, Tier
from replicated.adapters.engine.upstream import Upstream
from replicated.adapters.proxy.exchange import Exchange
from replicated.adapters.proxy.session_pins import SessionPins
from replicated.affinity import Affinity, cookie, header, host
from replicated.balance import Homes
from replicated.http.message import Request, Response
from replicated.pins import Pins
from replicated.testing import ManualClock

SECRET = b"sixteen bytes at least"
HOST: tuple[bytes, bytes] = (b"host", b"example.com")


class Service:
    """An exchange before replicas that answer who they are, and begin a session for who has none."""

    def __init__(
        self,
        tracker: ReadinessTracker,
        clock: ManualClock,
        *,
        session: str | None = "session",
        tenant: Affinity | None = None,
    ):
        self.tier = Tier(strategy=RingHash(None), readiness=tracker, clock=clock)
        self.upstream = Upstream()
        pins = Pins(SECRET, wall=clock, ttl=100)
        self.exchange = Exchange(
            self.tier,
            self.upstream,
            affinity=cookie("session"),
            pins=SessionPins(pins, Homes(keep=100, clock=clock), session=session, tenant=tenant),
        )


def introducing(name: bytes, sessions: Iterator[int]) -> Any:
    """Return the script of a replica of that name."""

    async def play(peer: Any) -> None:
        while request := await peer.request():
            begin = b""
            if b"session=" not in request:
                begin = b"set-cookie: session=s%d; Path=/\r\n" % next(sessions)
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n" + begin + b"\r\n" + name)

    return play


class World:
    """Replicas, a tracker of those that are members, routers, and a clock."""

    def __init__(self, replicas: dict[str, Replica]) -> None:
        self.replicas = replicas
        self.clock = ManualClock(1000.0)
        self.tracker = ReadinessTracker(clock=self.clock)
        self.services: list[Service] = []

    def add(self, *names: str) -> None:
        for name in names:
            self.tracker.add(self.replicas[name])

    def service(self, **options: Any) -> Service:
        service = Service(self.tracker, self.clock, **options)
        self.services.append(service)
        return service


def run(scripted: Any, main: Callable[[World], Awaitable[None]]) -> None:
    async def bounded() -> None:
        sessions = itertools.count()
        async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
            replicas = {}
            for name in "abcd":
                found = await stack.enter_async_context(scripted(introducing(name.encode(), sessions)))
                replicas[name] = found.replica(name)
            world = World(replicas)
            await main(world)
            for service in world.services:
                await service.upstream.aclose()

    asyncio.run(bounded())


class Client:
    """A browser: it keeps its cookies."""

    def __init__(self, tenant: bytes | None = None) -> None:
        self.jar: dict[bytes, bytes] = {}
        self.tenant = tenant

    async def ask(self, service: Service, scheme: str = "http") -> tuple[str, Response]:
        headers = [HOST]
        if self.tenant is not None:
            headers.append((b"x-tenant", self.tenant))
        if self.jar:
            headers.append((b"cookie", b"; ".join([b"%b=%b" % pair for pair in self.jar.items()])))
        response = await service.exchange(Request("GET", b"/", headers, scheme=scheme))
        for field, line in response.headers:
            if field == b"set-cookie":
                name, _, value = line.partition(b";")[0].partition(b"=")
                self.jar[name] = value
        assert isinstance(response.body, bytes)
        return response.body.decode(), response


def test_a_scale_out_moves_no_session_and_takes_new_ones(scripted: Any) -> None:
    """Old sessions stay, on any router; some need a cookie; new ones live on all replicas."""

    async def main(world: World) -> None:
        world.add("a", "b")
        here, there = world.service(), world.service()
        clients = [Client() for _ in range(40)]
        for client in clients:
            await client.ask(here)
        homes = [(await client.ask(here))[0] for client in clients]
        for client, home in zip(clients, homes, strict=True):
            assert (await client.ask(there))[0] == home
        assert not any(b"replicated-pin" in client.jar for client in clients)

        world.add("c")
        for turn in range(3):
            world.clock.advance(60)
            for number, (client, home) in enumerate(zip(clients, homes, strict=True)):
                assert (await client.ask((here, there)[(number + turn) % 2]))[0] == home
        pinned = [client for client in clients if b"replicated-pin" in client.jar]
        assert 0 < len(pinned) < 30

        world.add("d")
        served = []
        for router in (here, there) * 20:
            client = Client()
            await client.ask(router)
            home, _ = await client.ask(router)
            assert (await client.ask((here, there)[router is here]))[0] == home
            served.append(home)
        assert set(served) == {"a", "b", "c", "d"}

    run(scripted, main)


def test_the_cookie(scripted: Any) -> None:
    """It is for the whole site, for nobody's scripts, for TLS where there is TLS, and for no shared cache."""

    async def main(world: World) -> None:
        world.add("a", "b")
        service = world.service()
        clients = [Client() for _ in range(40)]
        for client in clients:
            await client.ask(service)
            await client.ask(service)
        world.add("c")
        answers = [await client.ask(service, "https") for client in clients]
        number = next(n for n, client in enumerate(clients) if b"replicated-pin" in client.jar)
        client, (home, response) = clients[number], answers[number]
        line = next(line for _, line in response.headers if line.startswith(b"replicated-pin="))
        assert line.partition(b"; ")[2] == b"Path=/; Max-Age=100; HttpOnly; SameSite=Lax; Secure"
        assert (b"cache-control", b"private") in response.headers
        _, response = await client.ask(service)
        line = next(line for _, line in response.headers if line.startswith(b"replicated-pin="))
        assert line.endswith(b"SameSite=Lax")
        world.clock.advance(101)
        client.jar[b"replicated-pin"] = b"forged"
        assert (await client.ask(service))[0] == "c" != home

    run(scripted, main)


def test_a_drain_needs_no_cookie(scripted: Any) -> None:
    """A session stays where it is while that drains, and goes elsewhere when that is out."""

    async def main(world: World) -> None:
        world.add("a", "b")
        service, client = world.service(), Client()
        await client.ask(service)
        home, _ = await client.ask(service)
        world.tracker.drain(home)
        assert (await client.ask(service))[0] == home
        assert client.jar.keys() == {b"session"}
        world.tracker.maintain(home)
        assert (await client.ask(service))[0] != home

    run(scripted, main)


def test_sessions_told_by_something_else(scripted: Any) -> None:
    """Without the session's cookie all count as begun before, and stay where they then would have been."""

    async def main(world: World) -> None:
        world.add("a")
        service, first = world.service(session=None), Client()
        await first.ask(service)
        await first.ask(service)
        world.add("b")
        for _ in range(20):
            client = Client()
            await client.ask(service)
            assert (await client.ask(service))[0] == "a"

    run(scripted, main)


def test_a_pin_of_one_tenant_is_none_at_another(scripted: Any) -> None:
    """A pin leads no session of the same name at another tenant, nor one whose request names no tenant."""

    async def main(world: World) -> None:
        world.add("a", "b")
        service = world.service(tenant=header("x-tenant"))
        clients = [Client(b"red") for _ in range(40)]
        for client in clients:
            await client.ask(service)
            await client.ask(service)
        world.add("c")
        homes = [(await client.ask(service))[0] for client in clients]
        number = next(n for n, client in enumerate(clients) if b"replicated-pin" in client.jar)
        client, home = clients[number], homes[number]
        world.clock.advance(99)
        assert (await client.ask(service))[0] == home
        world.clock.advance(2)  # the table of before is forgotten: from here on the pin alone knows
        pinned = dict(client.jar)
        for tenant, served in ((b"red", home), (b"blue", "c"), (None, "c"), (b"", "c")):
            other = Client(tenant)
            other.jar = dict(pinned)
            assert (await other.ask(service))[0] == served

    run(scripted, main)


def test_a_tenants_session_that_begins_after_a_scale_out(scripted: Any) -> None:
    """The pin that it gets with its first answer is believed from its second request on."""

    async def main(world: World) -> None:
        world.add("a", "b")
        service = world.service(tenant=header("x-tenant"))
        await Client(b"red").ask(service)
        world.add("c")
        pins = set()
        for tenant in (b"red", b"blue") * 20:
            client = Client(tenant)
            await client.ask(service)
            pin = client.jar.get(b"replicated-pin")
            home, _ = await client.ask(service)
            assert client.jar.get(b"replicated-pin") == pin
            assert (await client.ask(service))[0] == home
            pins.add(pin)
        assert len(pins) > 10

    run(scripted, main)


def session_pins(clock: ManualClock, tenant: Affinity | None) -> SessionPins:
    return SessionPins(
        Pins(SECRET, wall=clock, ttl=100), Homes(keep=100, clock=clock), session="s", tenant=tenant
    )


def token(lines: list[tuple[bytes, bytes]]) -> bytes:
    return lines[0][1].partition(b";")[0]


def test_a_session_that_begins_is_pinned_for_its_tenant() -> None:
    """The pin that a new session gets is good for the tenant of the request that began it alone."""
    clock = ManualClock(1000.0)
    pins = session_pins(clock, host)
    before = ReadySet([Replica("a"), Replica("b")])
    assert not pins.stay(before, "any", [HOST]).pinned
    after = ReadySet([*before, Replica("c")])
    stay = pins.stay(after, None, [(b"host", b"Red.example")])
    assert stay == (None, False, "red.example")
    began = {}
    for number in range(60):
        answer = [(b"set-cookie", b"s=%d; Path=/" % number)]
        if lines := pins.fields(after, None, stay, "a", answer, secure=False):
            began[str(number)] = token(lines)
    assert began
    for key, pin in began.items():
        for name, believed in ((b"red.example", True), (b"blue.example", False), (b"RED.example", True)):
            stay = pins.stay(after, key, [(b"host", name), (b"cookie", pin)])
            assert stay.pinned is believed
        other = session_pins(clock, None).stay(after, key, [(b"host", b"red.example"), (b"cookie", pin)])
        assert not other.pinned


def test_forged_pins_are_ignored() -> None:
    """No change of a pin's text, no other session, tenant or secret makes one that is believed."""
    clock = ManualClock(1000.0)
    pins = session_pins(clock, header("x-tenant"))
    ready = ReadySet([Replica("a"), Replica("b")])
    good = pins.pins.issue("me", "b", tenant="red")
    red = (b"x-tenant", b"red")

    def stay(text: str, key: str = "me") -> bool:
        return pins.stay(ready, key, [red, (b"cookie", b"replicated-pin=" + text.encode())]).pinned

    assert stay(good)
    forged = [good[:i] + ("B" if good[i] == "A" else "A") + good[i + 1 :] for i in range(len(good))]
    forged += [
        good[:-1],
        good + "A",
        good * 40,
        "",
        "a",
        "%00",
        Pins(b"another" * 3, wall=clock).issue("me", "b", tenant="red"),
    ]
    # The tenant and the session run into each other only where they are joined without their lengths.
    forged += [
        pins.pins.issue("dme", "b", tenant="re"),
        pins.pins.issue("me", "b"),
        pins.pins.issue("", "b", tenant="redme"),
    ]
    assert not any(map(stay, forged))
    assert not stay(good, key="you")
    clock.advance(101)
    assert not stay(good)
