"""Probes, operators, membership and time: what the tracker makes of them."""

from __future__ import annotations

import random
import threading

import pytest

from replicated.errors import UnknownReplica
from replicated.outcome import Outcome
from replicated.readiness import (
    Joined,
    Left,
    OutlierDetector,
    ProbePolicy,
    ReadinessTracker,
    State,
    StateChanged,
)
from replicated.replica import Replica
from replicated.testing import ManualClock, ScriptedProbe


def replicas(names: str = "abc", **facts) -> list[Replica]:
    return [Replica(name, **facts) for name in names]


def tracker(policy=None, names="abc", **options) -> tuple[ReadinessTracker, ManualClock]:
    clock = ManualClock(100.0)
    return ReadinessTracker(policy, replicas=replicas(names), clock=clock, **options), clock


def ids(ready) -> str:
    return "".join(replica.id for replica in ready)


def test_without_a_policy_everyone_is_ready():
    """Nobody is probed, and who joins is ready at once."""
    unprobed, _ = tracker()
    assert ids(unprobed.ready) == "abc"
    assert unprobed.due() == ()
    assert unprobed.next_due() is None
    unprobed.add(Replica("d"))
    assert ids(unprobed.ready) == "abcd"
    unprobed.observe("a", False)
    assert unprobed.state("a") is State.READY
    assert "nobody is probed" in str(unprobed.explain("a"))


def test_nobody_is_ready_before_a_probe_said_so():
    """A replica that was never probed well gets no traffic."""
    probed, clock = tracker(ProbePolicy())
    assert ids(probed.ready) == ""
    assert probed.state("a") is State.STARTING
    assert ids(probed.due()) == "abc"
    probed.observe("b", True)
    assert ids(probed.ready) == "b"
    assert probed.ready.version == 2
    clock.advance(5)
    assert probed.due() == ()
    assert probed.next_due() == 110.0


def test_a_probe_is_asked_for_once():
    """A replica returned by due is not returned again until it was observed."""
    probed, clock = tracker(ProbePolicy(period=10, timeout=1), "a")
    assert ids(probed.due()) == "a"
    clock.advance(9)
    assert probed.due() == ()
    probed.observe("a", True)
    clock.advance(1)
    assert ids(probed.due()) == "a"


def test_a_lost_probe_is_not_held_against_the_replica():
    """A probe without a result is asked for again after its timeout and period, and counts for nothing."""
    probed, clock = tracker(ProbePolicy(period=2, timeout=5, failure_threshold=1), "a")
    probed.due()
    probed.observe("a", True)
    clock.advance(2)
    assert ids(probed.due()) == "a"
    clock.advance(4.9)
    assert probed.due() == ()
    clock.advance(0.2)
    assert ids(probed.due()) == "a"
    assert probed.state("a") is State.READY


def test_the_period_counts_from_the_start_of_a_probe():
    """A slow answer does not stretch the period, and one slower than the period leads to a probe at once."""
    probed, clock = tracker(ProbePolicy(period=10, timeout=30), "a")
    probed.due()
    clock.advance(4)
    probed.observe("a", True)
    assert probed.next_due() == 110.0
    clock.set(110.0)
    probed.due()
    clock.advance(20)
    probed.observe("a", True)
    assert probed.next_due() == 130.0


def test_delay_and_jitter_spread_the_first_probes():
    """First probes come after the delay and within a jitter of it, each replica in a phase of its own."""
    policy = ProbePolicy(period=10, initial_delay=3, jitter=0.5)
    many = ReadinessTracker(
        policy,
        replicas=[Replica(str(i)) for i in range(200)],
        clock=(clock := ManualClock()),
        rng=random.Random(1),
    )
    clock.set(2.99)
    assert many.due() == ()
    sizes = []
    for quarter in range(1, 5):
        clock.set(3 + 1.25 * quarter)
        sizes.append(len(many.due()))
    assert sum(sizes) == 200
    assert min(sizes) > 25
    for i in range(200):
        many.observe(str(i), True)
    again = [many._probes.at(str(i)) - many._roster.by_id[str(i)].probed for i in range(200)]
    assert 7.5 <= min(again) < 8
    assert 12 < max(again) <= 12.5


