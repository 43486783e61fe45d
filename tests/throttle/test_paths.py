"""Names of paths: one for all spellings, one for all that a template covers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicated.throttle import PathTemplates, normalized


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/a/b", "/a/b"),
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/a//b///c", "/a/b/c"),
        ("/a/b/", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a/%2e/b", "/a/b"),
        ("/a/x/../b", "/a/b"),
        ("/a/x/%2E%2e/b", "/a/b"),
        ("/../../a", "/a"),
        ("/a?x=1", "/a"),
        ("/a?x=/../b", "/a"),
        ("/a#f?x", "/a"),
        ("/%61%62", "/ab"),
        ("/a%2fb", "/a/b"),
        ("/a%3fb", "/a%3Fb"),
        ("/a%23b", "/a%23b"),
        ("/a%2520b", "/a%2520b"),
        ("/a b", "/a%20b"),
        ("/é", "/%C3%A9"),
        ("/%c3%a9", "/%C3%A9"),
        ("/%zz", "/%25zz"),
        ("/100%", "/100%25"),
        ("/%%32e", "/%252e"),
        ("/a\\b", "/a%5Cb"),
        ("/a\x00", "/a%00"),
        ("/\udcff", "/%FF"),
        ("/\ud800", "/%ED%A0%80"),
        ("http://host:80/a/b?c", "/a/b"),
        ("http://host", "/"),
        ("/http://host/a", "/http:/host/a"),
        ("*", "/*"),
        ("/A", "/A"),
        ("/a;x=1,2", "/a;x=1,2"),
    ],
)
def test_normalized(target: str, name: str) -> None:
    """Each spelling has the name that it should."""
    assert normalized(target) == name


@given(st.text(alphabet=st.sampled_from("/.%2eEfF5aé?#:\\ "), max_size=30) | st.text(max_size=30))
def test_idempotent(target: str) -> None:
    """A name is its own name, begins with one slash, and has no empty, dot or parent segment."""
    name = normalized(target)
    assert normalized(name) == name
    assert name.startswith("/")
    assert name == "/" or not {"", ".", ".."} & set(name[1:].split("/"))


@given(st.data(), st.lists(st.sampled_from(["a", "users", "x-y", "7"]), min_size=1, max_size=4))
def test_spellings(data: st.DataObject, segments: list[str]) -> None:
    """However slashes are doubled, letters escaped, dots put in or a query added, the name is the same."""
    spelt = ""
    for segment in segments:
        spelt += data.draw(st.sampled_from(["/", "//", "/./", "/%2e/", "/z/../", "/z/.%2E/", "%2f"]))
        for letter in segment:
            spelt += data.draw(st.sampled_from([letter, f"%{ord(letter):02x}", f"%{ord(letter):02X}"]))
    spelt += data.draw(st.sampled_from(["", "/", "/.", "?", "?a=/b", "#c", "//?%2e"]))
    assert normalized("/" + spelt) == "/" + "/".join(segments)


def test_templates() -> None:
    """A path is called by the template that covers it, literals first, and the others all alike."""
    templates = PathTemplates(
        ["/", "/users/{id}", "/users/me", "/users/{id}/posts", "/files/{path...}", "/{any}/posts/x"]
    )
    for target, name in {
        "/": "/",
        "/?q": "/",
        "/users/7": "/users/{id}",
        "//users//%37/?q": "/users/{id}",
        "/users/me": "/users/me",
        "/users/me/posts": "/users/{id}/posts",
        "/users/posts/x": "/{any}/posts/x",
        "/files/a/b/c": "/files/{path...}",
        "/files": "*",
        "/users": "*",
        "/users/7/posts/1": "*",
        "/nothing": "*",
    }.items():
        assert templates.key(target) == name


def test_other() -> None:
    """What no template covers can keep its own name, or have a given one."""
    assert PathTemplates([], other=None).key("/a//b?c") == "/a/b"
    assert PathTemplates([], other="rest").key("/a") == "rest"


def test_templates_are_normalised() -> None:
    """The literal parts of a template cover their own spellings."""
    assert PathTemplates(["/caf\xe9/{x}"]).key("/caf%c3%a9/1") == "/caf\xe9/{x}"


@pytest.mark.parametrize(
    "templates",
    [["users"], ["/v{n}"], ["/{a...}/b"], ["/a", "/a/"], ["/{a}", "/{b}"], ["/{a...}", "/{b...}"]],
)
def test_bad_templates(templates: list[str]) -> None:
    """A template that could not do what it says is refused."""
    with pytest.raises(ValueError, match="templates must"):
        PathTemplates(templates)


def test_hostile_path() -> None:
    """A path of ten thousand segments costs no more than the templates are deep."""
    templates = PathTemplates(["/" + "/".join(["{x}"] * 20), "/" + "/".join(["a"] * 20)])
    assert templates.key("/a" * 10_000) == "*"
