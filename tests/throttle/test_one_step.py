"""What lets a take do without a lock holds on the interpreter that runs this."""

from __future__ import annotations

import dis
import threading
from collections.abc import Callable

import pytest

from replicated.one_step import ATOMIC, is_plain, locked
from replicated.throttle import Throttle, TokenBucket
from replicated.throttle.debts import Debts

LETS_IN = ("CALL", "PRECALL", "JUMP_BACKWARD", "RESUME", "FOR_ITER", "SEND", "YIELD", "IMPORT", "BEFORE_WITH")


def kind(instruction: dis.Instruction) -> str:
    """Whether an instruction reads or writes what threads share, or may let another of them in."""
    name, shared = instruction.opname, instruction.argval in ("_full",)
    if name.startswith("BINARY_SUBSCR") or (name == "BINARY_OP" and instruction.argrepr == "[]"):
        return "read"
    if name.startswith(("STORE_SUBSCR", "DELETE_SUBSCR")) or (name.startswith("STORE_ATTR") and shared):
        return "write"
    if name.startswith("LOAD_ATTR") and shared:
        return "read"
    return "lets in" if name.startswith(LETS_IN) else ""


@pytest.mark.skipif(not ATOMIC, reason="this interpreter takes the lock")
@pytest.mark.parametrize(
    ("method", "writes"),
    [
        (TokenBucket.take, 2),
        (TokenBucket.refund, 1),
        (TokenBucket.reconfigure, 1),
        (Throttle.take, 2),
        (Throttle._take, 1),
        (Throttle.refund, 1),
        (Debts.amend, 1),
        (Debts._turn, 1),
    ],
)
def test_one_step(method: Callable[..., object], writes: int) -> None:
    """From the last read of a debt to its write no instruction lets another thread in."""
    seen = 0
    since_read: list[str] | None = None
    for instruction in dis.get_instructions(method):
        match kind(instruction):
            case "read":
                since_read = []
            case "lets in" if since_read is not None:
                since_read.append(instruction.opname)
            case "write":
                assert since_read == []
                seen += 1
    assert seen == writes


@pytest.mark.parametrize("key", ["a", b"a", 1, 1.5, True, None, ("a", 1), ()])
def test_plain(key: object) -> None:
    """Keys made of built-in values run no Python code when they are hashed and compared."""
    assert is_plain(key)


@pytest.mark.parametrize("key", [object(), type("S", (str,), {})("a"), ("a", ("b",)), frozenset("a")])
def test_not_plain(key: object) -> None:
    """Whatever might run Python code is not taken for plain."""
    assert not is_plain(key)


def test_locked() -> None:
    """A locked method runs under its object's lock and returns what it returned."""

    class Counter:
        def __init__(self) -> None:
            self._lock = threading.Lock()

        @locked
        def held(self, word: str) -> tuple[bool, str]:
            return self._lock.locked(), word

    counter = Counter()
    assert counter.held("a") == (True, "a")
    assert not counter._lock.locked()
