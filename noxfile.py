"""What can be run on the project, one session each; `nox -l` lists them."""

from __future__ import annotations

import re
from pathlib import Path

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
# One list of versions, in the classifiers, for people and for machines.
PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))

nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "lint", "typing", "docs", "wheel"]


def group(*names: str) -> list[str]:
    return [requirement for name in names for requirement in nox.project.dependency_groups(PROJECT, name)]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the test-suite; the oldest Python measures coverage as well."""
    session.install("-e", ".[demo]", *group("test"))
    if session.python != PYTHONS[0]:
        session.run("pytest", *session.posargs)
        return
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    if not session.posargs:  # a part of the tests covers a part of the source
        session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types, strictly, and the public API as a user writes it."""
    session.install("-e", ".[demo]", *group("typing", "test"))
    session.run("mypy")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """Execute every code block of README and docs, then build the pages."""
    session.install("-e", ".[demo]", *group("docs", "test"))
    session.run("pytest", "README.md", "docs", *session.posargs)
    # Not --quiet, which hides the warnings before --strict counts them.
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and run the tests against it, with src/ out of reach."""
    dist = Path(session.create_tmp()) / "dist"
    session.install("build")
    session.run("python", "-m", "build", "--quiet", "--outdir", str(dist))
    [built] = sorted(dist.glob("*.whl"))[-1:]
    session.install("--force-reinstall", "--no-deps", str(built))
    session.install(f"{built}[demo]", *group("test"))
    # Outside the checkout nothing can be imported from src/ by accident.
    copy = Path(session.create_tmp()) / "outside"
    session.run("python", "-c", f"import shutil; shutil.rmtree({str(copy)!r}, ignore_errors=True)")
    for name in ("tests", "pyproject.toml"):
        target = copy / name
        session.run(
            "python",
            "-c",
            "import shutil, sys, pathlib; s, t = map(pathlib.Path, sys.argv[1:]);"
            "t.parent.mkdir(parents=True, exist_ok=True);"
            "shutil.copytree(s, t) if s.is_dir() else shutil.copy(s, t)",
            name,
            str(target),
        )
    with session.chdir(copy):
        session.run("pytest", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against the packages users would take instead: `nox -s bench -- ring`."""
    session.install("-e", ".[demo]", *group("bench", "test"))
    names = session.posargs or sorted(
        p.stem.removeprefix("bench_") for p in Path("benchmarks").glob("bench_*.py")
    )
    for name in names:
        session.run("python", f"benchmarks/bench_{name}.py")


@nox.session
def faults(session: nox.Session) -> None:
    """Break replicas in twelve ways, five seconds each, and print what clients noticed: `nox -s faults`."""
    session.install("-e", ".[serve]")
    session.run("python", "tests/faults/board.py", *session.posargs)
