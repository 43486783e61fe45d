"""Caches as a tier hashed by page: each page lives once, hot ones twice, and who goes takes its share."""

from __future__ import annotations

import pytest

from replicated.balance import RingHash
from replicated.cache import Cache
from replicated.outcome import Outcome
from replicated.readiness import ReadySet
from replicated.replica import Replica

MEMBERS = [Replica(f"cache-{number}") for number in range(8)]
PAGES = [f"/{number}" for number in range(4000)]


class Tier:
    """Members that hold what is asked of them; who is asked, a strategy says."""

    def __init__(self, strategy):
        self.strategy = strategy
        self.caches = {member.id: Cache(len(PAGES)) for member in MEMBERS}
        self.ready = ReadySet(MEMBERS)

    def ask(self, page):
        """Begin a request; return its member, and whether that held the page."""
        member = self.strategy.pick(self.ready, page)
        self.strategy.started(member)
        hit = page in self.caches[member.id]
        self.caches[member.id][page] = True
        return member, hit

    def visit(self, page):
        """Return whether a request from beginning to end was a hit."""
        member, hit = self.ask(page)
        self.strategy.finished(member, Outcome.success())
        return hit

    def holders(self, page):
        return [name for name, cache in self.caches.items() if page in cache]


@pytest.fixture
def tier():
    return Tier(RingHash(1.25, slack=4))


def test_each_page_lives_once(tier):
    """Pages that are asked for one after the other stand in one cache each, so that capacity adds up."""
    assert not any(tier.visit(page) for page in PAGES)
    assert all(tier.visit(page) for page in PAGES)
    assert sum(map(len, tier.caches.values())) == len(PAGES)


def test_a_member_that_goes_takes_its_share_and_no_more(tier):
    """While a member is away only its own pages are fetched anew; when it is back, it holds what it held."""
    for page in PAGES:
        tier.visit(page)
    gone = MEMBERS[3]
    own = {page for page in PAGES if tier.holders(page) == [gone.id]}
    tier.ready = ReadySet([member for member in MEMBERS if member is not gone])
    assert {page for page in PAGES if not tier.visit(page)} == own
    assert 0 < len(own) < len(PAGES) / 4
    tier.ready = ReadySet(MEMBERS)
    assert all(tier.visit(page) for page in PAGES)


def test_a_hot_page_spills_to_the_next_and_no_other_does(tier):
    """A page for which many ask at once stands in the caches next in its order, as many as its load takes."""
    for page in PAGES:
        tier.visit(page)
    hot = [tier.ask("/0")[0] for _ in range(8)]
    assert len(tier.holders("/0")) == 2
    assert set(tier.holders("/0")) == {member.id for member in hot}
    for member in hot:
        tier.strategy.finished(member, Outcome.success())
    assert all(tier.visit(page) for page in PAGES)
    assert {page for page in PAGES if len(tier.holders(page)) > 1} == {"/0"}
