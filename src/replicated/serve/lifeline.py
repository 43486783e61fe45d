"""How a process learns that whoever started it is gone: it reads a pipe that only that one can write.

The kernel closes the writing end even when its holder dies by SIGKILL; the reader sees the end of file, and
ends too. This is the child's side; it knows nothing of who holds the other end.

Why not `PR_SET_PDEATHSIG`: only Linux has it, and it fires when the parent's *thread* ends.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable

__all__ = ["LIFELINE", "hold_lifeline"]

LIFELINE = "REPLICATED_LIFELINE"
"""The environment variable that tells a child the number of its lifeline's file descriptor."""


def end_at_once() -> None:
    """End this process without cleaning up, since nobody is left to whom it would matter."""
    os._exit(1)


def hold_lifeline(then: Callable[[], object] = end_at_once) -> bool:
    """End this process as soon as the supervisor that started it is gone, however it went.

    Call it early in a child's `main`. It starts a daemon thread, which waits for that.

    Args:
        then: What to do when the supervisor is gone.

    Returns:
        Whether there is a lifeline. A process started by hand has none, and lives on its own.
    """
    # Taken out of the environment: a grandchild does not inherit the descriptor, where another file may
    # stand under the same number.
    number = os.environ.pop(LIFELINE, "")
    if not number.isascii() or not number.isdigit():
        return False
    lifeline = int(number)
    try:
        if not stat.S_ISFIFO(os.fstat(lifeline).st_mode):
            return False
        os.set_inheritable(lifeline, False)
    except OSError:
        return False
    threading.Thread(target=_end_with, args=(lifeline, then), name="lifeline", daemon=True).start()
    return True


def _end_with(lifeline: int, then: Callable[[], object]) -> None:
    while os.read(lifeline, 1):
        pass  # nobody writes; whoever did would not mean the end
    then()
