"""Certificates for a tier that terminates TLS: one made on the spot, and any loaded, with clear errors.

A self-signed certificate is for a laptop and for tests: it proves nothing but that the same key answers.
Renewal, authorities and what a client should trust are not decided here.
"""

from __future__ import annotations

import atexit
import datetime
import ipaddress
import os
import shutil
import ssl
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from ..errors import MissingExtra

__all__ = ["names_in", "self_signed", "server_context"]

# The longest life that browsers accept (CA/Browser Forum ballot SC-081v3: 200 days from March 2026), less a
# few days. It begins an hour ago, for clients whose clock is behind.
_LIFE = datetime.timedelta(days=190)
_BEHIND = datetime.timedelta(hours=1)


def self_signed(hosts: Iterable[str], directory: Path | None = None) -> tuple[Path, Path]:
    """Make a key (P-256) and a certificate for it, signed by itself.

    A client trusts it by loading the certificate as its authority.

    Args:
        hosts: The names and addresses it is for; the first is its subject as well.
        directory: Where the files `cert.pem` and `key.pem` go, replacing what is there. None makes a
            temporary directory, which goes when this process ends in order.

    Returns:
        The paths of the certificate and of the key. The key is readable by its owner alone.

    Raises:
        ValueError: ``hosts`` is empty, or one of them is neither a name nor an address.
        TypeError: ``hosts`` is a single str.
        OSError: The files cannot be written.
        MissingExtra: The package cryptography is not installed.
    """
    if isinstance(hosts, str):
        raise TypeError(f"hosts must be several names, not the one str {hosts!r}")
    names = list(hosts)
    if not names:
        raise ValueError("hosts must name at least one host")
    key, certificate = _make(names)
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix="replicated-tls-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    paths = directory / "cert.pem", directory / "key.pem"
    _write(paths[1], key, 0o600)
    _write(paths[0], certificate, 0o644)
    return paths


def _make(names: list[str]) -> tuple[bytes, bytes]:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError:
        raise MissingExtra(__name__, "serve") from None

    def general(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            pass
        try:
            ascii_name = name.encode("idna").decode("ascii")
        except UnicodeError:
            ascii_name = ""
        # An underscore is no letter of a host name, and yet in use; a wildcard stands alone in front.
        letters = ascii_name.removeprefix("*.").replace("-", "").replace("_", "").replace(".", "")
        if not letters.isalnum():
            raise ValueError(f"hosts must be names or addresses, not {name!r}")
        return x509.DNSName(ascii_name)

    alternatives = [general(name) for name in names]
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    # 64 characters is the most that a common name may have (RFC 5280, upper bounds).
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(alternatives[0].value)[:64])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEHIND)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        # No authority: with its key nobody can make certificates for other names.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        # OpenSSL's strict mode, which Python 3.13 turns on, wants it even here.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.public_bytes(pem),
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    # Beside it first, then over it: nobody ever reads half a file, and a key is never, not even for a moment,
    # in a file that others may read.
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, mode)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def server_context(
    certificate: Path | str, key: Path | str, client_ca: Path | str | None = None
) -> ssl.SSLContext:
    """Return a context that serves HTTP/1.1 over TLS 1.2 or later with this certificate.

    Args:
        certificate: A PEM file: the certificate, and behind it those of the authorities between.
        key: A PEM file: its private key, not encrypted.
        client_ca: A PEM file: the authorities of which every client must show a certificate; None asks for
            none.

    Raises:
        ValueError: A file cannot be read, is not what it should be, or the two do not belong together. The
            message names the file.
    """
    _check(certificate, "certificate", "-----BEGIN CERTIFICATE-----")
    _check(key, "key", "PRIVATE KEY-----")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])

    def refuse() -> NoReturn:
        # Without this OpenSSL would ask for a passphrase on the terminal.
        raise ValueError(f"key must not be encrypted, and {key} is")

    try:
        context.load_cert_chain(certificate, key, refuse)
    except ssl.SSLError as error:
        if error.reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}:
            raise ValueError(
                f"key must belong to the certificate {certificate}, and {key} does not"
            ) from None
        # OpenSSL reads the certificate first and does not say which of the two it was.
        raise ValueError(
            f"certificate and key must be PEM files, and {_broken(certificate, key)}: {error}"
        ) from None
    if client_ca is not None:
        _check(client_ca, "client_ca", "-----BEGIN CERTIFICATE-----")
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise ValueError(f"client_ca must be a PEM file, and {client_ca} is broken: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def names_in(certificate: Path | str) -> list[str]:
    """Return the names that a certificate is for, in lower case; the addresses are left out.

    Args:
        certificate: A PEM file, of which the first one counts.

    Raises:
        ValueError: It cannot be read.
        MissingExtra: The package cryptography is not installed.
    """
    try:
        from cryptography import x509
    except ImportError:
        raise MissingExtra(__name__, "serve") from None
    try:
        [first, *_] = x509.load_pem_x509_certificates(Path(certificate).read_bytes())
        alternatives = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    except (OSError, ValueError) as error:
        raise ValueError(f"certificate cannot be read: {certificate}: {error}") from None
    return [name.lower() for name in alternatives.get_values_for_type(x509.DNSName)]


def _check(path: Path | str, argument: str, mark: str) -> None:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{argument} cannot be read: {path}: {error.strerror}") from None
    if mark.encode() not in content:
        raise ValueError(f"{argument} must be a PEM file with {mark!r}, and {path} is not")


def _broken(certificate: Path | str, key: Path | str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError:
        return f"{certificate} is broken"
    return f"{key} is broken"
