"""One connected socket: tells when there is something to read, and keeps what the kernel does not take at once."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Protocol

_PARTS_AT_ONCE = 64
"""Writes that wait which are handed to the kernel in one call."""


class StreamUser(Protocol):
    """Who a stream reports to."""

    def readable(self, sock: socket.socket) -> None:
        """There is something to read, or the end. It is called again and again until that has been read."""

    def pause_writing(self) -> None:
        """The peer reads too slowly: more than the high mark is waiting to be sent."""

    def resume_writing(self) -> None:
        """What was waiting has been sent, all but a little."""

    def lost(self) -> None:
        """The socket is closed. Called once, and not from within a call to the stream."""


class Stream:
    """
    The socket of one connection, in the event loop.

    Twenty lines of Python for each direction cost a microsecond more than a transport in C, and five
    kilobytes less: most sockets are silent most of the time. Nothing raises after the socket broke.

    """

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_closing",
        "_high",
        "_is_slow",
        "_loop",
        "_low",
        "_reading",
        "_sock",
        "_user",
        "_write_ends",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, *, high: int = 65536) -> None:
        """
        Own ``sock``, which does not block. ``high`` is the bytes that may wait before the user is told.

        Nothing is done until it is handed to somebody.

        """
        self._loop = loop
        self._sock: socket.socket | None = sock
        self._user: StreamUser
        self._high, self._low = high, high // 4
        self._backlog: deque[bytes | memoryview] | None = None
        self._backlog_bytes = 0
        self._reading = self._closing = self._is_slow = self._write_ends = False
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Without it the second of two messages waits 40 ms for the peer to acknowledge the first.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def is_closing(self) -> bool:
        """Whether nothing that is written any more will be sent."""
        return self._closing

    @property
    def buffered_bytes(self) -> int:
        """Bytes written and not yet taken by the kernel. Safe from any thread."""
        return self._backlog_bytes

    def hand_to(self, user: StreamUser) -> None:
        """Report to ``user`` from now on."""
        self._user = user
        if self._reading and self._sock is not None:
            self._loop.add_reader(self._sock.fileno(), user.readable, self._sock)

    # Reading

    def resume_reading(self) -> None:
        """Tell the user when there is something to read."""
        if not self._reading and not self._closing and self._sock is not None:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._user.readable, self._sock)

    def pause_reading(self) -> None:
        """Leave what comes to the kernel."""
        if self._reading and self._sock is not None:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    # Writing

    def write(self, data: bytes) -> None:
        """Send ``data`` now, as much as goes, and the rest when it does."""
        if self._closing or self._write_ends or self._sock is None:
            return
        rest: bytes | memoryview = data
        if not self._backlog:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self.abort()
                return
            if sent == len(data):
                return
            rest = memoryview(data)[sent:]
            self._backlog = deque()
            self._loop.add_writer(self._sock.fileno(), self._flush)
        self._keep(rest)

    def _keep(self, rest: bytes | memoryview) -> None:
        if self._backlog is not None:
            self._backlog.append(rest)
            self._backlog_bytes += len(rest)
        if self._backlog_bytes > self._high and not self._is_slow:
            self._is_slow = True
            self._user.pause_writing()

    def _flush(self) -> None:
        backlog, sock = self._backlog, self._sock
        if backlog is None or sock is None:
            return
        try:
            sent = sock.sendmsg([backlog[number] for number in range(min(len(backlog), _PARTS_AT_ONCE))])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        self._backlog_bytes -= sent
        while sent:
            first = backlog.popleft()
            if sent < len(first):
                backlog.appendleft(memoryview(first)[sent:])
                break
            sent -= len(first)
        if not backlog:
            self._backlog = None
            self._loop.remove_writer(sock.fileno())
            self._flushed(sock)
        if self._is_slow and self._backlog_bytes <= self._low:
            self._is_slow = False
            self._user.resume_writing()

    def _flushed(self, sock: socket.socket) -> None:
        if self._closing:
            self._drop()
        elif self._write_ends:
            self._shut(sock)

    def write_eof(self) -> None:
        """Tell the peer, after all that has been written, that nothing more comes."""
        if not self._write_ends and not self._closing and self._sock is not None:
            self._write_ends = True
            if not self._backlog:
                self._shut(self._sock)

    def _shut(self, sock: socket.socket) -> None:
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()

    # The end

    def close(self) -> None:
        """Send what waits, then close. Nothing is read any more."""
        if not self._closing:
            self.pause_reading()
            self._closing = True
            if not self._backlog:
                self._drop()

    def abort(self) -> None:
        """Close now, whatever waits."""
        self.pause_reading()
        self._closing = True
        self._drop()

    def _drop(self) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._backlog is not None:
            self._loop.remove_writer(sock.fileno())
            self._backlog = None
            self._backlog_bytes = 0
        sock.close()
        self._loop.call_soon(self._user.lost)
