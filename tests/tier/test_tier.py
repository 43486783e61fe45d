"""The tier: one decision a request, and every Forward finished exactly once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from replicated import (
    AlreadyFinished,
    Cache,
    Forward,
    Hit,
    InFlight,
    LeastLoaded,
    NoReplica,
    Outcome,
    OutlierDetector,
    ProbePolicy,
    ReadinessTracker,
    Refuse,
    Refused,
    Replica,
    RetryBudget,
    RingHash,
    RoundRobin,
    StrategyError,
    Throttle,
    Tier,
    Unavailable,
    Verdict,
)
from replicated.pins import Pin
from replicated.testing import ManualClock

ABC = [Replica("a"), Replica("b"), Replica("c")]


def forward(tier: Tier, key: str | None = None, **asked: object) -> Forward:
    decision = tier.decide(key, **asked)  # type: ignore[arg-type]
    assert isinstance(decision, Forward)
    return decision


def test_everyone_is_ready_without_probes() -> None:
    """A tier of replicas alone sends requests to each of them in turn."""
    tier = Tier(ABC, strategy=RoundRobin())
    assert {forward(tier).replica.id for _ in range(3)} == {"a", "b", "c"}
    assert tier.in_flight == 3
    assert tier.replicas == tuple(ABC)


def test_the_order_is_throttle_then_cache_then_balance() -> None:
    """A refused request asks no cache, and a cached one takes no replica."""
    clock = ManualClock()
    cache: Cache[object, object] = Cache(10)
    tier = Tier(ABC, throttle=Throttle(1, 2, clock=clock), cache=cache, clock=clock)
    first = forward(tier, throttle_key="client", cache_key="page")
    tier.finish(first, Outcome.success(0.1, value="body", ttl=10))
    assert tier.decide(throttle_key="client", cache_key="page") == Hit("body", "page")
    refusal = tier.decide(throttle_key="client", cache_key="page")
    assert isinstance(refusal, Refuse)
    assert refusal.retry_after == pytest.approx(1.0)
    assert "'client'" in refusal.explain()
    assert tier.in_flight == 0
    assert tier.admit("someone else") is None


def test_only_a_good_outcome_with_a_value_is_cached() -> None:
    """Failures, cancellations and outcomes without a value leave the cache as it was."""
    cache: Cache[object, object] = Cache(10)
    tier = Tier(ABC, cache=cache)
    for outcome in (Outcome.failure("500"), Outcome.cancelled(), Outcome.success(0.1)):
        tier.finish(forward(tier, cache_key="k"), outcome)
    tier.finish(forward(tier), Outcome.success(0.1, value="nowhere to store it"))
    assert len(cache) == 0


def test_a_forward_is_finished_once() -> None:
    """A second finish, or one with another tier's Forward, is an error that changes nothing."""
    load = InFlight()
    tier = Tier(ABC, strategy=LeastLoaded(load))
    one = forward(tier)
    other = forward(tier)
    tier.finish(one, Outcome.success(0.1))
    with pytest.raises(AlreadyFinished, match=r"attempt 1 on \w is not open"):
        tier.finish(one, Outcome.success(0.1))
    with pytest.raises(AlreadyFinished):
        Tier(ABC).finish(other, Outcome.success(0.1))
    assert tier.in_flight == 1
    assert load.total == 1


class Deaf(RoundRobin):
    """A strategy that cannot bear to hear the end."""

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        raise OSError("not now")


def test_one_who_raises_keeps_nobody_else_from_hearing() -> None:
    """When strategy or tracker raise at the end, the others are told, and the Forward is finished."""

    def judge(outcome: Outcome) -> bool:
        if outcome.reason == "puzzling":
            raise ArithmeticError("what is that?")
        return not outcome.ok

    cache: Cache[object, object] = Cache(10)
    tracker = ReadinessTracker(outliers=OutlierDetector(1, failed=judge))
    tier = Tier(ABC, strategy=Deaf(), readiness=tracker, cache=cache)
    with pytest.raises(OSError, match="not now"):
        tier.finish(forward(tier, cache_key="k"), Outcome.success(value="v"))
    assert cache["k"] == "v"
    failed = forward(tier)
    with pytest.raises(OSError, match="not now"):
        tier.finish(failed, Outcome.failure())
    assert failed.replica not in tracker.ready
    with pytest.raises(ArithmeticError):
        tier.finish(forward(tier, cache_key="l"), Outcome(Verdict.OK, value="v", reason="puzzling"))
    assert cache["l"] == "v"
    assert tier.in_flight == 0


