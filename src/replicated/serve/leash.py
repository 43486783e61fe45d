"""A command on a leash: `python -m replicated.serve.leash COMMAND...` runs it, and takes it along at the end.

For programs that know nothing of a lifeline. This process holds it for them: when the supervisor is gone,
however it went, the whole group of processes is killed. Signals are passed on, and so is the exit status.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

from .lifeline import hold_lifeline

__all__ = ["main"]

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
NOT_FOUND = 127
"""The exit status by which a shell says that there is no such program."""


def main(command: list[str]) -> int:
    """Run a command until it ends; return its exit status, 128 and more where a signal ended it."""
    hold_lifeline(lambda: os.killpg(0, signal.SIGKILL))
    early: list[int] = []  # signals that come before there is anybody to pass them on to
    running: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: FrameType | None) -> None:
        if running is None:
            early.append(number)
        else:
            running.send_signal(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    try:
        running = subprocess.Popen(command)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror or error}", file=sys.stderr)  # noqa: T201
        return NOT_FOUND
    for missed in early:
        running.send_signal(missed)
    status = running.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
