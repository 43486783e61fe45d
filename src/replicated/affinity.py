"""From request facts to a key: what one user's requests are kept on one replica by.

An affinity is a function from ``Facts`` to a key or None. None means that nothing is known to keep the
request by, and strategies then balance it; a constant in its place would send every new visitor to the
same replica. Knows no protocol beyond the shape of its header lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Affinity", "Facts", "client_address", "cookie", "first_of", "header", "host", "parse", "path"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What affinity may look at.

    Args:
        client: The client's address, as believed.
        path: The path of the request without its query, as sent.
        headers: Header lines, names in lower case.
    """

    client: str = ""
    path: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()


Affinity: TypeAlias = Callable[[Facts], str | None]
"""Returns the key that a request is kept by, or None where it has none."""


def cookie(name: str) -> Affinity:
    """Keep requests together by the value of a cookie. The first one of that name counts.

    Raises:
        ValueError: ``name`` cannot be the name of a cookie.
    """
    wanted = token("cookie", name, lower=False)

    def affinity(facts: Facts) -> str | None:
        for field, line in facts.headers:
            if field == b"cookie":
                for pair in line.split(b";"):
                    found, _, value = pair.partition(b"=")
                    if found.strip() == wanted and (value := value.strip()):
                        return value.decode("latin-1")
        return None

    return affinity


def header(name: str) -> Affinity:
    """Keep requests together by the value of a header field, such as a session token or a tenant.

    Raises:
        ValueError: ``name`` cannot be the name of a field.
    """
    wanted = token("header", name, lower=True)

    def affinity(facts: Facts) -> str | None:
        for field, value in facts.headers:
            if field == wanted and value:
                return value.decode("latin-1")
        return None

    return affinity


def client_address(facts: Facts) -> str | None:
    """Keep a client's requests together by its address."""
    return facts.client or None


def host(facts: Facts) -> str | None:
    """Keep the requests for one site together, by the host that the client asked for."""
    for field, value in facts.headers:
        if field == b"host" and value:
            return value.decode("latin-1").lower()
    return None


def path(facts: Facts) -> str | None:
    """Keep the requests for one path together, as before a cache tier: each page lives once."""
    return facts.path or None


def first_of(*affinities: Affinity) -> Affinity:
    """Take the first key that one of ``affinities`` finds: the session, say, or else the address."""

    def affinity(facts: Facts) -> str | None:
        for candidate in affinities:
            key = candidate(facts)
            if key is not None:
                return key
        return None

    return affinity


def parse(specification: str) -> Affinity:
    """Read an affinity as command lines write it; several, separated by commas, are tried in order.

    Args:
        specification: ``cookie:NAME``, ``header:NAME``, ``client-address``, ``host`` or ``path``.

    Raises:
        ValueError: It is none of these.
    """
    found = [parse_one(part.strip()) for part in specification.split(",")]
    return found[0] if len(found) == 1 else first_of(*found)


def parse_one(part: str) -> Affinity:
    kind, colon, name = part.partition(":")
    if kind == "cookie" and colon:
        return cookie(name)
    if kind == "header" and colon:
        return header(name)
    if part == "client-address":
        return client_address
    if part == "host":
        return host
    if part == "path":
        return path
    raise ValueError(f"affinity must be cookie:NAME, header:NAME, client-address, host or path, not {part!r}")


def token(argument: str, name: str, *, lower: bool) -> bytes:
    """Return a cookie's or a field's name as it is compared, if it can be one (RFC 9110, 5.6.2)."""
    if not name or not all(c.isascii() and (c.isalnum() or c in "!#$%&'*+-.^_`|~") for c in name):
        raise ValueError(f"{argument} must be a name of letters, digits and -_. alone, not {name!r}")
    return (name.lower() if lower else name).encode()
