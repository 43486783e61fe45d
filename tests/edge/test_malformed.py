"""What is malformed is refused, or reaches the replica as exactly the requests that the edge has answered.

Each row is sent over a raw socket to the running edge; behind it a replica records what it saw, with the
strictest reading of HTTP/1.1. Where RFC 9112 or 9110 leaves a choice, a row names what may come of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

HOST = b"Host: service"


class Outcome(NamedTuple):
    """What may come of a row.

    Attributes:
        statuses: Of the answers in order; several that are alike in a tuple.
        seen: Method, target and body of what the replica saw.
        closes: Whether the connection has to end.
    """

    statuses: tuple[tuple[int, ...], ...]
    seen: tuple[tuple[bytes, bytes, bytes], ...]
    closes: bool


def refused(*statuses: int) -> Outcome:
    """It is answered so, the connection ends, and the replica has seen nothing."""
    return Outcome((statuses,), (), True)


def passed(*seen: tuple[bytes, bytes, bytes] | bytes) -> Outcome:
    """The replica has seen just this, and each was answered."""
    requests = tuple(one if isinstance(one, tuple) else (b"GET", one, b"") for one in seen)
    return Outcome(((200,),) * len(requests), requests, False)


def then(first: Outcome, second: Outcome) -> Outcome:
    """One after the other, over one connection."""
    return Outcome(first.statuses + second.statuses, first.seen + second.seen, second.closes)


def get(*lines: bytes, target: bytes = b"/", host: bytes = HOST) -> bytes:
    """A GET with some header lines."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, host, *lines, b"", b""])


def post(*lines: bytes, body: bytes = b"hello") -> bytes:
    """A POST with some header lines and a body."""
    return b"\r\n".join([b"POST /p HTTP/1.1", HOST, *lines, b"", body])


def chunked(body: bytes, *lines: bytes) -> bytes:
    """A POST whose body is in chunks, as given."""
    return post(b"Transfer-Encoding: chunked", *lines, body=body)


HELLO = (b"POST", b"/p", b"hello")
NOTHING = (b"POST", b"/p", b"")
GOOD = get(target=b"/good")
BAD = refused(400)
CODING = refused(400, 501)

LENGTHS = {
    "length": (post(b"Content-Length: 5"), passed(HELLO)),
    "length with white space": (post(b"Content-Length: \t 5 \t"), passed(HELLO)),
    "length with zeros": (post(b"Content-Length: 005"), [passed(HELLO), BAD]),
    "length and chunked": (chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Content-Length: 5"), BAD),
    "length before chunked": (
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + GOOD),
        BAD,
    ),
    "length 0 and chunked": (
        post(b"Content-Length: 0", b"transfer-encoding: CHUNKED", body=b"0\r\n\r\n"),
        BAD,
    ),
    "two lengths": (post(b"Content-Length: 5", b"Content-Length: 6"), BAD),
    "two lengths alike": (post(b"Content-Length: 5", b"Content-Length: 5"), BAD),
    "two lengths alike, HTTP/1.0": (
        b"POST /p HTTP/1.0\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        BAD,
    ),
    "two lengths, HTTP/1.0": (
        b"POST /p HTTP/1.0\r\nX: y\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        BAD,
    ),
    "list of lengths": (post(b"Content-Length: 5, 5"), BAD),
    "list of different lengths": (post(b"Content-Length: 5, 6"), BAD),
    "empty length": (post(b"Content-Length:"), BAD),
    "length with a plus": (post(b"Content-Length: +5"), BAD),
    "length with a minus": (post(b"Content-Length: -5"), BAD),
    "length in hexadecimal": (post(b"Content-Length: 0x5"), BAD),
    "length with an underscore": (post(b"Content-Length: 1_0", body=b"helloworld"), BAD),
    "length with a point": (post(b"Content-Length: 5.0"), BAD),
    "length with an exponent": (post(b"Content-Length: 5e0"), BAD),
    "length with a space within": (post(b"Content-Length: 5 5"), BAD),
    "length in quotes": (post(b'Content-Length: "5"'), BAD),
    "length in other digits": (post(b"Content-Length: \xd9\xa5"), BAD),
    "length with a vertical tab": (post(b"Content-Length: \x0b5"), BAD),
    "length with a no-break space": (post(b"Content-Length: \xa05"), BAD),
    "length beyond 64 bits": (post(b"Content-Length: 18446744073709551621"), refused(400, 413)),
    "length beyond all measure": (post(b"Content-Length: " + b"9" * 400), refused(400, 413)),
    "length beyond the limit": (post(b"Content-Length: 65537"), refused(413)),
    "length of a GET": (get(b"Content-Length: 5") + b"hello", passed((b"GET", b"/", b"hello"))),
    "length of a GET hides no request": (
        get(b"Content-Length: %d" % len(GOOD)) + GOOD,
        passed((b"GET", b"/", GOOD)),
    ),
}

