"""The values that flow everywhere refuse what cannot be."""

from __future__ import annotations

import math
import pickle

import pytest

from replicated import MissingExtra, NoReplica, Outcome, Refused, Replica, ReplicatedError, Verdict


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, -0.1])
def test_a_weight_is_finite_and_not_negative(weight: float) -> None:
    """A weight that cannot be is a ValueError naming it and its value."""
    with pytest.raises(ValueError, match=f"weight must be .*{weight!r}"):
        Replica("a", weight=weight)


@pytest.mark.parametrize("weight", ["1", True, None])
def test_a_weight_is_a_number(weight: object) -> None:
    """What is not a number is a TypeError."""
    with pytest.raises(TypeError, match="weight must be a number"):
        Replica("a", weight=weight)  # type: ignore[arg-type]


def test_a_replica_has_an_identity() -> None:
    """An id is a str that is not empty."""
    with pytest.raises(ValueError, match="id must not be empty"):
        Replica("")
    with pytest.raises(TypeError, match="id must be a str, not 7"):
        Replica(7)  # type: ignore[arg-type]


def test_a_replica_is_a_value() -> None:
    """Equal content is equal, hashable and survives pickling."""
    replica = Replica("a", "http://127.0.0.1:1", 2.5, "zone", "boot-1")
    assert pickle.loads(pickle.dumps(replica)) == replica
    assert len({replica, Replica("a", "http://127.0.0.1:1", 2.5, "zone", "boot-1")}) == 1


@pytest.mark.parametrize("latency", [-0.1, math.nan, math.inf])
def test_a_latency_is_a_time(latency: float) -> None:
    """A latency that cannot be is a ValueError."""
    with pytest.raises(ValueError, match="latency must be seconds"):
        Outcome.success(latency)


def test_an_outcome_says_who_is_to_blame() -> None:
    """Success, failure and cancellation are told apart."""
    assert Outcome.success(0.1).ok
    assert not Outcome.failure("reset").ok
    assert Outcome.cancelled().verdict is Verdict.CANCELLED


def test_errors_say_what_to_do() -> None:
    """A missing extra names its install line; what was not served says when to come back."""
    assert "pip install 'replicated-tier[serve]'" in str(MissingExtra("replicated.adapters.asgi", "serve"))
    assert Refused("no", 2.5).retry_after == 2.5
    again = pickle.loads(pickle.dumps(NoReplica("nobody", 1.5)))
    assert (str(again), again.retry_after) == ("nobody", 1.5)
    assert isinstance(NoReplica("nobody", 1.0), LookupError)
    assert isinstance(NoReplica("nobody", 1.0), ReplicatedError)
