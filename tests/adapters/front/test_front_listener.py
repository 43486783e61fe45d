"""Who is accepted, as whom: the PROXY protocol, TLS, both, and a system that is out of descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import pytest
import trustme

from replicated.http.identity import Identity
from replicated.http.message import Request, Response

GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\n"
V1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n"
V2 = bytes.fromhex("0d0a0d0a000d0a515549540a 21 21 0024") + bytes(15) + b"\x07" + bytes(16) + b"\1\2\0P"
LOCAL = bytes.fromhex("0d0a0d0a000d0a515549540a 20 00 0000")
BALANCERS = Identity(["127.0.0.1"])


async def whose(request: Request) -> Response:
    """Say who asks, and over what."""
    return Response(200, [], f"{request.scheme} {request.peer}".encode())


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.mark.parametrize("header", [V1, V2, LOCAL])
@pytest.mark.parametrize("slowly", [False, True])
def test_a_trusted_balancer_names_the_client(fronting: Any, run: Any, header: bytes, slowly: bool) -> None:
    """Either version names the client for all requests of the connection, in whatever pieces it comes."""
    address = {V1: b"203.0.113.9", V2: b"::7", LOCAL: b"127.0.0.1"}[header]

    async def story() -> None:
        async with fronting(whose, balancers=BALANCERS) as world, world.client() as client:
            if slowly:
                for byte in header + GET:
                    client.send(bytes([byte]))
                    await asyncio.sleep(0.0005)
            else:
                client.send(header + GET)
            assert (await client.answer())[2] == b"http " + address

    run(story)


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("early", [False, True])
def test_the_header_stands_before_the_handshake(
    fronting: Any, run: Any, contexts: Any, header: bytes, early: bool
) -> None:
    """With TLS it comes first, in the clear, alone or with the beginning of the handshake."""
    server, trusting = contexts

    async def story() -> None:
        async with fronting(whose, balancers=BALANCERS, tls=server) as world:
            inside, outside = ssl.MemoryBIO(), ssl.MemoryBIO()
            session = trusting.wrap_bio(inside, outside, server_hostname="127.0.0.1")
            async with world.client() as client:
                if not early:
                    client.send(header)
                    await asyncio.sleep(0.01)
                    header_now = b""
                else:
                    header_now = header
                while True:
                    try:
                        session.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        client.send(header_now + outside.read())
                        header_now = b""
                        inside.write(await client.reader.read(65536))
                session.write(GET)
                client.send(outside.read())
                answer = b""
                while b"https " not in answer:
                    inside.write(await client.reader.read(65536))
                    with contextlib.suppress(ssl.SSLWantReadError):
                        answer += session.read(65536)
                assert answer.endswith(b"https 203.0.113.9" if header == V1 else b"https ::7")

    run(story)


@pytest.mark.parametrize("sent", [GET, b"PROXY TCP4 x\r\n", b"", V1[:12]])
def test_a_trusted_balancer_must_say_for_whom(fronting: Any, run: Any, sent: bytes) -> None:
    """Without a header, or when it does not come in time, nothing is answered: the connection ends."""

    async def story() -> None:
        async with fronting(whose, balancers=BALANCERS, proxy_header=0.03) as world, world.client() as client:
            client.send(sent)
            assert await client.closed()

    run(story)


def test_who_is_not_trusted_is_nobodys_balancer(fronting: Any, run: Any) -> None:
    """Others are served as themselves, and a PROXY header from them is a bad request."""

    async def story() -> None:
        async with fronting(whose, balancers=Identity(["192.0.2.0/24"])) as world:
            async with world.client() as client:
                client.send(GET)
                assert (await client.answer())[2] == b"http 127.0.0.1"
            async with world.client() as client:
                client.send(V1 + GET)
                assert (await client.answer())[0] == 400

    run(story)


def test_tls_is_as_at_the_moment(fronting: Any, run: Any, contexts: Any) -> None:
    """A context is asked for with each connection; requests, streams and ends work over it."""
    server, trusting = contexts
    asked: list[int] = []

    def tls() -> ssl.SSLContext:
        asked.append(1)
        return server

    async def story() -> None:
        async with fronting(tls=tls, linger=0.1) as world:
            for _ in range(2):
                async with world.client(ssl=trusting, server_hostname="127.0.0.1") as client:
                    client.send(
                        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\n", b"x" * 500_000
                    )
                    assert len((await client.answer())[2]) == 500_007
                    client.send(POST + b"Content-Length: 90000000\r\n\r\nabc" * 2)
                    assert (await client.answer())[0] == 413
                    assert await client.closed()
            assert asked == [1, 1]

    run(story)


def test_a_handshake_has_its_time(fronting: Any, run: Any, contexts: Any) -> None:
    """Who connects to TLS and says nothing, or something else, is closed, and nobody complains."""

    async def story() -> None:
        async with fronting(tls=contexts[0], handshake=0.05) as world:
            for sent in (b"", GET):
                async with world.client() as client:
                    client.send(sent)
                    with contextlib.suppress(ConnectionError):
                        await client.rest()
            while any(listener.welcomes for listener in world.front.listeners):
                await asyncio.sleep(0.001)

    run(story)


def test_a_stop_waits_for_no_handshake(fronting: Any, run: Any, contexts: Any) -> None:
    """Connections that never became any are dropped with the rest."""

    async def story() -> None:
        async with fronting(tls=contexts[0]) as world, world.client() as client:
            while not any(listener.welcomes for listener in world.front.listeners):
                await asyncio.sleep(0.001)
            await world.front.stop(0.02)
            assert await client.closed()

    run(story)


def test_out_of_descriptors(fronting: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot accept is asked again a little later."""

    async def story() -> None:
        async with fronting(half_closed=0.02, complaints=1) as world:
            (listener,) = world.front.listeners
            real = listener.sock

            class Failing:
                def __getattr__(self, name: str) -> Any:
                    return getattr(real, name)

                def accept(self) -> Any:
                    listener.sock = real
                    raise OSError(24, "too many open files")

            listener.sock = Failing()
            async with world.client() as client:
                client.send(GET)
                assert (await client.answer())[0] == 200

    run(story)


def test_a_socket_of_the_file_system(run: Any, fronting: Any, tmp_path: Any) -> None:
    """Over a Unix socket a client has no address, and a host that is not named is localhost."""

    async def story() -> None:
        async def handler(request: Request) -> Response:
            return Response(200, [], request.peer.encode() + b"|" + dict(request.headers)[b"host"])

        async with fronting(handler) as world:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(tmp_path / "front"))
            sock.listen()
            world.front.start(sock)
            reader, writer = await asyncio.open_unix_connection(tmp_path / "front")
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert (await reader.read()).endswith(b"\r\n\r\n|localhost")
            writer.close()

    run(story)
