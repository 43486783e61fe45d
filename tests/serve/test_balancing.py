"""Who serves next by the flags of serve: zones, limits, queues, ejections, slow start, and pins."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from replicated import Forward, Outcome, ReadySet, Replica, State, Unavailable
from replicated.adapters.membership_file import FileMembers
from replicated.balance import LeastLoaded, PeakEwma, PowerOfTwo, Subset
from replicated.serve import options
from replicated.serve.balancing import SECRET, session_pins
from replicated.serve.options import ServeOptions
from replicated.serve.service import Service

TWO = options.upstreams(["a=http://127.0.0.1:9001 zone=east weight=2", "http://127.0.0.1:9002  zone=west"])
KEPT: dict[str, Any] = {"affinity": "cookie:session", "strategy": "ring-hash"}


def service(**asked: Any) -> Service:
    return Service(ServeOptions(**{"replicas": TWO, **asked}))


def test_an_upstream_may_say_more():
    """Behind a URL may stand what a line of a file of members has."""
    assert (
        Replica("a", "http://127.0.0.1:9001", weight=2.0, zone="east"),
        Replica("127.0.0.1:9002", "http://127.0.0.1:9002", zone="west"),
    ) == TWO
    with pytest.raises(ValueError, match="no 'colour'"):
        options.upstreams(["http://x colour=red"])


def test_the_own_zone_serves():
    """Replicas of the same zone serve, and others when those cannot."""
    tier = service(zone="west").tier
    for _ in range(20):
        decision = tier.decide()
        assert isinstance(decision, Forward)
        assert decision.replica.zone == "west"
        tier.finish(decision, Outcome.success())
    tier.readiness.maintain("127.0.0.1:9002")
    decision = tier.decide()
    assert isinstance(decision, Forward)
    assert decision.replica.id == "a"


def asked_by(service: Service, times: int = 60) -> set[str]:
    """Return who serves requests one after the other."""
    found = set()
    for _ in range(times):
        decision = service.tier.decide()
        assert isinstance(decision, Forward)
        found.add(decision.replica.id)
        service.tier.finish(decision, Outcome.success())
    return found


def test_each_router_uses_a_part(tmp_path: Path):
    """A router keeps to its part of the fleet, heeds who joins and leaves, and others have other parts."""

    def part(router: str, names: list[str]) -> set[str]:
        return {r.id for r in Subset(5, router).chosen(ReadySet([Replica(name) for name in names]))}

    names = [f"r{i}" for i in range(40)]
    file = tmp_path / "members"

    def write(names: list[str]) -> None:
        file.write_text("".join(f"{name}=http://127.0.0.1:1\n" for name in names))

    async def main() -> None:
        write(names)
        routers = [
            service(replicas=(), members=FileMembers(file, period=0.01), subset=5, subset_as=name)
            for name in ("router-1", "router-2")
        ]
        async with asyncio.timeout(30), routers[0], routers[1]:
            parts = [asked_by(router) for router in routers]
            assert parts == [part("router-1", names), part("router-2", names)]
            assert parts[0] != parts[1]
            changed = asyncio.Event()
            routers[0].tier.readiness.subscribe(lambda _: changed.set())
            left = sorted(parts[0])[0]
            stay = [name for name in names if name != left]
            write(stay)
            await changed.wait()
            assert asked_by(routers[0]) == part("router-1", stay)
            assert parts[0] - asked_by(routers[0]) == {left}

    asyncio.run(main())


def test_a_full_part_is_helped_by_the_next():
    """Where all replicas of a router's part are full, the next of its order serve, its own zone first."""
    fleet = tuple(Replica(f"r{i}", f"http://127.0.0.1:{9000 + i}", zone="ab"[i % 2]) for i in range(20))
    asked = service(replicas=fleet, zone="a", subset=2, subset_as="router", max_in_flight=1)
    served = [asked.tier.decide() for _ in range(4)]
    assert all(isinstance(decision, Forward) and decision.replica.zone == "a" for decision in served)
    order = Subset(5, "router").chosen(ReadySet([replica for replica in fleet if replica.zone == "a"]))
    found = {decision.replica for decision in served if isinstance(decision, Forward)}
    assert len(found) == 4
    assert found < set(order)  # each was one of the first two with room


@pytest.mark.parametrize(("name", "made"), [("power-of-two", PowerOfTwo), ("least-loaded", LeastLoaded)])
def test_failing_fast_attracts_nothing(name: str, made: type[PowerOfTwo | LeastLoaded]):
    """By peak EWMA one that failed fast counts as slow, and who answers gets the requests."""
    asked = service(strategy=name, load="peak-ewma")
    strategy = asked.balancing.strategy
    assert isinstance(strategy, made)
    assert isinstance(strategy.load, PeakEwma)
    a, b = asked.tier.replicas
    for replica, outcome in ((a, Outcome.success(0.01)), (b, Outcome.failure("refused", 0.0001))):
        strategy.started(replica)
        strategy.finished(replica, outcome)
    assert asked_by(asked) == {"a"}


