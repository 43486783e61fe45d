"""The presets conclude, from the same results, what the systems they are named after conclude."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.readiness import ProbePolicy
from replicated.readiness.health import ProbeHealth

RECORDED = json.loads((Path(__file__).parent / "vectors" / "probe_sequences.json").read_text())

# + is a good result, - a bad one, ! a refusal that Envoy calls not retriable; below each: U up, d down.
TABLE = [
    ("kubernetes", {}, "+--+---+", "UUUUUUdU"),
    ("kubernetes", {}, "---+-+-+--+---", "dddUUUUUUUUUUd"),
    ("kubernetes", {"success_threshold": 2}, "+-++---++", "dddUUUddU"),
    ("haproxy", {}, "+--+---", "UUUUUUd"),
    ("haproxy", {}, "-+-++", "ddddU"),
    ("haproxy", {}, "---+-++--+--", "ddddddUUUUUU"),
    ("envoy", {}, "+---+-++", "UUUddddU"),
    ("envoy", {}, "-+-++", "ddddU"),
    ("envoy", {}, "+!+!++", "UddddU"),
    ("varnish", {}, "+-------", "UUUUUUdd"),
    ("varnish", {}, "-++", "dUU"),
]


def run(policy: ProbePolicy, results: str) -> str:
    health, states = ProbeHealth(policy), ""
    for result in results:
        health.observe(result == "+", decisive=result == "!")
        states += "U" if health.ready else "d"
    return states


def kubernetes(results: str, success: int, failure: int) -> str:
    """pkg/kubelet/prober/worker.go, doProbe."""
    ready, last, run_length, states = False, None, 0, ""
    for result in results:
        if last == result:
            run_length += 1
        else:
            last, run_length = result, 1
        if run_length >= (success if result == "+" else failure):
            ready = result == "+"
        states += "U" if ready else "d"
    return states


def haproxy(results: str, rise: int, fall: int) -> str:
    """src/check.c, set_server_check_status: one counter, up at ``rise`` and above."""
    health, states = rise, ""
    for result in results:
        if result == "+":
            if health < rise + fall - 1:
                health += 1
                if health >= rise:
                    health = rise + fall - 1
        elif health > 0:
            health -= 1
            if health < rise:
                health = 0
        states += "U" if health >= rise else "d"
    return states


def envoy(results: str, healthy: int, unhealthy: int) -> str:
    """health_checker_base_impl.cc, handleSuccess and setUnhealthy."""
    failed, good, bad, first, states = True, 0, 0, True, ""
    for result in results:
        if result == "+":
            bad = 0
            if failed:
                good += 1
                if first or good == healthy:
                    failed = False
        else:
            good = 0
            if not failed:
                bad += 1
                if result == "!" or bad == unhealthy:
                    failed = True
        first = False
        states += "d" if failed else "U"
    return states


def varnish(results: str, threshold: int, window: int, initial: int) -> str:
    """cache_backend_probe.c: a shifted bitmap, and the good ones among its last ``window`` bits."""
    happy, states = (1 << initial) - 1, ""
    for result in results:
        happy = (happy << 1 | (result == "+")) & 2**64 - 1
        good = sum(happy >> i & 1 for i in range(window))
        states += "U" if good >= threshold else "d"
    return states


def test_the_table_is_what_the_models_say():
    """The rows written by hand agree with models of the systems' own code."""
    for name, changes, results, states in TABLE:
        policy = getattr(ProbePolicy, name)(**changes)
        good, bad = policy.success_threshold, policy.failure_threshold
        model = {
            "kubernetes": lambda r, g=good, b=bad: kubernetes(r, g, b),
            "haproxy": lambda r, g=good, b=bad: haproxy(r, g, b),
            "envoy": lambda r, g=good, b=bad: envoy(r, g, b),
            "varnish": lambda r, p=policy: varnish(r, p.success_threshold, p.window, p.initial_successes),
        }[name]
        assert model(results) == states, (name, results)


@pytest.mark.parametrize("row", RECORDED, ids=lambda row: f"{row['system']} {row['results']}")
def test_live_systems(row):
    """From the same results as a live HAProxy or Varnish, the preset draws the same conclusions."""
    if row["system"] == "haproxy":
        policy = ProbePolicy.haproxy(success_threshold=row["rise"], failure_threshold=row["fall"])
    else:
        policy = ProbePolicy.varnish(success_threshold=row["threshold"], window=row["window"])
    assert run(policy, row["results"]) == row["states"]


@pytest.mark.parametrize(("name", "changes", "results", "states"), TABLE)
def test_written_sequences(name, changes, results, states):
    """Each sequence of results that was worked out by hand gives the states written beside it."""
    assert run(getattr(ProbePolicy, name)(**changes), results) == states


results = st.text("+-", max_size=40)
small = st.integers(1, 5)


