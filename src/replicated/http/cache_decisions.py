"""What a shared HTTP cache decides, as values: what to answer, whom to ask, what to keep.

A closed set: Serve or Fetch before anyone is asked; Keep, Pass, Confirmed or Mismatch when the head of an
answer is there. Who decides, and who carries it out, is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from .message import Headers, Response
from .ranges import Span
from .stored import Stored

__all__ = ["Confirmed", "Fetch", "Keep", "Mismatch", "Pass", "Serve"]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the replicas.

    Attributes:
        headers: To send in place of the request's own.
        stored: What is validated by that, or None.
        shareable: Whether others who ask for the same may wait for this answer.
        why: What Cache-Status says of it.
        looks: Whether something stored elsewhere might still answer, were it here.
        ranged: Whether parts that are stored might, too.
    """

    headers: Headers
    stored: Stored | None
    shareable: bool
    why: bytes
    looks: bool = True
    ranged: bool = False


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer from the cache, and see to ``refresh`` meanwhile where it is given."""

    response: Response
    refresh: Fetch | None = None


@dataclass(frozen=True, slots=True)
class Keep:
    """Store ``stored`` when its body is whole, and pass the response on.

    Attributes:
        stored: What to store, its body aside.
        span: Which part of its body comes; None where all of it does.
        extends: Whether the part is of use only beside others: its header lacks what its client knows.
    """

    stored: Stored
    span: Span | None = None
    extends: bool = False


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A 304 says that what was stored still holds: answer with ``response``.

    Attributes:
        response: To this client.
        stored: To store in place of what was; None where only this client may have it.
    """

    response: Response
    stored: Stored | None


@dataclass(frozen=True, slots=True)
class Pass:
    """Pass the response on and keep nothing.

    Attributes:
        span: Which part of something came that could be stored, were it whole.
    """

    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The 304 is not about what is stored: forget that, and ask again without conditions."""
