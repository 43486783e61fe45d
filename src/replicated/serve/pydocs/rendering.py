"""What pydoc says of a module, as a fragment of HTML that is fit to be shown to strangers.

The text, the links and the order are pydoc's own. Changed is the frame around them (pydoc lays out with
tables and hard spaces, which no phone can fold), and what must not leave the machine: the paths of files,
and values of data and of defaults, among which are the process's environment and its arguments.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import inspect
import os
import re
from collections.abc import Callable, Container
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from .modules import Module

__all__ = ["CannotRender", "render"]

_T = TypeVar("_T")
_PAGE_LINK = re.compile(r'<a href="([\w.]+)\.html(#[^"]*)?"')
_LONGEST_VALUE = 80


class CannotRender(Exception):
    """A module of the index that cannot be imported here, such as one for another operating system."""


def render(module: Module, names: Container[str]) -> str:
    """Import a module and return pydoc's documentation of it. Processor work of 10 ms to 1 s.

    Args:
        module: An entry of the index. Give nothing that came from elsewhere: it is imported.
        names: The names that have a page, so that a link to any other can be taken out.

    Raises:
        CannotRender: It cannot be imported, or its name now leads to another file than the one indexed.
    """
    subject = _imported(module)
    doc = _Fragment()
    body = doc.docmodule(subject)

    def to_page(match: re.Match[str]) -> str:
        name, anchor = match[1], match[2] or ""
        return f'<a href="/module/{name}{anchor}"' if name in names else "<a"

    manual = doc.getdocloc(subject)
    more = f'<p><a href="{doc.escape(manual)}">In the manual</a></p>\n' if manual else ""
    return more + _PAGE_LINK.sub(to_page, body)


def _imported(module: Module) -> ModuleType:
    try:
        spec = importlib.util.find_spec(module.name.partition(".")[0])
        origin = (spec.origin if spec else None) or "nowhere"
        # Another directory of sys.path, the working directory first, may hold a file of the same name that
        # nobody looked at. Built-in and frozen modules come before any directory.
        if origin not in {"built-in", "frozen"} and not _leads_to(origin, module.origin):
            raise CannotRender("It is no longer where it was.")
        return importlib.import_module(module.name)
    except CannotRender:
        raise
    except ModuleNotFoundError as error:
        raise CannotRender(f"It needs the module {error.name}.") from error
    except (Exception, SystemExit) as error:
        # Not in its own words, which may name files.
        raise CannotRender(f"The import ended with {type(error).__name__}.") from error


def _leads_to(origin: str, indexed: str) -> bool:
    directory, file = os.path.split(origin)
    return origin == indexed or (file == "__init__.py" and indexed.startswith(directory + os.sep))


def _is_harmless(value: object) -> bool:
    # `os.environ`, `sys.argv` and `sys.path` are data to pydoc, and the environment is even the default of
    # an argument in the standard library's `cgi`.
    if isinstance(value, str | bytes):
        text = os.fsdecode(value) if isinstance(value, bytes) else value
        if len(text) > _LONGEST_VALUE or (text.startswith("/") and len(text) > 1):
            return False
        return len(text) < 4 or text not in os.environ.values()
    if isinstance(value, tuple):
        return len(value) <= 8 and all(map(_is_harmless, value))
    return value is None or isinstance(value, bool | int | float | complex | enum.Enum)


class _Default:
    """Stands for a default: the repr of an object with an address would differ between replicas, too."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        if isinstance(self._value, enum.Enum):
            return str(self._value)
        if _is_harmless(self._value):
            return repr(self._value)
        name = getattr(self._value, "__qualname__", None)
        return name if isinstance(name, str) else "..."


class _Inspect(ModuleType):
    """The module inspect to pydoc, with signatures that tell harmless defaults only."""

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)

    @staticmethod
    def signature(subject: Callable[..., Any], *args: Any, **options: Any) -> inspect.Signature:
        signature = inspect.signature(subject, *args, **options)
        return signature.replace(
            parameters=[
                each if each.default is each.empty else each.replace(default=_Default(each.default))
                for each in signature.parameters.values()
            ]
        )


def _own_pydoc() -> ModuleType:
    # pydoc offers no place to say how a default is shown: it formats the whole signature. So a copy of the
    # module, which nobody else sees, is given another `inspect`; patching the shared one reaches everybody.
    spec = importlib.util.find_spec("pydoc")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["inspect"] = _Inspect("inspect")
    return module


if TYPE_CHECKING:
    import pydoc
else:
    pydoc = _own_pydoc()


class _Fragment(pydoc.HTMLDoc):
    """pydoc's HTML, in elements that wrap, without paths and without values that may tell secrets."""

    def heading(self, title: str, extras: str = "") -> str:
        return f"<h1>{title}</h1>\n"  # the extras are the path of the source, and a link to pydoc's own index

    def section(
        self,
        title: str,
        cls: str,
        contents: str,
        width: int = 6,
        prelude: str = "",
        marginalia: str | None = None,
        gap: str = "&nbsp;",
    ) -> str:
        return f'<section class="{cls}">\n<h2>{title}</h2>\n{prelude}\n{contents}</section>\n'

    def multicolumn(self, list: list[_T], format: Callable[[_T], str]) -> str:
        items = "".join(f"<li>{format(item)}</li>\n" for item in list)
        return f'<ul class="columns">\n{items}</ul>'

    def preformat(self, text: str) -> str:
        return self.escape(text.expandtabs())  # the style sheet keeps the lines and the spaces

    def docother(
        self, object: object, name: str | None = None, mod: str | None = None, *ignored: object
    ) -> str:
        shown = (
            self.repr(object) if _is_harmless(object) else f"<em>{self.escape(type(object).__name__)}</em>"
        )
        return f"<strong>{self.escape(name)}</strong> = {shown}" if name else shown
