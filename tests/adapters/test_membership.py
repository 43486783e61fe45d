"""Membership from a source: heard in time, and what is wrong with one never costs a member."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated import ReadinessTracker, Replica
from replicated.adapters.membership import (
    Adopted,
    Kept,
    MembershipEvent,
    MembershipLoop,
    Reading,
    StaticMembers,
)
from replicated.adapters.membership_file import FileMembers, parse_members

A, B = Replica("a", "http://10.0.0.1:80"), Replica("b", "http://10.0.0.2:80")


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await main()

    return asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


class Script:
    """A source that says one thing after the other, the last for ever."""

    heeds_readiness = False
    retry = 0.0

    def __init__(self, *says: Any) -> None:
        self.says = list(says)
        self.asked = 0

    async def read(self, tracker: ReadinessTracker) -> Reading:
        self.asked += 1
        now = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(now, BaseException):
            raise now
        return now if isinstance(now, Reading) else Reading(tuple(now), 0.0)

    def __repr__(self) -> str:
        return "script"


def test_a_list_is_adopted_before_the_block_begins() -> None:
    """A program starts with its members."""

    async def main() -> None:
        tracker = ReadinessTracker()
        async with MembershipLoop(tracker, StaticMembers([A, B])) as loop:
            assert tracker.members == (A, B)
            assert loop.last == Adopted("a list of 2", (A, B))
        assert tracker.members == (A, B)

    run(main)
    with pytest.raises(ValueError, match="at least one"):
        StaticMembers([])


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (ValueError("garbage"), "garbage"),
        (OSError(), "OSError"),
        ((), "names no replicas"),
        ((A, A), "'a'"),
        (Reading((A, B), 0.0, "an old answer"), "an old answer"),
    ],
)
def test_what_is_wrong_costs_no_member(says: Any, reason: str) -> None:
    """Failure, emptiness and contradiction leave the last good members, and an event tells, once."""

    async def main() -> None:
        tracker, heard = ReadinessTracker(), list[MembershipEvent]()
        source = Script([A, B], says)
        async with MembershipLoop(tracker, source, on_event=heard.append):
            await until(lambda: source.asked > 5)
        assert tracker.members == (A, B)
        first, second = heard
        assert first == Adopted("script", (A, B))
        assert isinstance(second, Kept)
        assert (second.source, second.members) == ("script", 2)
        assert reason in second.reason

    run(main)


def test_a_source_that_recovers_is_heard_again() -> None:
    """After news that could not be used, the next good ones count; so they do after a bad start."""

    async def main() -> None:
        tracker, heard = ReadinessTracker(), list[MembershipEvent]()
        source = Script(OSError("down"), [A], OSError("down"), [A, B])
        async with MembershipLoop(tracker, source, on_event=heard.append):
            assert tracker.members == ()
            await until(lambda: tracker.members == (A, B))
        assert [type(event) for event in heard] == [Kept, Adopted, Kept, Adopted]

    run(main)


def test_a_listener_that_raises_ends_nothing() -> None:
    """What ``on_event`` raises is logged, and the loop goes on."""

    async def main() -> None:
        def refuse(event: MembershipEvent) -> None:
            raise RuntimeError("no")

        tracker = ReadinessTracker()
        async with MembershipLoop(tracker, Script([A], [A, B]), on_event=refuse):
            await until(lambda: tracker.members == (A, B))

    run(main)


def test_a_loop_leaves_nothing_behind() -> None:
    """Leaving the block, also while the source is being asked, ends the task."""

    async def main() -> None:
        class Slow(Script):
            async def read(self, tracker: ReadinessTracker) -> Reading:
                reading = await super().read(tracker)
                if self.asked > 1:
                    await asyncio.Event().wait()
                return reading

        source = Slow([A])
        async with MembershipLoop(ReadinessTracker(), source):
            await until(lambda: source.asked == 2)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_a_cancelled_start_starts_nothing() -> None:
    """Who is cancelled while the source is asked for the first time has no loop, and no task runs on."""

    async def main() -> None:
        class Silent(Script):
            async def read(self, tracker: ReadinessTracker) -> Reading:
                await asyncio.Event().wait()
                raise AssertionError

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), MembershipLoop(ReadinessTracker(), Silent([A])):
                raise AssertionError
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_a_source_that_heeds_readiness_is_asked_when_it_changes() -> None:
    """A change in another thread is heard as well, and nothing is heard after the end."""

    async def main() -> None:
        class Heeding(Script):
            heeds_readiness = True

        source, tracker = Heeding(Reading((A, B), math.inf)), ReadinessTracker()
        async with MembershipLoop(tracker, source):
            await asyncio.to_thread(tracker.drain, "a")
            await until(lambda: source.asked >= 2)
        asked = source.asked
        tracker.undrain("a")
        await asyncio.sleep(0)
        assert source.asked == asked

    run(main)


LINES = """
# the fleet
http://10.0.0.1:8080
b=http://10.0.0.2:8080/  weight=2 zone=eu incarnation=7  # new
"""
JSON = (
    '[{"url": "http://10.0.0.1:8080"}, {"id": "b", "url": "http://10.0.0.2:8080", "weight": 2, "zone": "eu", \
"incarnation": "7"}]'
)
TOML = """
[[replicas]]
url = "http://10.0.0.1:8080"
[[replicas]]
id = "b"
url = "http://10.0.0.2:8080"
weight = 2
zone = "eu"
incarnation = "7"
"""


@pytest.mark.parametrize(
    ("text", "suffix"), [(LINES, ""), (JSON, ".json"), (f'{{"replicas": {JSON}}}', ".json"), (TOML, ".toml")]
)
def test_three_ways_to_write_it(text: str, suffix: str) -> None:
    """Lines, JSON and TOML say the same; without an id a replica is known by host and port."""
    assert parse_members(text, suffix) == (
        Replica("10.0.0.1:8080", "http://10.0.0.1:8080"),
        Replica("b", "http://10.0.0.2:8080", 2, "eu", "7"),
    )


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        ("", "", "no replicas"),
        ("# none\n", "", "no replicas"),
        ("[]", ".json", "no replicas"),
        ('{"replica": []}', ".json", "no replicas"),
        ('"http://a"', ".json", "no replicas"),
        ("", ".toml", "no replicas"),
        ("[[replicas]", ".toml", "Expected"),
        ("{", ".json", "Expecting"),
        ('["http://a"]', ".json", "must have a url"),
        ('[{"id": "a"}]', ".json", "url must be"),
        ('[{"url": 7}]', ".json", "url must be a text, not 7"),
        ('[{"url": "http://a", "weight": "2"}]', ".json", "weight must be a number"),
        ('[{"url": "http://a", "weight": -1}]', ".json", "weight must be finite"),
        ('[{"url": "http://a", "colour": 1}]', ".json", "no 'colour'"),
        ("http://a\nhttp://a", "", "two replicas are called 'a:80'"),
        ("a", "", "url must be"),
        ("http://a\nb=http://b weight=heavy", "", "line 2: .*heavy"),
        ("http://a 'b", "", "line 1: No closing"),
        ("http://a/b", "", "origin alone"),
        ("http://a\nht", "", "url must be"),
    ],
)
def test_a_file_that_is_wrong_says_so(text: str, suffix: str, message: str) -> None:
    """Anything wrong in it makes the whole of it a ValueError that names what."""
    with pytest.raises(ValueError, match=message):
        parse_members(text, suffix)


@given(st.text(), st.sampled_from(["", ".json", ".toml"]))
def test_any_text_is_members_or_a_valueerror(text: str, suffix: str) -> None:
    """Garbage raises nothing but ValueError."""
    with contextlib.suppress(ValueError):
        assert parse_members(text, suffix)


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """Written in place or replaced, it is noticed; while it is bad or gone, the last good members stay."""

    async def main() -> None:
        file, other = tmp_path / "members", tmp_path / "other"
        tracker = ReadinessTracker()
        async with MembershipLoop(tracker, FileMembers(file, period=0.002)) as loop:
            assert isinstance(loop.last, Kept)
            file.write_text("a=http://10.0.0.1:80")
            await until(lambda: tracker.members == (A,))
            other.write_text("a=http://10.0.0.1:80\nb=http://10.0.0.2:80")
            os.replace(other, file)
            await until(lambda: tracker.members == (A, B))
            file.write_text("a=http://10.0.0.1:80\ngarbage")
            await until(lambda: isinstance(loop.last, Kept))
            assert loop.last == Kept(str(file), loop.last.reason, 2)
            file.unlink()
            await until(lambda: isinstance(loop.last, Kept) and "No such file" in loop.last.reason)
            assert tracker.members == (A, B)
            file.write_text("b=http://10.0.0.2:80")
            await until(lambda: tracker.members == (B,))

    run(main)


def test_a_file_that_did_not_change_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look costs a stat."""
    file = tmp_path / "members"
    file.write_text("a=http://10.0.0.1:80")
    source, tracker = FileMembers(file, period=3.0), ReadinessTracker()
    first = asyncio.run(source.read(tracker))  # type: ignore[arg-type]
    monkeypatch.setattr(Path, "read_text", None)
    assert asyncio.run(source.read(tracker)) == first == Reading((A,), 3.0)  # type: ignore[arg-type]


def test_half_a_file_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes while it is read is not believed: half of a list is a good list, too short."""
    file = tmp_path / "members"
    whole = "a=http://10.0.0.1:80\nb=http://10.0.0.2:80"
    file.write_text("a=http://10.0.0.1:80\n")
    read = Path.read_text

    def slowly(path: Path, encoding: str) -> str:
        text = read(path, encoding)
        file.write_text(whole)
        return text

    source, tracker = FileMembers(file), ReadinessTracker()
    monkeypatch.setattr(Path, "read_text", slowly)
    with pytest.raises(ValueError, match="being written"):
        asyncio.run(source.read(tracker))  # type: ignore[arg-type]
    monkeypatch.setattr(Path, "read_text", read)
    assert asyncio.run(source.read(tracker)).replicas == (A, B)  # type: ignore[arg-type]


@pytest.mark.parametrize("period", [0, -1, math.inf, math.nan, True])
def test_a_period_that_cannot_be_is_refused(period: float) -> None:
    """Seconds above 0, finite."""
    with pytest.raises(ValueError, match="period must be above 0"):
        FileMembers("members", period=period)
