"""What the store keeps of one key: the value, when it expires, what it weighs, and where it stands in line.

It decides nothing. It knows no policy, no clock and no index: those hold entries and write the fields that
are theirs. An entry hashes by identity, in C: what is indexed by entry never runs a user's ``__hash__`` or
``__eq__``, and so cannot be interrupted half-way by another thread.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Entry"]


class Entry:
    """One key's place in the store.

    Attributes:
        key: The user's key.
        value: The user's value.
        expires: The instant from which it is no longer served; None for never.
        size: What it weighs against ``maxsize``.
        before: The neighbour that expires earlier; None when the expiry heap holds the entry.
        after: The neighbour that expires later; in the expiry heap, the index there.
        older: The neighbour that is to leave earlier; None once the entry has left.
        newer: The neighbour that is to leave later.
        visited: Under SIEVE, whether it was asked for since the hand last passed.
    """

    # Links in slots weigh 16 bytes a line to stand in, an ``OrderedDict`` 90. ``before`` and ``after`` stay
    # unset until the expiry index writes them, which spares an entry without a ttl two stores.
    __slots__ = ("after", "before", "expires", "key", "newer", "older", "size", "value", "visited")

    # As Any where narrowing None away would cost a check in every comparison.
    key: Any
    value: Any
    expires: Any  # float | None
    size: float
    before: Any  # Entry | None
    after: Any  # Entry | int
    older: Any  # Entry | None
    newer: Any  # Entry
    visited: bool