def test_thresholds_and_events():
    """A replica changes after as many results as the policy says, and subscribers hear of it."""
    probed, clock = tracker(ProbePolicy(success_threshold=2, failure_threshold=2), "a")
    heard = []
    stop = probed.subscribe(heard.append)
    for ok, state in [
        (True, State.STARTING),
        (True, State.READY),
        (False, State.READY),
        (False, State.UNREADY),
    ]:
        clock.advance(10)
        probed.due()
        probed.observe("a", ok, reason="said so")
        assert probed.state("a") is state
    assert [(event.old, event.new, event.version) for event in heard] == [
        (State.STARTING, State.READY, 2),
        (State.READY, State.UNREADY, 3),
    ]
    assert probed.ready.version == 3
    assert str(probed.explain("a")) == (
        "a is unready since 0.0 s: the last 2 probes failed (said so); this can next change in 20.0 s"
    )
    stop()
    probed.remove("a")
    assert len(heard) == 2


def test_the_reason_is_the_latest():
    """The explanation tells of the last result also when it changed nothing."""
    probed, _ = tracker(ProbePolicy(failure_threshold=3), "a")
    probed.observe("a", True)
    probed.observe("a", False, reason="503")
    assert probed.explain("a").reason == "the last probe failed (503)"
    assert probed.explain("a").state is State.READY


def test_members_are_the_same_object_until_they_change():
    """A readiness change keeps the identity of members; only a membership change replaces it."""
    probed, _ = tracker(ProbePolicy())
    members = probed.members
    probed.observe("a", True)
    probed.drain("a")
    probed.replace(replicas())
    assert probed.members is probed.ready.members is members
    probed.add(Replica("d"))
    assert probed.members is not members


def test_replace_keeps_who_stays():
    """Who stays keeps its state, also with a new weight; who is new starts anew; events name all."""
    probed, _ = tracker(ProbePolicy(), "ab")
    probed.observe("a", True)
    probed.observe("b", True)
    heard = []
    probed.subscribe(heard.append)
    probed.replace([Replica("c"), Replica("b", weight=2.0)])
    assert ids(probed.members) == "cb"
    assert probed.ready == (Replica("b", weight=2.0),)
    assert [(type(event), event.replica.id) for event in heard] == [(Left, "a"), (Joined, "c")]
    assert {event.version for event in heard} == {probed.ready.version}
    version = probed.ready.version
    probed.replace([Replica("c"), Replica("b", weight=2.0)])
    assert probed.ready.version == version


@pytest.mark.parametrize("change", [{"url": "http://elsewhere.test"}, {"incarnation": "2"}])
def test_another_process_is_cold(change):
    """With another url or incarnation nothing is known of a replica, and old results are ignored."""
    probed, _ = tracker(ProbePolicy(), "ab")
    old, new = Replica("a"), Replica("a", **change)
    probed.observe("a", True)
    heard = []
    probed.subscribe(heard.append)
    probed.replace([new, Replica("b")])
    assert probed.state("a") is State.STARTING
    assert isinstance(heard[0], StateChanged)
    assert "another process" in heard[0].reason
    probed.observe(old, True)
    assert probed.state("a") is State.STARTING
    probed.observe(new, True)
    assert probed.ready == (new,)


def test_a_result_for_one_that_left_is_ignored():
    """What was under way when a replica left is no error; news of one that never was is."""
    probed, _ = tracker(ProbePolicy(), outliers=OutlierDetector())
    probed.due()
    probed.remove("a")
    probed.observe("a", True)
    assert ids(probed.ready) == ""
    probed.observe_outcome("a", Outcome.failure())
    for call, what in ((probed.observe, True), (probed.observe_outcome, Outcome.success())):
        with pytest.raises(UnknownReplica, match="ghost"):
            call("ghost", what)
    for call in (probed.remove, probed.drain, probed.undrain, probed.maintain, probed.state, probed.explain):
        with pytest.raises(UnknownReplica):
            call(Replica("a"))


def test_the_memory_of_those_who_left_is_bounded():
    """After thousands of departures the first to go are strangers."""
    probed, _ = tracker(ProbePolicy(), "")
    for start in range(0, 5000, 1000):
        probed.replace([Replica(str(i)) for i in range(start, start + 1000)])
    probed.observe("3999", True)
    probed.replace([])
    with pytest.raises(UnknownReplica):
        probed.observe("0", True)


