"""One connected socket: tells when there is something to read, and keeps what the kernel does not take at once."""

from __future__ import annotations

import asyncio
import socket
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


class Cork:
    """
    Holds back what the streams of one loop write while what one client sent is handled.

    Several answers to it, or several messages to everybody, then leave in one call for each socket.

    """

    __slots__ = ("held", "kept", "streams")

    def __init__(self) -> None:
        self.held = False
        """Whether streams are to wait."""
        self.kept = False
        """Whether it stays in, whoever is done with what one client sent."""
        self.streams: list[Stream] = []
        """Those that have something to send when the cork is pulled."""

    def pull(self) -> None:
        """Let everything out, unless the cork is kept in."""
        if self.kept:
            return
        self.held = False
        streams = self.streams
        if streams:
            self.streams = []
            for stream in streams:
                stream.send_waiting()


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
        "_cork",
        "_high",
        "_is_slow",
        "_loop",
        "_low",
        "_reading",
        "_sock",
        "_user",
        "_write_ends",
        "_writing",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, cork: Cork, *, high: int = 65536
    ) -> None:
        """
        Own ``sock``, which does not block. ``high`` is the bytes that may wait before the user is told.

        Nothing is done until it is handed to somebody.

        """
        self._cork = cork
        self._loop = loop
        self._sock: socket.socket | None = sock
        self._user: StreamUser
        self._high, self._low = high, high // 4
        self._backlog: list[bytes | memoryview] | None = None
        self._backlog_bytes = 0
        self._reading = self._writing = self._closing = self._is_slow = self._write_ends = False
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
        """Send ``data`` now, or when the cork is pulled; as much as goes, and the rest when it does."""
        backlog, sock = self._backlog, self._sock
        if self._closing or self._write_ends or sock is None:
            return
        if backlog is not None:
            backlog.append(data)
            self._backlog_bytes += len(data)
            if self._backlog_bytes > self._high and not self._is_slow:
                self.send_waiting()
        elif self._cork.held and len(data) <= self._high:
            self._backlog = [data]
            self._backlog_bytes = len(data)
            self._cork.streams.append(self)
        else:
            self._send_now(sock, data)

    def _send_now(self, sock: socket.socket, data: bytes) -> None:
        """Write where nothing waits."""
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.abort()
            return
        if sent < len(data):
            self._backlog = [memoryview(data)[sent:] if sent else data]
            self._backlog_bytes = len(data) - sent
            self._wait()

    def _wait(self) -> None:
        """The kernel takes no more: be called when it does, and tell the user if too much waits."""
        if not self._writing and self._sock is not None:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self.send_waiting)
        if self._backlog_bytes > self._high and not self._is_slow:
            self._is_slow = True
            self._user.pause_writing()

    def send_waiting(self) -> None:
        """Send what waits, as much as goes; the rest when it does."""
        backlog, sock = self._backlog, self._sock
        if not backlog or sock is None:
            return
        try:
            sent = sock.send(backlog[0]) if len(backlog) == 1 else sock.sendmsg(backlog[:_PARTS_AT_ONCE])
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.abort()
            return
        self._backlog_bytes -= sent
        if self._backlog_bytes:
            _take_off(backlog, sent)
            self._wait()
        else:
            self._backlog = None
            if self._writing:
                self._stop_writing(sock)
            if self._closing or self._write_ends:
                self._flushed(sock)
        if self._is_slow and self._backlog_bytes <= self._low:
            self._is_slow = False
            self._user.resume_writing()

    def _stop_writing(self, sock: socket.socket) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(sock.fileno())

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
        self._stop_writing(sock)
        self._backlog = None
        self._backlog_bytes = 0
        sock.close()
        self._loop.call_soon(self._user.lost)


def _take_off(backlog: list[bytes | memoryview], size: int) -> None:
    """Take the first ``size`` bytes off ``backlog``, which holds more."""
    whole = 0
    while size >= len(backlog[whole]):
        size -= len(backlog[whole])
        whole += 1
    if size:
        backlog[whole] = memoryview(backlog[whole])[size:]
    # All at once: what follows moves up only once.
    del backlog[:whole]
