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
    """

    # Slots keep an entry at 80 bytes. ``before`` and ``after`` stay unset until the expiry index writes
    # them, which spares an entry without a ttl two stores.
    __slots__ = ("after", "before", "expires", "key", "size", "value")

    key: Any
    value: Any
    expires: Any  # float | None: as Any, because narrowing it would cost a check in every comparison
    size: float
    before: Any  # Entry | None
    after: Any  # Entry | int
