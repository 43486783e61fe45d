"""A replica that can be told to misbehave: ``python replica.py BOARD``, its port and its number on stdin.

BOARD is a file that the one who breaks things shares with all replicas: of each, the fault it plays and the
number of requests it has read, both of which outlast the process.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import socket
import struct
import sys
from pathlib import Path

FAULTS = ("none", "slow", "hang", "reset", "busy", "flapping", "unready")
ROW = struct.Struct("<QQ")  # the fault's number; requests read so far
DELAY = 0.005
"""Seconds that an answer takes."""
SMALL, LARGE = b"x" * 1024, b"y" * 65536
HEAD = b"HTTP/1.1 %d X\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n"


class Board:
    """The shared file: read and written in place."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)

    def fault(self, number: int) -> str:
        return FAULTS[ROW.unpack_from(self.map, number * ROW.size)[0]]

    def read(self, number: int) -> int:
        count: int = ROW.unpack_from(self.map, number * ROW.size)[1]
        return count

    def play(self, number: int, fault: str) -> None:
        ROW.pack_into(self.map, number * ROW.size, FAULTS.index(fault), self.read(number))

    def count(self, number: int) -> int:
        fault, count = ROW.unpack_from(self.map, number * ROW.size)
        ROW.pack_into(self.map, number * ROW.size, fault, count + 1)
        return int(count)


class Connection(asyncio.Protocol):
    """One connection; GETs without a body are all it knows."""

    def __init__(self, board: Board, number: int, open_now: set[Connection]) -> None:
        self.board = board
        self.number = number
        self.open_now = open_now
        self.busy = False
        self.last = False
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.open_now.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open_now.discard(self)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if b"\r\n\r\n" in self.data:
            path = self.data.split(b" ", 2)[1]
            self.data = b""
            self.busy = True
            self.answer(path)

    def answer(self, path: bytes) -> None:
        loop = asyncio.get_running_loop()
        fault = self.board.fault(self.number)
        if path == b"/readyz":
            well = fault != "unready" and (fault != "flapping" or int(loop.time() / 0.7) % 2)
            self.send(200 if well else 503, b"")
            return
        count = self.board.count(self.number)
        if fault == "hang":
            return
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        elif fault == "busy" and count % 2:
            self.send(503, b"busy")
        elif path == b"/large":
            self.transport.write(HEAD % (200, len(LARGE)) + LARGE[:32768])
            loop.call_later(DELAY, self.end, LARGE[32768:])
        else:
            loop.call_later(DELAY * 10 if fault == "slow" else DELAY, self.send, 200, SMALL)

    def send(self, status: int, body: bytes) -> None:
        self.end(HEAD % (status, len(body)) + body)

    def end(self, data: bytes) -> None:
        self.transport.write(data)
        self.busy = False
        if self.last:
            self.transport.close()


async def main(port: int, board: Board, number: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    open_now: set[Connection] = set()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), os._exit, 0)  # who started this is gone
    server = await loop.create_server(
        lambda: Connection(board, number, open_now), "127.0.0.1", port, reuse_address=True
    )
    await stop.wait()
    # As most servers stop: no new connections, idle ones closed at once, what is being answered ends.
    server.close()
    for connection in list(open_now):
        connection.last = True
        if not connection.busy:
            connection.transport.close()
    while open_now:
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    shared = Board(Path(sys.argv[1]))
    if told := sys.stdin.readline().split():
        asyncio.run(main(int(told[0]), shared, int(told[1])))
