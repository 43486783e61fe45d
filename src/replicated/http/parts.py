"""What a cache holds of a body that it does not have whole: the parts that came, and what can be cut of them.

Decides which parts fit together: those of one strong entity tag (RFC 9111, 3.4; RFC 9110, 15.3.7.3). Two
parts of different versions would make a file that never was, and whoever reads it could not know. Freshness,
and who may have it, are judged elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from .fields import find
from .ranges import Span
from .stored import Stored

__all__ = ["Parts", "strong"]

MOST_PIECES = 256
"""Pieces that are kept of one body; those that touch are then made one, and beyond it the oldest go."""
PIECE = 150
"""Bytes that Python takes for a piece beyond its text."""


@dataclass(frozen=True, slots=True)
class Parts(Stored):
    """A response of which parts are kept; its own ``body`` is empty.

    Attributes:
        whole: Bytes of the body, of which these are parts.
        pieces: Where each begins, and its bytes: in the order in which they came; no two overlap.
    """

    whole: int
    pieces: tuple[tuple[int, bytes], ...]

    @classmethod
    def of(cls, stored: Stored, span: Span, body: bytes) -> Parts:
        """Return what is kept of one part that came, and is as long as ``span`` says."""
        own = {field.name: getattr(stored, field.name) for field in fields(Stored)}
        return cls(**own, whole=span.size, pieces=((span.first, body),))

    @property
    def held(self) -> int:
        """Bytes that its pieces take, roughly."""
        return sum(PIECE + len(piece) for _, piece in self.pieces)

    @property
    def length(self) -> int:
        """Bytes of the whole body."""
        return self.whole

    def cut(self, first: int, last: int) -> bytes | None:
        """Return the bytes from the first to the last one, or None where some are not here. O(pieces)."""
        found = []
        at = first
        for start, piece in sorted(self.pieces):
            if start + len(piece) <= at:
                continue
            if start > at:
                break
            found.append(piece[at - start : last + 1 - start])
            at = start + len(piece)
            if at > last:
                return b"".join(found)
        return None

    def fits(self, other: Parts) -> bool:
        """Return whether both are of the same body."""
        etag = strong(self)
        return etag is not None and etag == strong(other) and self.whole == other.whole

    def beside(self, new: Parts, most: int) -> Parts:
        """Return these parts with a new one of the same body, whose header counts from now on.

        Args:
            new: One that fits.
            most: Bytes that all may take together; the oldest go to keep it.
        """
        [(start, body)] = new.pieces
        end, fresh, at = start + len(body), [], start
        for begins, piece in sorted(self.pieces):  # only what is not here yet is taken of the new one
            if begins >= end:
                break
            if begins > at:
                fresh.append((at, body[at - start : begins - start]))
            at = max(at, begins + len(piece))
        if at < end:
            fresh.append((at, body[at - start :]))
        pieces = [*self.pieces, *fresh]
        if len(pieces) > MOST_PIECES:
            pieces = joined(pieces)
        held = sum(len(piece) for _, piece in pieces)
        while held > most or len(pieces) > MOST_PIECES:
            held -= len(pieces.pop(0)[1])
        # An answer to If-Range may leave out what its client knows: it stays as it was (RFC 9111, 3.4).
        names = {name for name, _ in new.headers}
        headers = [line for line in self.headers if line[0] not in names] + new.headers
        return replace(new, headers=headers, pieces=tuple(pieces))

    def completed(self) -> Stored | None:
        """Return the response, whole, if all of its body is here."""
        if sum(len(piece) for _, piece in self.pieces) < self.whole:
            return None
        own = {field.name: getattr(self, field.name) for field in fields(Stored)}
        return Stored(**own).with_body(b"".join(piece for _, piece in sorted(self.pieces)))


def joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return pieces of which no two touch."""
    runs: list[tuple[int, list[bytes], int]] = []
    for start, piece in sorted(pieces):
        if runs and runs[-1][2] == start:
            first, run, _ = runs.pop()
            run.append(piece)
            runs.append((first, run, start + len(piece)))
        else:
            runs.append((start, [piece], start + len(piece)))
    return [(start, b"".join(run)) for start, run, _ in runs]


def strong(stored: Stored) -> bytes | None:
    """Return the entity tag by which two parts are known to be of one body; None for a weak one or none."""
    etag = find(stored.headers, b"etag")
    return None if etag is None or etag.startswith(b"W/") else etag
