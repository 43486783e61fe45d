"""The index of expiries against a sorted list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicated.cache.entry import Entry
from replicated.cache.expiry import Schedule


def timed(expires):
    entry = Entry()
    entry.expires = expires
    return entry


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 20)),
            st.tuples(st.just("remove"), st.integers(0, 1000)),
            st.tuples(st.just("due"), st.integers(0, 20)),
        ),
        max_size=80,
    )
)
def test_the_first_is_always_the_first(steps):
    """Whatever joins and leaves in whatever order, what is due first is an entry of the least expiry."""
    schedule = Schedule()
    entries = []
    for what, number in steps:
        if what == "add":
            entry = timed(float(number))
            schedule.add(entry)
            entries.append(entry)
        elif what == "remove" and entries:
            schedule.remove(entries.pop(number % len(entries)))
        else:
            due = schedule.due(number)
            least = min((entry.expires for entry in entries), default=None)
            if least is None or least > number:
                assert due is None
            else:
                assert due in entries
                assert due.expires == least
    while entries:
        due = schedule.due(99)
        assert due.expires == min(entry.expires for entry in entries)
        entries.remove(due)
        schedule.remove(due)
    assert schedule.due(99) is None
    assert schedule.heap == []


def test_one_ttl_never_needs_the_heap():
    """Entries of one ttl stand in the lane, where every step is O(1)."""
    schedule = Schedule()
    for instant in range(100):
        schedule.add(timed(instant + 60.0))
    assert schedule.heap == []
