"""The hash functions of other systems' rings: bytes in, an unsigned integer out.

It decides nothing; each function is what the system named computes, on a platform with signed chars (x86)
where the original reads chars. What xxhash, zlib and hashlib already compute is not here.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import md5 as _md5
from zlib import crc32

__all__ = [
    "crc32_memcached",
    "djb2",
    "fnv1_32",
    "fnv1_64",
    "fnv1a_32",
    "fnv1a_64",
    "haproxy_avalanche",
    "jenkins",
    "md5",
    "md5_points",
    "murmur2_32",
    "murmur2_64",
    "one_at_a_time",
    "sdbm",
]

_M32 = 0xFFFFFFFF
_M64 = 0xFFFFFFFFFFFFFFFF


def md5_points(data: bytes) -> list[int]:
    """Return the four little-endian words of the MD5 of ``data``: ketama's four points of a label."""
    digest = _md5(data, usedforsecurity=False).digest()
    return [int.from_bytes(digest[at : at + 4], "little") for at in (0, 4, 8, 12)]


def md5(data: bytes) -> int:
    """Ketama's hash of a key: the first of the four words."""
    return int.from_bytes(_md5(data, usedforsecurity=False).digest()[:4], "little")


def murmur2_64(data: bytes) -> int:
    """MurmurHash64A as libstdc++ has it, with the seed of ``std::hash``: Envoy's MURMUR_HASH_2."""
    mul = 0xC6A4A7935BD1E995
    value = 0xC70F6907 ^ (len(data) * mul & _M64)
    whole = len(data) & ~7
    for at in range(0, whole, 8):
        word = int.from_bytes(data[at : at + 8], "little") * mul & _M64
        word = (word ^ word >> 47) * mul & _M64
        value = (value ^ word) * mul & _M64
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * mul & _M64
    value = (value ^ value >> 47) * mul & _M64
    return value ^ value >> 47


def murmur2_32(data: bytes) -> int:
    """MurmurHash2 seeded by the length, of libmemcached and twemproxy."""
    mul = 0x5BD1E995
    value = 0xDEADBEEF * len(data) & _M32 ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * mul & _M32
        word = (word ^ word >> 24) * mul & _M32
        value = value * mul & _M32 ^ word
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * mul & _M32
    value = (value ^ value >> 13) * mul & _M32
    return value ^ value >> 15


def jenkins(data: bytes) -> int:
    """Jenkins' lookup3 with the initial value 13, of libmemcached and twemproxy."""
    a = b = c = 0xDEADBEEF + len(data) + 13 & _M32
    if not data:
        return c
    # The last block is mixed differently, and is the only one that may be shorter: zeros fill it.
    last = (len(data) - 1) // 12 * 12
    for at in range(0, last, 12):
        a, b, c = _added(a, b, c, data[at : at + 12])
        for left, down in ((4, 0), (6, 1), (8, 2), (16, 0), (19, 1), (4, 2)):
            # a -= c; a ^= rot(c, left); c += b, and so on around the three
            if down == 0:
                a = (a - c & _M32) ^ _rotated(c, left)
                c = c + b & _M32
            elif down == 1:
                b = (b - a & _M32) ^ _rotated(a, left)
                a = a + c & _M32
            else:
                c = (c - b & _M32) ^ _rotated(b, left)
                b = b + a & _M32
    a, b, c = _added(a, b, c, data[last:])
    for left in (14, 11, 25, 16, 4, 14, 24):
        # c ^= b; c -= rot(b, left), and so on around the three
        c = (c ^ b) - _rotated(b, left) & _M32
        a, b, c = b, c, a
    return b


def _added(a: int, b: int, c: int, block: bytes) -> tuple[int, int, int]:
    block = block.ljust(12, b"\0")
    x, y, z = (int.from_bytes(block[at : at + 4], "little") for at in (0, 4, 8))
    return a + x & _M32, b + y & _M32, c + z & _M32


def _rotated(word: int, left: int) -> int:
    return (word << left | word >> 32 - left) & _M32


def _chars(data: bytes) -> Iterable[int]:
    """The bytes as C's signed char, widened to 32 bits."""
    return (byte if byte < 128 else byte + 0xFFFFFF00 for byte in data)


def one_at_a_time(data: bytes) -> int:
    """Jenkins' one-at-a-time, of libmemcached and twemproxy."""
    value = 0
    for char in _chars(data):
        value = value + char & _M32
        value = value + (value << 10) & _M32
        value ^= value >> 6
    value = value + (value << 3) & _M32
    value ^= value >> 11
    return value + (value << 15) & _M32


def _fnv1(data: bytes, value: int, prime: int) -> int:
    for char in _chars(data):
        value = value * prime & _M32 ^ char
    return value


def _fnv1a(data: bytes, value: int, prime: int) -> int:
    for char in _chars(data):
        value = (value ^ char) * prime & _M32
    return value


def fnv1_32(data: bytes) -> int:
    """FNV-1, of libmemcached and twemproxy."""
    return _fnv1(data, 0x811C9DC5, 0x01000193)


def fnv1a_32(data: bytes) -> int:
    """FNV-1a, of libmemcached and twemproxy."""
    return _fnv1a(data, 0x811C9DC5, 0x01000193)


def fnv1_64(data: bytes) -> int:
    """The low 32 bits of FNV-1 of 64 bits, which need no higher ones: libmemcached and twemproxy."""
    return _fnv1(data, 0x84222325, 0x000001B3)


def fnv1a_64(data: bytes) -> int:
    """The low 32 bits of FNV-1a of 64 bits: libmemcached and twemproxy, whose default it is."""
    return _fnv1a(data, 0x84222325, 0x000001B3)


def crc32_memcached(data: bytes) -> int:
    """Fifteen bits out of CRC-32, of libmemcached and twemproxy (``crc32``; ``crc32a`` is all of them)."""
    return crc32(data) >> 16 & 0x7FFF


def sdbm(data: bytes) -> int:
    """HAProxy's default hash of a key."""
    value = 0
    for byte in data:
        value = byte + value * 65599 & _M32  # (h << 6) + (h << 16) - h
    return value


def djb2(data: bytes) -> int:
    """HAProxy's ``djb2``."""
    value = 5381
    for byte in data:
        value = value * 33 + byte & _M32
    return value


def haproxy_avalanche(a: int) -> int:
    """HAProxy's ``full_hash``, which spreads an integer of 32 bits: Bob Jenkins' six shifts and a product."""
    a = a + 0x7ED55D16 + (a << 12) & _M32
    a = a ^ 0xC761C23C ^ a >> 19
    a = a + 0x165667B1 + (a << 5) & _M32
    a = (a + 0xD3A2646C ^ a << 9) & _M32
    a = a + 0xFD7046C5 + (a << 3) & _M32
    a = a ^ 0xB55A4F09 ^ a >> 16
    return a * 3221225473 & _M32
