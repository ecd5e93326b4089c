"""The listening socket: looks at what each connection wants and passes it on untouched."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from realtime.server.heads import MAX_HEAD_BYTES, Head, MalformedHead, may_want_websocket, read_head

logger = logging.getLogger("realtime")

Address = list[Any] | None

_ACCEPTS_PER_TURN = 64
"""Connections taken in one turn of the loop; the kernel keeps the rest for the next."""
_BEGUN_PER_TURN = 16
"""WebSockets begun in one turn of the loop: when a crowd comes at once, nobody else has to wait for all of it."""
_RETRY_SECONDS = 1.0
"""How long a listener rests when the process has no descriptor left."""
_UNIX_LOOK_SECONDS = 0.02


class Front:
    """
    Accepts connections and decides, by a look at their first bytes, who serves each.

    Nothing is read: ``http`` and ``websocket`` are given a socket with the whole request still in it, the
    latter together with the parsed head. Both then own the socket. A head has ``head_timeout`` seconds to
    arrive from its first byte on; a connection may be silent for ``idle_timeout`` seconds before that.

    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        http: Callable[[socket.socket], None],
        websocket: Callable[[socket.socket, Head, Address], None],
        head_timeout: float = 5.0,
        idle_timeout: float = 60.0,
    ) -> None:
        self.loop = loop
        self.http = http
        self.websocket = websocket
        self.head_timeout = head_timeout
        self.idle_timeout = idle_timeout
        self.arrivals: set[Arrival] = set()
        self._listeners: list[socket.socket] = []
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}
        self._crowd: deque[tuple[socket.socket, Head, Address]] = deque()

    def listen(self, listener: socket.socket) -> None:
        """Accept on ``listener``, which is bound and listening, and now belongs to the front."""
        listener.setblocking(False)
        self._listeners.append(listener)
        self.loop.add_reader(listener.fileno(), self._accept, listener)

    def stop_listening(self) -> None:
        """Close the listening sockets. Connections that have arrived are still served."""
        for listener in self._listeners:
            if timer := self._resting.pop(listener, None):
                timer.cancel()
            self.loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()

    def close(self) -> None:
        """Stop listening, and drop every connection nothing is known of yet."""
        self.stop_listening()
        for arrival in list(self.arrivals):
            arrival.drop()

    def begin(self, sock: socket.socket, head: Head, address: Address) -> None:
        """Pass a WebSocket on in its turn."""
        self._crowd.append((sock, head, address))
        if len(self._crowd) == 1:
            self.loop.call_soon(self._begin_some)

    def _begin_some(self) -> None:
        try:
            for _ in range(min(_BEGUN_PER_TURN, len(self._crowd))):
                self._begin_next()
        finally:
            if self._crowd:
                self.loop.call_soon(self._begin_some)

    def _begin_next(self) -> None:
        sock, head, address = self._crowd.popleft()
        try:
            self.websocket(sock, head, address)
        except OSError:
            # The client is gone already.
            sock.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                # Gone while it waited in the kernel's queue; there may be more behind it.
                continue
            except OSError as error:
                logger.error("Cannot accept a connection (%s); next try in %g s.", error, _RETRY_SECONDS)
                self.loop.remove_reader(listener.fileno())
                self._resting[listener] = self.loop.call_later(_RETRY_SECONDS, self._resume, listener)
                return
            sock.setblocking(False)
            Arrival(self, sock, [address[0], address[1]] if isinstance(address, tuple) else None).look()

    def _resume(self, listener: socket.socket) -> None:
        del self._resting[listener]
        self.loop.add_reader(listener.fileno(), self._accept, listener)


class Arrival:
    """One connection until it is known what it wants."""

    __slots__ = ("_address", "_front", "_is_begun", "_is_unix", "_seen", "_sock", "_timer", "_waits")

    def __init__(self, front: Front, sock: socket.socket, address: Address) -> None:
        self._front = front
        self._sock = sock
        self._address = address
        self._is_unix = sock.family is getattr(socket, "AF_UNIX", None)
        self._is_begun = False
        self._seen = 0
        self._waits = False
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Look at what has come, and pass the connection on if that is enough."""
        try:
            start = self._sock.recv(MAX_HEAD_BYTES, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            self._wait(0)
            return
        except OSError:
            start = b""
        if not start:
            self.drop()
            return
        try:
            head = read_head(start) if may_want_websocket(start) else None
        except MalformedHead:
            # HTTP has its own words for that.
            self._pass_on(None)
            return
        if head is None and may_want_websocket(start):
            self._wait(len(start))
        else:
            self._pass_on(head if head is not None and head.wants_websocket else None)

    def _wait(self, seen: int) -> None:
        """Look again when there is more than the ``seen`` bytes."""
        loop, front = self._front.loop, self._front
        if seen and seen == self._seen and not self._is_unix:
            # Woken, and nothing more has come: the peer has closed its side, so nothing ever will.
            self.drop()
            return
        self._seen = seen
        if seen and not self._is_begun:
            self._is_begun = True
            self._set_timer(front.head_timeout)
        elif self._timer is None:
            self._set_timer(front.idle_timeout)
        if not self._waits:
            self._waits = True
            front.arrivals.add(self)
            loop.add_reader(self._sock.fileno(), self.look)
        if seen:
            self._wake_above(seen)

    def _wake_above(self, seen: int) -> None:
        # The bytes stay in the kernel, so the socket would be readable all the time without this.
        if self._is_unix:
            # A UNIX socket has no low-water mark for polling.
            self._front.loop.remove_reader(self._sock.fileno())
            self._front.loop.call_later(_UNIX_LOOK_SECONDS, self._look_again)
        else:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)

    def _look_again(self) -> None:
        if self in self._front.arrivals:
            self._front.loop.add_reader(self._sock.fileno(), self.look)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._front.loop.call_later(seconds, self.drop)

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waits:
            self._front.loop.remove_reader(self._sock.fileno())
            self._front.arrivals.discard(self)

    def drop(self) -> None:
        """Close the connection without a word: it has not said what it wants, or nothing sensible."""
        self._leave()
        self._sock.close()

    def _pass_on(self, head: Head | None) -> None:
        self._leave()
        if self._is_begun and not self._is_unix:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        try:
            if head is None:
                self._front.http(self._sock)
            else:
                self._front.begin(self._sock, head, self._address)
        except OSError:
            # The client is gone already.
            self._sock.close()
