"""What HTTP says: values in, decisions out, without a socket; the house rules that every front applies."""

from .fields import retry_after
from .framing import Limits
from .identity import Client, Identity, address_key
from .message import Handler, Headers, Request, Response

__all__ = [
    "Client",
    "Handler",
    "Headers",
    "Identity",
    "Limits",
    "Request",
    "Response",
    "address_key",
    "retry_after",
]
