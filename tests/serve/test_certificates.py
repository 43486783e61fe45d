"""A certificate made on the spot works under strict clients, and a bad one is refused by name."""

from __future__ import annotations

import builtins
import datetime
import os
import re
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from replicated.errors import MissingExtra
from replicated.serve import certificates as module_under_test
from replicated.serve.certificates import names_in, self_signed, server_context


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(["localhost", "127.0.0.1", "::1", "*.example.org"], tmp_path_factory.mktemp("made"))


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """Let both sides talk over memory until both are content."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    waiting = {ours, theirs}
    while waiting:
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.discard(side)
    return theirs


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "a.example.org"])
@pytest.mark.parametrize("flags", [0, ssl.VERIFY_X509_STRICT])
def test_a_client_that_loads_it_trusts_it(made: tuple[Path, Path], name: str, flags: int) -> None:
    """For each of its names, also in the strict mode that Python 3.13 turns on, and by HTTP/1.1."""
    client = ssl.create_default_context(cafile=str(made[0]))
    client.verify_flags |= flags
    client.set_alpn_protocols(["h2", "http/1.1"])
    connection = handshake(server_context(*made), client, name)
    assert connection.version() == "TLSv1.3"
    assert connection.selected_alpn_protocol() == "http/1.1"


def test_it_is_for_its_names_only(made: tuple[Path, Path]) -> None:
    """Another host's name is refused by the client."""
    client = ssl.create_default_context(cafile=str(made[0]))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"example\.com"):
        handshake(server_context(*made), client, "example.com")


def test_old_protocols_are_refused(made: tuple[Path, Path]) -> None:
    """TLS 1.2 is the least."""
    context = server_context(*made)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    client = ssl.create_default_context(cafile=str(made[0]))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(context, client, "localhost").version() == "TLSv1.2"


