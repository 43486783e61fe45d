"""What lets a count do without a lock holds on the interpreter that runs this."""

from __future__ import annotations

import dis

import pytest

from replicated.balance import (
    Capped,
    InFlight,
    LeastLoaded,
    PeakEwma,
    PowerOfTwo,
    RandomChoice,
    RingHash,
    RoundRobin,
)
from replicated.balance.load import Counts, Summed, tally
from replicated.balance.strategy import as_strategy, is_untimed, untimed
from replicated.lease import Lease
from replicated.one_step import ATOMIC
from replicated.outcome import Outcome
from replicated.replica import Replica

LETS_IN = ("CALL", "PRECALL", "JUMP_BACKWARD", "RESUME", "FOR_ITER", "SEND", "YIELD", "IMPORT", "BEFORE_WITH")


@pytest.mark.skipif(not ATOMIC, reason="this interpreter takes the lock")
@pytest.mark.parametrize(
    ("method", "count"),
    [
        (InFlight.started, 1),
        (InFlight.finished, 1),
        (Summed.started, 2),
        (Summed.finished, 1),
        (Counts.forget, 1),
        (Lease.__enter__, 1),
        (Lease.__exit__, 1),
    ],
)
def test_nothing_comes_between(method, count):
    """From the reading of a count to its writing no instruction lets another thread in."""
    since_read, writes = [], 0
    for instruction in dis.get_instructions(method):
        name, shared = instruction.opname, instruction.argval == "_total"
        subscript = name == "BINARY_OP" and instruction.argrepr == "[]"
        if name.startswith("BINARY_SUBSCR") or subscript or (name.startswith("LOAD_ATTR") and shared):
            since_read = []
        elif name.startswith(("STORE_SUBSCR", "DELETE_SUBSCR")) or (name.startswith("STORE_ATTR") and shared):
            assert since_read == []
            writes += 1
        elif name.startswith(LETS_IN):
            since_read.append(name)
    assert writes == count


def test_a_count_that_is_missing_runs_no_python():
    """What answers for an id never counted is a builtin: a function would let another thread in."""
    assert type(Counts.__missing__) is type(len)
    counts = Counts()
    assert counts["nobody"] == 0
    assert "nobody" not in counts


def test_who_may_be_counted_for():
    """Counts are given away where one plain count is all that hears, and nowhere else."""

    class Listening(PowerOfTwo):
        def started(self, replica):
            super().started(replica)

    class Counting(InFlight):
        pass

    load = InFlight()
    for strategy in (PowerOfTwo(load), LeastLoaded(load), RingHash(None, load=load), RingHash(load=load)):
        found = tally(strategy)
        assert found is not None
        found["a"] += 1
    assert load.of("a") == load.total == 4
    others = [PowerOfTwo(PeakEwma()), PowerOfTwo(Counting()), Listening(), RoundRobin(), Capped(1)]
    others += [RingHash(), RingHash(None, fallback=RoundRobin()), as_strategy(min_by_id)]
    assert all(tally(strategy) is None for strategy in others)


def test_who_leaves_is_forgotten():
    """A replica that leaves is forgotten when nothing is in flight there, and not before."""
    counts = Counts(idle=0, busy=1)
    assert [counts.forget(name) for name in ("idle", "busy", "stranger")] == [0, 0, 0]
    assert counts == {"busy": 1}


def test_who_looks_at_latencies():
    """The strategies that only count say so; PeakEwma does not, nor does whoever overrides what said so."""

    class Listening(RoundRobin):
        def finished(self, replica, outcome):
            pass

    counting = [RoundRobin(), RandomChoice(), PowerOfTwo(), LeastLoaded(), RingHash(), as_strategy(min_by_id)]
    assert all(is_untimed(strategy.finished) for strategy in counting)
    timing = [Listening(), PowerOfTwo(PeakEwma()), RingHash(fallback=RoundRobin())]
    assert not any(is_untimed(strategy.finished) for strategy in timing)
    assert is_untimed(untimed(lambda replica, outcome: None))


def min_by_id(ready, key=None):
    return min(ready, key=lambda replica: replica.id, default=None)


@pytest.mark.parametrize("strategy", [PowerOfTwo, LeastLoaded, RingHash])
def test_a_subclass_may_listen(strategy):
    """A subclass hears what starts and what finishes, and so does the load below it."""
    heard = []

    class Listening(strategy):
        def started(self, replica):
            heard.append("started")
            super().started(replica)

        def finished(self, replica, outcome):
            heard.append("finished")
            super().finished(replica, outcome)

    listening = Listening()
    replica = Replica("a")
    listening.started(replica)
    assert listening.load.of("a") == 1
    listening.finished(replica, Outcome.success(0.1))
    assert listening.load.of("a") == 0
    assert heard == ["started", "finished"]
    assert not is_untimed(listening.finished)
