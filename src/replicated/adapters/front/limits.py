"""What a front allows its clients: sizes, times and numbers, each with what becomes of those beyond it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from ...http.framing import Limits

__all__ = ["FrontLimits"]


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """What a front allows its clients; times in seconds.

    Times are looked at by one tick of the whole front and not by a timer each, so that a limit can be
    overdrawn by a second, or by a quarter where it is shorter.

    Args:
        request: Sizes of a request; beyond them 414, 431 or 413.
        header_time: For a whole head from its first byte, however steadily it trickles; beyond it 408. Also
            for the first byte of a new connection; then it is closed without a word, as it was without one.
        body_time: A body that is waited for may be silent for so long; beyond it 408.
        write_time: A client that does not read what was written may be so slow for so long; beyond it the
            connection is cut.
        least_rate: Bytes a second below which a body that is waited for, or a reader of a response, uses up
            its time, silent or not: Apache's MinRate of 500.
        keep_alive: An idle connection is closed after so long: nginx's keepalive_timeout of 75.
        half_closed: What may pass between two pieces of a response to a client that has closed its half of
            the connection. Nobody can tell it from one that has left, before something is written to it.
        linger: After an answer to a request that was not read to its end the connection is read for so
            long, so that the client sees the answer and not a reset.
        handshake: For a TLS handshake; beyond it the connection is closed.
        proxy_header: For the header of the PROXY protocol: TCP takes three seconds to send a segment again.
        fresh: At a stop, connections that were accepted and have sent nothing have so long to send a request.
        pipelined: Bytes that may come while a request is being answered; what is beyond them waits in the
            kernel.
        connections: How many there may be at once; beyond them idle ones are closed, or new ones wait in the
            kernel.
        requests: How many one connection may carry; None for any number.

    Raises:
        ValueError: A limit is not above zero, or not finite.
        TypeError: A limit is of the wrong type.
    """

    request: Limits = field(default_factory=Limits)
    header_time: float = 10.0
    body_time: float = 20.0
    write_time: float = 60.0
    least_rate: float = 500.0
    keep_alive: float = 75.0
    half_closed: float = 2.0
    linger: float = 2.0
    handshake: float = 10.0
    proxy_header: float = 3.0
    fresh: float = 1.0
    pipelined: int = 64 * 1024
    connections: int = 10_000
    requests: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.request, Limits):
            raise TypeError(f"request must be Limits, not {self.request!r}")
        for name in [each.name for each in fields(self)][1:]:
            value = getattr(self, name)
            whole = name in ("pipelined", "connections", "requests")
            if name == "requests" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise TypeError(f"{name} must be {'an integer' if whole else 'a number'}, not {value!r}")
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, and finite, not {value!r}")

    @property
    def tick(self) -> float:
        """Seconds from one look at the limits to the next."""
        times = (self.header_time, self.body_time, self.write_time, self.keep_alive, self.half_closed)
        return max(0.005, min(1.0, min(*times, self.linger, self.fresh) / 4))
