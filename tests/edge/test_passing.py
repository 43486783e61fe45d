"""What goes on to a replica, and what stays: the header of a request on its way through the edge."""

from __future__ import annotations

from typing import Any


def get(*lines: bytes) -> bytes:
    """A GET with some header lines."""
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: service", *lines, b"", b""])


def test_what_a_stranger_says_of_himself_does_not_arrive(edge: Any) -> None:
    """Forwarding headers in either spelling, and what Connection names, are not passed on from anybody."""
    lie = b"6.6.6.6"
    names = [b"X-Forwarded-For", b"X_Forwarded_For", b"X-Real-IP", b"X_Real_IP", b"X-Forwarded-Anything"]
    names += [b"Keep-Alive", b"Proxy-Connection", b"Proxy-Authorization", b"X-Secret", b"X-Original-URL"]
    lines = [name + b": " + lie for name in names]
    lines += [b"Forwarded: for=6.6.6.6", b"X-Forwarded-Host: 6.6.6.6", b"TE: trailers"]
    assert edge.talk(get(*lines, b"Connection: keep-alive, X-Secret")).statuses == [200]
    [seen] = edge.recorder.seen
    assert not any(lie in value for _, value in seen.headers)
    assert not seen.header(b"te")
    assert seen.header(b"x-forwarded-for") == [b"127.0.0.1"]
    assert seen.header(b"x-forwarded-host") == [b"service"]
    assert seen.header(b"via") == [b"1.1 replicated"]


def test_what_a_client_says_to_the_application_arrives(edge: Any) -> None:
    """Cookies, authorization, trace context and all else go on as they came, line by line and in order."""
    lines = [
        b"cookie: a=1",
        b"x-a: 1",
        b"cookie: b=2",
        b"authorization: Basic eA==",
        b"x-a: 2",
        b"x-latin: \xe4",
    ]
    lines += [b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"tracestate: a=1,b=2"]
    assert edge.talk(get(*lines)).statuses == [200]
    [seen] = edge.recorder.seen
    assert [b": ".join(line) for line in seen.headers if b": ".join(line) in lines] == lines


def test_what_goes_in_circles_is_ended(edge: Any) -> None:
    """A request that has passed this tier before is a 508, and does not go round again."""
    assert edge.talk(get(b"Via: 1.1 other, 1.1 replicated")).statuses == [508]
    assert edge.talk(get(b"Via: 1.1 other")).statuses == [200]
    assert len(edge.recorder.seen) == 1
