"""The fault board in short: no fault of a replica is any client's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import replicated

BOARD = Path(__file__).with_name("board.py")
FAULTS = [
    "killed idle", "killed mid-body", "stopped", "ten times slower", "hanging", "resetting", "half 503",
    "readiness flapping", "all probes failing", "all down", "rolling SIGTERM", "rolling SIGKILL",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """Every fault, four beside each other: a second long, within two and a half seconds of load."""
    # The package that is tested, wherever it was imported from.
    path = os.pathsep.join([str(Path(replicated.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(BOARD), "--brief", "--at-once", "4", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return {row["fault"]: row for row in json.loads(done.stdout)}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost(rows: dict[str, dict[str, Any]], fault: str) -> None:
    """Every request is answered as if nothing had happened, at no more than 1.1 attempts a request."""
    row = rows[fault]
    assert row["sent"] == 375
    assert row["lost"] == 0, row
    assert row["attempts"] <= 1.1, row


def test_the_board_has_all_faults(rows: dict[str, dict[str, Any]]) -> None:
    """What the board plays is what is judged here."""
    assert list(rows) == FAULTS
