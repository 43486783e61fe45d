"""A session's place as a signed text that the client carries, so that routers need not remember it.

It says what a token is and which to believe. Who is pinned where, and whether that replica can serve, is
decided elsewhere; so is the cookie that carries the token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from .clock import Clock

__all__ = ["Pin", "Pins"]

TEXT = re.compile(r"[A-Za-z0-9_-]+")
MAC = 16  # bytes: a guess succeeds once in 2 ** 128
HEAD = MAC + 4
LONGEST = 512
"""Characters of a token: a name in DNS and a port fit. What is longer is not looked at."""


class Pin(NamedTuple):
    """Where a session is to stay.

    Attributes:
        replica_id: On whom.
        hard: Whether it is refused rather than served elsewhere while that replica cannot serve.
    """

    replica_id: str
    hard: bool = False


class Pins:
    """Issues and reads tokens: HMAC-SHA-256 over tenant, session, replica and expiry.

    A token is worth something only for the session and the tenant that it was issued for, and only until it
    expires. It does not hide the id of the replica.

    Args:
        secret: What all routers of a tier know, and nobody else: at least 16 random bytes. Of several the
            first one signs and all are believed, so that secrets can be changed.
        wall: Unix seconds, such as ``time.time``. Routers share no other clock; seconds of error do no harm.
        ttl: Seconds that a token is good for. One that is in use is issued anew before.
        hard: Whether the pins are hard ones.

    Raises:
        ValueError: A secret is too short, there is none, or ``ttl`` is out of its range.
        TypeError: A secret is not bytes.
    """

    def __init__(
        self, secret: bytes | Sequence[bytes], *, wall: Clock, ttl: float = 3600.0, hard: bool = False
    ) -> None:
        secrets = (secret,) if isinstance(secret, bytes) else tuple(secret)
        if not secrets:
            raise ValueError("secret must be one at least")
        for one in secrets:
            if not isinstance(one, bytes):
                raise TypeError(f"secret must be bytes, not {type(one).__name__}")
            if len(one) < 16:
                raise ValueError(f"secret must have at least 16 bytes, not {len(one)}")
        if isinstance(ttl, bool) or not 1 <= ttl < math.inf:
            raise ValueError(f"ttl must be at least 1 second, finite, not {ttl!r}")
        self._secrets = secrets
        self._wall = wall
        self.ttl = ttl
        self.hard = hard

    def issue(self, key: str | bytes, replica_id: str, *, tenant: str = "") -> str:
        """Return a token that keeps the session ``key`` on a replica; letters, digits, ``-`` and ``_`` alone.

        Raises:
            ValueError: The id is too long for a token, or empty.
        """
        until = math.ceil(self._wall() + self.ttl) & 0xFFFFFFFF
        payload = until.to_bytes(4, "big") + replica_id.encode()
        token = encode(mac(self._secrets[0], tenant, key, payload) + payload)
        if not replica_id or len(token) > LONGEST:
            raise ValueError(
                f"replica_id must be from 1 to {LONGEST * 3 // 4 - HEAD} bytes, not {replica_id!r}"
            )
        return token

    def read(self, token: str, key: str | bytes, *, tenant: str = "") -> Pin | None:
        """Return the pin of a token, or None for one that is forged, expired, garbage or somebody else's."""
        if len(token) > LONGEST or not TEXT.fullmatch(token):
            return None
        padding = -len(token) % 4
        raw = b"" if padding == 3 else base64.urlsafe_b64decode(token + "=" * padding)
        if len(raw) <= HEAD or encode(raw) != token:
            return None
        signature, payload = raw[:MAC], raw[MAC:]
        good = [hmac.compare_digest(signature, mac(one, tenant, key, payload)) for one in self._secrets]
        if not any(good) or int.from_bytes(payload[:4], "big") <= self._wall():
            return None
        return Pin(payload[4:].decode(), self.hard)


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def mac(secret: bytes, tenant: str, key: str | bytes, payload: bytes) -> bytes:
    """Sign the parts, each after its length: joined bare, one tenant's session could be another's."""
    parts = (b"replicated pin 1", tenant.encode("utf-8", "surrogatepass"), as_bytes(key), payload)
    text = b"".join([len(part).to_bytes(8, "big") + part for part in parts])
    return hmac.digest(secret, text, hashlib.sha256)[:MAC]


def as_bytes(key: str | bytes) -> bytes:
    return key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
