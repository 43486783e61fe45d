"""Proxy-Status: a line of structured fields, whatever the pseudonym."""

from __future__ import annotations

import pytest

from replicated.http.proxy_status import proxy_status


@pytest.mark.parametrize(
    ("pseudonym", "options", "value"),
    [
        (b"edge", {}, b"edge"),
        (b"edge", {"error": "dns_error"}, b"edge; error=dns_error"),
        (b"edge", {"received": 503}, b"edge; received-status=503"),
        (b"a.b:8080/c", {"error": "x", "received": 502}, b"a.b:8080/c; error=x; received-status=502"),
        (b"1st", {"error": "x"}, b'"1st"; error=x'),  # a token begins with a letter
        (b"`tick", {}, b'"`tick"'),
    ],
)
def test_the_line(pseudonym: bytes, options: dict[str, object], value: bytes) -> None:
    """The name is a token where it can be one and else a string, the parameters follow."""
    assert proxy_status(pseudonym, **options) == (b"proxy-status", value)  # type: ignore[arg-type]
