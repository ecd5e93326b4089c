"""A TCP proxy on this machine that fails when it is told to: late, silent, cut, refusing, or with a reset."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from types import TracebackType
from typing import Literal, Self, cast

LOOPBACK = "127.0.0.1"
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of nothing: closing then sends a reset."""

Side = Literal["client", "server"]


class FaultProxy:
    """
    Carries bytes between clients and one server, and does to them what the test says.

    ``async with FaultProxy(port_of_the_server) as proxy:``, then connect to ``proxy.port``. Every fault
    is for the connections there are and for new ones, until it is taken back. It belongs to the loop of
    the test: a test that blocks its loop cuts the line.

    """

    def __init__(self, server_port: int, *, port: int = 0) -> None:
        self.server_port = server_port
        self.port = port
        self.latency = 0.0
        """Seconds that everything is late, each way. It may be changed at any time; order is kept."""
        self.is_frozen = False
        self.is_black_hole = False
        self.accepted = 0
        """Connections that were accepted since the start."""
        self.carried = 0
        """Bytes that arrived, both ways together."""
        self._listener: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._thawing: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        if self._thawing is not None:
            self._thawing.cancel()
        for end in list(self._ends):
            end.abort()
        # The loop closes them in its next turn.
        while self._ends:  # noqa: ASYNC110
            await asyncio.sleep(0)

    @property
    def open(self) -> int:
        """Connections that are open."""
        return sum(1 for end in self._ends if end.side == "client")

    # Faults.

    def freeze(self) -> None:
        """Carry nothing until :meth:`thaw`, then everything: a line that is cut while both sides hold on to it."""
        self.is_frozen = True
        for end in self._ends:
            end.hold()

    def thaw(self) -> None:
        """Carry on."""
        self.is_frozen = False
        for end in list(self._ends):
            end.release()

    def cut_for(self, seconds: float) -> None:
        """Freeze, and thaw after so long. New connections are accepted, and nothing comes of them until then."""
        self.freeze()
        self._thawing = asyncio.get_running_loop().call_later(seconds, self.thaw)

    def swallow(self) -> None:
        """Throw away whatever comes, until :meth:`clear`: neither side hears a thing, not even of the other's end."""
        self.is_black_hole = True

    def clear(self) -> None:
        """
        Be a good proxy again. Connections that lost something are reset: their peers could not go on.

        Latency, freeze and black hole end; listening is for :meth:`listen`.

        """
        self.latency = 0.0
        self.is_black_hole = False
        for end in list(self._ends):
            if end.has_lost:
                end.abort()
        self.thaw()

    def reset(self) -> int:
        """Reset every connection, both sides; return how many."""
        count = self.open
        for end in list(self._ends):
            end.abort()
        return count

    def half_close(self, side: Side) -> None:
        """Let one side of every connection see the end, while the other direction goes on."""
        for end in list(self._ends):
            if end.side == side:
                end.write_eof()

    def refuse(self) -> None:
        """Listen no more: new connections are refused, those that are open stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def listen(self) -> None:
        """Listen, on the same port as before."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: _End(self, "client"), LOOPBACK, self.port, reuse_address=True
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    # What the ends report.

    def opened(self, end: _End) -> None:
        """An end has a socket."""
        self._ends.add(end)
        if end.side == "client":
            self.accepted += 1

    def closed(self, end: _End) -> None:
        """An end has lost its socket."""
        self._ends.discard(end)


class _End(asyncio.Protocol):
    """One of the two sockets of a connection. What it receives goes to its ``other``, when it is due."""

    def __init__(self, proxy: FaultProxy, side: Side) -> None:
        self._proxy = proxy
        self.side: Side = side
        self.has_lost = False
        self._other: _End | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        """When it is due, and what; ``None`` is the end."""
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._has_ended = False

    # asyncio's part.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._proxy.opened(self)
        if self.side == "client":
            self._connecting = self._loop.create_task(self._connect())
        if self._proxy.is_frozen:
            self.hold()

    async def _connect(self) -> None:
        other = _End(self._proxy, "server")
        try:
            await self._loop.create_connection(lambda: other, LOOPBACK, self._proxy.server_port)
        except OSError:
            self.abort()
            return
        if self._transport is None:
            other.abort()
            return
        self._other, other._other = other, self
        self._pass_on()

    def data_received(self, data: bytes) -> None:
        if self._proxy.is_black_hole:
            self.has_lost = True
            return
        self._queue(data)

    def eof_received(self) -> bool:
        if self._proxy.is_black_hole:
            self.has_lost = True
        else:
            self._queue(None)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._proxy.closed(self)
        for pending in (self._timer, self._connecting):
            if pending is not None:
                pending.cancel()
        if self._other is not None:
            if self._proxy.is_black_hole:
                self._other.has_lost = True
            elif error is not None or not self._has_ended:
                self._other.abort()

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.pause()

    def resume_writing(self) -> None:
        if self._other is not None and not self._proxy.is_frozen:
            self._other.resume()

    # The way of the bytes.

    def _queue(self, data: bytes | None) -> None:
        self._waiting.append((self._loop.time() + self._proxy.latency, data))
        self._pass_on()

    def _pass_on(self) -> None:
        """Hand over what is due; come back for the rest when that is."""
        other = self._other
        if other is None or self._proxy.is_frozen:
            return
        while self._waiting and self._waiting[0][0] <= self._loop.time():
            _, data = self._waiting.popleft()
            if data is None:
                self._has_ended = True
                other.write_eof()
                if other._has_ended:
                    self.close()
                    other.close()
            else:
                other.write(data)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._timer = self._loop.call_at(self._waiting[0][0], self._pass_on)

    def hold(self) -> None:
        """Take nothing from the socket, and hand nothing over."""
        self.pause()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def release(self) -> None:
        """Go on where it was held."""
        self.resume()
        self._pass_on()

    # The socket.

    def write(self, data: bytes) -> None:
        """Send to this side."""
        if self._transport is not None:
            self._proxy.carried += len(data)
            self._transport.write(data)

    def write_eof(self) -> None:
        """Send this side the end of the other one's words."""
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def pause(self) -> None:
        """Read no more for now."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close in order."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset this side; the other learns of it in its turn."""
        if self._transport is not None:
            peer: socket.socket = self._transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
