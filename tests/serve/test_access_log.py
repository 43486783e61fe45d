"""The access log of a running tier."""

from __future__ import annotations

import json
from typing import Any

import httpx


def test_a_line_for_each_request(serve: Any, backends: Any) -> None:
    """With --access-log each request is a line of JSON, with the replica that answered it."""
    served = serve("--upstream", f"a={backends[0].url}", "--access-log", "stderr")
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"}
    seen = httpx.get(f"{served.url}/x?y=1", headers=headers).text.lower()
    assert all(f"{name}: {value}" in seen for name, value in headers.items())
    event = json.loads(served.process.stderr.readline())
    assert (event["target"], event["status"], event["replica"], event["whole"]) == ("/x?y=1", 200, "a", True)
    assert httpx.request("TRACE", served.url).status_code == 405
    httpx.get(f"{served.url}/livez")
    event = json.loads(served.process.stderr.readline())
    while event["target"] != "/livez":
        event = json.loads(served.process.stderr.readline())
    assert (event["status"], event["replica"]) == (200, "")
