"""What each visitor has read, kept in the memory of one replica: the state that a session is kept for.

Bounded both ways, sessions and entries a session; who is idle is forgotten. It knows sessions as opaque
strings and decides which strings can be one; cookies and HTTP are the application's.
"""

from __future__ import annotations

import re
import secrets

from ...cache import Cache
from ...clock import Clock, monotonic

__all__ = ["History", "is_session", "new_session"]

# What `new_session` makes: 128 bits in 22 characters. Any replica may have made it, so the form is all that
# can be checked; what cannot be guessed needs no signature.
_SESSION = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_IDLE = 3600.0  # seconds without reading anything


def new_session() -> str:
    """Return a name for a session that nobody can guess."""
    return secrets.token_urlsafe(16)


def is_session(text: str) -> bool:
    """Whether ``text`` has the form of a session's name."""
    return _SESSION.fullmatch(text) is not None


class History:
    """The reading history of the visitors of one replica.

    Args:
        sessions: How many visitors are remembered; beyond, idle ones are forgotten first.
        entries: How many pages are remembered of each.
        clock: Where the time comes from.
    """

    def __init__(self, sessions: int = 10_000, entries: int = 50, *, clock: Clock = monotonic) -> None:
        self._entries = entries
        self._clock = clock
        self._visits: Cache[str, tuple[tuple[str, float], ...]] = Cache(sessions, ttl=_IDLE, clock=clock)

    def __len__(self) -> int:
        return len(self._visits)

    def record(self, session: str, name: str) -> None:
        """Note that a page was read. Reading it again moves it to the front. O(entries)."""
        others = (visit for visit in self._visits.get(session, ()) if visit[0] != name)
        self._visits[session] = ((name, self._clock()), *others)[: self._entries]

    def of(self, session: str) -> list[tuple[str, float]]:
        """Return the pages a session has read, the newest first, each with the seconds since."""
        now = self._clock()
        return [(name, now - then) for name, then in self._visits.get(session, ())]