CODINGS = {
    "chunked": (chunked(b"5\r\nhello\r\n0\r\n\r\n"), passed(HELLO)),
    "chunked in capitals": (
        post(b"Transfer-Encoding: Chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        passed(HELLO),
    ),
    "coding with white space": (post(b"Transfer-Encoding: \tchunked ", body=b"0\r\n\r\n"), passed(NOTHING)),
    "empty coding": (post(b"Transfer-Encoding:", body=b"0\r\n\r\n"), CODING),
    "identity": (post(b"Transfer-Encoding: identity"), CODING),
    "unknown coding": (post(b"Transfer-Encoding: cow"), CODING),
    "almost chunked": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), CODING),
    "chunked with a vertical tab": (post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), CODING),
    "chunked with a parameter": (post(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"), CODING),
    "chunked in quotes": (post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), CODING),
    "chunked twice": (post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), CODING),
    "chunked and a comma": (
        post(b"Transfer-Encoding: chunked,", body=b"0\r\n\r\n"),
        [passed(NOTHING), CODING],
    ),
    "gzip and chunked": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), CODING),
    "chunked and gzip": (post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), CODING),
    "chunked and identity": (post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"), CODING),
    "two codings": (
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
        CODING,
    ),
    "two codings alike": (chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked"), CODING),
    "coding with a space before the colon": (post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), BAD),
    "coding folded": (post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"), BAD),
    "coding of HTTP/1.0": (
        b"POST /p HTTP/1.0\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    "coding of a GET": (get(b"Transfer-Encoding: chunked") + b"0\r\n\r\n", passed(b"/")),
}

CHUNKS = {
    "size in capitals": (chunked(b"A\r\nhelloworld\r\n0\r\n\r\n"), passed((b"POST", b"/p", b"helloworld"))),
    "several": (chunked(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), passed(HELLO)),
    "size with zeros": (chunked(b"005\r\nhello\r\n000\r\n\r\n"), [passed(HELLO), BAD]),
    "extension": (chunked(b'5;a=b;c;d="e f"\r\nhello\r\n0;last\r\n\r\n'), [passed(HELLO), BAD]),
    "extension with a space before it": (chunked(b"5 ;a=b\r\nhello\r\n0\r\n\r\n"), [passed(HELLO), BAD]),
    "extension with a bare LF": (chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n"), BAD),
    "extension with a bare CR": (chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), BAD),
    "extension with a NUL": (chunked(b"5;a\x00b\r\nhello\r\n0\r\n\r\n"), BAD),
    "extension without an end": (chunked(b"5;" + b"a" * 100_000), refused(400, 413)),
    "extensions by the thousand": (
        chunked(b"1;abcdefghijklmnop=qrstuvwxyz\r\nx\r\n" * 60_000 + b"0\r\n\r\n"),
        refused(400, 413),
    ),
    "size with a plus": (chunked(b"+5\r\nhello\r\n0\r\n\r\n"), BAD),
    "size with a minus": (chunked(b"-5\r\nhello\r\n0\r\n\r\n"), BAD),
    "size with 0x": (chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), BAD),
    "size with an underscore": (chunked(b"1_0\r\nhelloworldhellow\r\n0\r\n\r\n"), BAD),
    "size with a letter": (chunked(b"5g\r\nhello\r\n0\r\n\r\n"), BAD),
    "size with a space before it": (chunked(b" 5\r\nhello\r\n0\r\n\r\n"), BAD),
    "size with a space behind it": (chunked(b"5 \r\nhello\r\n0\r\n\r\n"), [passed(HELLO), BAD]),
    "no size": (chunked(b"\r\nhello\r\n0\r\n\r\n"), BAD),
    "size of 64 bits and more": (chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n"), refused(400, 413)),
    "size of 63 bits": (chunked(b"7fffffffffffffff\r\nhello"), refused(400, 413)),
    "size with a bare LF": (chunked(b"5\nhello\r\n0\r\n\r\n"), BAD),
    "size with a bare CR": (chunked(b"5\rhello\r\n0\r\n\r\n"), BAD),
    "data with a bare LF behind it": (chunked(b"5\r\nhello\n0\r\n\r\n"), BAD),
    "data without an end": (chunked(b"5\r\nhello0\r\n\r\n"), BAD),
    "data longer than its size": (chunked(b"5\r\nhelloworld\r\n0\r\n\r\n"), BAD),
    "data shorter than its size": (chunked(b"7\r\nhello\r\n0\r\n\r\n"), BAD),
    "last chunk with a bare LF": (chunked(b"5\r\nhello\r\n0\n\n"), BAD),
    "trailer": (chunked(b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"), [passed(HELLO), BAD]),
    "trailer that would frame": (
        chunked(b"5\r\nhello\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: x\r\nHost: evil\r\n\r\n"),
        [passed(HELLO), BAD],
    ),
    "trailer with a space before the colon": (chunked(b"5\r\nhello\r\n0\r\nX : y\r\n\r\n"), BAD),
    "trailer with a NUL": (chunked(b"5\r\nhello\r\n0\r\nX: \x00\r\n\r\n"), BAD),
    "trailer without an end": (chunked(b"0\r\n" + b"X: y\r\n" * 30_000), refused(400, 431)),
    "body beyond the limit": (
        chunked((b"4000\r\n" + b"a" * 0x4000 + b"\r\n") * 5 + b"0\r\n\r\n"),
        refused(413),
    ),
}

LINES = {
    "well-formed": (get(b"X: y", b"Empty:", b"Latin: \xe4"), passed(b"/")),
    "no space behind the colon": (get(b"X:y"), passed(b"/")),
    "bare LF everywhere": (b"GET / HTTP/1.1\nHost: service\n\n", BAD),
    "bare LF in the header": (get(b"X: y\nZ: w"), BAD),
    "bare LF hides a length": (get(b"X: y\nContent-Length: 5") + b"hello", BAD),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: service\r\n\n", BAD),
    "bare CR in a value": (get(b"X: y\rZ: w"), BAD),
    "bare CR before CRLF": (get(b"X: y\r"), BAD),
    "bare CR in a name": (get(b"X\rY: z"), BAD),
    "bare CR as the end": (b"GET / HTTP/1.1\rHost: service\r\r\n\r\n", BAD),
    "NUL in a value": (get(b"X: a\x00b"), BAD),
    "NUL in a name": (get(b"X\x00: y"), BAD),
    "NUL first": (b"\x00" + get(), BAD),
    "control in a value": (get(b"X: a\x01b"), BAD),
    "escape in a value": (get(b"X: \x1b[31m"), BAD),
    "DEL in a value": (get(b"X: a\x7fb"), BAD),
    "vertical tab in a value": (get(b"X: a\x0bb"), BAD),
    "folded line": (get(b"X: a", b" b"), BAD),
    "folded line, tab": (get(b"X: a", b"\tContent-Length: 5") + b"hello", BAD),
    "folded first line": (b"GET / HTTP/1.1\r\n Host: service\r\n\r\n", BAD),
    "folded length": (post(b"Content-Length:", b" 5"), BAD),
    "folded, empty": (get(b"X: a", b" "), BAD),
    "space before the colon": (get(b"X : y"), BAD),
    "tab before the colon": (get(b"X\t: y"), BAD),
    "space before the length's colon": (post(b"Content-Length : 5"), BAD),
    "space in a name": (get(b"X Y: z"), BAD),
    "empty name": (get(b": y"), BAD),
    "no colon": (get(b"X"), BAD),
    "only a colon": (get(b":"), BAD),
    "name with brackets": (get(b"X[0]: y"), BAD),
    "name with a quote": (get(b'"X": y'), BAD),
    "name beyond ASCII": (get(b"X\xe4: y"), BAD),
    "name with a slash": (get(b"X/Y: z"), BAD),
    "twin of the length": (get(b"Content_Length: 5") + GOOD, [passed(b"/", b"/good"), BAD]),
    "twin of the coding": (get(b"Transfer_Encoding: chunked") + GOOD, [passed(b"/", b"/good"), BAD]),
    "length and its twin": (post(b"Content-Length: 5", b"Content_Length: 6"), [passed(HELLO), BAD]),
    "hundred lines and one": (get(*[b"X: y"] * 101), refused(431)),
    "ten thousand lines": (get(*[b"X: y"] * 10_000), refused(431)),
    "line beyond the limit": (get(b"X: " + b"y" * 40_000), refused(431)),
    "lines beyond the limit": (get(*[b"X: " + b"y" * 1000] * 50), refused(431)),
    "line without an end": (b"GET / HTTP/1.1\r\nHost: service\r\nX: " + b"y" * 200_000, refused(431)),
    "name without an end": (b"GET / HTTP/1.1\r\nHost: service\r\n" + b"y" * 200_000, refused(400, 431)),
}

FIRST_LINES = {
    "no version": (b"GET /\r\nHost: service\r\n\r\n", BAD),
    "no target": (b"GET HTTP/1.1\r\nHost: service\r\n\r\n", BAD),
    "method alone": (b"GET\r\n\r\n", BAD),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: service\r\n\r\n", BAD),
    "two spaces later": (b"GET /  HTTP/1.1\r\nHost: service\r\n\r\n", BAD),
    "space at the end": (b"GET / HTTP/1.1 \r\nHost: service\r\n\r\n", BAD),
    "space first": (b" GET / HTTP/1.1\r\nHost: service\r\n\r\n", BAD),
    "tabs": (b"GET\t/\tHTTP/1.1\r\nHost: service\r\n\r\n", BAD),
    "form feed": (b"GET\x0c/ HTTP/1.1\r\nHost: service\r\n\r\n", BAD),
    "empty line first": (b"\r\n" + get(), [passed(b"/"), BAD]),
    "bare LF first": (b"\n" + get(), BAD),
    "empty lines for ever": (b"\r\n" * 50_000, refused(400, 414, 431)),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: service\r\n\r\n", refused(400, 505)),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: service\r\n\r\n", [passed(b"/"), refused(400, 505)]),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\nHost: service\r\n\r\n", refused(400, 505)),
    "HTTP/1.10": (b"GET / HTTP/1.10\r\nHost: service\r\n\r\n", BAD),
    "HTTP/01.1": (b"GET / HTTP/01.1\r\nHost: service\r\n\r\n", BAD),
    "HTTP/1,1": (b"GET / HTTP/1,1\r\nHost: service\r\n\r\n", BAD),
    "HTTP/1": (b"GET / HTTP/1\r\nHost: service\r\n\r\n", BAD),
    "http/1.1": (b"GET / http/1.1\r\nHost: service\r\n\r\n", BAD),
    "HTTPS/1.1": (b"GET / HTTPS/1.1\r\nHost: service\r\n\r\n", BAD),
    "ICE/1.0": (b"SOURCE / ICE/1.0\r\nHost: service\r\n\r\n", BAD),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", refused(400, 505)),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xab" * 300, BAD),
    "method in small letters": (
        b"get / HTTP/1.1\r\nHost: service\r\n\r\n",
        [passed((b"get", b"/", b"")), BAD],
    ),
    "method of one's own": (
        b"BREW / HTTP/1.1\r\nHost: service\r\n\r\n",
        [passed((b"BREW", b"/", b"")), CODING],
    ),
    "method with a bracket": (b"G<T / HTTP/1.1\r\nHost: service\r\n\r\n", BAD),
    "method with a colon": (b"GET: / HTTP/1.1\r\nHost: service\r\n\r\n", BAD),
    "method empty": (b" / HTTP/1.1\r\nHost: service\r\n\r\n", BAD),
    "method without an end": (b"G" * 100_000, refused(400, 414, 431, 501)),
    "method beyond ASCII": (b"G\xc3\x89T / HTTP/1.1\r\nHost: service\r\n\r\n", BAD),
    "CONNECT": (b"CONNECT service:443 HTTP/1.1\r\nHost: service:443\r\n\r\n", refused(400, 405, 501)),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: service\r\n\r\n", refused(405, 501)),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: service\r\n\r\n", passed(b"/")),
    "HTTP/1.0 without Host": (b"GET / HTTP/1.0\r\n\r\n", [passed(b"/"), BAD]),
}

TARGETS = {
    "query": (get(target=b"/a?b=c&d"), passed(b"/a?b=c&d")),
    "encoded dots": (get(target=b"/a/%2e%2E/b"), passed(b"/a/%2e%2E/b")),
    "dots": (get(target=b"/a/../b/./c"), [passed(b"/a/../b/./c"), passed(b"/b/c"), BAD]),
    "encoded slash": (get(target=b"/a%2Fb%2fc"), passed(b"/a%2Fb%2fc")),
    "encoded percent": (get(target=b"/a%252Fb"), passed(b"/a%252Fb")),
    "encoded NUL": (get(target=b"/a%00b"), [passed(b"/a%00b"), BAD]),
    "encoded CRLF": (get(target=b"/a%0d%0aX:%20y"), [passed(b"/a%0d%0aX:%20y"), BAD]),
    "overlong UTF-8": (get(target=b"/%c0%af%c0%ae"), [passed(b"/%c0%af%c0%ae"), BAD]),
    "bad percent": (get(target=b"/%zz%"), [passed(b"/%zz%"), BAD]),
    "two slashes": (get(target=b"//evil.test/a"), passed(b"//evil.test/a")),
    "semicolons": (get(target=b"/a;b/..;/c"), passed(b"/a;b/..;/c")),
    "fragment": (get(target=b"/a#b"), BAD),
    "backslash": (get(target=b"/a\\..\\b"), [passed(b"/a\\..\\b"), BAD]),
    "space": (get(target=b"/a b"), BAD),
    "tab": (get(target=b"/a\tb"), BAD),
    "NUL": (get(target=b"/a\x00b"), BAD),
    "CR": (get(target=b"/a\rb"), BAD),
    "DEL": (get(target=b"/a\x7fb"), BAD),
    "beyond ASCII": (get(target=b"/\xc3\xa4\xff"), [passed(b"/\xc3\xa4\xff"), BAD]),
    "no slash": (get(target=b"a"), BAD),
    "only a query": (get(target=b"?a"), BAD),
    "empty": (b"GET  HTTP/1.1\r\nHost: service\r\n\r\n", BAD),
    "asterisk": (get(target=b"*"), BAD),
    "asterisk of OPTIONS": (
        b"OPTIONS * HTTP/1.1\r\nHost: service\r\n\r\n",
        [passed((b"OPTIONS", b"*", b"")), refused(400)],
    ),
    "beyond the limit": (get(target=b"/" + b"a" * 9000), refused(414)),
    "without an end": (b"GET /" + b"a" * 200_000, refused(414)),
    "URL": (get(target=b"http://service/a?b"), [passed(b"/a?b"), BAD]),
    "URL without a path": (get(target=b"http://service"), [passed(b"/"), BAD]),
    "URL in capitals": (get(target=b"HTTP://SERVICE/a"), [passed(b"/a"), BAD]),
    "URL of another host": (get(target=b"http://evil.test/a"), BAD),
    "URL of another port": (get(target=b"http://service:81/a"), BAD),
    "URL of another scheme": (get(target=b"ftp://service/a"), BAD),
    "URL with a user": (get(target=b"http://user@service/a"), BAD),
    "URL without a host": (get(target=b"http:///a"), BAD),
    "URL with a fragment": (get(target=b"http://service/a#b"), BAD),
    "authority": (get(target=b"service:80"), BAD),
}

HOSTS = {
    "with a port": (get(host=b"Host: service:8080"), passed(b"/")),
    "IPv6": (get(host=b"Host: [::1]:80"), passed(b"/")),
    "missing": (b"GET / HTTP/1.1\r\nX: y\r\n\r\n", BAD),
    "twice": (get(b"Host: evil.test"), BAD),
    "twice alike": (get(HOST), BAD),
    "twice, in capitals": (get(b"HOST: service"), BAD),
    "empty": (get(host=b"Host:"), [passed(b"/"), BAD]),
    "with a space": (get(host=b"Host: a b"), BAD),
    "with a comma": (get(host=b"Host: service, evil.test"), BAD),
    "with a path": (get(host=b"Host: service/evil"), BAD),
    "with a user": (get(host=b"Host: user@service"), BAD),
    "with a user and a password": (get(host=b"Host: user:pass@service"), BAD),
    "with a query": (get(host=b"Host: service?a"), BAD),
    "with a fragment": (get(host=b"Host: service#a"), BAD),
    "with a backslash": (get(host=b"Host: service\\evil"), BAD),
    "with a scheme": (get(host=b"Host: http://service"), BAD),
    "with a bracket alone": (get(host=b"Host: [::1"), BAD),
    "with a port that is none": (get(host=b"Host: service:http"), BAD),
    "with a port of six digits": (get(host=b"Host: service:100000"), BAD),
    "with quotes": (get(host=b'Host: "service"'), BAD),
    "with markup": (get(host=b"Host: <script>"), BAD),
    "beyond ASCII": (get(host=b"Host: s\xc3\xa9rvice"), BAD),
    "without an end": (get(host=b"Host: " + b"a" * 5000), BAD),
    "folded": (get(host=b"Host:\r\n service"), BAD),
    "its twin": (get(b"X-Host: a", b"Host_: b"), [passed(b"/"), BAD]),
}

ONE_AFTER_ANOTHER = {
    "three good ones": (GOOD * 3, passed(*[b"/good"] * 3)),
    "fifty good ones": (GOOD * 50, passed(*[b"/good"] * 50)),
    "a bad one first": (get(b"X : y") + GOOD, BAD),
    "a bad body first": (chunked(b"zz\r\n") + GOOD, BAD),
    "a bad one second": (GOOD + get(b"X : y") + GOOD, then(passed(b"/good"), BAD)),
    "an unclear one second": (
        GOOD + chunked(b"0\r\n\r\n", b"Content-Length: 5") + GOOD,
        then(passed(b"/good"), BAD),
    ),
    "a body between": (post(b"Content-Length: 5") + GOOD, passed(HELLO, b"/good")),
    "chunks between": (chunked(b"5\r\nhello\r\n0\r\n\r\n") + GOOD, passed(HELLO, b"/good")),
    "a body that is a request": (
        post(b"Content-Length: %d" % len(GOOD), body=GOOD),
        passed((*HELLO[:2], GOOD)),
    ),
    "after the last": (get(b"Connection: close") + GOOD, Outcome(((200,),), ((b"GET", b"/", b""),), True)),
    "after HTTP/1.0": (
        b"GET / HTTP/1.0\r\nHost: service\r\n\r\n" + GOOD,
        Outcome(((200,),), ((b"GET", b"/", b""),), True),
    ),
    "behind an upgrade": (
        get(b"Connection: Upgrade", b"Upgrade: websocket") + GOOD,
        [passed(b"/", b"/good"), Outcome(((200,),), ((b"GET", b"/", b""),), True), BAD],
    ),
    "behind an upgrade to HTTP/2": (
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk") + GOOD,
        [passed(b"/", b"/good"), Outcome(((200,),), ((b"GET", b"/", b""),), True)],
    ),
    "behind an upgrade with a body": (
        post(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5") + GOOD,
        [passed(HELLO, b"/good"), Outcome(((200,),), (HELLO,), True), BAD],
    ),
    "expecting": (
        post(b"Content-Length: 5", b"Expect: 100-continue") + GOOD,
        passed(HELLO, b"/good"),
    ),
    "expecting in capitals": (post(b"Content-Length: 5", b"Expect: 100-Continue"), passed(HELLO)),
    "expecting, in chunks": (chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Expect: 100-continue"), passed(HELLO)),
    "expecting without a body": (get(b"Expect: 100-continue"), passed(b"/")),
    "expecting something else": (get(b"Expect: 200-ok"), refused(417)),
    "expecting two things": (
        post(b"Content-Length: 5", b"Expect: 100-continue, 200-ok"),
        refused(417),
    ),
    "expecting too much": (post(b"Content-Length: 65537", b"Expect: 100-continue", body=b""), refused(413)),
    "expecting of HTTP/1.0": (
        b"POST /p HTTP/1.0\r\nHost: service\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        passed(HELLO),
    ),
}

NOMINATIONS = {
    "ordinary": (get(b"Connection: keep-alive, x-secret", b"X-Secret: 1"), passed(b"/")),
    "host": (get(b"Connection: close, host"), BAD),
    "length": (post(b"Connection: content-length", b"Content-Length: 5"), BAD),
    "coding": (post(b"Connection: transfer-encoding", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), BAD),
    "whom it is for": (get(b"Connection: X-Forwarded-For", b"X-Forwarded-For: 1.2.3.4"), BAD),
    "who asks": (get(b"Connection: Authorization", b"Authorization: Basic eA=="), BAD),
    "over two lines": (get(b"Connection: close", b"Connection: cookie", b"Cookie: a=b"), BAD),
}

TABLE = {
    f"{group}: {name}": row
    for group, rows in (
        ("length", LENGTHS),
        ("coding", CODINGS),
        ("chunks", CHUNKS),
        ("lines", LINES),
        ("first line", FIRST_LINES),
        ("target", TARGETS),
        ("host", HOSTS),
        ("sequence", ONE_AFTER_ANOTHER),
        ("connection names", NOMINATIONS),
    )
    for name, row in rows.items()
}


@pytest.mark.parametrize(("sent", "outcomes"), TABLE.values(), ids=TABLE)
def test_the_table(edge: Any, sent: bytes, outcomes: Outcome | list[Outcome]) -> None:
    """What may come of each row comes of it, and the replica has seen just what the edge answered."""
    allowed = outcomes if isinstance(outcomes, list) else [outcomes]
    found = edge.talk(sent, answers=max(len(outcome.statuses) for outcome in allowed))
    edge.settle()
    seen = tuple((one.method, one.target, one.body) for one in edge.recorder.seen)
    assert edge.recorder.faults == []
    assert found.rest == b""
    for outcome in allowed:
        if (
            seen == outcome.seen
            and len(found.statuses) == len(outcome.statuses)
            and all(status in them for status, them in zip(found.statuses, outcome.statuses, strict=True))
            and (found.closed or not outcome.closes)
        ):
            break
    else:
        raise AssertionError(f"{found} with {seen}, where {allowed} may be")


def test_a_refused_head_has_no_body(edge: Any) -> None:
    """What is wrong with a HEAD is said by the status alone (RFC 9110, 9.3.2)."""
    for sent in (
        b"HEAD * HTTP/1.1\r\nHost: service\r\n\r\n",
        b"HEAD / HTTP/1.1\r\n\r\n",
        b"HEAD / HTTP/1.0\r\nHost: a b\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\nX: b",
    ):
        found = edge.talk(sent, head=True)
        assert (found.statuses, found.rest, found.closed) == ([400], b"", True)
