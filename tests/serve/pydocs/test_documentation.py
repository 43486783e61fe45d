"""What may be found, how it is found, and what a page of it may tell."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.serve.pydocs.documentation import Index, build_index
from replicated.serve.pydocs.modules import Module, discover
from replicated.serve.pydocs.rendering import CannotRender, render


def write(directory: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return [str(directory)]


def names(modules: list[Module]) -> list[str]:
    return [module.name for module in modules]


def located(name: str) -> Module:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    origin = getattr(sys.modules.get(name), "__file__", None) or spec.origin
    return Module(name, origin=origin or "built-in")


@pytest.fixture(scope="module")
def index() -> Index:
    return build_index()


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A directory that can be imported from, and nothing of it stays imported."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


# Which modules


def test_docstring_and_members_are_read_from_the_source(tmp_path: Path) -> None:
    """A module is described without being imported."""
    source = '''
        """

        The first line.

        More."""
        raise SystemExit("imported")
        def shown(): ...
        async def later(): ...
        class Kind: ...
        def _hidden(): ...
        '''
    [module] = discover(stdlib=[], site=write(tmp_path, {"thing.py": source}))
    assert module.synopsis == "The first line."
    assert module.members == ("shown", "later", "Kind")
    assert module.origin == str(tmp_path / "thing.py")


def test_private_names_scripts_and_tests_are_left_out(tmp_path: Path) -> None:
    """No part of an offered name begins with an underscore or belongs to tests."""
    directory = write(
        tmp_path,
        {
            "pack/__init__.py": "",
            "pack/__main__.py": "",
            "pack/part.py": "",
            "pack/_private.py": "",
            "pack/tests/__init__.py": "",
            "_under/__init__.py": "",
            "_under/part.py": "",
            "antigravity.py": "",
            "this.py": "",
            "test/__init__.py": "",
        },
    )
    assert names(discover(stdlib=directory, site=[])) == ["pack", "pack.part"]


def test_installed_packages_are_offered_at_their_top_level(tmp_path: Path) -> None:
    """Nothing tells the parts of an installed package from its scripts, so they are left out."""
    files = {"pack/__init__.py": "", "pack/part.py": "", "single.py": ""}
    assert names(discover(stdlib=[], site=write(tmp_path, files))) == ["pack", "single"]


@pytest.mark.parametrize(
    ("source", "offered"),
    [
        ("x = print('assigned')", True),
        ("if __name__ == '__main__':\n    main()", True),
        ("'''A docstring'''", True),
        ("main()", False),
        ("import os\nos.system('true')", False),
        ("def broken(:", False),
        ("x = '\0'", False),
        ("x = '\\d'", True),
    ],
)
def test_an_installed_module_that_acts_when_imported_is_left_out(
    tmp_path: Path, source: str, offered: bool
) -> None:
    """A top level that calls something for the effect alone makes a module a script."""
    assert names(discover(stdlib=[], site=write(tmp_path, {"mod.py": source}))) == ["mod"] * offered


def test_other_files_are_left_out(tmp_path: Path) -> None:
    """A directory without a module, a file of another kind and a link to nothing are no modules."""
    directory = write(tmp_path, {"data/readme.txt": "", "notes.txt": "", "bytes.pyc": ""})
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "native.abi3.so").touch()
    assert discover(stdlib=[], site=[*directory, str(tmp_path / "missing")]) == []


def test_extension_of_the_library_that_cannot_be_imported_has_no_synopsis(tmp_path: Path) -> None:
    """An extension module is listed even where it cannot be loaded."""
    (tmp_path / "gone_native.abi3.so").touch()
    assert discover(stdlib=[str(tmp_path)], site=[]) == [
        Module("gone_native", origin=str(tmp_path / "gone_native.abi3.so"))
    ]


def test_the_first_directory_wins(tmp_path: Path) -> None:
    """The standard library comes before what is installed, as it does for an import."""
    first = write(tmp_path / "one", {"mod.py": '"""one"""'})
    second = write(tmp_path / "two", {"mod.py": '"""two"""'})
    assert [module.synopsis for module in discover(stdlib=first, site=second)] == ["one"]


def test_this_python_is_described(index: Index) -> None:
    """The index of a real installation knows its library, built-in modules too, and nothing that acts."""
    for name in ("json", "json.decoder", "asyncio.streams", "sys", "builtins", "math", "pytest"):
        assert name in index
    for name in ("antigravity", "this", "__main__", "_io", "json.__main__", "test", "idlelib", "readline"):
        assert name not in index
    sys_module, math_module = index.get("sys"), index.get("math")
    assert sys_module is not None
    assert sys_module.synopsis.startswith("This module provides access")
    assert math_module is not None
    assert math_module.synopsis.startswith("This module provides access")
    assert len(index) == len(list(index)) > 200


# Search


SMALL = Index(
    [
        Module("json", "JSON, a subset of JavaScript", ("dump", "loads")),
        Module("json.decoder", "Implementation of JSONDecoder", ("JSONDecoder",)),
        Module("simplejson", "Another JSON library"),
        Module("http.server", "HTTP server classes.", ("HTTPServer",)),
        Module("http", ""),
        Module("socketserver", "Generic socket server classes.", ("TCPServer",)),
        Module("Größe", "Straße"),
    ]
)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("json", ["json", "json.decoder", "simplejson"]),
        ("JSON", ["json", "json.decoder", "simplejson"]),
        ("json.decoder", ["json.decoder"]),
        ("decoder", ["json.decoder"]),
        ("http server", ["http.server"]),
        ("server", ["http.server", "socketserver"]),
        ("tcp", ["socketserver"]),
        ("loads", ["json"]),
        ("load", ["json"]),
        ("oads", []),
        ("json nothing", []),
        ("größe", ["Größe"]),
        ("", []),
        ("  ._- ", []),
        ("http " * 8 + "nothing", ["http", "http.server"]),
    ],
)
def test_search_finds_and_ranks(query: str, found: list[str]) -> None:
    """Every word must match the beginning of some word, and a name counts more than a mention."""
    assert names(SMALL.search(query)) == found


WORDS = st.text(st.sampled_from("abAB1_."), max_size=5)


@given(
    st.lists(st.builds(Module, st.text("ab.", min_size=1, max_size=4), WORDS, st.tuples(WORDS)), max_size=8),
    WORDS,
)
def test_search_agrees_with_a_scan(modules: list[Module], query: str) -> None:
    """The index finds exactly the modules of which some word begins with each word of the query."""
    modules = list({module.name: module for module in modules}.values())

    def parts(text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text)

    def words_of(module: Module) -> list[str]:
        whole = parts(module.name) + parts(module.synopsis) + [w for m in module.members for w in parts(m)]
        humps = [
            hump
            for member in module.members
            for word in parts(member)
            for hump in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", word)
        ]
        return [word.lower() for word in whole + humps]

    wanted = [word.lower() for word in parts(query)]
    expected = {
        module.name
        for module in modules
        if wanted and all(any(w.startswith(prefix) for w in words_of(module)) for prefix in wanted)
    }
    assert set(names(Index(modules).search(query))) == expected


# Rendering


def test_a_page_is_pydocs_text_in_a_frame_that_folds() -> None:
    """Functions, classes and links are there; paths of files and pydoc's tables are not."""
    html = render(located("json"), {"json", "json.decoder", "builtins"})
    assert "<h1>" in html
    assert "dumps" in html
    assert 'href="/module/json.decoder"' in html
    assert 'href="https://docs.python.org/' in html
    assert "json.scanner" not in re.findall(r'href="/module/([\w.]+)', html)
    assert ".html#" not in html
    assert os.path.dirname(json.__file__) not in html
    assert "<table" not in html
    assert "file:" not in html


