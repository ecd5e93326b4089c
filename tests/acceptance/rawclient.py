"""A WebSocket client without manners: it sends the bytes it is told to, and answers nothing by itself."""

from __future__ import annotations

import base64
import os
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from websockets.frames import Frame, Opcode


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response, as far as it came."""

    status: int
    headers: dict[str, str]
    """The last value of each, by lower-case name."""
    body: bytes


def handshake(path: str, *lines: str) -> bytes:
    """Return the head of a request to upgrade."""
    key = base64.b64encode(os.urandom(16)).decode()
    head = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *lines,
    ]
    return ("\r\n".join(head) + "\r\n\r\n").encode()


def frame(opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """Return a masked frame."""
    return Frame(opcode, payload, fin=fin).serialize(mask=True)


def text(payload: str) -> bytes:
    """Return a whole text message."""
    return frame(Opcode.TEXT, payload.encode())


def close(code: int | None, reason: str = "") -> bytes:
    """Return a close frame."""
    return frame(Opcode.CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


class RawClient:
    """One TCP connection. Everything blocks, for at most ``timeout`` seconds."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._buffer = b""
        self.unsent = b""
        """What was left of the last message when nobody took it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def open(self, path: str, *lines: str) -> Response:
        """Upgrade; return the answer."""
        self.send(handshake(path, *lines))
        return self.response()

    def response(self) -> Response:
        """Read an HTTP response: its head, and the body that Content-Length promises, or all until the end."""
        while b"\r\n\r\n" not in self._buffer:
            self._read_more()
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        status = int(first.split()[1])
        if status == 101:
            return Response(status, headers, b"")
        size = headers.get("content-length")
        body = self.rest() if size is None else self._take(int(size))
        return Response(status, headers, body)

    def frame(self) -> Frame:
        """Read one frame."""
        first, second = self._take(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return Frame(Opcode(first & 0x0F), self._take(size), fin=bool(first & 0x80))

    def close_frame(self) -> tuple[int, str]:
        """Read frames until a close frame comes; return its code and reason."""
        while (found := self.frame()).opcode != Opcode.CLOSE:
            pass
        return struct.unpack("!H", found.data[:2])[0], bytes(found.data[2:]).decode()

    def rest(self) -> bytes:
        """Read until the server ends the connection. ConnectionResetError where it does so the hard way."""
        while True:
            try:
                self._read_more()
            except EOFError:
                taken, self._buffer = self._buffer, b""
                return taken

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._read_more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _read_more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"The server ended the connection after {self._buffer!r}.")
        self._buffer += data


def get(port: int, path: str, *lines: str) -> Response:
    """Make one HTTP request on a connection of its own."""
    with RawClient(port) as client:
        client.send(
            "\r\n".join(
                [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *lines, "", ""]
            ).encode()
        )
        return client.response()
