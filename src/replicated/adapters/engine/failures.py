"""What became of an attempt: who is to blame for it, and what the client is told where no answer came.

Judges; sends nothing, and does not know whether another attempt follows.
"""

from __future__ import annotations

from ...errors import UpstreamError, UpstreamExhausted, UpstreamTimeout
from ...http.fields import find, problem, retry_after
from ...http.message import Headers, Response
from ...http.proxy_status import proxy_status
from ...outcome import Outcome
from ...tier import Unavailable

__all__ = ["blame", "failed", "judge", "unavailable"]


def judge(status: int, headers: Headers, latency: float | None = None) -> Outcome:
    """Say what an answer tells of the replica.

    A 4xx is the client's fault and a 501 an answer; any other 5xx is the replica's, unless it is a tier that
    says so of those behind it.

    Args:
        status: Of the answer.
        headers: Likewise.
        latency: Seconds it took; None for a stream, whose length is no latency.
    """
    if status < 500 or status == 501:
        return Outcome.success(latency)
    if find(headers, b"proxy-status") is not None:
        return Outcome.cancelled(f"status {status} of somebody behind it")
    return Outcome.failure(f"status {status}", latency)


def blame(error: BaseException) -> Outcome:
    """Say whose fault it is that an attempt ended with ``error``."""
    if isinstance(error, UpstreamError) and not isinstance(error, UpstreamExhausted):
        return Outcome.failure(str(error))
    return Outcome.cancelled(type(error).__name__)


def unavailable(decision: Unavailable, pseudonym: bytes) -> Response:
    """Return the answer where nobody can serve."""
    status = proxy_status(pseudonym, error="destination_unavailable")
    wait = (b"retry-after", retry_after(decision.retry_after))
    return problem(503, "no replica can serve", [wait, status])


def failed(error: UpstreamError, pseudonym: bytes, *, harmless: bool) -> Response:
    """Return the answer where a replica failed (RFC 9110, 15.6.3 to 15.6.5).

    Args:
        error: How.
        pseudonym: What this tier calls itself.
        harmless: There are replicas that cannot be reached, and to ask again does no harm.
    """
    status = proxy_status(pseudonym, error=error.kind)
    if isinstance(error, UpstreamTimeout):
        return problem(504, "the replica did not answer in time", [status])
    if harmless:
        return problem(503, "no replica could be reached", [(b"retry-after", b"1"), status])
    return problem(502, "the replica did not answer", [status])
