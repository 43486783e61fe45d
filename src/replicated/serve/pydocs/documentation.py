"""Finding a module: the index that a replica builds before it is ready, and the search over it.

An inverted index over names, synopses and public members, with prefix matching. It knows modules as
values and imports none of them; how a page looks is not its business either.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from .modules import Module, discover

__all__ = ["Index", "build_index"]

_WORD = re.compile(r"[^\W_]+")
# The parts of a camel-cased name; what no alternative takes (a script without case) stays in the whole.
_HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_AFTER_ALL = "\U0010ffff"

# Points for a word that matches: who types `json` means the module json before one that mentions JSON.
_LAST_PART, _PART, _SYNOPSIS, _MEMBER = 40, 12, 6, 3
_WHOLE_NAME = 1000
_MOST_WORDS = 8


class Index:
    """The modules that can be found, by name and by keyword.

    Immutable once built, hence read by any number of threads.

    Args:
        modules: What to index. Of several with one name the last counts.
    """

    def __init__(self, modules: Iterable[Module]) -> None:
        self._modules = {module.name: module for module in modules}
        self._points: dict[str, dict[str, int]] = {}
        for name, module in self._modules.items():
            for word, points in _words(module):
                of_word = self._points.setdefault(word, {})
                of_word[name] = max(points, of_word.get(name, 0))
        self._vocabulary = sorted(self._points)

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def get(self, name: str) -> Module | None:
        """Return the module of that exact dotted name, or None. O(1)."""
        return self._modules.get(name)

    def search(self, query: str) -> list[Module]:
        """Return the modules that match every word of ``query``, the best first.

        A word matches what begins with it, in a module's name, its synopsis or the names of its functions
        and classes; case does not count. A whole word is worth twice the beginning of one. Equals stand in
        order of name. Words beyond the eighth are ignored, and a query without a word finds nothing.
        """
        words = [word.lower() for word in _WORD.findall(query)[:_MOST_WORDS]]
        if not words:
            return []
        total = self._matches(words[0])
        for word in words[1:]:
            more = self._matches(word)
            total = {name: total[name] + more[name] for name in total.keys() & more.keys()}
        whole = query.strip().lower()
        for name in total:
            if name.lower() == whole:
                total[name] += _WHOLE_NAME
        return [self._modules[name] for name in sorted(total, key=lambda name: (-total[name], name))]

    def _matches(self, prefix: str) -> dict[str, int]:
        best: dict[str, int] = {}
        start = bisect_left(self._vocabulary, prefix)
        end = bisect_left(self._vocabulary, prefix + _AFTER_ALL, start)
        for word in self._vocabulary[start:end]:
            factor = 2 if word == prefix else 1
            for name, points in self._points[word].items():
                best[name] = max(points * factor, best.get(name, 0))
        return best


def _words(module: Module) -> Iterator[tuple[str, int]]:
    *parents, last = module.name.split(".")
    for word in _WORD.findall(last):
        yield word.lower(), _LAST_PART
    for part in parents:
        yield part.lower(), _PART
    for word in _WORD.findall(module.synopsis):
        yield word.lower(), _SYNOPSIS
    for member in module.members:
        for word in _WORD.findall(member):
            yield word.lower(), _MEMBER
            for hump in _HUMP.findall(word):
                yield hump.lower(), _MEMBER


def build_index() -> Index:
    """Read this Python's modules and index them: a second or more of processor time."""
    return Index(discover())
