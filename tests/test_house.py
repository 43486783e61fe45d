"""The house rules, held over the source text: who may import whom, what is exported, how large a file is.

Nothing here runs the library except to import it. A rule that is broken names every file and line.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import replicated

HOUSE = Path(replicated.__file__).parent
TESTS = Path(__file__).parent
MODULES = ["replicated", *sorted(found.name for found in pkgutil.walk_packages([str(HOUSE)], "replicated."))]


def read(directory: Path) -> dict[str, tuple[str, ast.Module]]:
    """Every Python file below a directory, by its relative path: text and syntax tree."""
    texts = {
        p.relative_to(directory).as_posix(): p.read_text("utf-8") for p in sorted(directory.rglob("*.py"))
    }
    return {name: (text, ast.parse(text, name)) for name, text in texts.items()}


FILES = read(HOUSE)

LEVELS = (
    ("replica", "outcome", "errors", "clock", "retries", "one_step"),
    ("ring", "readiness", "cache", "throttle", "affinity", "hedging", "pins"),
    ("balance", "decision"),
    ("lease",),
    ("tier", "http"),
    ("adapters", "simulate", "testing"),
    ("serve",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# By which file or directory a dependency comes in. What is not named here is an adapter's own partner.
DOORS: dict[str, tuple[str, ...]] = {
    "PIL": ("serve/ring_picture.py",),
    "cachetools": ("cache/",),
    "click": ("serve/",),
    "cryptography": ("serve/certificates.py",),
    "httpx": ("adapters/", "serve/demo/"),
    "rich": ("serve/",),
    "sortedcontainers": ("cache/", "readiness/", "ring/", "throttle/"),
    "uvicorn": ("serve/",),
    "xxhash": ("ring/keys.py",),
}
ACTING = frozenset(("anyio", "asyncio", "httpx", "signal", "socket", "ssl", "subprocess", "trio", "uvicorn"))
CLOCKS = frozenset(
    ("monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep", "time", "time_ns")
)
# The default clock; and the throttle, which reads nanoseconds where the clock is the default one.
MAY_NAME_A_CLOCK = ("clock.py", "throttle/")
# The one import that points up, and at its first use: `cached` on a coroutine function needs a driver.
UPWARDS = {("cache/decorator.py", "replicated.adapters.async_loader")}
BY_NAME = re.compile(r"(?:importlib\.)?import_module\('([\w.]+)'")
FORBIDDEN_NAMES = frozenset(("base.py", "common.py", "core.py", "helpers.py", "util.py", "utils.py"))


def room(file: str) -> str:
    """The room of a file: its first directory, or its own name."""
    return file.partition("/")[0].removesuffix(".py")


def core() -> list[str]:
    """The files that may not act."""
    return [file for file in FILES if room(file) not in ("adapters", "serve", "__main__")]


def imports(file: str) -> Iterator[tuple[str, str]]:
    """Every module that a file imports, inside functions too: where, and its full name."""
    package = ["replicated", *Path(file).parent.parts]
    for node in ast.walk(FILES[file][1]):
        if isinstance(node, ast.Import):
            yield from ((f"{file}:{node.lineno}", alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            # The second half may be a module as well: ``from .. import affinity``.
            yield from ((f"{file}:{node.lineno}", f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and (found := BY_NAME.match(ast.unparse(node))):
            yield f"{file}:{node.lineno}", found[1]


def test_every_file_is_in_a_room() -> None:
    """Whatever lies in the house lies on a known level, so that no import goes unjudged."""
    assert {room(file) for file in FILES} - {"__init__"} <= LEVEL.keys()


def test_imports_point_down() -> None:
    """A room imports from itself and from lower levels; rooms on one level do not import each other."""
    wrong = []
    for file in FILES.keys() - {"__init__.py"}:
        for where, name in imports(file):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            upwards = target != room(file) and LEVEL.get(target, -1) >= LEVEL[room(file)]
            if top == "replicated" and upwards and (file, name) not in UPWARDS:
                wrong.append(f"{where} imports {name}")
    assert not wrong


def test_the_front_door_leads_to_no_adapter() -> None:
    """``replicated`` itself re-exports the core alone."""
    rooms = {name.split(".")[1] for _, name in imports("__init__.py") if name.startswith("replicated.")}
    assert not rooms & {"adapters", "serve", "simulate", "testing"}


def test_imports_inside_are_relative() -> None:
    """Inside the package nothing is imported by its absolute name."""
    pattern = re.compile(r"^\s*(?:from|import) replicated\b", re.MULTILINE)
    assert not [file for file, (text, _) in FILES.items() if pattern.search(text)]


def test_dependencies_have_one_door() -> None:
    """What others wrote comes in only where it may."""
    wrong = []
    for file in FILES:
        for where, name in imports(file):
            top = name.partition(".")[0]
            if top != "replicated" and top not in sys.stdlib_module_names:
                doors = DOORS.get(top, ("adapters/",))
                if not file.startswith(doors):
                    wrong.append(f"{where} imports {top}, which comes in by {' or '.join(doors)}")
    assert not wrong


def test_the_core_does_not_act() -> None:
    """No module of the core imports what opens sockets, runs loops or handles signals."""
    assert not [
        f"{where} {name}" for f in core() for where, name in imports(f) if name.split(".")[0] in ACTING
    ]


def test_the_core_takes_its_time_from_a_clock() -> None:
    """Nobody in the core sleeps, and nobody but the default clock names one of the standard library."""
    wrong = [
        f"{file}:{node.lineno} time.{node.attr}"
        for file in core()
        if not file.startswith(MAY_NAME_A_CLOCK)
        for node in ast.walk(FILES[file][1])
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS
        if isinstance(node.value, ast.Name) and node.value.id == "time"
    ]
    wrong += [
        f"{where} {name}"
        for file in core()
        if not file.startswith(MAY_NAME_A_CLOCK)
        for where, name in imports(file)
        if name.startswith("time.")
    ]
    assert not wrong


def test_every_file_says_what_it_is() -> None:
    """A file opens with a docstring of at least a sentence."""
    assert not [file for file, (_, tree) in FILES.items() if len(ast.get_docstring(tree) or "") < 20]


def test_files_are_small() -> None:
    """No file has more than 400 lines, and none a name that could hold anything."""
    assert not [file for file, (text, _) in FILES.items() if len(text.splitlines()) > 400]
    assert not [file for file in FILES if Path(file).name in FORBIDDEN_NAMES]


def order(name: str) -> tuple[int, str]:
    """The order of names in ``__all__``: constants, then classes, then the rest."""
    return (0 if len(name) > 1 and name.isupper() else 1 if name[:1].isupper() else 2), name


@pytest.mark.parametrize("module", MODULES)
def test_exports(module: str) -> None:
    """``__all__`` is there and sorted, without repeats, and a star-import into nothing gives just that."""
    try:
        loaded = importlib.import_module(module)
    except replicated.MissingExtra as missing:
        pytest.skip(str(missing))
    names = getattr(loaded, "__all__", [])
    assert list(names) == sorted(set(names), key=order)
    namespace: dict[str, object] = {}
    if hasattr(loaded, "__all__"):
        exec(f"from {module} import *", namespace)
    else:
        assert len(ast.parse(inspect.getsource(loaded)).body) == 1, "it holds something, and exports nothing"
    assert namespace.keys() - {"__builtins__"} == set(names)


def test_packages_have_no_logic() -> None:
    """A package's own file re-exports, and nothing else."""
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    wrong = [
        f"{file}:{node.lineno}"
        for file, (_, tree) in FILES.items()
        if file.endswith("__init__.py")
        for node in tree.body
        if not isinstance(node, allowed)
    ]
    assert not wrong


def test_importing_the_library_is_light() -> None:
    """``import replicated`` loads no event loop, no TLS, and nothing of an extra."""
    heavy = ("asyncio", "click", "cryptography", "httptools", "httpx", "rich", "ssl", "uvicorn")
    script = f"import sys, replicated; print(*[name for name in {heavy!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_every_test_says_what_should_be_true() -> None:
    """Every test function has a docstring."""
    silent = [
        f"{file}:{node.lineno} {node.name}"
        for file, (_, tree) in read(TESTS).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert not silent
