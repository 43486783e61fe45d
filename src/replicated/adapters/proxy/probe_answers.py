"""Answers to those who probe this tier: whether it is alive, and whether it can serve.

Decides what a probe is told. Who asks, and over what, is not known here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ...http.fields import problem
from ...http.message import Handler, Request, Response

__all__ = ["ProbeAnswers"]


class ProbeAnswers:
    """A handler that answers probes itself and has another one answer everything else.

    ``live_path`` answers 200 as long as the event loop runs; ``ready_path`` 200 while the tier can serve and
    503 otherwise, and after ``drain`` always.

    Args:
        inner: Answers everything else.
        ready: Whether the tier can serve; by default it always can.
        live_path: Where to ask whether the process is alive; None answers nowhere.
        ready_path: Where to ask whether it can serve; None answers nowhere.

    Attributes:
        draining: Whether ``drain`` was called.
    """

    def __init__(
        self,
        inner: Handler | None = None,
        *,
        ready: Callable[[], bool] | None = None,
        live_path: str | None = "/livez",
        ready_path: str | None = "/readyz",
    ) -> None:
        self.inner = inner or nobody
        self.ready = ready
        self.live_path = live_path
        self.ready_path = ready_path
        self.draining = False
        self.paths = tuple(path.encode() for path in (live_path, ready_path) if path is not None)

    def drain(self) -> None:
        """Stop being ready; requests are still served."""
        self.draining = True

    @property
    def can_serve(self) -> bool:
        """Whether the readiness path says 200."""
        return not self.draining and (self.ready is None or self.ready())

    def answer(self, method: str, path: str) -> Response | None:
        """Return the answer to a probe; None where it is none."""
        if path not in (self.live_path, self.ready_path):
            return None
        if method not in ("GET", "HEAD"):
            return problem(405, "probes are asked with GET", [(b"allow", b"GET, HEAD")])
        if path == self.ready_path and not self.can_serve:
            return problem(503, "not ready", [(b"retry-after", b"1")])
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", b"3"),
            (b"cache-control", b"no-store"),
        ]
        return Response(200, headers, b"" if method == "HEAD" else b"ok\n")

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Answer a request."""
        if request.target.startswith(self.paths):
            answer = self.answer(request.method, request.path)
            if answer is not None:
                return answer
        return self.inner(request)


def nobody(request: Request) -> Response:
    """Answer where nobody else does."""
    return problem(404, "there is nothing here")
