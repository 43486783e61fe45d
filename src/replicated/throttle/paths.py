"""What a path is called as a throttle key: one name for all its spellings, one for all a template covers.

Pure functions of strings. The names are for buckets and not for routing: where two spellings may reach the
same handler they get one name, although a strict server tells them apart. So ``%2F`` is a slash here (every
ASGI server decodes it), and a slash at the end is none. Which paths a client may ask for is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, unquote_to_bytes

__all__ = ["PathTemplates", "normalized"]

# RFC 3986, section 3.3: what may stand in a segment as it is; and the slash between them.
_SAFE = "/!$&'()*+,;=:@-._~"


def normalized(target: str) -> str:
    """Return the one name of a path, however it is spelt. Idempotent, O(length), never fails on a str.

    Query and fragment are cut, a scheme and authority in front too; escapes are decoded once, and what
    cannot stand in a path is escaped again in one way; empty and dot segments go (RFC 3986, 5.2.4 and 6.2.2).

    Args:
        target: A path or a whole request target.
    """
    path = target.partition("#")[0].partition("?")[0]
    if not path.startswith("/"):
        scheme, found, rest = path.partition("://")
        if found and "/" not in scheme:
            path = rest.partition("/")[2]
    segments: list[str] = []
    for segment in quote(unquote_to_bytes(_encoded(path)), safe=_SAFE).split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)


def _encoded(path: str) -> bytes:
    try:
        return path.encode("utf-8", "surrogateescape")  # bytes that were no UTF-8 come back as they were
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogatepass")


class _Node:
    """What may follow a given beginning of a path, and what it is called where it ends."""

    __slots__ = ("literals", "name", "one", "rest")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.one: _Node | None = None
        self.name = ""
        self.rest = ""


class PathTemplates:
    """Names for the paths of a service: ``/users/7`` and ``/users//8?x=1`` are both ``/users/{id}``.

    In a template ``{name}`` covers one segment, and ``{name...}`` at its end one or more. Where several cover
    a path, the earliest segment decides: a literal before a parameter, and that before a rest. All
    paths that none covers have one name together, so that no made-up path mints a bucket.

    Args:
        templates: Each begins with a slash.
        other: What a path is called that no template covers; None calls each by its normalised path.

    Raises:
        ValueError: A template does not begin with a slash, names a part of a segment, has something behind
            its rest, or covers just what an earlier one does.
    """

    def __init__(self, templates: Iterable[str], *, other: str | None = "*") -> None:
        self._root = _Node()
        self._other = other
        for template in templates:
            self._add(template)

    def key(self, target: str) -> str:
        """Return the template that covers a path or request target, as it was given. O(length)."""
        path = normalized(target)
        segments = path[1:].split("/") if path != "/" else []
        # Each node is visited at most once, so a hostile path costs no more than there are templates.
        found = self._find(self._root, segments, 0)
        return found or (path if self._other is None else self._other)

    def _find(self, node: _Node, segments: list[str], at: int) -> str:
        if at == len(segments):
            return node.name
        literal = node.literals.get(segments[at])
        return (
            (self._find(literal, segments, at + 1) if literal else "")
            or (self._find(node.one, segments, at + 1) if node.one else "")
            or node.rest
        )

    def _add(self, template: str) -> None:
        if not template.startswith("/"):
            raise ValueError(f"templates must each begin with a slash, not {template!r}")
        node = self._root
        rest = False
        for segment in filter(None, template.split("/")):
            if rest:
                raise ValueError(f"templates must have nothing behind a rest, not {template!r}")
            if segment.startswith("{") and segment.endswith("...}"):
                rest = True
            elif segment.startswith("{") and segment.endswith("}"):
                node.one = node = node.one or _Node()
            elif "{" in segment or "}" in segment:
                raise ValueError(f"templates must have parameters that are whole segments, not {template!r}")
            else:
                node = node.literals.setdefault(normalized(segment)[1:], _Node())
        earlier = node.rest if rest else node.name
        if earlier:
            raise ValueError(f"templates must differ in what they cover, not {template!r} and {earlier!r}")
        if rest:
            node.rest = template
        else:
            node.name = template
