"""Membership from DNS: TTLs, weights and priorities, and answers that say nothing or lie."""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from replicated import ProbePolicy, ReadinessTracker, Replica
from replicated.adapters.membership import Adopted, Kept, MembershipLoop
from replicated.testing import ManualClock

pytest.importorskip("dns")

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

from replicated.adapters.dns_membership import DnsMembers, SrvMembers


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await main()

    return asyncio.run(bounded())


class Scripted:
    """A resolver that answers from a zone: by type an exception, or a TTL and the records."""

    def __init__(self, **zone: Any) -> None:
        self.zone = zone
        self.asked: list[str] = []

    async def resolve(self, qname: str, rdtype: str, *, lifetime: float, raise_on_no_answer: bool) -> Any:
        self.asked.append(rdtype)
        says = self.zone.get(rdtype, (60, []))
        if isinstance(says, Exception):
            raise says
        query = dns.message.make_query(qname, rdtype)
        name = query.question[0].name
        response = dns.message.make_response(query)
        ttl, records = says
        if records:
            response.answer.append(dns.rrset.from_text_list(name, ttl, "IN", rdtype, records))
        response = dns.message.from_wire(response.to_wire())
        assert not raise_on_no_answer
        return dns.resolver.Answer(name, dns.rdatatype.from_text(rdtype), 1, response)


def ids(tracker: ReadinessTracker) -> list[str]:
    return [replica.id for replica in tracker.members]


def weights(tracker: ReadinessTracker) -> dict[str, float]:
    return {replica.id: replica.weight for replica in tracker.members}


def test_a_replica_an_address() -> None:
    """Both families, each address once, known by address and port, and in an order that does not change."""
    resolver = Scripted(A=(30, ["10.0.0.2", "10.0.0.1"]), AAAA=(30, ["::1"]))
    source = DnsMembers("app.internal", port=8080, scheme="https", resolver=resolver, clock=ManualClock())
    reading = asyncio.run(source.read(ReadinessTracker()))  # type: ignore[arg-type]
    assert reading.replicas == (
        Replica("10.0.0.1:8080", "https://10.0.0.1:8080"),
        Replica("10.0.0.2:8080", "https://10.0.0.2:8080"),
        Replica("[::1]:8080", "https://[::1]:8080"),
    )
    assert reading[1:] == (30, "")


@pytest.mark.parametrize(("ttl", "wait"), [(0, 5.0), (4, 5.0), (60, 60.0), (86400, 300.0)])
def test_a_ttl_is_honoured_between_a_floor_and_a_ceiling(ttl: int, wait: float) -> None:
    """Until an answer has expired nobody is asked, and then at once."""

    async def main() -> None:
        clock, resolver = ManualClock(), Scripted(A=(ttl, ["10.0.0.1"]))
        source = DnsMembers("app", types=["A"], resolver=resolver, clock=clock)
        assert (await source.read(ReadinessTracker())).wait == wait
        clock.advance(wait - 1)
        assert (await source.read(ReadinessTracker())).wait == 1
        assert resolver.asked == ["A"]
        clock.advance(1)
        await source.read(ReadinessTracker())
        assert resolver.asked == ["A", "A"]

    run(main)


FAULTS = [
    ((60, []), "no records"),
    (dns.resolver.NXDOMAIN(), "does not exist"),
    (dns.exception.Timeout(timeout=5.01), "no answer within 5 s"),
    (dns.resolver.NoNameservers(), "failed"),
    (dns.exception.FormError("garbage"), "garbage"),
    (OSError("unreachable"), "unreachable"),
    (RuntimeError(), "RuntimeError"),
]


@pytest.mark.parametrize(("says", "reason"), FAULTS)
def test_the_last_good_set_stays(says: Any, reason: str) -> None:
    """An empty or failed answer costs no member, is told once, and is asked about again after the floor."""

    async def main() -> None:
        clock, tracker = ManualClock(), ReadinessTracker()
        resolver = Scripted(A=(60, ["10.0.0.1", "10.0.0.2"]))
        heard: list[Any] = []
        loop = MembershipLoop(
            tracker, DnsMembers("app", types=["A"], resolver=resolver, clock=clock), on_event=heard.append
        )
        assert await loop.refresh() == 60
        clock.advance(60)
        resolver.zone["A"] = says
        for _ in range(3):
            assert await loop.refresh() == 5.0
            clock.advance(5)
        assert ids(tracker) == ["10.0.0.1:80", "10.0.0.2:80"]
        assert [type(event) for event in heard] == [Adopted, Kept]
        assert reason in heard[1].reason
        resolver.zone["A"] = (60, ["10.0.0.3"])
        await loop.refresh()
        assert ids(tracker) == ["10.0.0.3:80"]
        assert isinstance(heard[-1], Adopted)

    run(main)


