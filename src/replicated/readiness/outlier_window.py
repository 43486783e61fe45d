"""Who stands out over a window of traffic: by the share of its failures, or against what the others do.

Arithmetic over counts. When a window ends, and whether who stands out may be taken out, is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from .arguments import count, fraction, number

__all__ = ["FailureShare", "SuccessRate", "WindowRule"]


class WindowRule(Protocol):
    """Says who stands out in one window."""

    def outliers(self, counts: Mapping[str, tuple[int, int]]) -> dict[str, str]:
        """Return the ids that stand out, each with why, given good and bad outcomes by id."""
        ...


@dataclass(frozen=True, slots=True)
class FailureShare:
    """A replica stands out when so large a share of its requests failed (Envoy's failure percentage).

    Args:
        share: The fraction of failures from which on it does; Envoy's 85 percent.
        volume: Requests in the window below which nothing is concluded of a replica; Envoy's 50.
        hosts: How many replicas must have had that volume; Envoy's 5.

    Raises:
        ValueError: One of them is out of its range.
    """

    share: float = 0.85
    volume: int = 50
    hosts: int = 5

    def __post_init__(self) -> None:
        fraction("share", self.share)
        count("volume", self.volume, least=1)
        count("hosts", self.hosts, least=1)

    def outliers(self, counts: Mapping[str, tuple[int, int]]) -> dict[str, str]:
        """Return who failed too often, with the share."""
        judged = {id: bad / (good + bad) for id, (good, bad) in counts.items() if good + bad >= self.volume}
        if len(judged) < self.hosts:
            return {}
        return {
            id: f"{share:.0%} of its requests failed" for id, share in judged.items() if share >= self.share
        }


@dataclass(frozen=True, slots=True)
class SuccessRate:
    """A replica stands out when its success rate is far below the mean of all (Envoy's success rate).

    Far is ``deviations`` standard deviations of the rates: when all fail alike, nobody stands out.

    Args:
        deviations: Envoy's 1.9.
        volume: Requests in the window below which a replica is left out of it; Envoy's 100.
        hosts: How many replicas must have had that volume; Envoy's 5.

    Raises:
        ValueError: One of them is out of its range.
    """

    deviations: float = 1.9
    volume: int = 100
    hosts: int = 5

    def __post_init__(self) -> None:
        if not 0 < number("deviations", self.deviations) < math.inf:
            raise ValueError(f"deviations must be above 0 and finite, not {self.deviations!r}")
        count("volume", self.volume, least=1)
        count("hosts", self.hosts, least=1)

    def outliers(self, counts: Mapping[str, tuple[int, int]]) -> dict[str, str]:
        """Return who succeeded too rarely, with its rate and the limit."""
        rates = {id: good / (good + bad) for id, (good, bad) in counts.items() if good + bad >= self.volume}
        if len(rates) < self.hosts:
            return {}
        mean = math.fsum(rates.values()) / len(rates)
        variance = math.fsum([(rate - mean) ** 2 for rate in rates.values()]) / len(rates)
        limit = mean - self.deviations * math.sqrt(variance)
        why = f"of its requests succeeded, less than {limit:.0%} as the others have it"
        return {id: f"{rate:.0%} {why}" for id, rate in rates.items() if rate < limit}
