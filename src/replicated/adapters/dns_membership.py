"""Who the members are, as DNS says: the addresses of a name, or its SRV records with weights and priorities.

An answer holds for its TTL, between a floor and a ceiling. In place of one that is empty, that failed or is
garbage stands the last good one, and it is said why. Who can serve is known to others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from ..clock import Clock, monotonic
from ..errors import MissingExtra
from ..readiness import ReadinessTracker
from ..replica import Replica
from .membership import Reading

try:
    import dns.asyncresolver
    import dns.exception
    import dns.name
    import dns.resolver
except ImportError:
    raise MissingExtra(__name__, "dns") from None

if TYPE_CHECKING:
    from dns.resolver import Answer

__all__ = ["DnsMembers", "Resolver", "SrvMembers"]

T = TypeVar("T")


class Resolver(Protocol):
    """What is needed of a ``dns.asyncresolver.Resolver``."""

    async def resolve(self, qname: str, rdtype: str, *, lifetime: float, raise_on_no_answer: bool) -> Answer:
        """Return the answer to one question; dnspython's exceptions where it failed."""
        ...


class DnsMembers:
    """The addresses of a name, one replica each, known by address and port: ``10.0.0.7:8080``.

    A and AAAA are asked for at the same time. Where one of them fails, its last good answer stands in.

    Args:
        name: The name, such as ``app.internal``.
        port: Where each of them listens.
        scheme: ``http`` or ``https``. A certificate is checked against the address, which few carry.
        types: Which addresses to ask for: ``("A", "AAAA")`` or one of the two.
        min_ttl: Seconds that an answer holds at least, also before a failure is asked about again.
        max_ttl: Seconds that it holds at most.
        timeout: Seconds that one look-up may take, all its tries together.
        resolver: Who is asked; by default the servers of the machine's own configuration.
        clock: Seconds, monotonic.

    Raises:
        ValueError: An argument is out of its range, or ``name`` is not a name.
    """

    heeds_readiness = False

    def __init__(
        self,
        name: str,
        *,
        port: int = 80,
        scheme: str = "http",
        types: Sequence[str] = ("A", "AAAA"),
        min_ttl: float = 5.0,
        max_ttl: float = 300.0,
        timeout: float = 5.0,
        resolver: Resolver | None = None,
        clock: Clock = monotonic,
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            raise ValueError(f"port must be from 1 to 65535, not {port!r}")
        if not types or isinstance(types, str) or not {*types} <= {"A", "AAAA"}:
            raise ValueError(f"types must be of 'A' and 'AAAA', not {types!r}")
        self._port = port
        self._look_up = LookUp(
            name,
            tuple(types),
            address_of,
            min_ttl=min_ttl,
            max_ttl=max_ttl,
            timeout=timeout,
            resolver=resolver,
            clock=clock,
        )
        self._scheme = checked_scheme(scheme)
        self.retry = min_ttl

    async def read(self, tracker: ReadinessTracker) -> Reading:
        """Return a replica an address. LookupError when none was ever found."""
        hosts, wait, fault = await self._look_up()
        ids = [f"{host}:{self._port}" for host in sorted(set(hosts))]
        return Reading(tuple([Replica(id, f"{self._scheme}://{id}") for id in ids]), wait, fault)

    def __repr__(self) -> str:
        return f"DNS {self._look_up.name}"


class SrvMembers:
    """The targets of a name's SRV records (RFC 2782), known by target and port: ``app-0.internal:8080``.

    The weights are the records'. Of the priorities the first one counts in which somebody is ready; the
    others are members of weight 0 meanwhile, so that they are probed and may step in at once. A target's
    own address is looked up by whoever connects to it.

    Args:
        name: The name, such as ``_http._tcp.app.internal``.
        scheme: ``http`` or ``https``.
        min_ttl, max_ttl, timeout, resolver, clock: As in ``DnsMembers``.

    Raises:
        ValueError: An argument is out of its range, or ``name`` is not a name.
    """

    heeds_readiness = True

    def __init__(
        self,
        name: str,
        *,
        scheme: str = "http",
        min_ttl: float = 5.0,
        max_ttl: float = 300.0,
        timeout: float = 5.0,
        resolver: Resolver | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self._look_up = LookUp(
            name,
            ("SRV",),
            target_of,
            min_ttl=min_ttl,
            max_ttl=max_ttl,
            timeout=timeout,
            resolver=resolver,
            clock=clock,
        )
        self._scheme = checked_scheme(scheme)
        self.retry = min_ttl

    async def read(self, tracker: ReadinessTracker) -> Reading:
        """Return a replica a target. LookupError when none was ever found."""
        targets, wait, fault = await self._look_up()
        # One named twice counts by its best priority, and there by its greatest weight.
        best: dict[str, Target] = {}
        for target in sorted(targets, key=lambda target: (target.id, -target.priority, target.weight)):
            best[target.id] = target
        ready = tracker.ready.by_id
        able = [target.priority for target in best.values() if target.id in ready]
        active = min(able or [target.priority for target in best.values()])
        weights = shares({id: target.weight for id, target in best.items() if target.priority == active})
        replicas = [Replica(id, f"{self._scheme}://{id}", weights.get(id, 0.0)) for id in best]
        return Reading(tuple(replicas), wait, fault)

    def __repr__(self) -> str:
        return f"DNS {self._look_up.name}"


def shares(weights: dict[str, int]) -> dict[str, float]:
    """Return the weights with something in place of zeros, which in SRV mean very little and not nothing.

    By the procedure of RFC 2782 the zeros together get one chance in the sum of the others plus one.
    """
    zeros = sum(not weight for weight in weights.values())
    return {id: float(weight) or 1 / zeros for id, weight in weights.items()}


class Target(NamedTuple):
    """What one SRV record says."""

    id: str
    priority: int
    weight: int


class LookUp(Generic[T]):
    """One name, asked for when what was found before no longer holds.

    Args:
        name: The name.
        types: What to ask for; all types that are due are asked for at the same time.
        parse: What a record says; None where that is nothing of use.
        min_ttl, max_ttl, timeout, resolver, clock: As in ``DnsMembers``.
    """

    def __init__(
        self,
        name: str,
        types: Sequence[str],
        parse: Callable[[Any], T | None],
        *,
        min_ttl: float,
        max_ttl: float,
        timeout: float,
        resolver: Resolver | None,
        clock: Clock,
    ) -> None:
        for argument, value in (("min_ttl", min_ttl), ("max_ttl", max_ttl), ("timeout", timeout)):
            if isinstance(value, bool) or not 0 < value < math.inf:
                raise ValueError(f"{argument} must be above 0 seconds, finite, not {value!r}")
        if max_ttl < min_ttl:
            raise ValueError(f"max_ttl must be at least min_ttl ({min_ttl} s), not {max_ttl!r}")
        try:
            dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError) as error:
            raise ValueError(f"name must be a name in DNS, not {name!r}: {error}") from None
        self.name = name
        self.types = types
        self.parse = parse
        self.min_ttl = min_ttl
        self.max_ttl = max_ttl
        self.timeout = timeout
        self.resolver = dns.asyncresolver.Resolver() if resolver is None else resolver
        self.clock = clock
        self._found: dict[str, tuple[T, ...]] = {}
        self._faults: dict[str, str] = {}
        self._until = dict.fromkeys(types, -math.inf)
        self._last: tuple[T, ...] = ()

    async def __call__(self) -> tuple[tuple[T, ...], float, str]:
        """Return what the records say, for how long, and why they are old ones where they are.

        Raises:
            LookupError: Nothing was ever found.
        """
        now = self.clock()
        await asyncio.gather(*[self._ask(type, now) for type in self.types if self._until[type] <= now])
        found = tuple([one for records in self._found.values() for one in records])
        fault = "; ".join([f"{type}: {why}" for type, why in self._faults.items()])
        if found:
            self._last = found
        else:
            # Whoever answered so is asked again soon, whatever TTL nothing has.
            self._until = dict.fromkeys(self.types, now + self.min_ttl)
            fault = fault or "no records"
            if not self._last:
                raise LookupError(fault)
        return self._last, min(self._until.values()) - now, fault

    async def _ask(self, type: str, now: float) -> None:
        # Also after a failure the next question waits: who reads often must not ask a sick server often.
        self._until[type] = now + self.min_ttl
        try:
            answer = await self.resolver.resolve(
                self.name, type, lifetime=self.timeout, raise_on_no_answer=False
            )
            records = [self.parse(record) for record in answer]
            ttl = answer.chaining_result.minimum_ttl  # of the aliases on the way as well
        except dns.exception.Timeout:
            self._faults[type] = f"no answer within {self.timeout:g} s"
        except Exception as error:
            self._faults[type] = str(error) or error.__class__.__name__
        else:
            self._faults.pop(type, None)
            self._found[type] = tuple([record for record in records if record is not None])
            self._until[type] = now + min(max(ttl, self.min_ttl), self.max_ttl)


def checked_scheme(scheme: str) -> str:
    if scheme not in ("http", "https"):
        raise ValueError(f"scheme must be http or https, not {scheme!r}")
    return scheme


def address_of(record: Any) -> str:
    return f"[{record.address}]" if ":" in record.address else str(record.address)


def target_of(record: Any) -> Target | None:
    name = record.target.to_text(omit_final_dot=True)
    # RFC 2782: a target of "." means that the service is decidedly not there.
    if record.target == dns.name.root or not record.port:
        return None
    return Target(f"{name}:{record.port}", record.priority, record.weight)
