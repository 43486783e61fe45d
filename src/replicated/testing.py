"""Fakes for those who build on the library: a clock set by hand, scripted probes, a strategy that remembers.

And the contract of a strategy as a test class, to be subclassed by whoever writes one. No I/O, no sleep, no
test framework is imported: the contract asserts, and any runner that collects classes can run it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from .balance import Key, Pick, Strategy, as_strategy
from .outcome import Outcome
from .readiness import ReadinessTracker, ReadySet
from .replica import Replica

__all__ = ["ManualClock", "RecordingStrategy", "ScriptedProbe", "StrategyContract"]


class ManualClock:
    """A clock that stands until it is moved: pass it wherever a ``clock`` is taken.

    Args:
        now: The seconds that it shows at first.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the seconds that it shows."""
        return self.now

    def advance(self, seconds: float) -> float:
        """Move it on by ``seconds`` and return what it shows. ValueError when that is back, or not finite."""
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds must be 0 or more and finite, not {seconds!r}: use set() to go back")
        self.now += seconds
        return self.now

    def set(self, now: float) -> None:
        """Let it show ``now``; also an earlier time, to see what code makes of a clock that was set back."""
        if not math.isfinite(now):
            raise ValueError(f"now must be finite seconds, not {now!r}")
        self.now = now

    def __repr__(self) -> str:
        return f"ManualClock({self.now!r})"


class ScriptedProbe:
    """Answers probes as written down, replica by replica, and drives a tracker with them.

    Args:
        script: By id, the results to give, in order; the last one goes on for ever. Who is not in it is
            always well.

    Attributes:
        asked: The ids probed so far, in order.
    """

    def __init__(self, script: Mapping[str, Iterable[bool]] | None = None) -> None:
        self._script = {id: list(results) for id, results in (script or {}).items()}
        for id, results in self._script.items():
            if not results:
                raise ValueError(f"script must hold at least one result for {id!r}")
        self.asked: list[str] = []

    def __call__(self, replica: Replica) -> bool:
        """Return the next result written down for ``replica``."""
        self.asked.append(replica.id)
        results = self._script.get(replica.id, [True])
        return results.pop(0) if len(results) > 1 else results[0]

    def run(self, tracker: ReadinessTracker, clock: ManualClock, seconds: float) -> None:
        """Let ``seconds`` pass on ``clock``, answering every probe of ``tracker`` the moment it is due."""
        end = clock.now + seconds
        while True:
            for replica in tracker.due():
                tracker.observe(replica, self(replica))
            at = tracker.next_due()
            if at is None or at > end:
                break
            clock.set(max(at, clock.now))
        clock.set(end)
        tracker.tick()


class RecordingStrategy:
    """Picks as another strategy does, or the first, and remembers what it was asked and told.

    Attributes:
        picks: The key of every pick, and the id picked, or None.
        starts: The ids of what was started, in order.
        ends: The ids of what was finished, in order, each with its outcome.
    """

    def __init__(self, strategy: Strategy | Pick | None = None) -> None:
        self._strategy = as_strategy(_first if strategy is None else strategy)
        self.picks: list[tuple[Key, str | None]] = []
        self.starts: list[str] = []
        self.ends: list[tuple[str, Outcome]] = []

    def pick(self, ready: Sequence[Replica], key: Key = None) -> Replica | None:
        """Pick as the other strategy does."""
        replica = self._strategy.pick(ready, key)
        self.picks.append((key, None if replica is None else replica.id))
        return replica

    def started(self, replica: Replica) -> None:
        """Remember a start."""
        self.starts.append(replica.id)
        self._strategy.started(replica)

    def finished(self, replica: Replica, outcome: Outcome) -> None:
        """Remember an end."""
        self.ends.append((replica.id, outcome))
        self._strategy.finished(replica, outcome)

    @property
    def in_flight(self) -> dict[str, int]:
        """What was started and not finished, by id, without zeros."""
        counts: dict[str, int] = {}
        for id in self.starts:
            counts[id] = counts.get(id, 0) + 1
        for id, _ in self.ends:
            counts[id] = counts.get(id, 0) - 1
        return {id: count for id, count in counts.items() if count}


def _first(ready: Sequence[Replica], key: Key = None) -> Replica | None:
    return next((replica for replica in ready if replica.weight), None)


class StrategyContract:
    """The contract of a strategy, as tests: subclass it, and say how to make one.

    ::

        class TestMine(StrategyContract):
            def make(self):
                return Mine()

    Attributes:
        weighted: Whether picks without a key are in proportion to the weights; set it to False for a strategy
            that means to ignore them.
        rounds: How many picks the statistical tests make.
    """

    weighted = True
    rounds = 4000

    def make(self) -> Strategy | Pick:
        """Return a new strategy, or function."""
        raise NotImplementedError("make() must return the strategy to test")

    def strategy(self) -> Strategy:
        """Return what ``make`` made, as a strategy."""
        return as_strategy(self.make())

    def test_nobody(self) -> None:
        """Of nobody, nobody is picked; with a key or without."""
        strategy = self.strategy()
        nobodies: tuple[Sequence[Replica], ...] = ((), [], ReadySet())
        for nobody in nobodies:
            assert strategy.pick(nobody) is None
            assert strategy.pick(nobody, "key") is None

    def test_somebody(self) -> None:
        """The only one is picked, whatever the key: str, bytes, empty, or none."""
        strategy, only = self.strategy(), Replica("only")
        for key in (None, "", b"", "key", b"key"):
            assert strategy.pick(ReadySet([only]), key) is only

    def test_any_sequence_will_do(self) -> None:
        """A plain list or tuple of replicas is served as a ready set is."""
        strategy, replicas = self.strategy(), _replicas(3)
        assert strategy.pick(replicas, "key") in replicas
        assert strategy.pick(tuple(replicas)) in replicas

    def test_weight_zero_is_never_picked(self) -> None:
        """A replica of weight 0 gets nothing, and when all have it nobody is picked."""
        strategy = self.strategy()
        ready = ReadySet([Replica("none", weight=0.0), Replica("some"), Replica("more", weight=2.0)])
        for turn in range(300):
            for key in (None, f"key {turn}"):
                replica = strategy.pick(ready, key)
                assert replica is not None
                assert replica.id != "none"
        assert strategy.pick(ReadySet([Replica("none", weight=0.0)])) is None
        assert strategy.pick(ReadySet([Replica("none", weight=0.0)]), "key") is None

    def test_picks_come_from_the_ready(self) -> None:
        """Whoever is not ready is not picked, however the ready set changes."""
        strategy, replicas = self.strategy(), tuple(_replicas(6))
        for turn in range(200):
            ids = {replica.id for i, replica in enumerate(replicas) if (turn >> (i % 5)) & 1 or i == turn % 6}
            ready = ReadySet.of(replicas, ids, turn)
            replica = strategy.pick(ready, None if turn % 2 else f"key {turn % 7}")
            assert replica in ready

    def test_the_ready_set_stays_as_it_is(self) -> None:
        """A pick changes nothing in what it was given."""
        strategy, replicas = self.strategy(), _replicas(4)
        before = list(replicas)
        for turn in range(20):
            strategy.pick(replicas, f"key {turn}")
        assert replicas == before

    def test_a_missing_key_is_no_constant(self) -> None:
        """Requests without a key, held open, do not pile up on one replica."""
        strategy, ready = self.strategy(), ReadySet(_replicas(4))
        counts = self._held(strategy, ready, 400)
        assert max(counts.values()) <= 200, counts

    def test_weights_mean_what_they_say(self) -> None:
        """Without a key, picks are in proportion to the weights, within five standard deviations."""
        if not self.weighted:
            return
        strategy = self.strategy()
        ready = ReadySet([Replica("a", weight=1.0), Replica("b", weight=2.0), Replica("c", weight=5.0)])
        counts = {"a": 0, "b": 0, "c": 0}
        for _ in range(self.rounds):
            replica = strategy.pick(ready)
            assert replica is not None
            counts[replica.id] += 1
            strategy.started(replica)
            strategy.finished(replica, Outcome.success(0.01))
        for replica in ready:
            share = replica.weight / 8
            spread = 5 * math.sqrt(self.rounds * share * (1 - share))
            assert abs(counts[replica.id] - self.rounds * share) <= spread, counts

    def test_every_end_is_taken(self) -> None:
        """Whatever the outcome, and also when the replica has left, finishing is no error."""
        strategy, ready = self.strategy(), ReadySet(_replicas(3))
        for turn in range(30):
            replica = strategy.pick(ready, f"key {turn}")
            assert replica is not None
            strategy.started(replica)
            strategy.pick(ReadySet(list(ready)[:1]), f"key {turn}")
            outcome = (
                Outcome.success(0.01),
                Outcome.success(),
                Outcome.failure("reset"),
                Outcome.cancelled(),
            )
            strategy.finished(replica, outcome[turn % 4])

    def _held(self, strategy: Strategy, ready: ReadySet, requests: int) -> dict[str, int]:
        counts = dict.fromkeys([replica.id for replica in ready], 0)
        for _ in range(requests):
            replica = strategy.pick(ready)
            assert replica is not None
            strategy.started(replica)
            counts[replica.id] += 1
        return counts


_OUTCOMES = (Outcome.success(0.01), Outcome.success(), Outcome.failure("reset"), Outcome.cancelled())


def _replicas(count: int) -> list[Replica]:
    return [Replica(f"replica-{i}", f"http://replica-{i}.test") for i in range(count)]
