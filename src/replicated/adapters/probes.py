"""Carries out the probes that a ``ReadinessTracker`` asks for, on one event loop.

When a probe is due and what its answer means is the tracker's to decide. Here it is sent, within its own
deadline, never more than so many at once; and a loop that was stalled does not blame the replicas for it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ..clock import Clock, monotonic
from ..errors import UpstreamError
from ..readiness import ReadinessTracker
from ..replica import Replica
from .engine.origin import authority
from .engine.upstream import Origin, Timeouts, Upstream

__all__ = ["HttpProbe", "Probe", "ProbeLoop", "tcp_probe"]

Probe: TypeAlias = Callable[[Replica], Awaitable[str | None]]
"""Returns None when the replica can serve, else in a few words why not; what it raises counts as such."""

STALL = 0.5
"""Seconds that the loop may be late before it, and not the replica, is held to be slow."""


class HttpProbe:
    """Asks for a path and takes 2xx and 3xx for ready, as Kubernetes does.

    Every probe opens a connection of its own: one kept alive would not notice a listener that is gone.

    Args:
        path: What to ask for.
        host: The Host header to send; the replica's own address by default.
        tls: For replicas at https; by default the system's trust, verified.

    Raises:
        ValueError: ``path`` or ``host`` is not one.
    """

    def __init__(
        self, path: str = "/readyz", *, host: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise ValueError(f"path must begin with a slash and have no spaces, not {path!r}")
        if host is not None and (not host or not host.isascii() or not host.isprintable() or " " in host):
            raise ValueError(f"host must be a host name, not {host!r}")
        self.path = path.encode()
        self.host = host
        # The deadline of the whole probe is the loop's: these only must not come before it.
        timeouts = Timeouts(connect=3600, first_byte=3600, read=3600)
        self.upstream = Upstream(timeouts=timeouts, max_idle=0, tls=tls)

    async def __call__(self, replica: Replica) -> str | None:
        """Probe one replica."""
        origin = Origin.parse(replica.url)
        host = self.host or authority(origin.host, origin.port)
        headers = [(b"host", host.encode()), (b"user-agent", b"replicated-probe"), (b"connection", b"close")]
        try:
            response = await self.upstream.send(origin, "GET", self.path, headers)
        except UpstreamError as error:
            return str(error)
        response.close()
        return None if 200 <= response.status < 400 else f"status {response.status}"


async def tcp_probe(replica: Replica) -> str | None:
    """Take a replica that accepts a connection for ready; for those that do not speak HTTP."""
    origin = Origin.parse(replica.url)
    try:
        _, writer = await asyncio.open_connection(origin.host, origin.port)
    except OSError as error:
        return str(error)
    writer.close()
    return None


class ProbeLoop:
    """Probes what is due, for as long as it runs: ``async with ProbeLoop(tracker, HttpProbe("/readyz")):``.

    Args:
        tracker: Says who is due and is told what came out.
        probe: Carries out one probe.
        concurrency: Probes under way at once.
        clock: The tracker's own.

    Raises:
        ValueError: ``concurrency`` is below 1, or the tracker has no policy.
    """

    def __init__(
        self,
        tracker: ReadinessTracker,
        probe: Probe,
        *,
        concurrency: int = 64,
        clock: Clock = monotonic,
    ) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ValueError(f"concurrency must be an integer of at least 1, not {concurrency!r}")
        if tracker.policy is None:
            raise ValueError("tracker must have a ProbePolicy: without one nobody is probed")
        self.tracker = tracker
        self.probe = probe
        self.timeout = tracker.policy.timeout
        self.clock = clock
        self.slots = asyncio.Semaphore(concurrency)
        self.under_way: set[asyncio.Task[None]] = set()
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Look again at who is due; called when members came or went."""
        self.changed.set()

    async def __aenter__(self) -> ProbeLoop:
        """Start."""
        self.task = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop, and leave no probe behind."""
        assert self.task is not None
        tasks = [self.task, *self.under_way]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self) -> None:
        """Probe what is due, until cancelled."""
        while True:
            self.changed.clear()
            for replica in self.tracker.due():
                await self.slots.acquire()
                task = asyncio.create_task(self.one(replica))
                self.under_way.add(task)
                task.add_done_callback(self.under_way.discard)
            due = self.tracker.next_due()
            # Membership can change from anywhere, so that even with nobody due it is looked at now and then.
            delay = 1.0 if due is None else min(1.0, max(0.0, due - self.clock()))
            try:
                async with asyncio.timeout(delay):
                    await self.changed.wait()
            except TimeoutError:
                pass

    async def one(self, replica: Replica) -> None:
        """Probe one replica and tell the tracker."""
        deadline = self.clock() + self.timeout
        try:
            async with asyncio.timeout(self.timeout):
                failure = await self.probe(replica)
        except TimeoutError:
            if self.clock() - deadline > STALL:
                # The answer may lie unread in the socket: this loop was held up. A lost probe, no verdict.
                return
            failure = f"no answer within {self.timeout:g} s"
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        finally:
            self.slots.release()
        self.tracker.observe(replica, failure is None, reason=failure or "")
        self.changed.set()  # only now is it known when this replica is due again