@pytest.mark.parametrize(("says", "reason"), FAULTS)
def test_without_a_good_set_there_is_nothing_to_keep(says: Any, reason: str) -> None:
    """A first answer that is of no use leaves the members that the tracker was given."""

    async def main() -> None:
        tracker = ReadinessTracker(replicas=[Replica("seed")])
        loop = MembershipLoop(tracker, DnsMembers("app", types=["A"], resolver=Scripted(A=says)))
        assert await loop.refresh() == 5.0
        assert ids(tracker) == ["seed"]
        assert isinstance(loop.last, Kept)
        assert reason in loop.last.reason

    run(main)


def test_one_family_that_fails_takes_nothing_from_the_other() -> None:
    """The last good answer of the one stands beside the news of the other; a family may also end."""

    async def main() -> None:
        clock, resolver = ManualClock(), Scripted(A=(60, ["10.0.0.1"]), AAAA=(60, ["::1"]))
        tracker = ReadinessTracker()
        loop = MembershipLoop(tracker, DnsMembers("app", resolver=resolver, clock=clock))
        await loop.refresh()
        clock.advance(60)
        resolver.zone.update(A=(60, ["10.0.0.2"]), AAAA=dns.resolver.NoNameservers())
        assert await loop.refresh() == 5.0
        assert ids(tracker) == ["10.0.0.2:80", "[::1]:80"]
        assert isinstance(loop.last, Kept)
        assert "AAAA" in loop.last.reason
        clock.advance(5)
        resolver.zone["AAAA"] = (60, [])
        await loop.refresh()
        assert ids(tracker) == ["10.0.0.2:80"]

    run(main)


def test_srv_has_ports_weights_and_priorities() -> None:
    """The first priority serves by its weights; the next is there with weight 0; zeros mean very little."""
    resolver = Scripted(
        SRV=(
            60,
            [
                "10 30 8080 a.app.",
                "10 10 8081 b.app.",
                "10 0 80 c.app.",
                "20 5 80 d.app.",
                "20 9 8080 a.app.",
                "10 1 80 .",
                "10 1 0 e.app.",
            ],
        )
    )
    tracker = ReadinessTracker()
    loop = MembershipLoop(tracker, SrvMembers("_http._tcp.app", resolver=resolver))
    run(loop.refresh)
    assert weights(tracker) == {"a.app:8080": 30, "b.app:8081": 10, "c.app:80": 1, "d.app:80": 0}
    assert tracker.members[0].url == "http://a.app:8080"


def test_zero_everywhere_means_all_alike() -> None:
    """Weights that are all 0 are even ones."""
    tracker = ReadinessTracker()
    resolver = Scripted(SRV=(60, ["0 0 80 a.", "0 0 80 b."]))
    run(MembershipLoop(tracker, SrvMembers("s", resolver=resolver)).refresh)
    assert weights(tracker) == {"a:80": 0.5, "b:80": 0.5}


def test_a_service_that_is_decidedly_not_there_keeps_its_members() -> None:
    """The target "." is an empty answer."""

    async def main() -> None:
        clock, tracker, resolver = ManualClock(), ReadinessTracker(), Scripted(SRV=(60, ["0 0 80 a."]))
        loop = MembershipLoop(tracker, SrvMembers("s", resolver=resolver, clock=clock))
        await loop.refresh()
        clock.advance(60)
        resolver.zone["SRV"] = (60, ["0 0 0 ."])
        await loop.refresh()
        assert ids(tracker) == ["a:80"]
        assert isinstance(loop.last, Kept)

    run(main)


