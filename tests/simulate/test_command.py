"""The command: flags become a simulation, its report a table, JSON or a picture."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from replicated.serve.simulate_command import simulate

QUICK = ["--requests", "400", "--replicas", "3", "--rate", "100"]


def run(*flags: str):
    return CliRunner().invoke(simulate, [*QUICK, *flags])


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--strategy", "round-robin", "--slow", "r0=5", "--service", "lognormal:0.01:0.5"],
        ["--strategy", "random", "--service", "constant:0.01", "--workers", "2"],
        ["--strategy", "least-loaded", "--load", "peak-ewma", "--routers", "4"],
        ["--strategy", "ring-hash", "--keys", "50", "--bound", "0"],
        ["--bursts", "900:1:0.2", "--rolling", "1:0.5:0.2"],
        ["--rolling", "1:0.5:0.2:0.1", "--restart", "r0=5:1"],
        ["--strategy", "ring-hash", "--keys", "50", "--bound", "1.5", "--slack", "2", "--slow-start", "2"],
        [
            "--failing",
            "r0=0.5",
            "--slow",
            "r0=2",
            "--outliers",
            "--restart",
            "r1=1:1:0.5",
            "--probe-period",
            "0.5",
        ],
    ],
)
def test_flags_become_a_simulation(flags):
    """Every choice runs, the same seed prints the same, and the table names what was measured."""
    first, second = run(*flags), run(*flags)
    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout
    assert "p50 / p99 / p99.9" in first.stdout


def test_json_and_a_picture(tmp_path):
    """JSON holds the report, and the picture is well-formed SVG."""
    result = run("--json", "--plot", str(tmp_path / "latencies.svg"), "--seed", "9")
    report = json.loads(result.stdout)
    assert report["seed"] == 9
    assert len(report["percentiles"]) == 100
    assert report["percentiles"] == sorted(report["percentiles"])
    assert ElementTree.parse(tmp_path / "latencies.svg").getroot().tag.endswith("svg")


def test_files_of_times(tmp_path):
    """Arrivals and service times are read from files, one number a line."""
    (tmp_path / "arrivals").write_text("0.1\n0.2\n\n0.2\n")
    (tmp_path / "service").write_text("0.01\n")
    flags = ["--trace", str(tmp_path / "arrivals"), "--service", f"@{tmp_path / 'service'}", "--json"]
    assert json.loads(run(*flags).stdout)["answered"] == 3
    (tmp_path / "service").write_text("0.01\nfast\n")
    result = run(*flags)
    assert result.exit_code == 1
    assert "service:2 must be a number of seconds, not 'fast'" in result.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rate", "0"], "rate"),
        (["--service", "pareto:1"], "service must be"),
        (["--service", "exponential"], "service must be"),
        (["--service", "exponential:x"], "service must have numbers"),
        (["--slow", "r9=2"], "'r9'"),
        (["--slow", "2"], "r0=10"),
        (["--restart", "r0=1"], "AT:DOWN"),
        (["--bursts", "900:1"], "RATE:EVERY:LASTING"),
        (["--bursts", "900:1:x"], "must have numbers"),
        (["--bursts", "900:1:2"], "lasting must be at most"),
        (["--rolling", "1:2"], "AT:EVERY:DOWN"),
        (["--strategy", "ring-hash", "--bound", "1"], "bound"),
        (["--service", "@/nowhere"], "nowhere"),
    ],
)
def test_bad_flags(flags, message):
    """A flag that cannot work is one sentence, and no traceback."""
    result = run(*flags)
    assert result.exit_code
    assert message in result.output
    assert "Traceback" not in result.output