@given(results, small, small)
def test_kubernetes(sequence, good, bad):
    """Any thresholds and any results: as the kubelet."""
    policy = ProbePolicy.kubernetes(success_threshold=good, failure_threshold=bad)
    assert run(policy, sequence) == kubernetes(sequence, good, bad)


@given(results, small, small)
def test_haproxy(sequence, rise, fall):
    """Any rise and fall and any results: as HAProxy."""
    policy = ProbePolicy.haproxy(success_threshold=rise, failure_threshold=fall)
    assert run(policy, sequence) == haproxy(sequence, rise, fall)


@given(st.text("+-!", max_size=40), small, small)
def test_envoy(sequence, healthy, unhealthy):
    """Any thresholds and any results, refusals among them: as Envoy."""
    policy = ProbePolicy.envoy(success_threshold=healthy, failure_threshold=unhealthy)
    assert run(policy, sequence) == envoy(sequence, healthy, unhealthy)


@given(results, st.integers(1, 12), st.integers(0, 6))
def test_varnish(sequence, window, spare):
    """Any window and threshold and any results: as Varnish."""
    threshold = max(1, window - spare)
    policy = ProbePolicy.varnish(success_threshold=threshold, window=window)
    assert policy.initial_successes == threshold - 1
    assert run(policy, sequence) == varnish(sequence, threshold, window, threshold - 1)


@given(st.sampled_from(["kubernetes", "haproxy", "envoy", "varnish"]), results, small, small, st.booleans())
def test_missing_is_exact(name, sequence, good, bad, windowed):
    """``missing`` results unlike the verdict change it, and one less does not."""
    changes = {"success_threshold": good, "failure_threshold": bad}
    if name == "varnish":
        changes["window"] = 8
    policy = getattr(ProbePolicy, name)(**changes)
    unlike = "-" if run(policy, sequence)[-1:] == "U" or (not sequence and ProbeHealth(policy).ready) else "+"
    health = ProbeHealth(policy)
    for result in sequence:
        health.observe(result == "+")
    before, missing = health.ready, health.missing
    for _ in range(missing - 1):
        assert not health.observe(unlike == "+")
    assert health.ready is before
    assert health.observe(unlike == "+")


def test_intervals_follow_the_state():
    """Probes come faster while a change is pending and at their own pace while down."""
    health = ProbeHealth(ProbePolicy.haproxy(pending_period=0.5, unready_period=7.0))
    paces = []
    for result in "+-+---+++":
        health.observe(result == "+")
        paces.append(health.interval)
    assert paces == [2.0, 0.5, 2.0, 0.5, 0.5, 7.0, 0.5, 2.0, 2.0]


def test_startup_comes_first():
    """Readiness counts from the result after the one that ended the startup phase."""
    health = ProbeHealth(ProbePolicy(startup_period=1.0, startup_failure_threshold=2))
    assert health.interval == 1.0
    assert str(health) == "has not started: 0 startup probes in a row failed"
    health.observe(False)
    assert not health.stuck
    health.observe(False)
    assert health.stuck
    assert str(health) == (
        "has not started: 2 startup probes in a row failed; whoever started it should start it again"
    )
    assert health.missing == 1
    assert not health.observe(True)
    assert (health.started, health.ready, health.interval) == (True, False, 10.0)
    assert health.observe(True)


def test_a_refusal_empties_the_window():
    """Under a window too, a decisive failure counts at once, and good results start anew."""
    health = ProbeHealth(ProbePolicy.varnish())
    for _ in range(8):
        health.observe(True)
    assert health.observe(False, decisive=True)
    assert str(health) == "0 of the last 8 probes were good"
    assert [health.observe(True) for _ in range(3)] == [False, False, True]


def test_credit_may_be_enough():
    """As many credited results as are needed make a replica ready before its first probe."""
    assert ProbeHealth(ProbePolicy(success_threshold=2, initial_successes=2)).ready
    assert not ProbeHealth(ProbePolicy(success_threshold=2, initial_successes=1)).ready


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"period": 0}, ValueError),
        ({"period": float("nan")}, ValueError),
        ({"period": True}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"initial_delay": float("inf")}, ValueError),
        ({"success_threshold": 0}, ValueError),
        ({"success_threshold": 1.0}, TypeError),
        ({"failure_threshold": 0}, ValueError),
        ({"window": 0}, ValueError),
        ({"window": 2, "success_threshold": 3}, ValueError),
        ({"jitter": 1.5}, ValueError),
        ({"jitter": float("nan")}, ValueError),
        ({"pending_period": 0}, ValueError),
        ({"starts_ready": 1}, TypeError),
        ({"initial_successes": -1}, ValueError),
    ],
)
def test_bad_input(changes, error):
    """What cannot work is refused by name."""
    with pytest.raises(error, match=next(iter(changes)) if len(changes) == 1 else "success_threshold"):
        ProbePolicy(**changes)