def test_drain():
    """A drained replica gets no new session, keeps the old ones until the deadline, and comes back."""
    unprobed, clock = tracker()
    unprobed.drain("b", deadline=30)
    assert ids(unprobed.ready) == "ac"
    assert ids(unprobed.ready.draining) == "b"
    assert unprobed.state("b") is State.DRAINING
    assert unprobed.next_due() == 130.0
    assert unprobed.explain("b").changes_in is None
    version = unprobed.ready.version
    clock.advance(30)
    unprobed.tick()
    assert unprobed.ready.draining == ()
    assert unprobed.ready.version == version + 1
    unprobed.undrain("b")
    assert ids(unprobed.ready) == "abc"
    unprobed.drain("b")
    assert ids(unprobed.ready.draining) == "b"
    unprobed.remove("b")
    assert unprobed.next_due() is None
    assert unprobed.ready.draining == ()


def test_a_draining_replica_is_still_probed():
    """One that drains is probed on, and its state stays the operator's whatever its probes say."""
    probed, clock = tracker(ProbePolicy(failure_threshold=1), "a")
    probed.observe("a", True)
    probed.drain("a")
    clock.advance(10)
    assert ids(probed.due()) == "a"
    probed.observe("a", False)
    assert probed.state("a") is State.DRAINING
    probed.undrain("a")
    assert probed.state("a") is State.UNREADY


def test_a_draining_replica_that_fails_its_probes_keeps_no_session():
    """The sessions of one that drains may stay only while its probes are content."""
    probed, _ = tracker(ProbePolicy(failure_threshold=1), "a")
    probed.observe("a", True)
    probed.drain("a")
    assert ids(probed.ready.draining) == "a"
    probed.observe("a", False)
    assert probed.ready.draining == ()


def test_an_operators_word_outlives_the_process():
    """A drained replica that restarts is still drained."""
    unprobed, _ = tracker(None, "ab")
    unprobed.drain("a")
    unprobed.replace([Replica("a", incarnation="2"), Replica("b")])
    assert unprobed.state("a") is State.DRAINING
    unprobed.remove("a")
    unprobed.add(Replica("a"))
    assert unprobed.state("a") is State.READY


def test_maintenance():
    """In maintenance nobody is probed, results are ignored, and afterwards nothing is known."""
    probed, clock = tracker(ProbePolicy(), "a")
    probed.due()
    probed.observe("a", True)
    probed.due()
    probed.maintain("a")
    assert ids(probed.ready) == ids(probed.ready.draining) == ""
    probed.observe("a", False)
    clock.advance(100)
    assert probed.due() == ()
    assert probed.next_due() is None
    assert str(probed.explain("a")).endswith("only an operator or what traffic meets can change that")
    probed.maintain("a")
    probed.undrain("a")
    assert probed.state("a") is State.STARTING
    assert ids(probed.due()) == "a"
    probed.maintain("a")
    probed.replace([Replica("a", incarnation="2")])
    assert probed.due() == ()


def test_explanations_foresee():
    """What an explanation says can happen at the earliest happens then when all goes that way."""
    policy = ProbePolicy(period=10, success_threshold=3, failure_threshold=2, pending_period=1)
    probed, clock = tracker(policy, "a")
    for wanted in (True, False):
        while True:
            foreseen = probed.explain("a").changes_in
            state, at = probed.state("a"), clock.now + foreseen
            while probed.state("a") is state:
                clock.set(probed.next_due())
                for replica in probed.due():
                    probed.observe(replica, wanted)
            assert clock.now == at
            break


def test_time_that_goes_back_stands_still():
    """A clock that is set back changes nothing, and probes go on once it has caught up."""
    probed, clock = tracker(ProbePolicy(), "a")
    probed.due()
    probed.observe("a", True)
    clock.set(0.0)
    assert probed.due() == ()
    assert probed.explain("a").age == 0.0
    probed.drain("a", deadline=10)
    assert probed.next_due() == 110.0


