"""WebSockets between ASGI and replicas: whole messages on one side, frames through a tunnel on the other.

Decides when either side is told that the other has closed, and with which code. Frames are read and written
by ``websockets``, without its I/O; which replica serves, and whether it grants the switch, is the handler's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from ..errors import MissingExtra, UpstreamBroken, UpstreamError
from ..http.fields import find, problem
from ..http.message import Handler, Headers, Request, Response
from .asgi_front import Message, Receive, Scope, Send, reject, request_of

try:
    from websockets.client import ClientProtocol
    from websockets.exceptions import ProtocolError
    from websockets.frames import CloseCode, Frame, Opcode
    from websockets.protocol import State
    from websockets.typing import Subprotocol
    from websockets.uri import parse_uri
except ImportError:
    raise MissingExtra(__name__, "websocket") from None

__all__ = ["Relay"]

CLOSE_TIME = 10.0
"""Seconds that a replica has to answer a close and end its connection; uvicorn gives as many to clients."""
MOST_REFUSAL = 64 * 1024
"""Bytes of a refusal. Servers keep all of it until it is whole."""
MOST_REPLIES = 64 * 1024
"""Bytes of pongs that a replica may ask for and not take."""
SLICE = 64 * 1024
"""Bytes that are read at once: empty frames take a hundred times the memory of their two bytes."""
BROKEN = 1011
"""What clients are told when a replica fails. 1014 would say it better, but wsproto and gorilla refuse it."""
OF_A_HOP = frozenset((b"connection", b"content-length", b"upgrade"))
ANYWHERE = parse_uri("ws://replica/")  # where to is the handler's to say


class Relay:
    """One WebSocket, from the server's ``websocket.connect`` to its end on both sides.

    No extension is offered to replicas: on the way to one next door, compression costs more than it saves.
    As an iterator it is what goes into the tunnel.

    Args:
        handler: Answers the request that opens it; with 101, what comes back is the body.
        scope: Of the WebSocket.
        receive: Gives what the client says.
        send: Takes what it is told.
        most: Bytes of a message of a replica. Those of clients are limited by the server.
    """

    def __init__(self, handler: Handler, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        self.handler = handler
        self.scope = scope
        self.receive = receive
        self.send = send
        names = [Subprotocol(name) for name in scope.get("subprotocols") or () if name.isascii()]
        self.protocol = ClientProtocol(ANYWHERE, subprotocols=names or None, max_size=most)
        self.out: list[bytes] = []  # for the replica
        self.replies = 0  # bytes among them that it asked for itself
        self.error: UpstreamError | None = None  # what it has done wrong
        self.asked: asyncio.Future[None] | None = None  # waited for by the tunnel
        self.room: asyncio.Future[None] | None = None  # waited for by what the client says
        self.message = bytearray()  # that comes in fragments
        self.text = False
        self.left = False  # the client has closed, or was told to

    async def run(self) -> None:
        """Relay until both sides have closed, or one is gone."""
        if (await self.receive())["type"] != "websocket.connect":
            return
        self.hearing = asyncio.ensure_future(self.hear_client())
        relaying = asyncio.ensure_future(self.relay())
        try:
            await asyncio.wait((relaying, self.hearing), return_when=asyncio.FIRST_COMPLETED)
            if self.protocol.state is State.CLOSING:
                await asyncio.wait((relaying,), timeout=CLOSE_TIME)
            for task in (relaying, self.hearing):
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            relaying.cancel()
            self.hearing.cancel()
            await asyncio.gather(relaying, self.hearing, return_exceptions=True)

    async def relay(self) -> None:
        """Open the WebSocket, and hand on what the replica says until its end."""
        request = self.opening()
        if has_body(request.headers):
            await self.reject(problem(400, "a WebSocket opens without a body"))
            return
        response = await self.handler(request)
        try:
            if response.status != 101:
                await self.reject(await whole(response))
            elif self.is_granted(response.headers):
                assert not isinstance(response.body, bytes)
                await self.tell(self.acceptance(response.headers))
                await self.hear_replica(response.body)
            else:
                await self.reject(problem(502, "the replica did not open a WebSocket"))
        finally:
            await response.close()

    # -- opening ----------------------------------------------------------------------------------------

    def opening(self) -> Request:
        """Return the request that opens it: the client's, but for what was between it and the server."""
        request = request_of(self.scope)
        ours = [
            (name.lower().encode("ascii"), value.encode("ascii"))
            for name, value in self.protocol.connect().headers.raw_items()
        ]
        # Over HTTP/2 there is neither of the two (RFC 8441). What else Connection names is not to go on.
        switch = [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
        request.headers = [
            line for line in request.headers if line[0] != b"upgrade" and not is_of_handshake(line[0])
        ]
        request.headers += switch + [line for line in ours if is_of_handshake(line[0])]
        request.upgrade = self
        return request

    def is_granted(self, headers: Headers) -> bool:
        """Return whether the replica's 101 is an answer to what was asked (RFC 6455, 4.1)."""
        lines = [b"%b: %b\r\n" % line for line in headers if is_of_handshake(line[0]) or line[0] in OF_A_HOP]
        self.protocol.receive_data(b"HTTP/1.1 101 Switching Protocols\r\n" + b"".join(lines) + b"\r\n")
        self.protocol.events_received()
        return self.protocol.handshake_exc is None

    def acceptance(self, headers: Headers) -> Message:
        rest = [line for line in headers if line[0] not in OF_A_HOP and not is_of_handshake(line[0])]
        return {"type": "websocket.accept", "subprotocol": self.protocol.subprotocol, "headers": rest}

    async def reject(self, response: Response) -> None:
        with contextlib.suppress(OSError):  # it has left, as below
            await reject(response, self.scope, self.receive, self.send)

    # -- from the client to the replica -----------------------------------------------------------------

    async def hear_client(self) -> None:
        """Take what the client says until it leaves, no faster than the replica does."""
        protocol = self.protocol
        while (message := await self.receive())["type"] == "websocket.receive":
            while self.out:  # only now: that it leaves is to be heard before a message has been taken
                self.room = asyncio.get_running_loop().create_future()
                await self.room
            if protocol.state is State.OPEN:
                data = message.get("bytes")
                if data is None:
                    protocol.send_text(message["text"].encode())
                else:
                    protocol.send_binary(data)
                self.flush()
        self.left = True
        if protocol.state is State.OPEN:
            code = message.get("code", 1005)
            # One that says that the connection was lost may not be sent: the replica's will be, too.
            with contextlib.suppress(ProtocolError):
                protocol.send_close(None if code == 1005 else code, message.get("reason") or "")
            self.flush()

    def flush(self) -> int:
        """Let the tunnel have what the protocol has to send; return how many bytes that is."""
        pieces = self.protocol.data_to_send()
        self.out += pieces
        wake(self.asked)
        return sum(map(len, pieces))

    def __aiter__(self) -> Relay:
        return self

    async def __anext__(self) -> bytes:
        while not self.out:
            if self.error is not None:
                raise self.error
            self.asked = asyncio.get_running_loop().create_future()
            await self.asked
        pieces, self.out = self.out, []
        self.replies = 0
        wake(self.room)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- from the replica to the client -----------------------------------------------------------------

    async def hear_replica(self, body: AsyncIterator[bytes]) -> None:
        """Hand on what comes through the tunnel, until it ends."""
        try:
            async for piece in body:
                for start in range(0, len(piece), SLICE):
                    await self.take(piece[start : start + SLICE])
            await self.close(BROKEN, "the replica went away")
        except UpstreamError as error:
            await self.close(BROKEN, "the replica failed")
            # The tunnel is to know what it ends by; where it has ended by itself, it does.
            self.error = error
            self.flush()
            with contextlib.suppress(UpstreamError):
                async for _ in body:
                    pass

    async def take(self, data: bytes) -> None:
        """Hand on the messages that are whole with ``data``.

        Raises:
            UpstreamBroken: It is not what RFC 6455 says.
        """
        protocol = self.protocol
        protocol.receive_data(data)
        self.replies += self.flush()
        if self.replies > MOST_REPLIES:
            protocol.fail(CloseCode.POLICY_VIOLATION)
            raise UpstreamBroken("it asks for more pongs than it takes")
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.CLOSE:
                said = protocol.close_rcvd
                assert said is not None
                await self.close(1000 if said.code == 1005 else said.code, said.reason)
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                await self.take_part(frame)
        if protocol.parser_exc is not None:
            raise UpstreamBroken(f"not what WebSockets carry: {protocol.parser_exc}", "http_protocol_error")

    async def take_part(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self.text = frame.opcode is Opcode.TEXT
        data = bytes(frame.data)
        if frame.opcode is Opcode.CONT or not frame.fin:
            self.message += data
            if not frame.fin:
                return
            data, self.message = bytes(self.message), bytearray()
        if not self.text:
            await self.tell({"type": "websocket.send", "bytes": data})
            return
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            self.protocol.fail(CloseCode.INVALID_DATA)
            raise UpstreamBroken(f"a text that is not UTF-8: {error}", "http_protocol_error") from None
        await self.tell({"type": "websocket.send", "text": text})

    async def close(self, code: int, reason: str) -> None:
        """Close for the client, unless it has; what it says from now on is for nobody."""
        await self.tell({"type": "websocket.close", "code": code, "reason": reason})
        self.left = True
        self.hearing.cancel()

    async def tell(self, message: Message) -> None:
        """Tell the client, unless it has left; whether it has, ``receive`` is about to say."""
        if not self.left:
            try:
                await self.send(message)
            except (OSError, RuntimeError):
                # The former by the book. The latter is uvicorn's (0.54) where it has closed by itself, as for
                # a ping that nobody answered.
                self.left = True


def is_of_handshake(name: bytes) -> bool:
    """Return whether a field is between the two ends of one connection."""
    return name.startswith(b"sec-websocket-")


def has_body(headers: Headers) -> bool:
    """Return whether a body is announced, which nobody would read: the next request would begin in it."""
    return find(headers, b"content-length") not in (None, b"0") or (
        find(headers, b"transfer-encoding") is not None
    )


async def whole(response: Response) -> Response:
    """Return a refusal with all of its body."""
    if isinstance(response.body, bytes):
        return response
    body = bytearray()
    try:
        async for piece in response.body:
            body += piece
            if len(body) > MOST_REFUSAL:
                return problem(502, "the replica refused it at too great length")
    except UpstreamError:
        return problem(502, "the replica's answer broke off")
    return Response(response.status, response.headers, bytes(body))


def wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
