"""When a request is late: after the latencies seen, and within the budget."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated import Hedging
from replicated.testing import ManualClock


@given(st.floats(1e-5, 50), st.floats(1, 10), st.integers(32, 600), st.integers(0, 2**32))
def test_the_delay_follows_the_quantile(typical: float, factor: float, many: int, seed: int) -> None:
    """Late is the factor times the latency that nine of ten of the last 512 stay below."""
    rng = random.Random(seed)
    hedging = Hedging(quantile=0.9, factor=factor, least=1e-9)
    seen = [typical * rng.uniform(0.5, 2) for _ in range(many)]
    for latency in seen:
        hedging.observe(latency)
    window = seen[-512:]
    limit = hedging.delay() / factor * (1 + 1e-9)
    assert sum(latency <= limit for latency in window) == math.ceil(0.9 * len(window))


def test_nothing_is_concluded_from_a_few() -> None:
    """Until 32 latencies are known, late is what was said for that case."""
    clock = ManualClock()
    hedging = Hedging(unknown=0.7, clock=clock)
    for _ in range(31):
        hedging.observe(0.001)
    assert hedging.delay() == 0.7
    hedging.observe(0.001)
    clock.advance(1)
    assert hedging.delay() == 0.02


def test_the_delay_is_never_below_the_least() -> None:
    """However fast all are, a pause of the interpreter is not lateness."""
    hedging = Hedging(least=0.03)
    for latency in (0.0, 1e-12, 1e-5):
        for _ in range(20):
            hedging.observe(latency)
    assert hedging.delay() == 0.03


def test_what_is_usual_is_looked_up_now_and_then() -> None:
    """Ten times a second at most, by the clock or by what it is told."""
    clock = ManualClock()
    hedging = Hedging(factor=2, clock=clock)
    for latency in (0.1, 0.2, 0.4):
        for _ in range(512):
            hedging.observe(latency)
        before = hedging.delay()
        clock.advance(0.05)
        assert hedging.delay() == before
        clock.advance(0.06)
        assert hedging.delay() == pytest.approx(2 * latency)
    for _ in range(512):
        hedging.observe(0.8)
    assert hedging.delay(clock() + 0.01) == pytest.approx(0.8)
    assert hedging.delay(clock() + 0.2) == pytest.approx(1.6)


def test_the_budget() -> None:
    """One in fifty by default, one a second, and ten saved up."""
    clock = ManualClock()
    hedging = Hedging(clock=clock)
    assert [hedging.withdraw() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(51):
        hedging.deposit()
    assert [hedging.withdraw() for _ in range(2)] == [True, False]
    clock.advance(1.01)
    assert [hedging.withdraw() for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"quantile": 0}, ValueError),
        ({"quantile": 1.0}, ValueError),
        ({"quantile": math.nan}, ValueError),
        ({"factor": 0.9}, ValueError),
        ({"factor": math.inf}, ValueError),
        ({"least": 0}, ValueError),
        ({"unknown": math.inf}, ValueError),
        ({"least": True}, TypeError),
        ({"factor": "3"}, TypeError),
        ({"ratio": -1}, ValueError),
        ({"reserve": 0}, ValueError),
    ],
)
def test_bad_arguments(bad: dict[str, Any], error: type[Exception]) -> None:
    """What cannot be is refused, and named."""
    with pytest.raises(error, match=next(iter(bad))):
        Hedging(**bad)