def test_a_stream_may_outlast_the_memory_of_its_replica() -> None:
    """The end of a request to a replica that left thousands of departures ago is no error."""
    load = InFlight()
    tracker = ReadinessTracker(outliers=OutlierDetector())
    tier = Tier([Replica("old")], strategy=LeastLoaded(load), readiness=tracker)
    last = forward(tier)
    tracker.replace([Replica(f"r{i}") for i in range(5000)])
    tracker.replace([Replica("new")])
    tier.finish(last, Outcome.failure())
    assert load.total == 0


def test_a_pin_is_kept_while_its_replica_is_ready_or_draining() -> None:
    """A soft pin that cannot be kept is as none; a hard one is rather refused, also for a second attempt."""
    tier = Tier(ABC, strategy=lambda ready, key=None: ready[0])
    soft, hard = Pin("c"), Pin("c", hard=True)
    for pin in (soft, hard):
        assert forward(tier, pin=pin).replica.id == "c"
    tier.readiness.drain("c")
    for pin in (soft, hard):
        assert forward(tier, pin=pin).replica.id == "c"
    failed = forward(tier, pin=hard)
    tier.finish(failed, Outcome.failure())
    again = tier.retry(failed)
    assert isinstance(again, Unavailable)
    assert again.reason == "it is pinned to c, which failed"
    failed = forward(tier, pin=soft)
    tier.finish(failed, Outcome.failure())
    again = tier.retry(failed)
    assert isinstance(again, Forward)
    assert again.replica.id == "a"
    tier.readiness.maintain("c")
    assert forward(tier, pin=soft).replica.id == "a"
    refused = tier.decide(pin=hard)
    assert isinstance(refused, Unavailable)
    assert refused.explain().startswith("it is pinned to c, which cannot serve\nc: c is maintenance")
    assert forward(tier, pin=Pin("stranger")).replica.id == "a"


def test_anything_that_takes_is_a_throttle() -> None:
    """A tier asks its throttle for ``take(key, cost)`` alone."""

    class Half:
        def take(self, key: object, cost: float = 1) -> float:
            return 0.0 if cost <= 0.5 else 7.0

    tier = Tier(ABC, throttle=Half())
    assert tier.decide(throttle_key="k") == Refuse(7.0, "k")
    assert isinstance(tier.decide(throttle_key="k", cost=0.5), Forward)


def test_two_forwards_of_the_same_content_are_two() -> None:
    """Forwards are compared by identity, so that two requests for one key are told apart."""
    clock = ManualClock()
    tier = Tier([Replica("a")], clock=clock)
    one, two = forward(tier, "k"), forward(tier, "k")
    assert one != two
    assert len({one, two}) == 2


def test_nobody_ready_is_unavailable_with_reasons() -> None:
    """When nobody can serve, the answer comes at once, says when to ask again, and why for each replica."""
    clock = ManualClock()
    tracker = ReadinessTracker(ProbePolicy(period=5), clock=clock)
    tier = Tier(ABC, readiness=tracker, clock=clock)
    for replica in tracker.due():
        tracker.observe(replica, False, reason="status 503")
    decision = tier.decide("key")
    assert isinstance(decision, Unavailable)
    assert 0 < decision.retry_after <= 5
    assert [name for name, _ in decision.reasons] == ["a", "b", "c"]
    assert "status 503" in decision.explain()
    assert isinstance(Tier().decide(), Unavailable)