def test_links_keep_their_anchors() -> None:
    """A link to a class of another module leads to that class on its page."""
    html = render(located("json.decoder"), {"builtins"})
    assert 'href="/module/builtins#ValueError"' in html
    assert '<a href="/module/json"' not in html


def test_the_environment_and_the_arguments_stay_secret(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Neither data nor the default of an argument tells what the process was started with."""
    monkeypatch.setenv("TOKEN", "hunter2-hunter2")
    source = """
        import enum, os, sys
        class Kind(enum.Enum):
            ONE = 1
        environ = os.environ
        token = os.environ["TOKEN"]
        raw = b"hunter2-hunter2"
        nested = (1, ("hunter2-hunter2",))
        executable = sys.executable
        plain, number, nothing, pair = "plain<&>", 42, None, ("a", 1)
        def f(environ=os.environ, token=token, path=sys.executable, seven=7):
            "Does it."
        def g(kind=Kind.ONE, call=len, o=object()):
            "Does more."
        class C:
            def __init__(self, environ=os.environ, *, token=token):
                "Makes one."
        """
    write(path, {"secretive.py": source})
    html = render(Module("secretive", origin=str(path / "secretive.py")), set())
    assert "hunter2" not in html
    assert sys.executable not in html
    assert " at 0x" not in html
    for shown in (
        "seven=7",
        "kind=Kind.ONE",
        "call=len",
        "o=...",
        "environ=...",
        "plain&lt;&amp;&gt;",
        "= 42",
    ):
        assert shown in html
    for kind in ("<strong>environ</strong> = <em>_Environ</em>", "<strong>token</strong> = <em>str</em>"):
        assert kind in html


def test_markup_in_a_docstring_is_text(path: Path) -> None:
    """What a module says of itself cannot become part of the page's markup."""
    write(path, {"hostile.py": '"""<script>alert(1)</script>"""\nx = "<script>"\ndef f(a="<script>"): ...'})
    html = render(Module("hostile", origin=str(path / "hostile.py")), set())
    assert "<script" not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nowhere_at_all", "needs the module nowhere_at_all"),
        ("raise SystemExit('/secret')", "SystemExit"),
        ("raise OSError('/secret')", "OSError"),
    ],
)
def test_a_module_that_cannot_be_imported_says_so(path: Path, source: str, words: str) -> None:
    """Whatever an import raises, the process goes on, and the error's own words stay inside."""
    write(path, {"broken_mod.py": source})
    with pytest.raises(CannotRender, match=words) as raised:
        render(Module("broken_mod", origin=str(path / "broken_mod.py")), set())
    assert "/secret" not in str(raised.value)


def test_a_file_that_came_before_the_indexed_one_is_not_imported(path: Path, tmp_path: Path) -> None:
    """A name is imported from where it was indexed or not at all."""
    write(path, {"shadowed.py": "raise AssertionError('imported')"})
    with pytest.raises(CannotRender, match="no longer where it was"):
        render(Module("shadowed", origin=str(tmp_path / "elsewhere" / "shadowed.py")), set())
    with pytest.raises(CannotRender, match="no longer where it was"):
        render(Module("nowhere_at_all", origin=str(tmp_path / "nowhere_at_all.py")), set())


def test_built_in_modules_have_pages() -> None:
    """A module without a file is rendered too, and the values of its data are not."""
    html = render(Module("sys"), {"sys"})
    assert "<strong>argv</strong> = <em>list</em>" in html
    assert "<strong>byteorder</strong> = &#x27;little&#x27;" in html.replace("'", "&#x27;")
