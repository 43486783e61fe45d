"""Who serves next, as the flags of ``replicated serve`` say: a strategy, what stands around it, and pins.

Composition only, from options that were read already. The secret of pins is read here, from a file or from
the environment: a flag's value would stand in every list of processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from .. import affinity
from ..adapters.proxy.session_pins import SessionPins
from ..adapters.waiting import WaitingRoom
from ..balance import (
    Capped,
    Homes,
    InFlight,
    LeastLoaded,
    PeakEwma,
    PowerOfTwo,
    PreferZone,
    RandomChoice,
    RingHash,
    RoundRobin,
    Strategy,
    Subset,
)
from ..pins import Pins
from ..readiness import OutlierDetector, ProbePolicy, ReadinessTracker, SlowStart
from ..tier import Tier
from .options import LOADS, STRATEGIES, ServeOptions

__all__ = ["SECRET", "Balancing", "balancing", "readiness", "session_pins"]

SECRET = "REPLICATED_PIN_SECRET"
"""The variable that holds the secret of pins, where no file does."""


class Balancing(NamedTuple):
    """A strategy, and what it takes to wait before it."""

    strategy: Strategy
    capped: Capped | None
    options: ServeOptions

    def waiting(self, tier: Tier) -> WaitingRoom | None:
        """Return where requests wait while all replicas of ``tier`` are full; None where none ever is."""
        if self.capped is None:
            return None
        queue = 100 if self.options.queue is None else self.options.queue
        room = WaitingRoom(tier, limit=queue, timeout=self.options.queue_timeout)
        self.capped.on_room = room.call_next
        return room


def balancing(options: ServeOptions) -> Balancing:
    """Return who serves next.

    Raises:
        ValueError: One flag needs another, or goes without it.
    """
    strategy = named(options)
    if options.subset is not None:
        if options.affinity is not None:
            raise ValueError("subset goes without an affinity: each router would keep a key somewhere else")
        if options.subset_as is None:
            raise ValueError("subset needs a name for this router, subset_as: each uses other replicas")
        # Inside of the other two: the nearest of its zone's, and who comes next where all of those are full.
        strategy = Subset(options.subset, options.subset_as, strategy)
    if options.zone is not None:
        strategy = PreferZone(options.zone, strategy)
    if options.max_in_flight is None:
        return Balancing(strategy, None, options)
    capped = Capped(options.max_in_flight, strategy)
    return Balancing(capped, capped, options)


def named(options: ServeOptions) -> Strategy:
    """Return the strategy by its name."""
    if options.affinity is not None and options.strategy != "ring-hash":
        raise ValueError(f"affinity needs the strategy ring-hash: {options.strategy} keeps nobody anywhere")
    if options.strategy == "ring-hash" and options.affinity is None:
        raise ValueError("the strategy ring-hash needs an affinity, such as cookie:session or path")
    if options.bound is not None and options.affinity is None:
        raise ValueError("bound needs an affinity: without one nobody is kept anywhere")
    if options.load not in LOADS:
        raise ValueError(f"load must be one of {', '.join(LOADS)}, not {options.load!r}")
    by_load: dict[str, type[PowerOfTwo | LeastLoaded]] = {
        "power-of-two": PowerOfTwo,
        "least-loaded": LeastLoaded,
    }
    if options.strategy in by_load:
        return by_load[options.strategy](PeakEwma() if options.load == "peak-ewma" else InFlight())
    if options.load != "in-flight":
        raise ValueError(f"load {options.load} is for {' and '.join(by_load)}, not {options.strategy}")
    plain: dict[str, Callable[[], Strategy]] = {"round-robin": RoundRobin, "random": RandomChoice}
    if options.strategy == "ring-hash":
        # Without a bound unless one is asked for: a session that moves is lost, and two caches that share a
        # path allow its client twice. With a bound, four requests of slack: where few are in flight, the
        # bound alone would move a key for its second concurrent request.
        return RingHash(options.bound, slack=0 if options.bound is None else 4)
    if options.strategy not in plain:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {options.strategy!r}")
    return plain[options.strategy]()


def readiness(options: ServeOptions) -> ReadinessTracker:
    """Return who can serve, by probes and by what traffic meets."""
    policy = None
    if options.probe is not None:
        policy = ProbePolicy(
            period=options.probe_period, timeout=options.probe_timeout, failure_threshold=2, jitter=0.1
        )
    # A replica that is tried too early costs one request its first attempt, and a second one is made: hence
    # ejections of 5 s where Envoy has 30.
    outliers = None
    if options.eject_after:
        base = options.eject_for
        outliers = OutlierDetector(options.eject_after, base=base, longest=max(300.0, base))
    return ReadinessTracker(
        policy,
        outliers=outliers,
        slow_start=None if options.slow_start is None else SlowStart(options.slow_start),
        # Only where no probe is good: then it says more of the probe than of those who were ready.
        panic_threshold=1e-9,
    )


def session_pins(options: ServeOptions) -> SessionPins | None:
    """Return what keeps sessions where they began, if that is asked for.

    Raises:
        ValueError: There is no secret, or none that is long enough, or tenants are told by what tells none.
        OSError: The file with the secret cannot be read.
    """
    if options.pin is None:
        return None
    if options.pin_secret is not None:
        secrets = options.pin_secret.read_bytes().split()
    else:
        secrets = os.environb.get(SECRET.encode(), b"").split()
    if not secrets:
        raise ValueError(f"pin needs a secret that all routers share: --pin-secret FILE, or {SECRET}")
    parts = (options.affinity or "").split(",")
    cookies = [part.strip().removeprefix("cookie:") for part in parts if part.strip().startswith("cookie:")]
    return SessionPins(
        Pins(secrets, wall=time.time, ttl=options.pin_ttl, hard=options.pin_hard),
        Homes(keep=options.pin_ttl),
        name=options.pin,
        session=cookies[0] if cookies else None,
        tenant=tenant(options),
    )


def tenant(options: ServeOptions) -> affinity.Affinity | None:
    """Return what tells whose a session is, if there are tenants."""
    by = options.pin_tenant
    if by is None:
        return None
    # One alone: where a header is sent or left out at will, a tenant by host could be named by header.
    if "," in by or not (by == "host" or by.startswith("header:")):
        raise ValueError(f"pin_tenant must be header:NAME or host, not {by!r}")
    return affinity.parse(by)
