"""The end of a connection whose peer may still be sending: it gets the time to read our last word."""

from __future__ import annotations

import asyncio

from realtime.server.parser import ByteStream

LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 1024 * 1024

_sink = memoryview(bytearray(64 * 1024))
"""What comes in here is not looked at, so every connection can use the same memory."""


class Farewell(asyncio.BufferedProtocol):
    """
    Closes our side, drops what still comes, and waits for the peer to close its own.

    Closing at once would answer the peer's unread bytes with a reset, and a reset can overtake what was
    written before it. After ``LINGER_SECONDS`` or ``LINGER_BYTES`` that risk is the peer's.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stream: ByteStream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._bytes_left = LINGER_BYTES

    def begin(self, stream: ByteStream) -> None:
        """Take over ``stream``, which may have bytes still to be sent."""
        self._stream = stream
        stream.set_protocol(self)
        stream.write_eof()
        stream.resume_reading()
        self._timer = self._loop.call_later(LINGER_SECONDS, stream.abort)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _sink

    def buffer_updated(self, nbytes: int) -> None:
        self._bytes_left -= nbytes
        if self._bytes_left < 0 and self._stream is not None:
            self._stream.abort()

    def eof_received(self) -> bool:
        """Both sides are closed: let the transport go."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream = None
        if self._timer is not None:
            self._timer.cancel()
