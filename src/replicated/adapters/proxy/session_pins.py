"""The cookie that keeps a session where it began, for those sessions alone that would move without one.

It turns request and response headers into pins and back. Where a session began is said by ``Homes``, what a
token is worth by ``Pins``, and whether a pin can be kept by the tier.
"""

from __future__ import annotations

from typing import NamedTuple

from ...affinity import Facts, cookie
from ...balance import Homes
from ...http.message import Headers
from ...pins import Pin, Pins
from ...readiness import ReadySet

__all__ = ["SessionPins", "Stay"]


class Stay(NamedTuple):
    """Where a request is to go for its session's sake.

    Attributes:
        pin: To whom, if anywhere.
        pinned: Whether the client said so, rather than the tables.
    """

    pin: Pin | None
    pinned: bool


class SessionPins:
    """Reads the pin of a request, and says which cookie its response needs.

    Args:
        pins: Makes and reads tokens.
        homes: Knows where sessions began that have none.
        name: The cookie that carries a token.
        session: The cookie that is the session. A response that sets it begins one, which then is told from
            those that began before the members changed. None where sessions are told by something else: then
            all count as such, for as long as ``homes`` keeps a table.

    Raises:
        ValueError: ``name`` cannot be the name of a cookie.
    """

    def __init__(self, pins: Pins, homes: Homes, *, name: str = "replicated-pin", session: str | None = None):
        self.pins = pins
        self.homes = homes
        self.name = name
        self.session = None if session is None else session.encode("latin-1")
        self._token = cookie(name)

    def stay(self, ready: ReadySet, key: str, headers: Headers) -> Stay:
        """Return where the request of a session is to go."""
        token = self._token(Facts(headers=headers))
        pin = None if token is None else self.pins.read(token, key)
        if pin is not None:
            return Stay(pin, True)
        home = self.homes.home(ready, key)
        return Stay(None if home is None else Pin(home, self.pins.hard), False)

    def fields(
        self,
        ready: ReadySet,
        key: str | None,
        stay: Stay,
        served: str,
        answer: Headers,
        *,
        secure: bool,
    ) -> Headers:
        """Return the lines that a response is to carry on top of ``answer``, its own; most need none.

        Args:
            ready: What was picked from.
            key: The session of the request; None where it had none.
            stay: What ``stay`` said of it.
            served: The id of the replica that answered.
            answer: The header lines of the response.
            secure: Whether the client came over TLS.
        """
        begun = self._begun(answer)
        if begun is not None and begun != key:
            home = self.homes.beginning(ready, begun)
            return [] if home is None else self._lines(begun, home, secure)
        if key is None or not self.homes.differs(ready, key, served, pinned=stay.pinned):
            return []
        return self._lines(key, served, secure)

    def _begun(self, answer: Headers) -> str | None:
        if self.session is not None:
            for field, line in answer:
                if field == b"set-cookie":
                    name, _, value = line.partition(b";")[0].partition(b"=")
                    if name.strip() == self.session and (value := value.strip()):
                        return value.decode("latin-1")
        return None

    def _lines(self, key: str, replica_id: str, secure: bool) -> Headers:
        text = (
            f"{self.name}={self.pins.issue(key, replica_id)}; Path=/; Max-Age={self.pins.ttl:.0f}; HttpOnly"
        )
        text += "; SameSite=Lax; Secure" if secure else "; SameSite=Lax"
        # Nobody else's: a shared cache on the way must not give it to others.
        return [(b"set-cookie", text.encode("latin-1")), (b"cache-control", b"private")]
