"""TLS at the edge: whose certificate is shown, how it is changed under way, and what is said about HTTPS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from replicated.adapters.front.front import Front
from replicated.adapters.front.limits import FrontLimits
from replicated.http.message import Request, Response
from replicated.serve.certificate_shelf import CertificateShelf
from replicated.serve.certificate_watch import CertificateWatch
from replicated.serve.cli import replicated

AUTHORITY = trustme.CA()
CLIENTS = trustme.CA()
Pair = tuple[Path, Path]


def written(directory: Path, stem: str, *names: str) -> Pair:
    """Write a certificate for some names and its key, over what is there."""
    made = AUTHORITY.issue_cert(*names)
    cert, key = directory / f"{stem}.pem", directory / f"{stem}.key"
    made.private_key_pem.write_to_path(str(key))
    made.cert_chain_pems[0].write_to_path(str(cert))
    return cert, key


@pytest.fixture
def issue(tmp_path: Path) -> Callable[..., Pair]:
    """Write a certificate for some names to a directory of this test."""
    return lambda *names, to="": written(tmp_path, to or names[0], *names)


@pytest.fixture(scope="module")
def trust() -> ssl.SSLContext:
    """A client that trusts the authority."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def flags(*pairs: Pair) -> list[str]:
    return [word for cert, key in pairs for word in ("--tls-cert", str(cert), "--tls-key", str(key))]


def handshake(address: Any, trust: ssl.SSLContext, name: str | None) -> set[str]:
    """Connect; return the names on the certificate that was shown."""
    with (
        socket.create_connection(address, 5) as sock,
        trust.wrap_socket(sock, server_hostname=name) as connection,
    ):
        return {value for _, value in connection.getpeercert()["subjectAltName"]}  # type: ignore[index, misc]


def ask(address: Any, context: ssl.SSLContext | None, *lines: bytes, name: str = "a.test") -> bytes:
    """Send a request for /, and return all that comes."""
    with contextlib.ExitStack() as stack:
        sock: socket.socket = stack.enter_context(socket.create_connection(address, 5))
        if context is not None:
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname=name))
        head = [b"GET / HTTP/1.1", b"host: " + name.encode(), b"connection: close", *lines, b"", b""]
        sock.sendall(b"\r\n".join(head))
        got = b""
        while data := sock.recv(65536):
            got += data
        return got


