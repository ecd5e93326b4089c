"""How bytes leave: one interface for every server, and the implementation for any ASGI server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from realtime.frames import Frame
from realtime.stepping import finish, step

Send = Callable[[dict[str, Any]], Awaitable[None]]


class TransportListener(Protocol):
    """What a transport reports to. Each is called from the loop of the socket and must not wait."""

    def heard(self) -> None:
        """Anything at all came from the peer: data, ping or pong."""

    def ponged(self, rtt: float) -> None:
        """A protocol ping was answered after ``rtt`` seconds."""

    def resume_writing(self) -> None:
        """``writable`` became true again."""


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

    def write(self, frame: Frame) -> None:
        """Send one message now. Legal only after accept; buffered without bound if not ``writable``."""

    def limit_messages(self, size: int) -> None:
        """Refuse, from now on, a message of more than ``size`` bytes when its header comes; 0 takes any size."""

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
    suspend (its buffer is full), a task finishes it and the transport is not writable until then.

    """

    name = "asgi"
    can_ping = False

    def __init__(self, send: Send) -> None:
        self._send = send
        self._rest: asyncio.Task[None] | None = None
        self._pending_close: dict[str, Any] | None = None
        self._pending_bytes = 0
        self.listener: TransportListener | None = None
        self.closed = False

    @property
    def writable(self) -> bool:
        return self._rest is None

    @property
    def buffered_bytes(self) -> int:
        return self._pending_bytes

    def write(self, frame: Frame) -> None:
        if self.closed:
            return
        kind = "text" if frame.is_text else "bytes"
        self._pass_on({"type": "websocket.send", kind: frame.payload}, frame.size)

    def limit_messages(self, size: int) -> None:
        """Leave it to the middleware: ASGI gives messages when they are whole."""

    def ping(self) -> None:
        raise NotImplementedError("plain ASGI has no protocol ping; look at can_ping first")

    def close(self, code: int, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        message = {"type": "websocket.close", "code": code, "reason": reason}
        if self._rest is None:
            self._pass_on(message, 0)
        else:
            self._pending_close = message

    def abort(self) -> None:
        """Close as far as ASGI can: a waiting write is given up, and the server told to close."""
        if self._rest is not None:
            self._rest.cancel()
        self.close(1011, "")

    def _pass_on(self, message: dict[str, Any], size: int) -> None:
        try:
            rest = step(self._send(message))
        except OSError:
            # ASGI 2.4: the peer is gone. The receive side says so in its own words.
            self.closed = True
            return
        if rest is not None:
            self._pending_bytes = size
            self._rest = asyncio.get_running_loop().create_task(finish(rest))
            self._rest.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._rest = None
        self._pending_bytes = 0
        if not task.cancelled():
            # An error here means that the peer is gone: the receive side reports that in its own words.
            task.exception()
        if self._pending_close is not None:
            message, self._pending_close = self._pending_close, None
            self._pass_on(message, 0)
        elif self.listener is not None and not self.closed:
            self.listener.resume_writing()


def transport_of(scope: dict[str, Any], send: Send) -> Transport:
    """Return the server's own transport for this socket, or one made of ``send``."""
    offered: Transport | None = (scope.get("extensions") or {}).get("realtime")
    return offered if offered is not None else AsgiTransport(send)
