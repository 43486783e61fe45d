"""The cookie that keeps a session where it began, for those sessions alone that would move without one.

It turns request and response headers into pins and back. Where a session began is said by ``Homes``, what a
token is worth by ``Pins``, and whether a pin can be kept by the tier.
"""

from __future__ import annotations

from typing import NamedTuple

from ...affinity import Affinity, Facts, cookie
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
        tenant: Whose session it is; a pin of another tenant is none here.
    """

    pin: Pin | None
    pinned: bool
    tenant: str = ""


class SessionPins:
    """Reads the pin of a request, and says which cookie its response needs.

    Args:
        pins: Makes and reads tokens.
        homes: Knows where sessions began that have none.
        name: The cookie that carries a token.
        session: The cookie that is the session. A response that sets it begins one, which then is told from
            those that began before the members changed. None where sessions are told by something else: then
            all count as such, for as long as ``homes`` keeps a table.
        tenant: Finds whose a request is, where several share this tier: a pin is worth something for the
            tenant that it was issued for alone, though another one may have a session of that name. Requests
            that name no tenant are together a tenant of their own. None where there is but one.

    Raises:
        ValueError: ``name`` cannot be the name of a cookie.
    """

    def __init__(
        self,
        pins: Pins,
        homes: Homes,
        *,
        name: str = "replicated-pin",
        session: str | None = None,
        tenant: Affinity | None = None,
    ) -> None:
        self.pins = pins
        self.homes = homes
        self.name = name
        self.session = None if session is None else session.encode("latin-1")
        self.tenant = tenant
        self._token = cookie(name)

    def stay(self, ready: ReadySet, key: str | None, headers: Headers) -> Stay:
        """Return where a request is to go for the sake of its session; None for ``key`` is one without."""
        facts = Facts(headers=headers)
        tenant = "" if self.tenant is None else self.tenant(facts) or ""
        if key is None:
            return Stay(None, False, tenant)
        token = self._token(facts)
        pin = None if token is None else self.pins.read(token, key, tenant=tenant)
        if pin is not None:
            return Stay(pin, True, tenant)
        home = self.homes.home(ready, key)
        return Stay(None if home is None else Pin(home, self.pins.hard), False, tenant)

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
            return [] if home is None else self._lines(begun, home, stay.tenant, secure)
        if key is None or not self.homes.differs(ready, key, served, pinned=stay.pinned):
            return []
        return self._lines(key, served, stay.tenant, secure)

    def _begun(self, answer: Headers) -> str | None:
        if self.session is not None:
            for field, line in answer:
                if field == b"set-cookie":
                    name, _, value = line.partition(b";")[0].partition(b"=")
                    if name.strip() == self.session and (value := value.strip()):
                        return value.decode("latin-1")
        return None

    def _lines(self, key: str, replica_id: str, tenant: str, secure: bool) -> Headers:
        token = self.pins.issue(key, replica_id, tenant=tenant)
        text = f"{self.name}={token}; Path=/; Max-Age={self.pins.ttl:.0f}; HttpOnly"
        text += "; SameSite=Lax; Secure" if secure else "; SameSite=Lax"
        # Nobody else's: a shared cache on the way must not give it to others.
        return [(b"set-cookie", text.encode("latin-1")), (b"cache-control", b"private")]