def test_the_next_priority_steps_in_when_nobody_of_the_first_is_ready() -> None:
    """It does so at once, without asking DNS, even while DNS fails; and it steps back."""

    async def main() -> None:
        resolver = Scripted(SRV=(60, ["1 7 80 a.", "2 9 80 b."]))
        clock = ManualClock()
        tracker = ReadinessTracker(ProbePolicy(failure_threshold=1), clock=clock)
        source = SrvMembers("s", resolver=resolver, clock=clock)
        async with asyncio.timeout(5), MembershipLoop(tracker, source):
            for name in ("a:80", "b:80"):
                tracker.observe(name, True)
            assert weights(tracker) == {"a:80": 7, "b:80": 0}
            clock.advance(60)
            resolver.zone["SRV"] = dns.resolver.NoNameservers()
            tracker.observe("a:80", False)
            while weights(tracker) != {"a:80": 0, "b:80": 9}:
                await asyncio.sleep(0)
            assert [replica.id for replica in tracker.ready.eligible] == ["b:80"]
            tracker.observe("a:80", True)
            while weights(tracker) != {"a:80": 7, "b:80": 0}:
                await asyncio.sleep(0)
            assert len(resolver.asked) == 2

    run(main)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 0}, "port must"),
        ({"port": True}, "port must"),
        ({"port": 65536}, "port must"),
        ({"types": ["MX"]}, "types must"),
        ({"types": "A"}, "types must"),
        ({"types": []}, "types must"),
        ({"scheme": "ftp"}, "scheme must"),
        ({"min_ttl": 0}, "min_ttl must be above 0"),
        ({"max_ttl": math.inf}, "max_ttl must be above 0"),
        ({"max_ttl": 1}, "max_ttl must be at least"),
        ({"timeout": math.nan}, "timeout must be above 0"),
        ({"name": "a..b"}, "name must be"),
        ({"name": "a" * 64}, "name must be"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    """A source that could not work is not made."""
    with pytest.raises(ValueError, match=message):
        DnsMembers(options.pop("name", "app"), resolver=Scripted(), **options)


class Server(asyncio.DatagramProtocol):
    """A DNS server on loopback, over UDP and TCP, that answers as a function of the query says."""

    def __init__(self, answer: Callable[[Any], bytes]) -> None:
        self.answer = answer

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        wire = self.answer(dns.message.from_wire(data))
        if len(wire) > 1232:
            response = dns.message.make_response(dns.message.from_wire(data))
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        self.transport.sendto(wire, address)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        wire = self.answer(dns.message.from_wire(await reader.readexactly(length)))
        writer.write(struct.pack("!H", len(wire)) + wire)
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def serving(answer: Callable[[Any], bytes]) -> AsyncIterator[Any]:
    """Serve on loopback and give a resolver that asks there."""
    server = Server(answer)
    for attempt in range(20):
        tcp = await asyncio.start_server(server.stream, "127.0.0.1", 0)
        port = tcp.sockets[0].getsockname()[1]
        try:
            udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: server, local_addr=("127.0.0.1", port)
            )
            break
        except OSError:
            tcp.close()
            assert attempt < 19
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], port
    try:
        yield resolver
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()
        await asyncio.sleep(0)


def test_a_server_on_the_wire() -> None:
    """A thousand addresses arrive, garbage and refusals change nothing, and an alias's TTL counts."""
    thousand = [f"10.0.{i // 250}.{i % 250}" for i in range(1000)]
    mode = "few"

    def answer(query: Any) -> bytes:
        response = dns.message.make_response(query)
        name = query.question[0].name
        if mode == "garbage":
            return query.to_wire()[:2] + b"\x81\x80" + b"\xff" * 40
        if mode == "refuse":
            response.set_rcode(dns.rcode.REFUSED)
        elif mode == "few":
            response.answer.append(dns.rrset.from_text(name, 7, "IN", "CNAME", "other.internal."))
            response.answer.append(dns.rrset.from_text("other.internal.", 60, "IN", "A", "10.0.0.1"))
        else:
            response.answer.append(dns.rrset.from_text_list(name, 60, "IN", "A", thousand))
        return response.to_wire(max_size=65535)

    async def main() -> None:
        nonlocal mode
        clock, tracker = ManualClock(), ReadinessTracker()
        async with serving(answer) as resolver:
            source = DnsMembers("app.internal", types=["A"], resolver=resolver, clock=clock)
            loop = MembershipLoop(tracker, source)
            assert await loop.refresh() == 7
            assert ids(tracker) == ["10.0.0.1:80"]
            mode = "many"
            clock.advance(7)
            assert await loop.refresh() == 60
            assert len(tracker.members) == 1000
            hasty = MembershipLoop(tracker, DnsMembers("app.internal", timeout=0.2, resolver=resolver))
            for mode, asking in (("refuse", loop), ("garbage", hasty)):  # noqa: B007 - the server reads it
                clock.advance(60)
                assert await asking.refresh() == 5
                assert len(tracker.members) == 1000
                assert isinstance(asking.last, Kept)

    run(main)
