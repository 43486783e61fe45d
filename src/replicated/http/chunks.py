"""A body in chunks, as bytes on a wire (RFC 9112, 7.1): what it carries, and where it ends.

Strict: a size is hexadecimal digits and nothing else, lines end with CR and LF, extensions are well-formed.
What they say, and what a trailer says, is dropped. Knows no connection and no limit of a body.
"""

from __future__ import annotations

import functools
import re

from .heads import parse_line

__all__ = ["Chunks"]

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
SIZE = re.compile(rb'([0-9A-Fa-f]{1,15})(?:;%b(?:=(?:%b|"[\t !#-\[\]-~\x80-\xff]*"))?)*' % (TOKEN, TOKEN))
# What can still become the line with a size, or the end of a chunk.
SIZE_BEGUN = re.compile(rb"[0-9A-Fa-f]{1,15}(?:;[^\n]*)?\r?|")
END_BEGUN = re.compile(rb"\r?")
MOST_LINE = 256
"""Bytes of a line with a size and its extensions, which nobody is known to use."""
MOST_TRAILER = 8192
"""Bytes of a trailer, as of a header in most servers."""
MOST_OVERHEAD = 16 * 1024
"""Bytes that may be spent on anything but the body, beyond 16 a chunk and the body's own size once more: what
Go 1.21.5 allows, since a body of one byte a chunk makes its reader work for nothing."""


class Chunks:
    """Reads one body.

    Attributes:
        over: Whether its end has come.
        rest: What came behind the end.
    """

    __slots__ = ("_left", "_overhead", "_partial", "_reads", "_trailer", "over", "rest")

    def __init__(self) -> None:
        self.over = False
        self.rest = b""
        self._partial = b""
        self._left = 0  # bytes of this chunk that are still to come
        self._overhead = 0
        self._trailer = 0
        self._reads = Chunks._size

    def feed(self, data: bytes) -> bytes:
        """Return what ``data`` holds of the body. O(its length).

        Raises:
            ValueError: It is malformed.
        """
        if self._partial:
            data, self._partial = self._partial + data, b""
        pieces: list[bytes] = []
        at = 0
        while not self.over:
            if self._left:
                piece = data[at : at + self._left]
                if not piece:
                    break
                pieces.append(piece)
                self._left -= len(piece)
                at += len(piece)
                if not self._left:
                    self._reads = Chunks._end
                    if data.startswith(b"\r\n", at):  # as nearly always
                        self._reads = Chunks._size
                        at += 2
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._partial = data[at:]
                self._not_yet(self._partial)
                break
            self._reads(self, data[at:end])
            at = end + 2
        if self.over:
            self.rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _not_yet(self, begun: bytes) -> None:
        """Judge what has come of a line that has not ended: its sender may believe that it has, and wait."""
        if len(begun) > (MOST_TRAILER if self._reads is Chunks._trailer_line else MOST_LINE):
            raise ValueError("a line among the chunks is too long")
        if b"\n" in begun:
            raise ValueError("a line among the chunks must end with CR and LF")
        if self._reads is Chunks._size and not SIZE_BEGUN.fullmatch(begun):
            raise ValueError("a chunk must begin with its size")
        if self._reads is Chunks._end and not END_BEGUN.fullmatch(begun):
            raise ValueError("a chunk must end where its size says")

    def _size(self, line: bytes) -> None:
        self._left = size_of(line)
        self._overhead = max(0, self._overhead + len(line) + 4 - 16 - 2 * self._left)
        if self._overhead > MOST_OVERHEAD:
            raise ValueError("the chunks have more around them than in them")
        if not self._left:
            self._reads = Chunks._trailer_line

    def _end(self, line: bytes) -> None:
        if line:
            raise ValueError("a chunk must end where its size says")
        self._reads = Chunks._size

    def _trailer_line(self, line: bytes) -> None:
        if not line:
            self.over = True
            return
        self._trailer += len(line) + 2
        if self._trailer > MOST_TRAILER:
            raise ValueError("the trailer is too long")
        parse_line(line)


@functools.lru_cache(256)
def size_of(line: bytes) -> int:
    """Return the size that a chunk begins with; remembered, since most are 0 or what a server sends at once.

    Raises:
        ValueError: It does not.
    """
    found = SIZE.fullmatch(line)
    if found is None or len(line) > MOST_LINE:
        raise ValueError("a chunk must begin with its size")
    return int(found[1], 16)
