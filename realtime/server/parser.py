"""
A socket's frames, parsed in C: the one module that imports picows.

picows is used as a parser alone. It is fed a handshake of our own making, because its check of a
request refuses Firefox; its answer to that is dropped, because ours has gone out already; and what it
wants to write later (only ever the close frame of a violation it found) comes back as a verdict.

"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, cast

import picows
from picows import WSListener, WSMsgType
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # not in its stubs

logger = logging.getLogger("realtime")

ParsedFrame = picows.WSFrame
CONTINUATION, TEXT, BINARY = WSMsgType.CONTINUATION, WSMsgType.TEXT, WSMsgType.BINARY
CLOSE, PING, PONG = WSMsgType.CLOSE, WSMsgType.PING, WSMsgType.PONG

CLOSE_FRAME = 0x88
"""How a whole close frame begins."""

MAX_READ_BYTES = 16 * 1024
"""Most bytes taken from the kernel at once: what bounds the time one flooding client can keep the loop."""

TEXT_FRAME = 0x81
"""How a whole text frame begins."""

_UNCOUNTED = 256
"""Bytes at the end of a buffer which picows keeps for itself."""

_SPARE_KEPT = 4
"""Parsers of one bound that are kept besides the one in use; none is needed while no frame comes in pieces."""
_BOUNDS_KEPT = 32

_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def lone_close(data: memoryview) -> bytes | None:
    """
    Return the payload of the close frame that ``data`` is; ``None`` if it is anything else, or anything more.

    Most sockets end with just that, and a parser that has read one is of no more use.

    """
    size = len(data) - 6
    if not 0 <= size < 126 or data[0] != CLOSE_FRAME or data[1] != 0x80 | size:
        return None
    return bytes(byte ^ data[2 + (place & 3)] for place, byte in enumerate(data[6:]))


class FrameReader(Protocol):
    """Whose frames a parser reads."""

    def on_frame(self, frame: ParsedFrame, is_plain: bool) -> None:
        """
        Take a frame. Sizes, masks and opcodes are checked; reserved bits, order and text are not.

        It points into the read buffer: whatever is to be kept of it must be copied before returning.
        ``is_plain`` says that it is known to be a whole text frame without reserved bits, which is
        cheaper than to ask it; without it, it may be one too.

        """

    def violated(self, code: int, reason: str) -> None:
        """Hear that what came breaks the protocol or its bound; nothing sensible can follow it."""


class Parser(WSProtocol):
    """A parser that one socket after the other may use, from the end of one frame to the end of another."""

    __slots__ = ("_relay", "_size", "max_frame_bytes", "room")

    def __init__(self, max_frame_bytes: int, read_bytes: int) -> None:
        """Read frames of at most ``max_frame_bytes``, 0 is any; an empty one has room for ``read_bytes``."""
        self._relay = _Relay()
        super().__init__(
            None,  # host_port, ws_path: a client's
            None,
            False,  # is_client_side
            self._offer,
            _SILENT,
            False,  # disconnect_on_exception: the reader handles its own
            None,  # handshake timeout
            False,  # auto ping, and its three parameters
            0,
            0,
            0,
            False,  # auto pong
            max_frame_bytes or (1 << 62),
            None,  # extra headers
            # picows doubles, and moves, a buffer that is nine tenths full or has 256 bytes left, besides 256 that it
            # does not count: one that is empty must stay where it is, because where it is is remembered below.
            read_bytes + max(read_bytes // 8, 320) + _UNCOUNTED,
        )
        self.max_frame_bytes = max_frame_bytes
        super().connection_made(_StandIn(self._relay.violated))
        super().get_buffer(-1)[: len(_HANDSHAKE)] = _HANDSHAKE
        super().buffer_updated(len(_HANDSHAKE))
        empty = cast("memoryview", super().get_buffer(-1))
        self._size = len(empty)
        self.room = empty[:read_bytes]
        """Where the next bytes go, as long as the parser is as new."""

    def _offer(self, request: object) -> WSListener:
        return self._relay

    @property
    def is_spent(self) -> bool:
        """Whether it has read a close frame: picows takes one only."""
        return self.transport.close_handshake is not None

    @property
    def is_as_new(self) -> bool:
        """Whether it is empty, its buffer has not grown, and it is not spent."""
        return not self.is_spent and len(super().get_buffer(-1)) == self._size

    def more_room(self) -> memoryview:
        """Return where the next bytes go when a part of a frame is held."""
        return cast("memoryview", super().get_buffer(-1))[:MAX_READ_BYTES]

    def feed(self, size: int, reader: FrameReader, is_plain: bool = False) -> bool:
        """
        Read the ``size`` bytes that were put where there was room; ``reader`` is told of each frame.

        ``is_plain`` says that they begin with :data:`TEXT_FRAME`, in a parser that was empty. Return
        whether it is empty now.

        """
        relay = self._relay
        relay.reader = reader
        relay.is_plain = is_plain
        relay.tail = 1
        # Not by a bound method that is kept: who knows itself is freed by the collector alone, a megabyte at a time.
        self.buffer_updated(size)
        relay.reader = _NOBODY
        return not relay.tail


class _Relay(WSListener):
    """Passes frames on to whoever uses the parser right now."""

    __slots__ = ("is_plain", "reader", "tail")

    def __init__(self) -> None:
        super().__init__()
        self.reader: FrameReader = _NOBODY
        self.is_plain = False
        self.tail = 0

    def on_ws_frame(self, transport: object, frame: ParsedFrame) -> None:
        self.tail = frame.tail_size
        is_plain, self.is_plain = self.is_plain, False
        self.reader.on_frame(frame, is_plain)

    def violated(self, code: int, reason: str) -> None:
        """What picows would have told the client; the parser is of no use any more."""
        self.tail = 1
        self.reader.violated(code, reason)


class _Nobody:
    """Reads frames of a parser that nobody uses: there are none."""

    def on_frame(self, frame: ParsedFrame, is_plain: bool) -> None:
        raise AssertionError("a parser that nobody uses read a frame")

    def violated(self, code: int, reason: str) -> None:
        raise AssertionError(f"a parser that nobody uses failed with {code} {reason}")


_NOBODY = _Nobody()


class SharedParser:
    """
    The parser that all sockets with one bound read with, in turn.

    A socket takes it away while it holds a part of a frame, and gives it back after that. So a silent
    socket has none, and all busy ones share one that is in the processor's cache.

    """

    __slots__ = ("_max_frame_bytes", "_read_bytes", "_spare", "parser")

    def __init__(self, max_frame_bytes: int, read_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._read_bytes = read_bytes
        self._spare: list[Parser] = []
        self.parser = Parser(max_frame_bytes, read_bytes)
        """Always empty, but while it is fed."""

    def replace(self) -> None:
        """Use another from now on: this one is held by a socket, or of no more use."""
        self.parser = self._spare.pop() if self._spare else Parser(self._max_frame_bytes, self._read_bytes)

    def give_back(self, parser: Parser) -> None:
        """Keep an empty parser for the next time. One whose buffer has grown is let go: picows never shrinks it."""
        # The bound of the socket may be another since it took the parser away.
        if (
            parser.max_frame_bytes == self._max_frame_bytes
            and parser.is_as_new
            and len(self._spare) < _SPARE_KEPT
        ):
            self._spare.append(parser)


class Parsers:
    """The shared parsers of one loop."""

    __slots__ = ("_read_bytes", "_shared")

    def __init__(self, read_bytes: int) -> None:
        self._read_bytes = read_bytes
        self._shared: dict[int, SharedParser] = {}

    def of(self, max_frame_bytes: int) -> SharedParser:
        """Return what refuses frames of more than ``max_frame_bytes``; 0 takes any."""
        shared = self._shared.get(max_frame_bytes)
        if shared is None:
            if len(self._shared) >= _BOUNDS_KEPT:
                # Sockets that use one keep it.
                self._shared.clear()
            shared = self._shared[max_frame_bytes] = SharedParser(max_frame_bytes, self._read_bytes)
        return shared


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
