"""How bytes leave: one interface for every server, and the implementation for any ASGI server."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from ratelimit.close_codes import CloseReason
from ratelimit.closing import send_close
from ratelimit.logs import get_logger
from realtime.close_codes import should_retry
from realtime.frames import Frame
from realtime.stepping import finish, step

logger = get_logger("realtime")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Take = Callable[[str | bytes, int], dict[str, Any] | None]
"""
Handles a message, given with its bytes on the wire, uncompressed.

Returns ``None`` when it is done with it, else the event that ``receive`` shall give for it.

"""


class TransportListener(Protocol):
    """What a transport reports to. Each is called from the loop of the socket and must not wait."""

    def heard(self) -> None:
        """Anything at all came from the peer: data, ping or pong."""

    def ponged(self, rtt: float) -> None:
        """A protocol ping was answered after ``rtt`` seconds."""

    def resume_writing(self) -> None:
        """``writable`` became true again, or never will: the socket is gone."""


class Transport(Protocol):
    """
    One socket's way out.

    A server that knows this interface offers such an object in ``scope["extensions"]["realtime"]``;
    under any other server :class:`AsgiTransport` is used. All methods are synchronous, never wait, and
    do nothing once the socket is gone. Calls come from the loop of the socket only.

    """

    name: str
    """Which implementation this is, for people."""
    can_ping: bool
    """Whether :meth:`ping` sends a protocol ping and reports its pong."""
    listener: TransportListener | None
    """Set once by the connection, before the socket is accepted."""
    closed: bool
    """Whether nothing can be sent any more: closed by us, or found to be gone."""

    @property
    def writable(self) -> bool:
        """Whether :meth:`write` would pass the frame on; false while the peer reads too slowly."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes written and not yet taken by the kernel."""

    @property
    def is_held(self) -> bool:
        """Whether the socket is not being read now, because its handler is behind: nothing can be heard meanwhile."""

    def write(self, frame: Frame) -> None:
        """Send one message now. Legal only after accept; buffered without bound if not ``writable``."""

    def limit_messages(self, size: int) -> None:
        """Refuse, from now on, a message of more than ``size`` bytes when its header comes; 0 takes any size."""

    def attach(self, receive: Receive, take: Take, *, as_task: bool) -> bool:
        """
        Have ``take`` called with each message that comes while the application awaits ``receive``.

        With ``as_task``, as a part of the task that serves the socket: as its current task, in its
        context. Return whether that is done from now on. It is not where this transport cannot, where
        ``receive`` is not its own, for somebody between them must see the messages, nor outside its task.

        """

    def ping(self) -> None:
        """Send a protocol ping; the answer comes as ``listener.ponged``."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame after everything written so far. The peer's answer ends the socket."""

    def abort(self) -> None:
        """Drop the socket without ceremony."""


class AsgiTransport:
    """
    Any ASGI server's ``send``, used without waiting for it.

    Most servers complete a ``send`` without suspending, so it is stepped in place; where one does
    suspend (its buffer is full), a task finishes it, and the transport is not writable until then.

    """

    name = "asgi"
    can_ping = False
    is_held = False
    """As far as ASGI lets us know."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sending: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[Awaitable[None], int]] = deque()
        self._waiting_bytes = 0
        self.listener: TransportListener | None = None
        self.closed = False

    @property
    def writable(self) -> bool:
        return self._sending is None

    @property
    def buffered_bytes(self) -> int:
        return self._waiting_bytes

    def write(self, frame: Frame) -> None:
        if self.closed:
            return
        kind = "text" if frame.is_text else "bytes"
        message = {"type": "websocket.send", kind: frame.payload}
        if self._sending is None:
            self._step(self._send(message), frame.size)
        else:
            self._wait(self._send(message), frame.size)

    def limit_messages(self, size: int) -> None:
        """Leave it to the middleware: ASGI gives messages when they are whole."""

    def attach(self, receive: Receive, take: Take, *, as_task: bool) -> bool:
        """Refuse: ASGI gives a message to whoever awaits it, and to nobody else."""
        return False

    def ping(self) -> None:
        raise NotImplementedError("plain ASGI has no protocol ping; look at can_ping first")

    def close(self, code: int, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        closing = send_close(self._send, CloseReason(code, "", reason, retry=should_retry(code)))
        if self._sending is None:
            self._step(closing, 0)
        else:
            self._wait(closing, 0)

    def abort(self) -> None:
        """Close as far as ASGI can: what waits is given up, and the server told to close."""
        # A close that waits behind messages is the one thing that is still worth sending.
        closing = self._waiting.pop() if self.closed and self._waiting else None
        self._give_up()
        if closing is not None:
            self._waiting.append(closing)
        if self._sending is not None:
            self._sending.cancel()
        self.close(1011, "")

    def _wait(self, sending: Awaitable[None], size: int) -> None:
        self._waiting.append((sending, size))
        self._waiting_bytes += size

    def _step(self, sending: Awaitable[None], size: int) -> None:
        try:
            rest = step(sending)
        except Exception as error:  # noqa: BLE001 - what a server raises for a peer that is gone is its own affair
            self._gone(error)
            return
        if rest is not None:
            self._waiting_bytes += size
            self._sending = asyncio.get_running_loop().create_task(finish(rest))
            self._sending.add_done_callback(lambda task: self._sent(task, size))

    def _sent(self, task: asyncio.Task[None], size: int) -> None:
        self._sending = None
        self._waiting_bytes -= size
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._gone(error)
        while self._waiting and self._sending is None:
            sending, size = self._waiting.popleft()
            self._waiting_bytes -= size
            self._step(sending, size)
        if self._sending is None and not self.closed and self.listener is not None:
            self.listener.resume_writing()

    def _gone(self, error: Exception) -> None:
        """The server does not take messages for this peer any more. The receive side says why in its own words."""
        if not isinstance(error, OSError):
            logger.debug("socket takes no messages", error=repr(error))
        self.closed = True
        self._give_up()
        if self.listener is not None:
            self.listener.resume_writing()

    def _give_up(self) -> None:
        for sending, size in self._waiting:
            self._waiting_bytes -= size
            if isinstance(sending, Coroutine):
                sending.close()
        self._waiting.clear()


class Withholding(Protocol):
    """A server that can hold back what is written to its sockets."""

    def hold_back(self) -> None:
        """Keep what is written from now on; as much as a socket may have waiting leaves all the same."""

    def let_go(self) -> None:
        """Send what was kept, in one piece for each socket, and keep nothing any more."""


_withholding: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.WeakSet[Withholding]] = (
    weakref.WeakKeyDictionary()
)


def can_withhold(loop: asyncio.AbstractEventLoop, server: Withholding) -> None:
    """Take note that ``server``, which runs in ``loop``, can hold back. It is forgotten when nobody else has it."""
    _withholding.setdefault(loop, weakref.WeakSet()).add(server)


def hold_back(loop: asyncio.AbstractEventLoop) -> None:
    """Keep what is written to the sockets of ``loop`` until :func:`let_go`, under servers that can."""
    for server in _withholding.get(loop, ()):
        server.hold_back()


def let_go(loop: asyncio.AbstractEventLoop) -> None:
    """Send what was held back."""
    for server in _withholding.get(loop, ()):
        server.let_go()


def transport_of(scope: dict[str, Any], send: Send) -> Transport:
    """Return the server's own transport for this socket, or one made of ``send``."""
    offered: Transport | None = (scope.get("extensions") or {}).get("realtime")
    return offered if offered is not None else AsgiTransport(send)
