"""The hash ring under threads: readers take no lock, and never meet half a change."""

from __future__ import annotations

import sys
import threading

import pytest

from replicated.ring import HashRing

KEYS = [f"user:{number}" for number in range(500)]


@pytest.fixture
def _switching():
    """Threads that take turns every few bytecodes."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_switching")
def test_readers_see_the_ring_before_or_after():
    """While nodes come and go each answer is that of a ring that was, and nothing is raised."""
    stable = [f"n{number}" for number in range(5)]
    small, large = HashRing(stable, vnodes=60), HashRing([*stable, "x", "y"], vnodes=60)
    right = {
        key: ({small.owner(key), large.owner(key)}, {tuple(small.walk(key)), tuple(large.walk(key))})
        for key in KEYS
    }
    ring = HashRing(stable, vnodes=60)
    done = threading.Event()
    wrong: list[object] = []

    def read():
        try:
            for _ in range(10):
                for key, (owners, orders) in right.items():
                    if ring.owner(key) not in owners or tuple(ring.walk(key)) not in orders:
                        wrong.append(key)
                shares = ring.shares()
                if sum(shares.values()) != 1 or len(shares) not in (5, 7):
                    wrong.append(shares)
        except Exception as error:
            wrong.append(error)

    def write():
        while not done.is_set():
            ring.replace([*stable, "x", "y"])
            ring.replace(stable)

    readers = [threading.Thread(target=read) for _ in range(4)]
    writer = threading.Thread(target=write)
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    done.set()
    writer.join()
    assert wrong == []


@pytest.mark.usefixtures("_switching")
def test_writers_lose_nothing():
    """Of many threads that add and remove, each change is there at the end."""
    ring = HashRing(["keep", *(f"old{number}" for number in range(8))], vnodes=20)

    def change(number):
        ring.add(f"new{number}")
        ring.remove(f"old{number}")
        ring.reweight(f"new{number}", 2)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    members = {"keep": 1, **{f"new{number}": 2 for number in range(8)}}
    assert ring == HashRing(members, vnodes=20)


def test_a_walk_goes_on_over_what_it_began_with():
    """A walk that is under way does not notice a change."""
    ring = HashRing(["a", "b", "c"], vnodes=10)
    order = list(ring.walk("k"))
    walk = ring.walk("k")
    first = next(walk)
    ring.replace(["z"])
    assert [first, *walk] == order