def test_a_decision_explains_who_was_passed_over() -> None:
    """A Forward names its replica, those that failed before, and those that cannot serve."""
    tier = Tier(ABC, strategy=RoundRobin())
    tier.readiness.drain("c")
    first = forward(tier)
    tier.finish(first, Outcome.failure("reset"))
    second = tier.retry(first)
    assert isinstance(second, Forward)
    assert second.attempt == 2
    assert {first.replica.id, second.replica.id} == {"a", "b"}
    explanation = second.explain()
    assert f"{first.replica.id}: failed an earlier attempt" in explanation
    assert "drain" in explanation


def test_a_retry_takes_the_next_of_the_preference_order() -> None:
    """Under hashing, the attempts of one key follow its own preference order and never repeat."""
    strategy = RingHash(bound=None)
    tier = Tier(ABC, strategy=strategy)
    attempt = forward(tier, "user:42")
    seen = [attempt.replica.id]
    while True:
        tier.finish(attempt, Outcome.failure("reset"))
        decision = tier.retry(attempt)
        if isinstance(decision, Unavailable):
            break
        attempt = decision
        seen.append(attempt.replica.id)
    from replicated import HashRing

    assert seen == list(HashRing(["a", "b", "c"]).walk("user:42"))
    assert "all 3 attempts failed" in decision.explain()


def test_retries_end_with_the_replicas_and_with_the_budget() -> None:
    """No retry goes to a replica that failed this request, nor beyond the budget."""
    clock = ManualClock()
    one = Tier([Replica("a")], max_attempts=5, clock=clock)
    only = forward(one)
    with pytest.raises(AlreadyFinished, match="still in flight"):
        one.retry(only)
    one.finish(only, Outcome.failure())
    decision = one.retry(only)
    assert isinstance(decision, Unavailable)
    assert decision.reasons == (("a", "failed an earlier attempt"),)

    budget = RetryBudget(ratio=0.0, per_second=0.0, reserve=1)
    tier = Tier(ABC, retries=budget, clock=clock)
    for expected in (Forward, Unavailable):
        failed = forward(tier)
        tier.finish(failed, Outcome.failure())
        decision = tier.retry(failed)
        assert isinstance(decision, expected)
    assert "budget" in decision.explain()


def test_a_strategy_may_not_pick_beyond_the_ready_set() -> None:
    """A pick that cannot serve is a named error, and nothing is in flight after it."""
    stranger = Replica("stranger")
    tier = Tier(ABC, strategy=lambda ready, key=None: stranger)
    with pytest.raises(StrategyError, match="stranger"):
        tier.decide()
    assert tier.in_flight == 0
    equal = Tier(ABC, strategy=lambda ready, key=None: Replica("b"))
    assert forward(equal).replica.id == "b"
    assert isinstance(Tier(ABC, strategy=lambda ready, key=None: None).decide(), Unavailable)


def test_traffic_itself_takes_out_a_failing_replica_and_lets_it_back() -> None:
    """Passive health is told by finish: a replica that keeps failing gets nothing until its ejection ends."""
    clock = ManualClock()
    tracker = ReadinessTracker(outliers=OutlierDetector(), clock=clock)
    tier = Tier(ABC, strategy=RoundRobin(), readiness=tracker, clock=clock)
    for _ in range(30):
        asked = forward(tier)
        bad = asked.replica.id == "b"
        tier.finish(asked, Outcome.failure("reset") if bad else Outcome.success(0.01))
    assert "b" not in tracker.ready.by_id
    assert {forward(tier).replica.id for _ in range(10)} == {"a", "c"}
    clock.advance(300)
    assert "b" in {forward(tier).replica.id for _ in range(10)}


