"""Whose fault it is that no connection came about."""

from __future__ import annotations

import errno
import pickle
import socket
import ssl

import pytest

from replicated.adapters.engine.origin import Origin, unreachable
from replicated.errors import UpstreamBroken, UpstreamError, UpstreamExhausted, UpstreamTimeout


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "connection_refused"),
        (socket.gaierror(-2, "unknown"), "dns_error"),
        (UnicodeError("label too long"), "dns_error"),
        (ssl.SSLCertVerificationError("no"), "tls_certificate_error"),
        (ssl.SSLError("no"), "tls_protocol_error"),
        (OSError("Multiple exceptions: ..."), "destination_unavailable"),
        (OSError(errno.EMFILE, "too many"), "connection_limit_reached"),
        (OSError(errno.ENFILE, "too many"), "connection_limit_reached"),
    ],
)
def test_kinds(error: Exception, kind: str) -> None:
    """RFC 9209's names; and what this side ran out of is told apart from what the replica did."""
    found = unreachable(Origin("h", 1), error)
    assert found.kind == kind
    assert isinstance(found, UpstreamExhausted) is (kind == "connection_limit_reached")
    assert "h:1" in str(found)


@pytest.mark.parametrize("error", [UpstreamTimeout("a"), UpstreamBroken("b", "http_protocol_error")])
def test_errors_survive_a_pickle(error: UpstreamError) -> None:
    """Sent to another process an error says the same."""
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.kind) == (type(error), str(error), error.kind)
