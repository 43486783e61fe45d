"""The certificates that a tier shows: which one to whom, and what becomes of them when their files change.

New ones take the place of the old as a whole, between two handshakes; where one of them cannot be read, all
stay as they were. When to look at the files is not decided here.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from .certificates import names_in, server_context

__all__ = ["CertificateShelf"]

Pair: TypeAlias = tuple[Path, Path]


class CertificateShelf:
    """The certificates of a listener.

    A client that names a server is shown the certificate for that name; for a name that stands on none of
    them, and without a name, the first. A name written out goes before a wildcard, which stands for one label
    (RFC 9525, 6.3).

    Args:
        pairs: Files of certificates and of their keys, as ``server_context`` takes them.
        client_ca: The authorities of which clients must show a certificate.

    Raises:
        ValueError: ``pairs`` is empty, or a file cannot be read, or is not what it should be.
        MissingExtra: There are several, and the package cryptography, which reads their names, is missing.
    """

    def __init__(self, pairs: Iterable[Pair], client_ca: Path | None = None) -> None:
        self.pairs = list(pairs)
        self.client_ca = client_ca
        if not self.pairs:
            raise ValueError("pairs must be at least one certificate with its key")
        self._seen = self._look()
        self._default = self._load()

    def context(self) -> ssl.SSLContext:
        """Return what the next handshake begins with."""
        return self._default

    def changed(self) -> bool:
        """Return whether a file has changed since the files were read last, or tried to."""
        return self._look() != self._seen

    def reload(self) -> None:
        """Read all files again.

        Raises:
            ValueError: One of them cannot be used; the certificates stay as they were.
        """
        self._seen = self._look()
        self._default = self._load()

    def _look(self) -> list[object]:
        """Return what differs when a file has changed, or a link leads elsewhere, as in Kubernetes."""
        paths = [path for pair in self.pairs for path in pair]
        if self.client_ca is not None:
            paths.append(self.client_ca)
        looks: list[object] = []
        for path in paths:
            try:
                found = os.stat(path)
            except OSError as error:
                looks.append(error.errno)
            else:
                looks.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
        return looks

    def _load(self) -> ssl.SSLContext:
        contexts = [server_context(certificate, key, self.client_ca) for certificate, key in self.pairs]
        default = contexts[0]
        if len(contexts) > 1:
            by_name: dict[str, ssl.SSLContext] = {}
            for (certificate, _), context in zip(self.pairs, contexts, strict=True):
                for name in names_in(certificate):
                    by_name.setdefault(name, context)

            def choose(sock: ssl.SSLObject, name: str | None, initial: ssl.SSLContext) -> None:
                found = chosen(by_name, name)
                if found is not None:
                    sock.context = found

            default.sni_callback = choose
        return default


def chosen(by_name: dict[str, ssl.SSLContext], name: str | None) -> ssl.SSLContext | None:
    """Return the certificate for a server's name, if there is one."""
    if not name:
        return None
    name = name.lower()
    _, _, parent = name.partition(".")
    return by_name.get(name) or by_name.get(f"*.{parent}")
