"""The operator's socket: figures as Prometheus reads them, replicas with reasons, and PURGE."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families


def ask(address: Any, method: bytes, target: bytes, *lines: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, header and body of the answer."""
    with socket.create_connection(address, 5) as sock:
        sock.sendall(b"\r\n".join([b"%b %b HTTP/1.0" % (method, target), b"host: service", *lines, b"", b""]))
        head, _, body = sock.makefile("rb").read().partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    return int(first.split()[1]), dict(line.lower().split(b": ", 1) for line in fields), body


def figures(address: Any) -> dict[str, float]:
    """Return what /metrics says, each sample by its name and labels."""
    status, fields, body = ask(address, b"GET", b"/metrics")
    assert (status, fields[b"content-type"]) == (200, b"text/plain; version=0.0.4; charset=utf-8")
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def edge(make_edge: Any) -> Any:
    """An edge with everything on."""
    return make_edge("--cache", "1MiB", "--throttle", "1000/s", "--admin", "127.0.0.1:0")


def test_figures(edge: Any) -> None:
    """What was asked, answered, kept and attempted is counted, and grows."""
    admin = edge.other("admin at")
    before = figures(admin)
    for target in (b"/big", b"/big", b"/", b"/early-close"):
        ask(edge.address, b"GET", target)
    after = figures(admin)
    [name] = {key.partition("replica=")[2] for key in after if key.startswith("replicated_replica_serves")}

    def grown(key: str) -> float:
        return after[key] - before.get(key, 0)

    assert grown("replicated_responses_total code=200") == 3
    assert grown("replicated_responses_total code=502") == 1
    assert grown("replicated_response_seconds_count") == 4
    assert grown("replicated_response_seconds_bucket le=+Inf") == 4
    assert after["replicated_response_seconds_sum"] > before["replicated_response_seconds_sum"]
    assert grown("replicated_cache_hits_total") == 1
    assert grown(f"replicated_attempts_total replica={name} verdict=ok") == 2
    assert grown(f"replicated_attempts_total replica={name} verdict=failed") >= 1
    assert after[f"replicated_attempts_in_flight replica={name}"] == 0
    assert after[f"replicated_replica_serves replica={name}"] == 1
    assert after[f"replicated_replica_state replica={name} state=ready"] == 1
    assert after["replicated_cache_entries"] == 1
    assert 10_000 < after["replicated_cache_bytes"] < after["replicated_cache_max_bytes"] == 2**20
    assert after["replicated_throttle_keys"] >= 1
    assert after["replicated_throttle_refused_total"] == 0
    assert after["replicated_panic"] == 0
    assert after["replicated_connections"] >= 0


def test_replicas(edge: Any) -> None:
    """Each replica is told with its state and the sentence that explains it."""
    status, fields, body = ask(edge.other("admin at"), b"GET", b"/replicas")
    assert (status, fields[b"content-type"]) == (200, b"application/json")
    [replica] = json.loads(body)
    assert (replica["url"], replica["state"], replica["serves"]) == (edge.recorder.url, "ready", True)
    assert replica["in_flight"] == 0
    assert replica["why"].startswith(replica["id"] + " is ready")


def test_purge(edge: Any) -> None:
    """PURGE is for who reaches this socket; at the edge itself it is for nobody."""
    admin = edge.other("admin at")
    ask(edge.address, b"GET", b"/big")
    assert ask(edge.address, b"PURGE", b"/big")[0] == 405
    assert json.loads(ask(admin, b"PURGE", b"/big")[2]) == {"purged": 1}
    assert json.loads(ask(admin, b"PURGE", b"/big")[2]) == {"purged": 0}


def test_what_is_not_there(edge: Any, plain: Any) -> None:
    """Other paths and methods are refused, HEAD has no body, and without a cache nothing is purged."""
    admin = edge.other("admin at")
    assert ask(admin, b"GET", b"/")[0] == 404
    assert ask(admin, b"POST", b"/metrics", b"content-length: 0")[0] == 405
    assert ask(admin, b"HEAD", b"/metrics")[2] == b""
    address = plain.other("admin at")
    assert address[0] == "127.0.0.1"
    assert ask(address, b"PURGE", b"/")[0] == 404
    assert not any(
        name.startswith(("replicated_cache_b", "replicated_throttle")) for name in figures(address)
    )