class TestLease:
    def test_it_lends_and_takes_back(self) -> None:
        """Leaving the block in order finishes with success and the time it took."""
        clock = ManualClock()
        heard: list[Outcome] = []
        tier = Tier(ABC, strategy=listening(heard), clock=clock)
        with tier.lease("user:42") as lease:
            assert lease.replica in ABC
            assert tier.in_flight == 1
            clock.advance(0.25)
        assert tier.in_flight == 0
        assert heard == [Outcome.success(0.25)]

    @pytest.mark.parametrize(
        ("error", "verdict"),
        [
            (OSError("reset"), "failed"),
            (asyncio.CancelledError(), "cancelled"),
            (KeyboardInterrupt(), "cancelled"),
        ],
    )
    def test_whatever_breaks_out_finishes_it(self, error: BaseException, verdict: str) -> None:
        """An exception is the replica's failure; a cancellation or Ctrl-C is the caller leaving."""
        heard: list[Outcome] = []
        tier = Tier(ABC, strategy=listening(heard))
        with pytest.raises(type(error)), tier.lease():
            raise error
        assert tier.in_flight == 0
        assert [outcome.verdict.value for outcome in heard] == [verdict]

    def test_an_outcome_may_be_told_early_and_once(self) -> None:
        """What is told within the block decides, and the block's end adds nothing."""
        heard: list[Outcome] = []
        tier = Tier(ABC, strategy=listening(heard))
        with tier.lease() as lease:
            lease.finish(Outcome.failure("status 503"))
            with pytest.raises(AlreadyFinished):
                lease.finish(Outcome.success())
        assert heard == [Outcome.failure("status 503")]

    def test_it_lends_nothing_where_there_is_nothing_to_lend(self) -> None:
        """A refusal and an empty ready set are exceptions here, with the time to wait."""
        clock = ManualClock()
        tier = Tier(ABC, throttle=Throttle(0.5, 1, clock=clock), clock=clock)
        with tier.lease(throttle_key="client"):
            pass
        with pytest.raises(Refused) as refused, tier.lease(throttle_key="client"):
            pytest.fail("the block must not run")
        assert refused.value.retry_after == pytest.approx(2.0)
        with pytest.raises(NoReplica) as nobody, Tier(clock=clock).lease():
            pytest.fail("the block must not run")
        assert nobody.value.retry_after > 0

    def test_it_begins_with_the_block(self) -> None:
        """A lease that was never entered holds nothing and says so."""
        tier = Tier(ABC)
        lease = tier.lease()
        assert tier.in_flight == 0
        with pytest.raises(AlreadyFinished, match="with statement"):
            _ = lease.replica
        with pytest.raises(AlreadyFinished, match="with statement"):
            lease.finish(Outcome.success())


def listening(heard: list[Outcome]) -> RoundRobin:
    class Listening(RoundRobin):
        def finished(self, replica: Replica, outcome: Outcome) -> None:
            heard.append(outcome)

    return Listening()


def test_members_may_come_by_the_tracker_or_by_the_tier() -> None:
    """Replicas given to the tier join those that the tracker knows; one id is one member."""
    tracker = ReadinessTracker(replicas=[Replica("a"), Replica("z")])
    tier = Tier(ABC, readiness=tracker)
    assert [replica.id for replica in tier.replicas] == ["a", "z", "b", "c"]
    with pytest.raises(ValueError, match="'a'"):
        Tier([Replica("a"), Replica("a")])


@pytest.mark.parametrize("attempts", [0, -1, True, 1.5])
def test_max_attempts_is_a_count(attempts: object) -> None:
    """A number of attempts that cannot be is a ValueError that shows it."""
    with pytest.raises(ValueError, match="max_attempts"):
        Tier(ABC, max_attempts=attempts)  # type: ignore[arg-type]


def test_a_strategy_is_one_or_a_function() -> None:
    """What is neither a strategy nor a function is a TypeError."""
    with pytest.raises(TypeError):
        Tier(ABC, strategy="round-robin")  # type: ignore[arg-type]


def test_eight_threads_lose_nothing() -> None:
    """Conservation holds under threads: what was started was finished, for each replica."""
    load = InFlight()
    tier = Tier(ABC, strategy=LeastLoaded(load))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for turn in range(500):
                with tier.lease() as lease:
                    if turn % 3 == 0:
                        lease.finish(Outcome.failure())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert tier.in_flight == 0
    assert [load.of(replica.id) for replica in ABC] == [0, 0, 0]
