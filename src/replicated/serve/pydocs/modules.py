"""Which modules of this Python the demo documents, and what their source says of them.

It reads files and imports nothing but the standard library's own extension modules, which have no source
to read. Whether a name may ever be imported because a stranger asked for it is decided here, by the rule of
`discover`: what is not in its list can be neither found nor rendered.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec

__all__ = ["Module", "discover"]

# Importing one of these does something: opens a browser, prints a poem, takes the terminal over, belongs to
# site, makes setuptools warn. The rest are tests, demonstrations, data and samples.
_NEVER = frozenset(
    {"antigravity", "this", "readline", "sitecustomize", "usercustomize", "distutils"}
    | {"idlelib", "turtledemo", "lib2to3", "pydoc_data", "test", "tests"}
    | {"xxlimited", "xxlimited_35", "xxsubtype"}
)
_EXTENSIONS = tuple(EXTENSION_SUFFIXES)
# 120 tables of code pages, which nobody searches, would take a quarter of the time to read everything.
_LEAVES = frozenset({"encodings"})


@dataclass(frozen=True, slots=True)
class Module:
    """One module that can be found and read about.

    Attributes:
        name: Its dotted name.
        synopsis: The first line of its docstring, or an empty string.
        members: The public functions and classes that its source defines.
        origin: The file it was found in, or `built-in`.
    """

    name: str
    synopsis: str = ""
    members: tuple[str, ...] = ()
    origin: str = "built-in"


def discover(stdlib: Iterable[str] | None = None, site: Iterable[str] | None = None) -> list[Module]:
    """List the modules that are offered, sorted by name.

    The rule. Offered are the modules of the standard library, packages with all they contain, and the top
    level of what is installed beside it. Left out is, everywhere:

    - a name of which any part begins with an underscore: private modules, and every `__main__`;
    - the few of the standard library that act when they are imported, and tests;
    - what is neither Python source nor one of the standard library's extension modules;

    and among what is installed also each module whose top level calls something for the effect alone, as a
    script without a `__main__` guard does. Parts of installed packages are left out because nothing tells
    a library's parts from its scripts. What an offered module imports in turn is not looked at: who installs
    a package trusts it to be imported.

    The working directory and other entries of `sys.path` are not looked at.

    Args:
        stdlib: Directories of the standard library; None for those of this interpreter.
        site: Directories of installed packages; None for those of this interpreter.
    """
    found: dict[str, Module] = {}
    paths = sysconfig.get_paths()
    if stdlib is None:
        for name in sys.builtin_module_names:
            if _is_offered(name):
                found[name] = Module(name, _imported_synopsis(name))
        # In a virtual environment "platstdlib" is the environment's own, which holds no library.
        extensions = sysconfig.get_config_var("DESTSHARED")
        stdlib = (paths["stdlib"], extensions) if extensions else (paths["stdlib"],)
    if site is None:
        site = (paths["purelib"], paths["platlib"])
    with warnings.catch_warnings():
        # Other people's sources carry invalid escapes, and the parser warns of each.
        warnings.simplefilter("ignore")
        # The first directory wins, as it does for an import.
        for module in _of_stdlib(list(stdlib), ""):
            found.setdefault(module.name, module)
        for module in _installed(list(site)):
            found.setdefault(module.name, module)
    return [found[name] for name in sorted(found)]


def _of_stdlib(directories: list[str], prefix: str) -> Iterator[Module]:
    for name, spec in _specs(directories, prefix):
        origin = spec.origin or ""
        source = _source(origin)
        if source is not None:
            yield _described(name, source, origin)
        elif origin.endswith(_EXTENSIONS):
            yield Module(name, _imported_synopsis(name), origin=origin)
        if spec.submodule_search_locations and name not in _LEAVES:
            yield from _of_stdlib(spec.submodule_search_locations, f"{name}.")


def _installed(directories: list[str]) -> Iterator[Module]:
    for name, spec in _specs(directories, ""):
        source = _source(spec.origin or "")
        if source is not None and not _acts(source):
            yield _described(name, source, spec.origin or "")


def _specs(directories: list[str], prefix: str) -> Iterator[tuple[str, ModuleSpec]]:
    for finder, part, _ in pkgutil.iter_modules(directories):
        if _is_offered(part):
            # The finder of one directory looks at that directory: no parent package is imported.
            spec = finder.find_spec(prefix + part, None)
            if spec is not None:
                yield prefix + part, spec


def _is_offered(part: str) -> bool:
    return not part.startswith("_") and part not in _NEVER


def _acts(source: ast.Module) -> bool:
    return any(isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) for node in source.body)


def _described(name: str, source: ast.Module, origin: str) -> Module:
    members = tuple(
        node.name
        for node in source.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    )
    return Module(name, _first_line(ast.get_docstring(source)), members, origin)


def _source(origin: str) -> ast.Module | None:
    if not origin.endswith(".py"):
        return None
    try:
        # Not the loader's get_source, which decodes: the parser heeds the coding cookie itself.
        with open(origin, "rb") as file:
            return ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None  # a template, or written for another Python: it could not be imported either


def _imported_synopsis(name: str) -> str:
    try:
        return _first_line(inspect.getdoc(importlib.import_module(name)))
    except Exception:  # deprecated, under -W error; or built without what it needs
        return ""


def _first_line(docstring: str | None) -> str:
    return docstring.strip().partition("\n")[0].strip() if docstring else ""
