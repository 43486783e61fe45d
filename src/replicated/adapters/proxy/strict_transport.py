"""From HTTP to HTTPS, and to stay there: a redirect for who comes without TLS, and HSTS for who came with it.

Handlers. Whether there is TLS, and on which port, is for whoever puts them together to say.
"""

from __future__ import annotations

from ...http.fields import find, problem
from ...http.message import Handler, Request, Response

__all__ = ["redirect_to_https", "strict_transport"]


def strict_transport(inner: Handler, seconds: int) -> Handler:
    """Return a handler that tells clients to come back over TLS alone (HSTS, RFC 6797).

    What the application says of it itself is left as it is; over plain HTTP nothing is said (7.2).

    Args:
        inner: Answers.
        seconds: For how long; 0 makes clients forget what they were told.

    Raises:
        ValueError: ``seconds`` is not an integer of at least 0.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 0:
        raise ValueError(f"seconds must be an integer of at least 0, not {seconds!r}")
    line = (b"strict-transport-security", b"max-age=%d" % seconds)

    async def handle(request: Request) -> Response:
        response = await inner(request)
        if request.scheme == "https" and find(response.headers, line[0]) is None:
            response.headers = [*response.headers, line]
        return response

    return handle


def redirect_to_https(port: int = 443) -> Handler:
    """Return a handler that sends each request to the same URL under https, its method kept (308).

    Args:
        port: Where TLS is listened for.
    """
    behind = b"" if port == 443 else b":%d" % port

    async def handle(request: Request) -> Response:
        host = find(request.headers, b"host") or b""
        name = host[: host.index(b"]") + 1] if host.startswith(b"[") else host.partition(b":")[0]
        if not name:
            return problem(400, "there is no host to send you to")
        target = request.target if request.target.startswith(b"/") else b"/"
        headers = [(b"content-length", b"0"), (b"location", b"https://%b%b%b" % (name, behind, target))]
        return Response(308, headers)

    return handle