@pytest.fixture(scope="module")
def edge(make_edge: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An edge with three certificates, HSTS and a redirect."""
    names = [("a.test",), ("b.test", "*.c.test"), ("x.c.test",)]
    pairs = [written(tmp_path_factory.mktemp("certificates"), "it", *some) for some in names]
    return make_edge(*flags(*pairs), "--hsts", "3600", "--redirect-from", "127.0.0.1:0")


def test_the_name_chooses(edge: Any, trust: ssl.SSLContext) -> None:
    """A name written out goes before a wildcard, case is nothing, and strangers are shown the first."""
    assert handshake(edge.address, trust, "a.test") == {"a.test"}
    assert handshake(edge.address, trust, "B.test") == {"b.test", "*.c.test"}
    assert handshake(edge.address, trust, "y.c.test") == {"b.test", "*.c.test"}
    assert handshake(edge.address, trust, "x.c.test") == {"x.c.test"}
    careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(careless)
    careless.check_hostname = False
    for stranger in ("stranger.test", "a.b.c.test", "c.test", None):
        assert handshake(edge.address, careless, stranger) == {"a.test"}


def test_versions_and_protocols(edge: Any) -> None:
    """HTTP/1.1 is agreed on over TLS 1.2 and 1.3; nothing older is spoken, and plain HTTP gets no answer."""
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        context = ssl.create_default_context()
        AUTHORITY.configure_trust(context)
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(edge.address, 5) as sock,
            context.wrap_socket(sock, server_hostname="a.test") as connection,
        ):
            assert (connection.version(), connection.selected_alpn_protocol()) == (name, "http/1.1")
    # A ClientHello of TLS 1.1, which OpenSSL's default no longer writes.
    body = b"\x03\x02" + bytes(32) + b"\x00" + b"\x00\x04\xc0\x13\x00\x2f" + b"\x01\x00"
    hello = b"\x16\x03\x01" + (len(body) + 4).to_bytes(2) + b"\x01" + len(body).to_bytes(3) + body
    with socket.create_connection(edge.address, 5) as sock:
        sock.sendall(hello)
        answer = sock.recv(65536)
        assert answer == b"" or answer[0] == 21, answer  # an alert, or just the end
    with contextlib.suppress(ConnectionResetError):
        assert not ask(edge.address, None).startswith(b"HTTP/1.1 200")


def test_certificates_change_without_a_failed_handshake(
    make_edge: Any, issue: Any, trust: ssl.SSLContext
) -> None:
    """On SIGHUP new ones are shown; bad ones leave the old, and are said; no handshake in between fails."""
    cert, key = pair = issue("a.test", "old.test", to="it")
    edge = make_edge(*flags(pair))
    shown = [handshake(edge.address, trust, "a.test")]

    def hang_up(mark: str) -> None:
        seen = len(edge.said)
        edge.process.send_signal(signal.SIGHUP)
        for _ in range(10):
            shown.append(handshake(edge.address, trust, "a.test"))
        edge.line(mark, after=seen)

    with socket.create_connection(edge.address, 5) as sock:
        kept = trust.wrap_socket(sock, server_hostname="a.test")
        issue("a.test", "new.test", to="it")
        hang_up("were read again")
        kept.sendall(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")  # who was connected stays so
        kept.close()
    assert handshake(edge.address, trust, "a.test") == {"a.test", "new.test"}
    cert.write_text("-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n")
    hang_up(f"{cert} is broken")
    shutil.copy(issue("b.test")[1], key)
    hang_up("stay as they were")
    key.unlink()
    hang_up("cannot be read")
    assert handshake(edge.address, trust, "a.test") == {"a.test", "new.test"}
    issue("a.test", "newest.test", to="it")
    hang_up("were read again")
    assert handshake(edge.address, trust, "a.test") == {"a.test", "newest.test"}
    assert len(shown) == 51


def test_files_are_watched(issue: Any) -> None:
    """A file that changes is read without a word from anybody, one that is bad is said once."""
    pair = issue("a.test", to="it")
    shelf = CertificateShelf([pair], None)
    said: list[str] = []
    before = shelf.context()

    async def main() -> None:
        async def until(count: int) -> None:
            async with asyncio.timeout(5):
                while len(said) < count:
                    await asyncio.sleep(0.005)

        async with CertificateWatch(shelf, said.append, period=0.005):
            await asyncio.sleep(0.03)
            assert said == []
            issue("b.test", to="new")
            os.replace(pair[0].with_name("new.pem"), pair[0])
            await until(1)  # half of the change: the key is still the old one
            assert "stay as they were" in said[0]
            assert shelf.context() is before
            os.replace(pair[1].with_name("new.key"), pair[1])
            await until(2)
            assert "read again" in said[1]
            assert shelf.context() is not before
            pair[0].unlink()
            await until(3)
            await asyncio.sleep(0.03)
            assert len(said) == 3
            signal.raise_signal(signal.SIGHUP)
            await until(4)
            assert said[3] == said[2]

    asyncio.run(main())


def test_client_certificates(make_edge: Any, issue: Any, tmp_path: Path) -> None:
    """Where they are asked for, who shows none, or one of another authority, gets no answer."""
    CLIENTS.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    edge = make_edge(*flags(issue("a.test")), "--tls-client-ca", str(tmp_path / "ca.pem"))

    def client(authority: trustme.CA | None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        AUTHORITY.configure_trust(context)
        if authority is not None:
            authority.issue_cert("client@a.test").configure_cert(context)
        return context

    assert ask(edge.address, client(CLIENTS)).startswith(b"HTTP/1.1 200")
    for wrong in (None, AUTHORITY):
        with contextlib.suppress(OSError):  # an alert, a reset or just the end, as the version of TLS has it
            assert ask(edge.address, client(wrong)) == b""


def test_strict_transport_and_redirect(edge: Any, trust: ssl.SSLContext) -> None:
    """Over TLS clients are told to come back so; without it they are sent there, method and target kept."""
    assert b"\r\nstrict-transport-security: max-age=3600\r\n" in ask(edge.address, trust)
    plain = edge.other("redirects")
    answer = ask(plain, None)
    assert answer.startswith(b"HTTP/1.1 308")
    assert b"\r\nlocation: https://a.test:%d/\r\n" % edge.address[1] in answer
    assert b"strict-transport" not in answer  # RFC 6797, 7.2
    with socket.create_connection(plain, 5) as sock:
        sock.sendall(b"POST /a%2Fb?c HTTP/1.0\r\nhost: [::1]:8080\r\ncontent-length: 0\r\n\r\n")
        assert b"\r\nlocation: https://[::1]:%d/a%%2Fb?c\r\n" % edge.address[1] in sock.makefile("rb").read()
    with socket.create_connection(plain, 5) as sock:
        sock.sendall(b"OPTIONS * HTTP/1.0\r\nhost:\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 400")


def test_a_balancer_says_for_whom_before_the_handshake(
    make_edge: Any, issue: Any, trust: ssl.SSLContext, recorder: Any
) -> None:
    """The PROXY protocol stands before TLS, and the client that it names is the one that replicas hear of."""
    edge = make_edge(*flags(issue("a.test")), "--trust", "127.0.0.1", "--proxy-protocol")
    recorder.forget()
    with socket.create_connection(edge.address, 5) as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 443\r\n")
        with trust.wrap_socket(sock, server_hostname="a.test") as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    [seen] = recorder.seen
    assert seen.header(b"x-forwarded-for") == [b"192.0.2.7"]
    assert seen.header(b"x-forwarded-proto") == [b"https"]


def test_a_handshake_that_does_not_end(issue: Any) -> None:
    """A client that begins a handshake and says no more is let go."""
    shelf = CertificateShelf([issue("a.test")])

    async def handler(request: Request) -> Response:
        return Response(200)

    async def main() -> None:
        front = Front(handler, limits=FrontLimits(handshake=0.05), tls=shelf.context)
        listener = socket.create_server(("127.0.0.1", 0))
        front.start(listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()
        await front.stop(0.1)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--tls-cert", "a.pem"], "--tls-cert and --tls-key go together"),
        (["--tls-cert", "no.pem", "--tls-key", "no.key"], "certificate cannot be read"),
        (["--tls-self-signed", "--tls-key", "a.key"], "--tls-self-signed makes a certificate"),
        (["--hsts", "60"], "--hsts needs a certificate"),
        (["--hsts", "-1"], "--hsts"),
        (["--redirect-from", ":0"], "--redirect-from needs a certificate"),
        (["--tls-client-ca", "a.pem"], "--tls-client-ca needs a certificate"),
        (["--tls-self-signed", "--tls-client-ca", "no.pem"], "client_ca cannot be read"),
        (["--admin", "nowhere"], "HOST:PORT"),
        (["--admin", "192.0.2.1:80"], "cannot listen on 192.0.2.1:80"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], complaint: str) -> None:
    """Flags that make no sense together, and files that are none, are one line and status 2."""
    flags = ["serve", "--upstream", "http://127.0.0.1:9", "--listen", "127.0.0.1:0", *words]
    done = CliRunner().invoke(replicated, flags)
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert complaint in line


def test_a_shelf_without_certificates() -> None:
    """There is no default for what has to be shown."""
    with pytest.raises(ValueError, match="at least one"):
        CertificateShelf([])
