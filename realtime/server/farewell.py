"""The end of a connection whose peer may still be sending: it gets the time to read our last word."""

from __future__ import annotations

import asyncio
import socket

from realtime.server.stream import Stream

LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 1024 * 1024

_sink = memoryview(bytearray(64 * 1024))
"""What comes in here is not looked at, so every connection can use the same memory."""


class Farewell:
    """
    Closes our side, drops what still comes, and waits for the peer to close its own.

    Closing at once would answer the peer's unread bytes with a reset, and a reset can overtake what was
    written before it. After ``LINGER_SECONDS`` or ``LINGER_BYTES`` that risk is the peer's.

    """

    __slots__ = ("_bytes_left", "_stream", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: Stream, last_words: bytes = b"") -> None:
        """Take over ``stream``, which may have bytes still to be sent, and send ``last_words`` after them."""
        self._stream = stream
        self._bytes_left = LINGER_BYTES
        stream.hand_to(self)
        if last_words:
            stream.write(last_words)
        stream.write_eof()
        stream.resume_reading()
        self._timer = loop.call_later(LINGER_SECONDS, stream.abort)

    def readable(self, sock: socket.socket) -> None:
        """Drop what came; at the peer's end, close."""
        try:
            size = sock.recv_into(_sink)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            size = 0
        self._bytes_left -= size
        if not size or self._bytes_left < 0:
            self._stream.abort()

    def pause_writing(self) -> None:
        """Nothing is written any more."""

    resume_writing = pause_writing

    def lost(self) -> None:
        """Both sides are closed."""
        self._timer.cancel()
