"""
A socket's frames, parsed in C: the one module that imports picows.

picows is used as a parser alone. It is fed a handshake of our own making, because its check of a
request refuses Firefox; its answer to that is dropped, because ours has gone out already; and what it
wants to write later (only ever the close frame of a violation it found) comes back as a verdict.

"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

import aiofastnet
import picows
from picows import WSListener, WSMsgType
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # not in its stubs

logger = logging.getLogger("realtime")

ParsedFrame = picows.WSFrame
CONTINUATION, TEXT, BINARY = WSMsgType.CONTINUATION, WSMsgType.TEXT, WSMsgType.BINARY
CLOSE, PING, PONG = WSMsgType.CLOSE, WSMsgType.PING, WSMsgType.PONG

MAX_READ_BYTES = 16 * 1024
"""Most bytes taken from the kernel at once: what bounds the time one flooding client can keep the loop."""
LARGE_BYTES = 64 * 1024
"""A message of this size leaves a read buffer behind that is worth giving back."""

_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class ByteStream(Protocol):
    """The part of an asyncio transport that is used here."""

    def write_nocheck(self, data: bytes) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...
    def is_closing(self) -> bool: ...


class ParserListener(WSListener):
    """
    Who hears of a socket's frames. Subclasses answer :meth:`on_ws_frame`, once per frame, and the rest below.

    ``frame`` points into the read buffer: whatever is to be kept of it must be copied before returning.

    """

    __slots__ = ()

    def on_ws_frame(self, transport: object, frame: ParsedFrame) -> None:
        """A frame came. Sizes, masks and opcodes are checked; reserved bits, order and text are not."""
        raise NotImplementedError

    def connected(self, stream: ByteStream) -> None:
        """The socket is being read from here on. The first frame may come before :func:`open_parser` returns."""
        raise NotImplementedError

    def on_ws_disconnected(self, transport: object) -> None:
        """The socket is gone."""
        raise NotImplementedError

    def violated(self, code: int, reason: str) -> None:
        """The parser met something that breaks the protocol or its bound; nothing sensible can follow."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """The peer reads too slowly: more than the high mark is waiting to be sent."""
        raise NotImplementedError

    def resume_writing(self) -> None:
        """What was waiting has been sent, all but a little."""
        raise NotImplementedError


class Parser(WSProtocol):
    """The protocol of one socket, from the handshake on."""

    __slots__ = ("_listener", "_room")

    def __init__(self, listener: ParserListener, *, max_frame_bytes: int, read_buffer_bytes: int) -> None:
        super().__init__(
            None,  # host_port, ws_path: a client's
            None,
            False,  # is_client_side
            _offering(listener),
            _SILENT,
            False,  # disconnect_on_exception: the listener handles its own
            None,  # handshake timeout
            False,  # auto ping, and its three parameters
            0,
            0,
            0,
            False,  # auto pong
            max_frame_bytes,
            None,  # extra headers
            read_buffer_bytes,
        )
        self._listener = listener

    def connection_made(self, transport: Any) -> None:
        """Stand ready for the first frame, and tell the listener."""
        self.prepare()
        self._listener.connected(transport)

    def prepare(self) -> None:
        """Stand ready for the first frame. Called alone, it prepares to take over a stream from another parser."""
        super().connection_made(_StandIn(self._listener.violated))
        super().get_buffer(-1)[: len(_HANDSHAKE)] = _HANDSHAKE
        super().buffer_updated(len(_HANDSHAKE))
        self._room = len(super().get_buffer(-1))
        # Nobody reads what was made for our own handshake, and an idle socket should not keep it.
        self.transport.request.headers = self.transport.response.headers = None

    @property
    def is_empty(self) -> bool:
        """Whether no part of a frame is held: certain if true, and false also where the buffer has grown."""
        return len(super().get_buffer(-1)) == self._room

    def get_buffer(self, hint: int) -> memoryview:
        """
        Offer a part of the buffer. picows doubles it whenever more than nine tenths are filled.

        Seven eighths of an empty buffer never are, so a flood of small frames does not make it grow; a
        frame that does not fit stays in it and does.

        """
        buffer = cast("memoryview", super().get_buffer(hint))
        size = len(buffer)
        return buffer[: size - (size >> 3)] if size < MAX_READ_BYTES else buffer[:MAX_READ_BYTES]


def _offering(listener: ParserListener) -> Callable[[object], ParserListener]:
    def offer(request: object) -> ParserListener:
        return listener

    return offer


async def open_parser(loop: asyncio.AbstractEventLoop, sock: socket.socket, parser: Parser) -> ByteStream:
    """Read ``sock`` through ``parser`` from here on. Raise OSError if the peer is gone already."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        # aiofastnet does so where the socket knows its protocol; one that was accepted does not. Without
        # it the second of two messages waits 40 ms for the peer to acknowledge the first.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream, _ = await aiofastnet.connect_accepted_socket(loop, lambda: parser, sock)
    return cast("ByteStream", stream)


async def open_stream(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.BufferedProtocol
) -> ByteStream:
    """Read ``sock`` through any protocol. Raise OSError if the peer is gone already."""
    stream, _ = await aiofastnet.connect_accepted_socket(loop, lambda: protocol, sock)
    return cast("ByteStream", stream)


class _StandIn:
    """
    What picows takes for its transport and its socket.

    Claims to be encrypted, so that picows writes through :meth:`write` and never to the descriptor.

    """

    __slots__ = ("_answered", "_verdict")

    def __init__(self, verdict: Callable[[int, str], None]) -> None:
        self._verdict = verdict
        self._answered = False

    def write(self, data: bytes) -> None:
        if not self._answered:
            self._answered = True
            return
        self._verdict(int.from_bytes(data[2:4], "big"), bytes(data[4:]).decode(errors="replace"))

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self if name in ("socket", "ssl_object") else default

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        """Closing is decided by the listener."""

    abort = close

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *args: object) -> None:
        """The real socket has its options already, and a UNIX one would refuse them."""

    def getsockopt(self, *args: object) -> int:
        return 0


class _Silent:
    """Keeps picows from logging what clients do. What goes wrong in a listener is logged as ours."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name that loggers have
        return False

    def debug(self, *args: object, **kwargs: object) -> None:
        """Per message, per frame."""

    info = warning = error = log = debug

    def exception(self, message: str, *args: object, **kwargs: object) -> None:
        logger.error("A socket's frame could not be handled.", exc_info=True)  # noqa: LOG014 - called in a handler


_SILENT = _Silent()
