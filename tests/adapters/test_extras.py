"""An adapter without its extra says which extra to install."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("replicated.adapters.httpx_transport", "httpx httpx2", "httpx"),
        ("replicated.adapters.asgi_websocket", "websockets", "websocket"),
        ("replicated.adapters.async_loader", "anyio", "anyio"),
        ("replicated.adapters.throttle_wait", "anyio", "anyio"),
        ("replicated.adapters.dns_membership", "dns", "dns"),
        ("replicated.adapters.redis_client", "redis", "redis"),
        ("replicated.serve.server", "uvicorn", "serve"),
    ],
)
def test_what_is_missing_is_named(module: str, missing: str, extra: str) -> None:
    """Importing an adapter whose dependency is not installed is one clear error, an ImportError as well."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing.split()!r}))\n"
        "from replicated import MissingExtra\n"
        f"try:\n    import {module}\n"
        "except MissingExtra as error:\n    assert isinstance(error, ImportError); print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"pip install 'replicated-tier[{extra}]'" in done.stdout
