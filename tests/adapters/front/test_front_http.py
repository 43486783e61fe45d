"""The front as HTTP/1.1: requests in order, responses framed, connections kept or closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from replicated.adapters.proxy.gatekeeper import ClientGone
from replicated.errors import UpstreamBroken
from replicated.http.message import Request, Response

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def test_a_connection_carries_one_request_after_another(fronting: Any, run: Any) -> None:
    """Requests on one connection are answered in order, each with its own body, and the date is said."""

    async def story() -> None:
        async with fronting() as world, world.client() as client:
            for number in range(3):
                client.send(b"POST /%d HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc" % number)
                status, fields, body = await client.answer()
                assert (status, body) == (200, b"POST /%d abc" % number)
                assert fields[b"date"].endswith(b" GMT")
                assert b"connection" not in fields

    run(story)


def test_requests_come_in_any_pieces(fronting: Any, run: Any) -> None:
    """However bytes are cut into packets, the requests are the same."""

    async def story() -> None:
        chunked = (
            b"PUT /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
        )
        async with fronting() as world, world.client() as client:
            await client.slowly(b"\r\n" + chunked + GET)
            assert (await client.answer())[2] == b"PUT /b abcd"
            assert (await client.answer())[2] == b"GET / "

    run(story)


def test_pipelined_requests_are_answered_in_order(fronting: Any, run: Any) -> None:
    """What comes in one packet is answered one by one; a bad one ends it after the answers before it."""

    async def story() -> None:
        async with fronting() as world, world.client() as client:
            post = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"
            client.send(GET, post, GET, b"GET /bad HTTP/1.1\r\n\r\n", GET)
            assert (await client.answer())[2] == b"GET / "
            assert (await client.answer())[2] == b"POST /p hi"
            assert (await client.answer())[2] == b"GET / "
            status, fields, _ = await client.answer()
            assert (status, fields[b"connection"]) == (400, b"close")
            assert await client.closed()

    run(story)


def test_a_flood_of_pipelined_requests_waits_in_the_kernel(fronting: Any, run: Any) -> None:
    """While one is answered, no more than the bound is taken of what comes behind it."""

    async def story() -> None:
        gate = asyncio.Event()

        async def slow(request: Request) -> Response:
            await gate.wait()
            return Response(200, [], request.target)

        async with fronting(slow, pipelined=1000) as world, world.client() as client:
            client.send(GET * 40_000)
            for _ in range(50):
                await asyncio.sleep(0.001)
            (connection,) = world.front.connections
            assert 1000 < len(connection.pending) < 600_000
            assert connection.paused
            gate.set()
            for _ in range(200):
                assert (await client.answer())[0] == 200
            client.reset()
            await world.quiet()

    run(story)


@pytest.mark.parametrize(
    ("request_line", "extra", "kept"),
    [
        ("GET / HTTP/1.1", "", True),
        ("GET / HTTP/1.1", "Connection: close\r\n", False),
        ("GET / HTTP/1.1", "Connection: x, CLOSE\r\n", False),
        ("GET / HTTP/1.0", "", False),
        ("GET / HTTP/1.0", "Connection: keep-alive\r\n", True),
    ],
)
def test_who_keeps_a_connection(fronting: Any, run: Any, request_line: str, extra: str, kept: bool) -> None:
    """HTTP/1.1 keeps a connection unless told otherwise, HTTP/1.0 only when asked; the answer says which."""

    async def story() -> None:
        async with fronting() as world, world.client() as client:
            client.send(f"{request_line}\r\nHost: h\r\n{extra}\r\n".encode())
            _, fields, _ = await client.answer()
            assert (fields.get(b"connection") != b"close") == kept
            if kept:
                client.send(GET)
                assert (await client.answer())[0] == 200
            else:
                assert await client.closed()

    run(story)


def test_http_1_0_may_do_without_a_host(fronting: Any, run: Any) -> None:
    """A probe of HTTP/1.0 without a host asks the address that it came to; HTTP/1.1 has to name one."""

    async def story() -> None:
        async def host(request: Request) -> Response:
            return Response(200, [], dict(request.headers)[b"host"])

        async with fronting(host) as world:
            async with world.client() as client:
                client.send(b"OPTIONS / HTTP/1.0\r\n\r\n")
                assert (await client.answer())[2] == b"127.0.0.1:%d" % world.port
            async with world.client() as client:
                client.send(b"OPTIONS / HTTP/1.1\r\n\r\n")
                assert (await client.answer())[0] == 400

    run(story)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(0)


@pytest.mark.parametrize("status", [200, 404])
def test_a_stream_of_unknown_length(fronting: Any, run: Any, status: int) -> None:
    """It goes in chunks to HTTP/1.1, and to HTTP/1.0 until the connection ends; nothing empty ends it."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            return Response(status, [], pieces(b"ab", b"", b"c"))

        async with fronting(handler) as world:
            async with world.client() as client:
                client.send(GET, GET)
                for _ in range(2):
                    answered, fields, body = await client.answer()
                    assert (answered, body, fields[b"transfer-encoding"]) == (status, b"abc", b"chunked")
            async with world.client() as client:
                client.send(b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
                _, fields, body = await client.answer()
                assert (body, fields[b"connection"]) == (b"abc", b"close")
                assert b"transfer-encoding" not in fields

    run(story)


def test_a_stream_of_known_length_is_counted(fronting: Any, run: Any) -> None:
    """One that is as long as it says passes; one that is not is cut, so that nobody takes a part for all."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            return Response(200, [(b"content-length", request.target[1:])], pieces(b"ab", b"cd"))

        async with fronting(handler, complaints=2) as world:
            async with world.client() as client:
                client.send(GET.replace(b"/ ", b"/4 "))
                assert (await client.answer())[2] == b"abcd"
                client.send(GET.replace(b"/ ", b"/5 "))
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await client.answer()
            async with world.client() as client:
                client.send(GET.replace(b"/ ", b"/3 "))
                assert await client.head()
                assert len(await client.reader.read(100)) <= 3

    run(story)


@pytest.mark.parametrize("target", [b"/chunked", b"/close"])
def test_a_stream_that_fails_is_cut(fronting: Any, run: Any, target: bytes) -> None:
    """Whoever reads a body whose source broke off is told by a reset, never by an end."""

    async def story() -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"some"
            await asyncio.sleep(0.01)
            raise RuntimeError("broke")

        closed: list[bool] = []

        async def close() -> None:
            closed.append(True)

        async def handler(request: Request) -> Response:
            return Response(200, [], broken(), close)

        version = b"HTTP/1.1" if target == b"/chunked" else b"HTTP/1.0"
        async with fronting(handler, complaints=1) as world, world.client() as client:
            client.send(b"GET / " + version + b"\r\nHost: h\r\n\r\n")
            await client.head()
            with pytest.raises(ConnectionResetError):
                assert b"0\r\n\r\n" not in await client.rest()
            await world.quiet()
            assert closed == [True]

    run(story)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [200, 204, 304])
@pytest.mark.parametrize("streams", [False, True])
def test_what_has_no_body(fronting: Any, run: Any, method: str, status: int, streams: bool) -> None:
    """After HEAD, 204 and 304 nothing follows the header, whatever the handler has; then all goes on."""

    async def story() -> None:
        closed: list[bool] = []

        async def close() -> None:
            closed.append(True)

        async def handler(request: Request) -> Response:
            body: Any = pieces(b"abc") if streams else (b"" if method == "HEAD" else b"abc")
            return Response(status, [(b"content-length", b"3")], body, close)

        async with fronting(handler) as world, world.client() as client:
            for _ in range(2):
                client.send(GET.replace(b"GET", method.encode()))
                answered, fields, body = await client.answer(method=method)
                assert answered == status
                assert (b"content-length" in fields) == (status != 204)
                assert body == (b"abc" if (method, status) == ("GET", 200) else b"")
            assert closed == [True, True]

    run(story)


@pytest.mark.parametrize(
    "response",
    [
        Response(200, [(b"x", b"a\r\nset-cookie: evil")]),
        Response(200, [(b"x", b"a\nb")]),
        Response(200, [(b"x\r", b"a")]),
        Response(200, [(b"content-length", b"3")], b"ab"),
        Response(200, [(b"content-length", b"2"), (b"content-length", b"2")], b"ab"),
        Response(200, [(b"content-length", b"+2")], b"ab"),
        Response(103),
        Response(99),
        Response(600),
        Response(101, [], b""),
    ],
)
def test_a_response_that_contradicts_itself_is_not_sent(fronting: Any, run: Any, response: Response) -> None:
    """What would split or shift the responses of a connection is a 500, and said where faults are said."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            return response

        async with fronting(handler, complaints=2) as world, world.client() as client:
            for _ in range(2):
                client.send(GET)
                status, fields, _ = await client.answer()
                assert status == 500
                assert b"evil" not in repr(fields).encode()

    run(story)


def test_fields_of_the_connection_are_the_fronts(fronting: Any, run: Any) -> None:
    """What a handler says of the connection is not passed on, except that it be closed."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            headers = [(b"keep-alive", b"timeout=9"), (b"transfer-encoding", b"chunked"), (b"upgrade", b"x")]
            headers += [(b"connection", request.target[1:]), (b"date", b"then"), (b"x", b"1")]
            return Response(200, headers, b"ok")

        async with fronting(handler) as world, world.client() as client:
            client.send(GET.replace(b"/ ", b"/keep-alive "))
            _, fields, body = await client.answer()
            assert body == b"ok"
            assert fields == {b"x": b"1", b"date": b"then", b"content-length": b"2"}
            client.send(GET.replace(b"/ ", b"/close "))
            assert (await client.answer())[1][b"connection"] == b"close"
            assert await client.closed()

    run(story)


def test_a_handler_that_fails_is_a_500(fronting: Any, run: Any) -> None:
    """Its error is no answer and no secret of the client's; the connection goes on."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            raise KeyError("secret")

        async with fronting(handler, complaints=1) as world, world.client() as client:
            client.send(GET)
            status, _, body = await client.answer()
            assert status == 500
            assert b"secret" not in body

    run(story)


def test_the_client_that_left_has_no_more_done_for_it(fronting: Any, run: Any) -> None:
    """A reset cancels the handler, and a stream's source is closed."""

    async def story() -> None:
        ends: list[str] = []
        begun = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 1000
                    await asyncio.sleep(0.001)
            finally:
                ends.append("stream")

        async def handler(request: Request) -> Response:
            begun.set()
            if request.target == b"/stream":
                stream = endless()
                return Response(200, [], stream, stream.aclose)
            try:
                await asyncio.Event().wait()
            finally:
                ends.append("handler")
            raise AssertionError

        async with fronting(handler) as world:
            for target, end in ((b"/", "handler"), (b"/stream", "stream")):
                begun.clear()
                async with world.client() as client:
                    client.send(GET.replace(b"/ ", target + b" "))
                    await begun.wait()
                    client.reset()
                    await world.quiet()
                while end not in ends:
                    await asyncio.sleep(0.001)

    run(story)


def test_a_half_closed_client_is_answered_for_a_while(fronting: Any, run: Any) -> None:
    """Whoever only says that it asks no more gets its answers; one that waits for ever is let go."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            if request.target == b"/never":
                await asyncio.Event().wait()
            await asyncio.sleep(0.01)
            return Response(200, [], request.target)

        async with fronting(handler, half_closed=0.05) as world:
            async with world.client() as client:
                client.send(GET, GET.replace(b"/ ", b"/2 "))
                client.half_close()
                assert (await client.answer())[2] == b"/"
                assert (await client.answer())[2] == b"/2"
                assert await client.closed()
            async with world.client() as client:
                client.send(GET.replace(b"/ ", b"/never "))
                client.half_close()
                assert await client.closed()

    run(story)


def test_who_leaves_within_a_request_is_not_answered(fronting: Any, run: Any) -> None:
    """Half a head, or half a body, and then the end: nothing is answered, and nothing is complained of."""

    async def story() -> None:
        async with fronting() as world:
            for part in (
                b"",
                b"GET / HT",
                GET[:-2],
                b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc",
            ):
                async with world.client() as client:
                    client.send(part)
                    client.half_close()
                    assert await client.closed()
            await world.quiet()

    run(story)


def test_absolute_form_must_agree_with_host(fronting: Any, run: Any) -> None:
    """A URL of the host that is asked is its path; any other is refused."""

    async def story() -> None:
        async with fronting() as world:
            for target, seen in (
                (b"http://h/a?b", b"GET /a?b "),
                (b"HTTP://H", b"GET / "),
                (b"https://h?q", b"GET /?q "),
                (b"http://other/a", None),
                (b"http://u@h/", None),
                (b"h/a", None),
                (b"*", None),
            ):
                async with world.client() as client:
                    client.send(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
                    status, _, body = await client.answer()
                    assert (status, body) == (200, seen) if seen else status == 400

    run(story)


def test_trace_context_passes_as_it_came(fronting: Any, run: Any) -> None:
    """What a client says in traceparent and tracestate reaches the handler byte by byte."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            return Response(
                200, [], b"%r" % [line for line in request.headers if line[0].startswith(b"trace")]
            )

        async with fronting(handler) as world, world.client() as client:
            client.send(
                b"GET / HTTP/1.1\r\nHost: h\r\ntraceparent: 00-AB-cd-01\r\nTracestate: a=1, b=2\r\n\r\n"
            )
            body = (await client.answer())[2]
            assert body == b"[(b'traceparent', b'00-AB-cd-01'), (b'tracestate', b'a=1, b=2')]"

    run(story)


