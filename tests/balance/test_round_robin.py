"""Round robin: nginx's sequences, exact shares, and a turn that survives changes."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.balance import RoundRobin
from replicated.readiness import ReadySet
from replicated.replica import Replica

CASES = json.loads((Path(__file__).parent / "vectors" / "nginx_smooth_wrr.json").read_text())["cases"]


def weighted(weights) -> ReadySet:
    pairs = weights.items() if isinstance(weights, dict) else enumerate(weights)
    return ReadySet([Replica(str(id), weight=weight) for id, weight in pairs])


def smooth(weights: list[float], picks: int) -> list[int]:
    """Nginx's ngx_http_upstream_get_peer, written down."""
    current, chosen = [0.0] * len(weights), []
    for _ in range(picks):
        best = None
        for i, weight in enumerate(weights):
            current[i] += weight
            if weight and (best is None or current[i] > current[best]):
                best = i
        current[best] -= sum(weights)
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case["weights"].values())))
def test_nginx_sequences(case):
    """The picks are those that a live nginx made, one after the other."""
    ready, strategy = weighted(case["weights"]), RoundRobin()
    assert [strategy.pick(ready).id for _ in case["sequence"]] == case["sequence"]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any))
def test_any_whole_weights(weights):
    """Any whole weights give the smooth sequence, over more than two of its cycles."""
    ready, strategy = weighted(weights), RoundRobin()
    picks = 2 * sum(weights) + 5
    assert [int(strategy.pick(ready).id) for _ in range(picks)] == smooth(weights, picks)


@given(st.lists(st.integers(1, 64).map(lambda n: n / 16), min_size=1, max_size=6), st.integers(1, 80))
def test_any_weights(weights, picks):
    """Weights that are not whole give the smooth sequence as well."""
    ready, strategy = weighted(weights), RoundRobin()
    assert [int(strategy.pick(ready).id) for _ in range(picks)] == smooth(weights, picks)


def test_a_cycle_too_long_to_keep_is_stepped_through():
    """Where the cycle is longer than what is kept, the sequence is the same."""
    weights = [4097, 2048, 3]
    ready, strategy = weighted(weights), RoundRobin()
    assert [int(strategy.pick(ready).id) for _ in range(50)] == smooth(weights, 50)
    assert strategy._period == 0


@given(st.integers(0, 40), st.sets(st.integers(0, 3), max_size=3))
def test_no_change_starts_over(before, gone):
    """After a change those who stay go on where they were: in any stretch the shares are off by little."""
    weights = [5, 3, 2, 1]
    ready, strategy = weighted(weights), RoundRobin()
    for _ in range(before):
        strategy.pick(ready)
    less = ready.without({str(i) for i in gone})
    counts = Counter(int(strategy.pick(less).id) for _ in range(110))
    total = sum(weights[i] for i in range(4) if i not in gone)
    for i in range(4):
        expected = 0 if i in gone else 110 * weights[i] / total
        assert abs(counts[i] - expected) <= 3


def test_replaying_a_cycle_keeps_the_values_true():
    """A change in the middle of a replayed cycle continues as if every pick had been stepped."""
    weights = [4, 2, 1]
    replayed, stepped = RoundRobin(), RoundRobin()
    ready = weighted(weights)
    for _ in range(7 + 4):
        replayed.pick(ready)
    for _ in range(4):
        stepped.pick(ready)
    changed = weighted([4, 2, 3])
    assert [replayed.pick(changed).id for _ in range(9)] == [stepped.pick(changed).id for _ in range(9)]


def test_the_same_weights_in_a_new_snapshot_change_nothing():
    """A flip of one that has no part in the choice does not disturb the sequence."""
    first, second = weighted([5, 1, 1]), weighted([5, 1, 1])
    strategy = RoundRobin()
    assert [strategy.pick(first if i % 2 else second).id for i in range(7)] == list("0010200")


def test_threads_share_the_turns():
    """No turn is lost or taken twice, whether the weights are even or not."""
    for weights in ([1, 1, 1, 1], [4, 3, 2, 1]):
        ready, strategy, counts = weighted(weights), RoundRobin(), Counter()

        def work(strategy=strategy, ready=ready, counts=counts):
            mine = Counter(strategy.pick(ready).id for _ in range(1000))
            counts.update(mine)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == {str(i): 4000 * weight // sum(weights) for i, weight in enumerate(weights)}