@pytest.mark.parametrize("now", [float("nan"), float("inf"), float("-inf")])
def test_no_time_at_all_is_refused(now):
    """NaN and infinity are no time, and change nothing."""
    probed, _ = tracker(ProbePolicy(), "a")
    for call in (
        lambda: probed.due(now),
        lambda: probed.observe("a", True, now=now),
        lambda: probed.explain("a", now),
    ):
        with pytest.raises(ValueError, match="now"):
            call()
    if now != float("-inf"):
        with pytest.raises(ValueError, match="now"):
            probed.tick(now)
    assert ids(probed.due()) == "a"


def test_bad_input():
    """What is no replica, no id, no bool or no fraction is refused, and the membership stays."""
    probed, _ = tracker(ProbePolicy())
    with pytest.raises(ValueError, match="'a' comes twice"):
        probed.add(Replica("a"))
    with pytest.raises(ValueError, match="'d' comes twice"):
        probed.replace([Replica("d"), Replica("d")])
    with pytest.raises(TypeError, match="Replica"):
        probed.replace(["a"])
    with pytest.raises(TypeError, match="Replica"):
        probed.add("d")
    with pytest.raises(TypeError, match="replica"):
        probed.observe(7, True)
    with pytest.raises(TypeError, match="ok"):
        probed.observe("a", 1)
    with pytest.raises(ValueError, match="deadline"):
        probed.drain("a", deadline=-1)
    with pytest.raises(ValueError, match="panic_threshold"):
        ReadinessTracker(panic_threshold=2)
    with pytest.raises(TypeError, match="subscriber"):
        probed.subscribe(None)
    assert ids(probed.members) == "abc"
    assert probed.ready.version == 1


def test_a_subscriber_that_raises_harms_nobody(caplog):
    """What a subscriber raises is logged; the others hear, and the change stands."""
    unprobed, _ = tracker()
    heard = []
    unprobed.subscribe(lambda event: 1 / 0)
    unprobed.subscribe(heard.append)
    unprobed.drain("a")
    assert len(heard) == 1
    assert "ZeroDivisionError" in caplog.text
    assert unprobed.state("a") is State.DRAINING


def test_a_subscriber_may_use_the_tracker():
    """Subscribers are called without the lock, so that they may act on what they hear."""
    unprobed, _ = tracker()
    unprobed.subscribe(lambda event: unprobed.drain("b") if event.replica.id == "a" else None)
    unprobed.drain("a")
    assert ids(unprobed.ready) == "c"


def test_scripted_probes_drive_a_tracker():
    """A scripted probe answers every probe as it comes due."""
    probed, clock = tracker(ProbePolicy(period=10, failure_threshold=2), "ab")
    probe = ScriptedProbe({"b": [True, False, False, True]})
    probe.run(probed, clock, 5)
    assert ids(probed.ready) == "ab"
    probe.run(probed, clock, 20)
    assert ids(probed.ready) == "a"
    probe.run(probed, clock, 10)
    assert ids(probed.ready) == "ab"
    assert probe.asked == ["a", "b"] * 4


def test_startup_that_does_not_end():
    """A replica that never starts says so, and goes on being probed at the pace of its start."""
    policy = ProbePolicy(startup_period=1, startup_failure_threshold=3)
    probed, clock = tracker(policy, "a")
    ScriptedProbe({"a": [False]}).run(probed, clock, 3)
    assert probed.explain("a").reason.startswith("has not started: 4 startup probes in a row failed; whoever")
    assert probed.state("a") is State.STARTING


def test_threads_see_whole_snapshots():
    """Readers never see a ready set that is not of its own membership, while others change both."""
    probed, _ = tracker(ProbePolicy(failure_threshold=1), "abcdef")
    stop, wrong = threading.Event(), []

    def read():
        last = 0
        while not stop.is_set():
            ready = probed.ready
            if ready.version < last or not set(ready) <= set(ready.members):
                wrong.append(ready)
            last = ready.version

    def write(seed):
        rng = random.Random(seed)
        for _ in range(300):
            probed.observe(rng.choice("abc"), rng.random() < 0.5)
            probed.replace(replicas("abc" + "".join(rng.sample("defgh", 3))))

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not wrong
    assert repr(probed).startswith("<ReadinessTracker ")
