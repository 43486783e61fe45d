"""How a key becomes bytes and bytes become a number: the contract under every ring.

A key is a str or bytes. A str is its UTF-8 bytes, so ``"user:42"`` and ``b"user:42"`` are one key; nothing
else is a key, since ``repr`` and ``hash`` differ between processes. It may not know of nodes.
"""

from __future__ import annotations

from typing import TypeAlias

from xxhash import xxh3_64_intdigest as xxh3
from xxhash import xxh64_intdigest as xxh64

__all__ = ["Key", "encoded", "xxh3", "xxh64"]

Key: TypeAlias = str | bytes
"""What may be asked of a table."""


def encoded(key: Key) -> bytes:
    """Return the bytes that are hashed for ``key``.

    xxhash took a str up to its version 3 and refuses it since 4; encoding it here keeps the mapping the same
    under both.

    Raises:
        TypeError: ``key`` is neither str nor bytes.
        ValueError: ``key`` holds a lone surrogate, which has no UTF-8 form.
    """
    if isinstance(key, bytes):
        return key
    try:
        return str.encode(key)
    except TypeError:
        raise TypeError(f"key must be str or bytes, not {key!r}") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"key must be text that UTF-8 can encode, not {key!r}") from error
