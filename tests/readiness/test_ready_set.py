"""The snapshot: who is in it, with which weight, and what it keeps of the membership."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.readiness import ReadySet
from replicated.readiness.membership import Membership
from replicated.readiness.timetable import Timetable
from replicated.replica import Replica

members = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from([0.0, 1.0, 2.5])), unique_by=lambda m: m[0], max_size=12
).map(lambda pairs: tuple(Replica(str(id), weight=weight) for id, weight in pairs))


@given(
    members,
    st.sets(st.integers(0, 20).map(str)),
    st.dictionaries(st.integers(0, 20).map(str), st.floats(0.1, 0.9)),
)
def test_derived_views_agree(everyone, chosen, ramp):
    """Eligible, weights, sums, by_id and even say the same as the replicas themselves."""
    ready = ReadySet.of(everyone, chosen, 7, ramp=ramp)
    assert list(ready) == [replica for replica in everyone if replica.id in chosen]
    assert ready.members == everyone
    assert ready.by_id == {replica.id: replica for replica in ready}
    expected = {r.id: r.weight * ramp.get(r.id, 1.0) for r in ready if r.weight}
    assert ready.weights == expected
    assert [replica.id for replica in ready.eligible] == list(expected)
    if ready.even:
        assert len(set(expected.values())) <= 1
    candidates, sums = ready.draw
    assert candidates == ready.eligible
    if sums is not None:
        assert sums[-1] == pytest.approx(sum(expected.values())) if sums else not expected
    for replica in everyone:
        assert ready.weight(replica) == ready.weight(replica.id) == expected.get(replica.id, 0.0)


@given(members, st.sets(st.integers(0, 20).map(str)))
def test_without_and_only(everyone, ids):
    """Both keep the membership by identity, the version, the ramp and all else, and split the set in two."""
    ready = ReadySet.of(everyone, None, 3, ramp={"1": 0.5}, panic=True)
    less, rest = ready.without(ids), ready.only(ids)
    assert set(less) | set(rest) == set(ready)
    assert not set(less) & set(rest)
    for part in (less, rest):
        assert part.members is ready.members
        assert (part.version, part.ramp, part.draining, part.panic) == (3, {"1": 0.5}, (), True)


def test_any_replicas_make_one():
    """Built from replicas alone it is a membership of which everyone is ready."""
    ready = ReadySet(Replica(name) for name in "ab")
    assert ready.members == tuple(ready)
    assert (ready.version, ready.even, ready.draining) == (0, True, ())
    assert ReadySet.of(ready.members, {"a"}, 1).members is ready.members
    assert ReadySet().draw == ((), None)


def test_evenness_is_the_memberships():
    """A membership is even when all weights are one and the same above zero."""
    assert Membership([Replica("a"), Replica("b")]).even
    assert not Membership([Replica("a"), Replica("b", weight=2.0)]).even
    assert not Membership([Replica("a", weight=0.0)]).even
    assert ReadySet([Replica("a"), Replica("b", weight=0.0)]).even


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.integers(0, 9), st.integers(0, 50)),
            st.tuples(st.just("drop"), st.integers(0, 9), st.just(0)),
            st.tuples(st.just("take"), st.just(0), st.integers(0, 50)),
        ),
        max_size=200,
    )
)
def test_a_timetable_is_a_dict_of_times(steps):
    """Under any changes it behaves as a plain dict searched from end to end, and keeps nothing that left."""
    table, model = Timetable(), {}
    for what, key, at in steps:
        if what == "set":
            table.set(key, at)
            model[key] = at
        elif what == "drop":
            table.drop(key)
            model.pop(key, None)
        else:
            taken = table.take(at)
            assert sorted(taken) == sorted(key for key, due in model.items() if due <= at)
            assert [model[key] for key in taken] == sorted(model[key] for key in taken)
            model = {key: due for key, due in model.items() if due > at}
        assert len(table) == len(model)
        assert table.next() == min(model.values(), default=None)
        assert table.at(key) == model.get(key)
        assert len(table._order) == len(model)