def test_a_header_is_each_requests_own(fronting: Any, run: Any) -> None:
    """What a handler does to the header of one request is not seen in the next one that is alike."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            request.headers.append((b"x", b"1"))
            return Response(200, [], b"%d" % len(request.headers))

        async with fronting(handler) as world, world.client() as client:
            for _ in range(3):
                client.send(GET)
                assert (await client.answer())[2] == b"2"

    run(story)


def test_whoever_finds_the_client_gone_says_nothing(fronting: Any, run: Any) -> None:
    """A handler that was told so, or that breaks off what it passes on, answers by a cut and no complaint."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            raise ClientGone if request.target == b"/gone" else UpstreamBroken("the replica left")

        async with fronting(handler) as world:
            for target in (b"/gone", b"/broken"):
                async with world.client() as client:
                    client.send(GET.replace(b"/ ", target + b" "))
                    assert await client.closed()

    run(story)


def test_a_client_that_leaves_a_small_rest_unsent(fronting: Any, run: Any) -> None:
    """A refused request whose small rest never comes ends with its client, or with the time for a body."""

    async def story() -> None:
        async def refuse(request: Request) -> Response:
            return Response(429, [], b"no")

        async with fronting(refuse, body_time=0.03) as world:
            for leaves in (True, False):
                async with world.client() as client:
                    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc")
                    assert (await client.answer())[0] == 429
                    if leaves:
                        client.half_close()
                    assert await client.closed()
            await world.quiet()

    run(story)


def test_a_large_answer_to_one_after_another(fronting: Any, run: Any) -> None:
    """Before the next request is read, what was written is on its way, whoever frames it."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            length = [(b"content-length", b"3000000")] if request.target == b"/plain" else []
            return Response(200, length, b"x" * 3_000_000)

        async with fronting(handler) as world, world.client() as client:
            for target in (b"/plain", b"/", b"/plain"):
                client.send(GET.replace(b"/ ", target + b" "))
                assert len((await client.answer())[2]) == 3_000_000

    run(story)
