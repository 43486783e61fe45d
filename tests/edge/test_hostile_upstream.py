"""A replica that lies, floods or breaks off: its client gets one answer that is beyond doubt, or none."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="module")
def watched(make_edge: Any) -> Any:
    """An edge of its own, since what happens here counts against its replica."""
    return make_edge("--cache", "1MiB")


@pytest.fixture
def ask(watched: Any) -> Any:
    """Ask for a path over a connection of its own; before, the replica gives one good answer."""

    def ask(
        path: bytes, *lines: bytes, method: bytes = b"GET", version: bytes = b"1.1", **options: Any
    ) -> Any:
        watched.settle()
        head = [b"%b %b HTTP/%b" % (method, path, version), b"host: service", *lines, b"", b""]
        return watched.talk(b"\r\n".join(head), **options)

    return ask


@pytest.mark.parametrize(
    "path",
    [
        b"/endless-headers",
        b"/endless-line",
        b"/garbage",
        b"/greeting",
        b"/http-0.9",
        b"/no-such-version",
        b"/status-99",
        b"/status-1000",
        b"/early-close",
        b"/close-in-header",
        b"/two-lengths",
        b"/length-and-chunked",
        b"/plus-length",
        b"/list-length",
        b"/odd-coding",
        b"/nul-in-value",
        b"/cr-in-value",
        b"/space-before-colon",
        b"/switched",
        b"/interim-flood",
    ],
)
def test_what_is_no_answer_is_a_502(ask: Any, path: bytes) -> None:
    """Garbage, floods, doubt about where a response ends and smuggled lines are a 502, and no more."""
    [answer] = ask(path).answers
    assert answer.status == 502
    assert not answer.header(b"set-cookie")
    assert not answer.header(b"x-flood")
    assert b"smtp" not in answer.body


@pytest.mark.parametrize("path", [b"/bad-chunk", b"/cut-chunk", b"/cut-length"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_cut_body_is_never_taken_for_whole(ask: Any, path: bytes, version: bytes) -> None:
    """A body that breaks off is a 502, or ends in a way that its client cannot take for the end."""
    found = ask(path, version=version, closes=True)
    if version == b"1.1" or path == b"/cut-length":
        assert found.statuses in ([], [502])
    assert found.closed


def test_a_cut_body_is_a_reset_where_the_end_is_the_end(ask: Any, watched: Any) -> None:
    """To a client of HTTP/1.0 a body in chunks ends with the connection: a cut one ends with a reset."""
    with watched.connect() as sock:
        sock.sendall(b"GET /cut-chunk HTTP/1.0\r\nhost: service\r\n\r\n")

        def read() -> None:
            while sock.recv(65536):
                pass

        with pytest.raises(ConnectionResetError):
            read()


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        (b"/interim", 200, b"ok"),
        (b"/until-close", 200, b"ok"),
        (b"/chunked", 200, b"ok"),
        (b"/204-with-body", 204, b""),
        (b"/304-with-body", 304, b""),
        (b"/two-answers", 200, b"ok"),
        (b"/hop-by-hop", 200, b"ok"),
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_what_is_an_answer_passes(ask: Any, path: bytes, status: int, body: bytes, version: bytes) -> None:
    """Whatever stands around an answer, the client gets that one alone, framed for its version."""
    found = ask(path, version=version, closes=version == b"1.0")
    [answer] = found.answers
    assert (answer.status, answer.body, found.rest) == (status, body, b"")
    assert (b"transfer-encoding" not in dict(answer.headers)) or version == b"1.1"
    for name in (b"x-secret", b"proxy-connection", b"upgrade", b"x"):
        assert not answer.header(name)


def test_the_next_request_gets_its_own_answer(ask: Any, watched: Any) -> None:
    """Bytes behind an answer, and bodies where there can be none, never reach whoever asks next."""
    for path in (b"/two-answers", b"/head-with-body", b"/204-with-body", b"/304-with-body"):
        ask(path, head=path == b"/head-with-body")
        for _ in range(3):
            [answer] = ask(b"/").answers
            assert (answer.status, answer.body) == (200, b"ok")


def test_a_folded_line_is_unfolded_or_refused(ask: Any) -> None:
    """A folded line of a response does not reach the client as one (RFC 9112, 5.2)."""
    [answer] = ask(b"/folded").answers
    assert answer.status == 502 or answer.header(b"x") in ([b"a b"], [b"a   b"])


@pytest.mark.parametrize(
    "ranges",
    [
        b"bytes=" + b",".join([b"0-"] * 1000),
        b"bytes=" + b",".join([b"%d-%d" % (at, at) for at in range(0, 2000, 2)]),
        b"bytes=0-0,-9999999999999999999",
        b"bytes=5-2",
        b"bytes=99999999999999999999-",
        b"bytes=abc",
    ],
)
def test_ranges_do_not_multiply(ask: Any, ranges: bytes) -> None:
    """However many ranges are asked for, no more bytes come than there are, out of the cache too."""
    for _ in range(2):
        [answer] = ask(b"/big", b"range: " + ranges).answers
        assert answer.status in (200, 206, 416)
        assert len(answer.body) <= 10_000