def test_the_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask, and whatever file was there before."""
    (tmp_path / "key.pem").touch(0o666)
    before = os.umask(0)
    try:
        certificate, key = self_signed(["localhost"], tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(certificate.stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cert.pem", "key.pem"]
    server_context(certificate, key)


def test_it_cannot_sign_others_and_lives_as_long_as_browsers_allow(made: tuple[Path, Path]) -> None:
    """It is no authority, is valid now, and for less than 200 days."""
    certificate = x509.load_pem_x509_certificate(made[0].read_bytes())
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert 180 < life.days < 200


def test_a_name_beyond_ascii_is_written_as_dns_has_it(tmp_path: Path) -> None:
    """An internationalised name goes in as its A-labels, and a long one does not break the subject."""
    long = ".".join(["x" * 30] * 4)
    certificate, _ = self_signed([long, "bücher.example"], tmp_path)
    names = (
        x509.load_pem_x509_certificate(certificate.read_bytes())
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value.get_values_for_type(x509.DNSName)
    )
    assert names == [long, "xn--bcher-kva.example"]


@pytest.mark.parametrize("host", ["", "a b", "a/b", "*", "a..b", ".", "x" * 64, "a\n"])
def test_what_is_no_host_is_refused(host: str, tmp_path: Path) -> None:
    """The message names the argument and the value, and nothing is written."""
    with pytest.raises(ValueError, match=f"hosts .*{re.escape(repr(host))}"):
        self_signed(["localhost", host], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_hosts_are_several() -> None:
    """No host is refused, and so is one string, which would be taken letter by letter."""
    with pytest.raises(ValueError, match="at least one"):
        self_signed([])
    with pytest.raises(TypeError, match=r"hosts .*'localhost'"):
        self_signed("localhost")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file cannot be put in place, no half of it stays."""

    def fail(*_: Any) -> None:
        raise OSError("full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        self_signed(["localhost"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_directory_goes_with_the_process() -> None:
    """Without a directory the files live as long as the process."""
    code = (
        "from replicated.serve.certificates import *; print(self_signed(['localhost'])[1].read_bytes and 1)"
    )
    code = "from replicated.serve.certificates import *; c, k = self_signed(['a']); c.stat(); print(k.parent)"
    root = Path(module_under_test.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    directory = Path(done.stdout.strip())
    assert directory.name.startswith("replicated-tls-")
    assert not directory.exists()


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cryptography the error says what to install."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"replicated-tier\[serve\]"):
        self_signed(["localhost"])


def text(content: str) -> Callable[[Path, bytes], bytes]:
    return lambda _, __: content.encode()


def encrypted(_: Path, key: bytes) -> bytes:
    private = serialization.load_pem_private_key(key, None)
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def foreign(directory: Path, _: bytes) -> bytes:
    return self_signed(["other"], directory)[1].read_bytes()


BROKEN = "-----BEGIN {0}-----\nAAAA\n-----END {0}-----\n"


@pytest.mark.parametrize(
    ("which", "change", "words"),
    [
        (0, text(""), "certificate must be a PEM file .*{path}"),
        (1, text("words"), "key must be a PEM file .*{path}"),
        (0, text(BROKEN.format("CERTIFICATE")), "{path} is broken"),
        (1, text(BROKEN.format("PRIVATE KEY")), "{path} is broken"),
        (1, encrypted, "key must not be encrypted, and {path} is"),
        (1, foreign, "key must belong to the certificate .*cert.pem, and {path} does not"),
    ],
)
def test_a_file_that_cannot_serve_is_named(
    made: tuple[Path, Path],
    tmp_path: Path,
    which: int,
    change: Callable[[Path, bytes], bytes],
    words: str,
) -> None:
    """Each fault is a ValueError that names the file, and nobody is asked for a passphrase."""
    files = list(made)
    files[which] = tmp_path / "changed.pem"
    files[which].write_bytes(change(tmp_path, made[which].read_bytes()))
    with pytest.raises(ValueError, match=words.format(path=re.escape(str(files[which])))):
        server_context(files[0], files[1])


def test_a_file_that_cannot_be_read_is_named(made: tuple[Path, Path], tmp_path: Path) -> None:
    """A missing file and a directory are told apart from a bad certificate."""
    with pytest.raises(ValueError, match=r"certificate cannot be read: .*/missing: No such file"):
        server_context(tmp_path / "missing", made[1])
    with pytest.raises(ValueError, match=r"key cannot be read: .*: Is a directory"):
        server_context(str(made[0]), str(tmp_path))


def test_the_names_on_a_certificate(made: tuple[Path, Path], tmp_path: Path) -> None:
    """They are read in lower case, without the addresses; what cannot be read is refused by name."""
    assert names_in(made[0]) == ["localhost", "*.example.org"]
    [upper, _] = self_signed(["LOCALHOST.Example"], tmp_path)
    assert names_in(upper) == ["localhost.example"]
    (tmp_path / "none.pem").write_text("nothing")
    for path in (tmp_path / "none.pem", tmp_path / "missing.pem"):
        with pytest.raises(ValueError, match=f"certificate cannot be read: .*{path.name}"):
            names_in(path)


def test_a_certificate_without_names(tmp_path: Path) -> None:
    """One of the old kind, with a subject alone, has no names: clients no longer look at that either."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old.test")])
    now = datetime.datetime.now(datetime.UTC)
    old = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "old.pem").write_bytes(old.public_bytes(serialization.Encoding.PEM))
    assert names_in(tmp_path / "old.pem") == []


def test_authorities_of_clients(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Where they are given every client is asked; a file that is none is refused by name."""
    assert server_context(*made).verify_mode is ssl.CERT_NONE
    assert server_context(*made, made[0]).verify_mode is ssl.CERT_REQUIRED
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    for path in (broken, tmp_path / "missing.pem"):
        with pytest.raises(ValueError, match=f"client_ca .*{path.name}"):
            server_context(*made, path)