def test_full_replicas_let_others_wait():
    """Each replica has so many in flight at most; others wait, not too many of them, nor for long."""

    async def main() -> None:
        asked = service(max_in_flight=1, queue=1, queue_timeout=0.05)
        async with asked:
            room = asked.waiting
            assert room is not None
            first, second = await room.decide(), await room.decide()
            assert isinstance(first, Forward)
            assert isinstance(second, Forward)
            third = asyncio.create_task(room.decide())
            await asyncio.sleep(0)
            refused = await room.decide()
            assert isinstance(refused, Unavailable)
            asked.tier.finish(first, Outcome.success())
            served = await third
            assert isinstance(served, Forward)
            assert served.replica == first.replica
            late = await room.decide()
            assert isinstance(late, Unavailable)
            assert "0.05 s" in late.reason
            waiting = asyncio.create_task(room.decide())
            await asyncio.sleep(0)
            asked.tier.readiness.add(Replica("new"))
            fourth = await waiting
            assert isinstance(fourth, Forward)
            assert fourth.replica.id == "new"

    asyncio.run(main())


def test_ejections_and_slow_start():
    """So many failures in a row take a replica out, or none do; and who comes back gets its share slowly."""
    readiness = service(eject_after=2, slow_start=10.0).tier.readiness
    for _ in range(2):
        readiness.observe_outcome("a", Outcome.failure("reset"))
    assert readiness.state("a") is State.EJECTED
    readiness.tick(readiness._clock() + 20)
    readiness.add(Replica("new"))
    assert readiness.ready.weight("new") < 1
    patient = service(eject_after=0).tier.readiness
    for _ in range(100):
        patient.observe_outcome("a", Outcome.failure("reset"))
    assert patient.state("a") is State.READY


def test_the_secret_of_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It comes from a file or from the environment, and there are no pins without one."""
    monkeypatch.delenv(SECRET, raising=False)
    with pytest.raises(
        ValueError, match=f"pin needs a secret that all routers share: --pin-secret FILE, or {SECRET}"
    ):
        service(pin="stay", **KEPT)
    file = tmp_path / "secret"
    file.write_text("0123456789abcdef-new\n0123456789abcdef-old\n")
    by_file = service(pin="stay", pin_secret=file, pin_ttl=60.0, **KEPT)
    monkeypatch.setenv(SECRET, "0123456789abcdef-old")
    by_environment = service(pin="stay", pin_hard=True, **KEPT)
    pins = [session_pins(asked.options) for asked in (by_file, by_environment)]
    assert pins[0] is not None
    assert pins[1] is not None
    assert pins[0].name == "stay"
    assert pins[0].session == b"session"
    token = pins[1].pins.issue("key", "a")
    pin = pins[0].pins.read(token, "key")
    assert pin is not None
    assert pin.replica_id == "a"
    assert not pin.hard
    monkeypatch.setenv(SECRET, "short")
    with pytest.raises(ValueError, match="at least 16 bytes"):
        service(pin="stay", **KEPT)
    with pytest.raises(OSError, match="nowhere"):
        service(pin="stay", pin_secret=tmp_path / "nowhere", **KEPT)


def test_whose_a_pin_is(monkeypatch: pytest.MonkeyPatch):
    """Tenants are told by a header or by the host, one of them; without the flag there is one tenant."""
    monkeypatch.setenv(SECRET, "0123456789abcdef")
    request = [(b"host", b"Red.example"), (b"x-tenant", b"blue")]
    for by, tenant in ((None, ""), ("host", "red.example"), ("header:X-Tenant", "blue"), ("header:none", "")):
        pins = session_pins(service(pin="stay", pin_tenant=by, **KEPT).options)
        assert pins is not None
        assert pins.stay(ReadySet(), None, request).tenant == tenant
    for by in ("path", "header:x-tenant,host", "header:", "cookie:tenant", "Host"):
        with pytest.raises(ValueError, match=r"pin_tenant must be|header must be"):
            service(pin="stay", pin_tenant=by, **KEPT)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"pin": "stay"}, "pin needs an affinity"),
        ({"pin_hard": True, **KEPT}, "pin_hard needs a pin"),
        ({"pin_tenant": "host", **KEPT}, "pin_tenant needs a pin"),
        ({"subset": 1, "subset_as": "r", **KEPT}, "subset goes without an affinity"),
        ({"subset": 1}, "subset needs a name for this router"),
        ({"subset_as": "router"}, "subset_as needs a subset"),
        ({"subset": 0, "subset_as": "router"}, "size must be 1 or more, not 0"),
        ({"load": "cpu"}, "load must be one of in-flight, peak-ewma, not 'cpu'"),
        ({"load": "peak-ewma", "strategy": "random"}, "for power-of-two and least-loaded, not random"),
        ({"load": "peak-ewma", **KEPT}, "for power-of-two and least-loaded, not ring-hash"),
        ({"queue": 5}, "queue needs a max_in_flight"),
        ({"max_in_flight": 1, "queue_timeout": 0.0}, "timeout must be above 0"),
        ({"slow_start": 0.0}, "window must be above 0"),
        ({"eject_for": 0.0}, "base must be above 0"),
    ],
)
def test_what_cannot_be(asked: dict[str, Any], reason: str):
    """A flag that makes no sense by itself, or at all, is refused in a sentence."""
    with pytest.raises(ValueError, match=reason):
        service(**asked)
