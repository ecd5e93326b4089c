"""One daphne socket as the way out for a connection."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from typing import TYPE_CHECKING

from realtime.frames import Frame
from realtime.server.wire import frame as wire_bytes
from realtime.transports import Receive, Take, TransportListener

if TYPE_CHECKING:
    from realtime.server.protocol import WebSocketProtocol


class DaphneTransport:
    """
    Frames written straight to the socket of a :class:`WebSocketProtocol`.

    It is also the producer Twisted asks to pause when more than 64 KiB wait for the peer, and to resume
    when all of that is gone.

    """

    __slots__ = ("_drained", "_ping", "_protocol", "listener", "writable")

    name = "daphne"
    can_ping = True

    def __init__(self, protocol: WebSocketProtocol) -> None:
        self._protocol = protocol
        self._ping = b""
        self._drained: asyncio.Event | None = None
        self.listener: TransportListener | None = None
        self.writable = True

    @property
    def buffered_bytes(self) -> int:
        return self._protocol.buffered_bytes()

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return bool(self._protocol.state != self._protocol.STATE_OPEN)

    @property
    def is_open(self) -> bool:
        """Whether the peer is still there, be it that it has not answered a close frame."""
        return self._protocol.is_connected

    @property
    def is_held(self) -> bool:
        """Whether the socket is not being read, because messages wait for their handler."""
        inbox = self._protocol.inbox
        return inbox is not None and inbox.paused

    def write(self, frame: Frame) -> None:
        protocol = self._protocol
        if protocol.state == protocol.STATE_OPEN:
            protocol.put(frame.wire("rfc6455", wire_bytes))

    def limit_messages(self, size: int) -> None:
        self._protocol.maxMessagePayloadSize = self._protocol.maxFramePayloadSize = size

    def attach(self, receive: Receive, take: Take, *, as_task: bool) -> bool:
        """Refuse: daphne's protocol hands over messages in its own time."""
        return False

    def ping(self) -> None:
        # The random part keeps a peer from answering a ping before it was sent.
        self._ping = struct.pack("!d", time.monotonic()) + os.urandom(4)
        self._protocol.sendPing(self._ping)

    def close(self, code: int, reason: str) -> None:
        self._protocol.close(code, reason)

    def abort(self) -> None:
        self._protocol.abort()

    # What the protocol reports.

    def heard(self) -> None:
        """Anything came from the peer."""
        if self.listener is not None:
            self.listener.heard()

    def ponged(self, payload: bytes) -> None:
        """A pong came; only the answer to the last ping counts."""
        if self._ping and payload == self._ping:
            self._ping = b""
            if self.listener is not None:
                self.listener.ponged(time.monotonic() - struct.unpack("!d", payload[:8])[0])

    async def drained(self) -> None:
        """Return when the peer has taken what was written, or is gone."""
        if not self.writable:
            if self._drained is None:
                self._drained = asyncio.Event()
            await self._drained.wait()

    def release(self) -> None:
        """The peer has taken everything, or is gone: nobody waits for it any more."""
        self.writable = True
        if self._drained is not None:
            self._drained.set()
            self._drained = None
        if self.listener is not None:
            self.listener.resume_writing()

    # What Twisted asks of a producer.

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        self.writable = False

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        self.release()

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        self.release()
