"""What a simulated run amounts to: latencies, load, affinity, refusals; as values, a table, JSON.

Arithmetic over what was recorded, and nothing about how it came about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

__all__ = ["Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one run; shares are fractions, times seconds.

    Attributes:
        requests: Requests that arrived after the warm-up.
        answered: Those that got an answer, at any attempt.
        refused: Those that nobody could serve, or that the throttle refused, at once.
        failed: Those whose last attempt failed.
        retried: Attempts beyond the first.
        mean: Mean latency of the answered ones, from arrival to answer, all attempts included.
        error: Half the width of the 99 % confidence interval of ``mean``, by batch means.
        p50, p99, p999: Quantiles of the same.
        peak_to_mean: The most requests that one replica served, over the mean of all.
        peak_held: The most that one replica had in its hands at a time.
        affinity: Of the requests with a key seen before, the share that went to the replica of the last time.
        seed: What repeats the run.
        seconds: How long it lasted, in virtual time.
        served: Requests by replica.
        percentiles: The latency that each whole percent of the answered ones does not exceed, from 1 to 100.
    """

    requests: int
    answered: int
    refused: int
    failed: int
    retried: int
    mean: float
    error: float
    p50: float
    p99: float
    p999: float
    peak_to_mean: float
    peak_held: int
    affinity: float
    seed: int
    seconds: float
    served: Mapping[str, int]
    percentiles: tuple[float, ...] = ()

    @property
    def refused_share(self) -> float:
        """The fraction of requests that were refused."""
        return self.refused / self.requests if self.requests else 0.0

    @property
    def moved(self) -> float:
        """The fraction of keyed requests that went elsewhere than the time before."""
        return 1 - self.affinity

    def table(self) -> str:
        """Return it as a Markdown table."""
        rows = [
            ("requests", f"{self.requests:,}"),
            ("mean latency", f"{self.mean * 1000:,.1f} ms (± {self.error * 1000:,.1f})"),
            (
                "p50 / p99 / p99.9",
                " / ".join(f"{t * 1000:,.1f}" for t in (self.p50, self.p99, self.p999)) + " ms",
            ),
            ("peak/mean load", f"{self.peak_to_mean:.2f}"),
            ("most held by one replica", f"{self.peak_held:,}"),
            ("affinity", f"{self.affinity:.1%}"),
            ("refused", f"{self.refused_share:.2%}"),
            ("failed", f"{self.failed / self.requests if self.requests else 0.0:.2%}"),
            ("retried", f"{self.retried:,}"),
            ("seed", str(self.seed)),
        ]
        return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows), ""])

    def to_json(self) -> str:
        """Return it as one JSON object."""
        return json.dumps({**asdict(self), "served": dict(self.served)})


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the smallest value that at least ``q`` of ``ordered`` does not exceed; 0.0 of none."""
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)] if ordered else 0.0


def confidence(values: Sequence[float], batches: int = 20) -> float:
    """Return half the width of the 99 % confidence interval of the mean, by the means of batches.

    Latencies that follow each other depend on each other, so their own variance says too little; the means
    of long batches hardly do. 2.861 is Student's t for 19 degrees of freedom (Law and Kelton, batch means).
    """
    size = len(values) // batches
    if not size:
        return math.inf
    means = [math.fsum(values[i * size : (i + 1) * size]) / size for i in range(batches)]
    middle = math.fsum(means) / batches
    deviation = math.sqrt(math.fsum([(mean - middle) ** 2 for mean in means]) / (batches - 1))
    return 2.861 * deviation / math.sqrt(batches)
