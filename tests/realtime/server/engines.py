"""The native engine on the loop of a test, any application behind it, and clients with and without manners."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as _connect

from realtime.server.engine import Application, Engine, Options
from realtime.server.front import Front
from tests.acceptance import rawclient
from tests.acceptance.rawclient import Frame, Opcode, Response

SOON = 3.0
"""Seconds within which anything a test waits for has long happened."""

Message = dict[str, Any]


@dataclass
class Native:
    """A running engine."""

    engine: Engine
    front: Front
    port: int
    http: list[bytes] = field(default_factory=list)
    """What arrived that was not for the engine."""

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def connect(self, path: str = "/", **how: Any) -> Any:
        """Return a well-behaved client."""
        return _connect(f"{self.url}{path}", **{"compression": None, "proxy": None, **how})

    async def peer(self, *, receive_buffer: int | None = None) -> Peer:
        """Return a client that sends what it is told to."""
        return await Peer.connect(self.port, receive_buffer)

    async def opened(self, path: str = "/", *lines: str, receive_buffer: int | None = None) -> Peer:
        """Return such a client with its handshake done."""
        peer = await self.peer(receive_buffer=receive_buffer)
        peer.send(rawclient.handshake(path, *lines))
        assert (await peer.response()).status == 101
        return peer

    async def empty(self) -> None:
        """Return when all sockets are gone and all applications have ended."""
        async with asyncio.timeout(SOON):
            await self.engine.quiet()


@asynccontextmanager
async def native(
    application: Application,
    *,
    given: Options | None = None,
    head_timeout: float = SOON,
    idle_timeout: float = SOON,
    **options: Any,
) -> AsyncIterator[Native]:
    """Serve ``application``; in the end every socket must go, and every application end."""
    loop = asyncio.get_running_loop()
    engine = Engine(application, given or Options(**options), loop=loop)
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    served: list[bytes] = []

    def http(sock: socket.socket) -> None:
        served.append(sock.recv(65536))
        sock.close()

    front = Front(
        loop, http=http, websocket=engine.begin, head_timeout=head_timeout, idle_timeout=idle_timeout
    )
    front.listen(listener)
    running = Native(engine, front, listener.getsockname()[1], served)
    try:
        yield running
    finally:
        front.close()
        engine.close()
        await running.empty()


@asynccontextmanager
async def client_of(application: Application, **options: Any) -> AsyncIterator[ClientConnection]:
    """Serve ``application`` and return one client of it."""
    async with native(application, **options) as server, server.connect() as client:
        yield client


async def until(condition: Callable[[], object]) -> None:
    """Return when ``condition()`` holds, of something that cannot be waited for."""
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Peer:
    """A client that speaks in bytes. Everything takes at most ``SOON`` seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, receive_buffer: int | None) -> Self:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            sock.connect(("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        return cls(*await asyncio.open_connection(sock=sock, limit=1 << 16))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.writer.close()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self) -> Response:
        """Read an HTTP response; its body is what Content-Length says."""
        async with asyncio.timeout(SOON):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().rstrip("\r\n").split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Response(int(first.split()[1]), headers, body)

    async def frame(self) -> Frame:
        """Read one frame."""
        async with asyncio.timeout(SOON):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            data = await self.reader.readexactly(size)
        return Frame(
            Opcode(first & 0x0F),
            data,
            fin=bool(first & 0x80),
            rsv1=bool(first & 0x40),
            rsv2=False,
            rsv3=False,
        )

    async def closed(self) -> tuple[int, str]:
        """Read until the close frame; return its code and reason."""
        while (found := await self.frame()).opcode is not Opcode.CLOSE:
            pass
        return struct.unpack("!H", found.data[:2])[0], bytes(found.data[2:]).decode()

    async def ended(self) -> bytes:
        """Read until the server ends the connection in order."""
        async with asyncio.timeout(SOON):
            return await self.reader.read()

    async def dropped(self) -> None:
        """Return when the server has ended the connection, in whatever way."""
        with suppress(ConnectionResetError):
            await self.ended()


# Applications.


async def echo(scope: Message, receive: Any, send: Any) -> None:
    """Send everything back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        kind = "text" if message.get("text") is not None else "bytes"
        await send({"type": "websocket.send", kind: message[kind]})


class Recorder:
    """Accepts, and keeps what it receives."""

    def __init__(self) -> None:
        self.events: list[Message] = []
        self.scope: Message = {}
        self.ended = asyncio.Event()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self.scope = scope
        try:
            await receive()
            await send({"type": "websocket.accept"})
            while True:
                message = await receive()
                self.events.append(message)
                if message["type"] == "websocket.disconnect":
                    return
        finally:
            self.ended.set()

    async def end(self) -> Message:
        """Wait for the application's end and return the last event."""
        async with asyncio.timeout(SOON):
            await self.ended.wait()
        return self.events[-1]
