"""Probes are answered, everything else is passed on."""

from __future__ import annotations

import asyncio

import pytest

from replicated.adapters.proxy.probe_answers import ProbeAnswers
from replicated.http.message import Request, Response


async def inner(request: Request) -> Response:
    return Response(299)


def ask(probes: ProbeAnswers, target: bytes, method: str = "GET") -> Response:
    async def story() -> Response:
        return await probes(Request(method, target, [(b"host", b"h")]))

    return asyncio.run(story())


def test_a_probe_is_told() -> None:
    """Alive as long as it answers; ready while it can serve, and never again once it drains."""
    can = [False]
    probes = ProbeAnswers(inner, ready=lambda: can[0])
    assert ask(probes, b"/livez").status == 200
    assert ask(probes, b"/readyz").status == 503
    can[0] = True
    assert ask(probes, b"/readyz?verbose").body == b"ok\n"
    assert ask(probes, b"/readyz", "HEAD").body == b""
    assert ask(probes, b"/readyz", "POST").status == 405
    probes.drain()
    assert probes.draining
    assert ask(probes, b"/readyz").status == 503
    assert ask(probes, b"/livez").status == 200


@pytest.mark.parametrize("target", [b"/", b"/readyzz", b"/livez/x", b"/%6civez"])
def test_everything_else_is_passed_on(target: bytes) -> None:
    """What only begins like a probe is none; without anybody behind it is not found."""
    assert ask(ProbeAnswers(inner), target).status == 299
    assert ask(ProbeAnswers(), target).status == 404
    assert ask(ProbeAnswers(inner, live_path=None, ready_path=None), b"/livez").status == 299
