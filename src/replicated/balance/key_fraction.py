"""Chance that is a key's own: the same for the same key in every process, and even over keys.

For decisions that apply to a share of the keys, always the same ones. It decides nothing itself.
"""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["key_fraction"]


def key_fraction(key: str | bytes, salt: str) -> float:
    """Return a number from 0 up to 1 that belongs to the pair.

    A hash of its own, since that of a ring decides where the key lives: the keys of one replica lie together
    there, and would all fall on the same side.
    """
    data = key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
    digest = blake2b(
        data, digest_size=8, key=blake2b(salt.encode("utf-8", "surrogatepass")).digest()
    ).digest()
    # 53 bits, so that the quotient is exact and never rounds up to 1.
    return (int.from_bytes(digest) >> 11) / 2**53
