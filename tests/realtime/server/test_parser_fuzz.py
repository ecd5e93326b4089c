"""
Many sockets that share parsers, at random: what is whole, what comes in pieces, and what breaks the protocol.

A storm is one engine, and clients of three bounds whose bytes arrive mixed, cut anywhere. Whoever
behaves gets its own messages back, in order; whoever does not is closed with the code it deserves.

"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop

from realtime.frames import Frame
from realtime.server.deflate import Policy, compress_alone
from tests.acceptance import rawclient
from tests.realtime.server.engines import Message, Native, native

BOUNDS = (5_000, 70_000, 262_144)
CLIENTS = 24
END = 20.0
"""Seconds after which a storm hangs."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, PACKED = 0x80, 0x40
GONE = 1006
"""Stands for an end without a close frame."""

POOL = "".join(Random(1).choices("az09 éß€あ\U0001f600\n", k=150_000))
NOISE = Random(2).randbytes(600_000)


def text_of(rng: Random, size: int) -> bytes:
    """Return text of ``size`` bytes."""
    start = rng.randrange(len(POOL) - size // 2)
    cut = POOL[start : start + size].encode()[:size].decode(errors="ignore").encode()
    return cut + b"x" * (size - len(cut))


def binary_of(rng: Random, size: int) -> bytes:
    """Return bytes that cannot be compressed, or that can."""
    start = rng.randrange(len(NOISE) - size)
    return NOISE[start : start + size] if rng.random() < 0.5 else bytes([start & 255]) * size


def inflated(payload: bytes) -> bytes:
    """Undo the server's compression."""
    return zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")


def header(first: int, size: int, mask: bytes) -> bytes:
    """Return the header of a client's frame."""
    if size < 126:
        return bytes((first, 0x80 | size)) + mask
    if size < 65536:
        return struct.pack("!BBH", first, 0xFE, size) + mask
    return struct.pack("!BBQ", first, 0xFF, size) + mask


def masked(rng: Random, first: int, payload: bytes = b"") -> bytes:
    """Return a client's frame."""
    size, mask = len(payload), rng.randbytes(4)
    key = (mask * (size // 4 + 1))[:size]
    body = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return header(first, size, mask) + body


class Echo:
    """
    Sends everything back; what a socket's path says decides how.

    Its parts are the bound, whether messages are taken where they arrive (``take``, ``task``) or received
    (``receive``), and whether the bound ``moves`` all the time, never below what it was.

    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.moving: list[Callable[[], None]] = []

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        _, how, bound, moves = scope["path"].split("/")
        transport = scope["extensions"]["realtime"]
        transport.limit_messages(int(bound))

        def move() -> None:
            transport.limit_messages(self.rng.choice((0, int(bound) + self.rng.randrange(100))))

        def take(payload: str | bytes, size: int) -> None:
            if moves == "moves":
                move()
            if not do(payload, transport):
                transport.write(Frame(payload))

        if moves == "moves":
            self.moving.append(move)
        await receive()
        await send({"type": "websocket.accept"})
        if how != "receive":
            transport.attach(receive, take, as_task=how == "task")
        while (message := await receive())["type"] == "websocket.receive":
            kind = "text" if message.get("text") is not None else "bytes"
            if how != "receive":
                take(message[kind], 0)
            else:
                await send({"type": "websocket.send", kind: message[kind]})


def do(payload: str | bytes, transport: Any) -> bool:
    """Do what the message asks for, if it does."""
    match payload:
        case "!raise":
            raise ValueError("as it was asked")
        case "!cancel":
            raise asyncio.CancelledError
        case "!close":
            transport.close(4001, "")
        case "!abort":
            transport.abort()
        case _:
            return False
    return True


class Client:
    """What one client sends, what it should get for it, and what it gets."""

    def __init__(self, rng: Random, read_bytes: int) -> None:
        self.rng, self.read_bytes = rng, read_bytes
        self.bound = rng.choice(BOUNDS)
        self.how = rng.choice(("take", "take", "task", "receive"))
        self.moves = rng.random() < 0.3
        self.packs = rng.random() < 0.4
        self.script = bytearray()
        self.marks: list[int] = []
        """Where frames end."""
        self.expected: list[tuple[int, bytes]] = []
        self.pings: list[bytes] = []
        self.code = 1000
        self.fault = ""
        self.leaves = False
        """Whether it goes without a word."""
        self.closes_late = False
        """Whether it says goodbye when it has all its messages back."""
        self.may_be_reset = False
        self.sent = 0
        self.inbound = bytearray()
        self.echoes: list[tuple[int, bytes]] = []
        self.pongs: list[bytes] = []
        self.ended: int | None = None
        self.resting = 0
        self._write_script()

    @property
    def path(self) -> str:
        return f"/{self.how}/{self.bound}/{'moves' if self.moves else 'stays'}"

    # What it sends

    def _add(self, data: bytes) -> None:
        self.script += data
        self.marks.append(len(self.script))

    def _write_script(self) -> None:
        rng = self.rng
        for _ in range(rng.randrange(2, 22)):
            if rng.random() < 0.1 and self.how != "receive":
                self._add(masked(rng, FIN | TEXT, b"!raise"))
            self._add_message(self._size())
        kind = rng.random()
        if kind < 0.45:
            self.closes_late = True
        elif kind < 0.55:
            self._add(masked(rng, FIN | CLOSE, struct.pack("!H", 1000)))
        elif kind < 0.62:
            self._add_message(self.bound)
            del self.script[-rng.randrange(1, self.bound) :]
            self.leaves, self.code = True, GONE
        else:
            self._misbehave()
        if not (self.closes_late or self.leaves):
            for _ in range(rng.randrange(4)):
                self._add(self._afterthought())
                # After two close frames the server is gone, and may leave the rest unread: the kernel then
                # answers with a reset, which overtakes what was sent before.
                self.may_be_reset = self.fault in ("", "!close")

    def _size(self) -> int:
        rng, read = self.rng, self.read_bytes
        size = rng.choice(
            (
                rng.randrange(3),
                rng.randrange(300),
                rng.randrange(124, 129),
                rng.randrange(min(6000, read)),
                rng.randrange(read - 16, read + 2),
                rng.randrange(4080, 4101),
                rng.choice((65535, 65536, 200_000)),
                self.bound - rng.randrange(3),
            )
        )
        # A few large messages are enough, and most of the time.
        large = self.bound - rng.randrange(3) if rng.random() < 0.3 else rng.randrange(200)
        return size if size <= min(self.bound, 6000) else min(large, self.bound)

    def _add_message(self, size: int) -> None:
        rng = self.rng
        opcode = rng.choice((TEXT, BINARY))
        payload = text_of(rng, size) if opcode == TEXT else binary_of(rng, size)
        self.expected.append((opcode, payload))
        first = opcode
        if self.packs and rng.random() < 0.5:
            first, payload = opcode | PACKED, compress_alone(payload, 15, 8)
        while rng.random() < 0.3 and len(self.marks) < 200:
            at = rng.randrange(len(payload) + 1)
            self._add(masked(rng, first, payload[:at]))
            first, payload = CONTINUATION, payload[at:]
            if rng.random() < 0.3:
                self._add_ping()
        self._add(masked(rng, FIN | first, payload))
        if rng.random() < 0.2:
            self._add_ping()

    def _add_ping(self) -> None:
        self.pings.append(self.rng.randbytes(self.rng.choice((0, 4, 125))))
        self._add(masked(self.rng, FIN | PING, self.pings[-1]))
        if self.rng.random() < 0.3:
            self._add(masked(self.rng, FIN | PONG, b"of nothing"))

    def _misbehave(self) -> None:
        rng = self.rng
        self.fault = rng.choice(sorted(FAULTS))
        if self.fault.startswith("!"):
            self.how = rng.choice(("take", "task"))
        if self.fault.startswith("large"):
            self.moves = False
        self.code, write = FAULTS[self.fault]
        for data in write(rng, self.bound):
            self._add(data)

    def _afterthought(self) -> bytes:
        """Return what nobody may look at any more."""
        rng = self.rng
        return rng.choice(
            (
                rng.randbytes(rng.randrange(1, 500)),
                masked(rng, FIN | TEXT, b"too late"),
                masked(rng, FIN | TEXT, b"too late")[:-3],
                masked(rng, FIN | CLOSE, b"\x03\xe8"),
                masked(rng, FIN | BINARY, bytes(self.bound)),
            )
        )

    def next_piece(self) -> memoryview:
        """Return what it sends at once now."""
        rng = self.rng
        left = len(self.script) - self.sent
        to_mark = next((mark for mark in self.marks if mark > self.sent), len(self.script)) - self.sent
        size = rng.choice(
            (
                rng.randrange(1, 16),
                to_mark,
                to_mark,
                to_mark + rng.randrange(-2, 15),
                self.read_bytes + rng.randrange(-1, 2),
                rng.randrange(1, 40_000),
                left,
            )
        )
        return memoryview(self.script)[self.sent :][: max(1, size)]

    # What it gets

    async def connect(self, server: Native, unix: Path) -> None:
        """Open a socket of either family."""
        loop = asyncio.get_running_loop()
        over_unix = self.rng.random() < 0.3
        self.sock = socket.socket(socket.AF_UNIX if over_unix else socket.AF_INET)
        self.sock.setblocking(False)
        if not over_unix:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address: Any = str(unix) if over_unix else ("127.0.0.1", server.port)
        await loop.sock_connect(self.sock, address)
        offer = ["Sec-WebSocket-Extensions: permessage-deflate"] if self.packs else []
        await loop.sock_sendall(self.sock, rawclient.handshake(self.path, *offer))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += await loop.sock_recv(self.sock, 1)
        assert answer.startswith(b"HTTP/1.1 101"), answer

    def send_some(self) -> None:
        """Send a piece, as far as the kernel takes it."""
        piece = self.next_piece()
        try:
            self.sent += self.sock.send(piece)
        except BlockingIOError:
            pass
        except OSError:
            self.sent = len(self.script)
        finally:
            piece.release()

    def read_some(self) -> None:
        """Take what has come."""
        try:
            while self.ended is None and (data := self.sock.recv(1 << 18)):
                self.inbound += data
                self._understand()
            if self.ended is None:
                self.ended = GONE
        except BlockingIOError:
            pass
        except OSError:
            self.ended = GONE

    def _understand(self) -> None:
        while self.ended is None and (found := first_frame(self.inbound)) is not None:
            first, payload, size = found
            del self.inbound[:size]
            opcode = first & 0x0F
            if opcode == CLOSE:
                self.ended = int.from_bytes(payload[:2], "big")
            elif opcode == PONG:
                self.pongs.append(payload)
            else:
                self.echoes.append((opcode, inflated(payload) if first & PACKED else payload))

    def turn(self) -> None:
        """Do one thing, or nothing."""
        if self.resting:
            self.resting -= 1
        elif self.rng.random() < 0.02:
            self.resting = self.rng.randrange(20)
        else:
            self.read_some()
        if self.ended is None and self.sent < len(self.script):
            self.send_some()
        elif self.leaves:
            self.sock.close()
            self.ended = GONE
        elif self.closes_late and len(self.echoes) >= len(self.expected):
            self.closes_late = False
            self._add(masked(self.rng, FIN | CLOSE, b"\x03\xe8"))

    def check(self) -> None:
        """Fail if it did not get what it should."""
        about = f"{self.path} packs={self.packs} fault={self.fault!r}"
        was_reset = self.may_be_reset and self.ended == GONE
        assert self.ended == self.code or was_reset, f"{about}: ended with {self.ended}, not {self.code}"
        assert self.echoes == self.expected[: len(self.echoes)], f"{about}: got what it had not sent"
        if self.how != "receive" and self.ended != GONE:
            assert len(self.echoes) == len(self.expected), (
                f"{about}: {len(self.echoes)} of {len(self.expected)}"
            )
        pings = iter(self.pings)
        assert all(pong in pings for pong in self.pongs), f"{about}: a pong of no ping"


def first_frame(data: bytearray) -> tuple[int, bytes, int] | None:
    """Return first byte, payload and whole size of the server's frame that ``data`` begins with, if it is there."""
    if len(data) < 2:
        return None
    size, start = data[1], 2
    if size >= 126:
        start = 4 if size == 126 else 10
        if len(data) < start:
            return None
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start + size:
        return None
    return data[0], bytes(data[start : start + size]), start + size


def _frames(*parts: tuple[int, bytes]) -> Callable[[Random, int], Iterator[bytes]]:
    return lambda rng, bound: (masked(rng, first, payload) for first, payload in parts)


FAULTS: dict[str, tuple[int, Callable[[Random, int], Iterator[bytes]]]] = {
    "no mask": (1002, lambda rng, bound: iter((b"\x81\x03abc",))),
    "opcode": (1002, _frames((FIN | 0x3, b"abc"))),
    "control opcode": (1002, _frames((FIN | 0xB, b""))),
    "reserved bit": (1002, _frames((FIN | 0x20 | TEXT, b"abc"))),
    "control in fragments": (1002, _frames((PING, b"abc"))),
    "large ping": (1002, _frames((FIN | PING, b"x" * 126))),
    "continuation of nothing": (1002, _frames((FIN | CONTINUATION, b"abc"))),
    "message in a message": (1002, _frames((TEXT, b"abc"), (FIN | TEXT, b"abc"))),
    "half a close code": (1002, _frames((FIN | CLOSE, b"\x03"))),
    "close code": (1002, _frames((FIN | CLOSE, b"\x03\xed"))),
    "text": (1007, _frames((FIN | TEXT, b"ab\xff"))),
    "half a character": (1007, _frames((TEXT, b"ab\xe2"), (FIN | CONTINUATION, b"\x82"))),
    "close reason": (1007, _frames((FIN | CLOSE, b"\x03\xe8\xff"))),
    "size not minimal": (1002, lambda rng, bound: iter((b"\x81\xfe\0\x05abcdhello",))),
    "large header": (1009, lambda rng, bound: iter((header(FIN | BINARY, 1 << 40, b"abcd"),))),
    "large text": (1009, lambda rng, bound: iter((masked(rng, FIN | TEXT, b"x" * (bound + 1)),))),
    "large binary": (1009, lambda rng, bound: iter((masked(rng, FIN | BINARY, b"x" * (bound + 1)),))),
    "large together": (
        1009,
        lambda rng, bound: (
            masked(rng, first, b"x" * (bound // 2 + 1)) for first in (BINARY, FIN | CONTINUATION)
        ),
    ),
    "!close": (4001, _frames((FIN | TEXT, b"!close"))),
    "!abort": (GONE, _frames((FIN | TEXT, b"!abort"))),
    "!cancel": (GONE, _frames((FIN | TEXT, b"!cancel"))),
}
"""What a client may do wrong, or have the application do: the code that ends it, and its frames."""


async def storm(seed: int, read_bytes: int, folder: Path) -> None:
    """Have clients that follow from ``seed`` talk to one engine, and check what each got."""
    rng = Random(seed)
    loop = asyncio.get_running_loop()
    failures: list[BaseException | None] = []
    loop.set_exception_handler(lambda loop, context: failures.append(context.get("exception")))
    app = Echo(rng)
    clients = [Client(rng, read_bytes) for _ in range(CLIENTS)]
    options: dict[str, Any] = {
        "read_buffer_bytes": read_bytes,
        "write_buffer_bytes": 32_768,
        "max_inbound_messages": 4,
        "close_timeout": 1.0,
        "deflate": Policy(),
    }
    unix = folder / f"{seed}.sock"
    async with asyncio.timeout(END), native(app, **options) as server:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(unix))
        listener.listen(CLIENTS)
        server.front.listen(listener)
        with ExitStack() as stack:
            for client in clients:
                await client.connect(server, unix)
                stack.callback(client.sock.close)
            while waiting := [client for client in clients if client.ended is None]:
                for client in rng.sample(waiting, rng.randrange(1, len(waiting) + 1)):
                    client.turn()
                if app.moving and rng.random() < 0.2:
                    rng.choice(app.moving)()
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
            for client in clients:
                client.check()
        for shared in server.engine.parsers._shared.values():
            assert all(parser.is_as_new for parser in (shared.parser, *shared._spare))
    assert all(isinstance(failure, asyncio.CancelledError) for failure in failures), failures


@pytest.mark.parametrize("seed", range(32))
def test_everybody_gets_what_is_theirs(seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_bytes = (4096, 1024, 4096, 1024 * 1024, 2048)[seed % 5]
    new_loop = (asyncio.new_event_loop, uvloop.new_event_loop)[seed % 2]
    # What the applications raise is logged, as it should be.
    with caplog.at_level(logging.CRITICAL), asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(storm(seed, read_bytes, tmp_path))
