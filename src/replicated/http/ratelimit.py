"""The fields RateLimit and RateLimit-Policy: what a client has left, said so that it need not be refused.

As in draft-ietf-httpapi-ratelimit-headers-10. What is left is handed in; on which answers the fields
belong is not known here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ..throttle import Quota
from .message import Headers

__all__ = ["ratelimit_fields", "with_ratelimit"]

MOST = 10**15 - 1
"""The largest integer of a structured field (RFC 9651, 3.3.1)."""

UNPRINTABLE = re.compile(r"[^ -~]")


def ratelimit_fields(quotas: Iterable[Quota]) -> Headers:
    """Return both fields, with a member for each limit; none where there is no limit. O(limits).

    A bucket is no window, so the policy is the strictest window that stays within it: a client that takes
    ``q`` in any ``w`` seconds is never refused. After ``t`` there is a unit more, not all of them: the draft
    wants no Retry-After that is earlier. Times are rounded up, and units down, to whole ones.
    """
    policies, states = [], []
    for quota in quotas:
        name = '"' + UNPRINTABLE.sub("?", quota.name).replace("\\", "\\\\").replace('"', '\\"') + '"'
        policies.append(f"{name};q={min(quota.burst, MOST)};w={max(1, seconds(quota.window))}")
        states.append(f"{name};r={min(quota.remaining, MOST)};t={seconds(quota.more)}")
    if not policies:
        return []
    return [
        (b"ratelimit-policy", ", ".join(policies).encode("ascii")),
        (b"ratelimit", ", ".join(states).encode("ascii")),
    ]


def with_ratelimit(headers: Iterable[tuple[bytes, bytes]], quotas: Iterable[Quota]) -> Headers:
    """Return a response's header with both fields; unchanged where the application has said its own."""
    lines = list(headers)
    if any(name.lower() in (b"ratelimit", b"ratelimit-policy") for name, _ in lines):
        return lines
    return lines + ratelimit_fields(quotas)


def seconds(time: float) -> int:
    return math.ceil(min(time, MOST))
