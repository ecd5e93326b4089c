"""What all native WebSockets of one server share: the application, the bounds, and the list of them."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from realtime.close_codes import DONE, RESTART, SERVER_ERROR
from realtime.server.deflate import Policy
from realtime.server.farewell import Farewell
from realtime.server.heads import HandshakeRefused, Head, Headers, denying_head, handshake
from realtime.server.parser import Parsers
from realtime.server.stream import Cork, Stream
from realtime.server.websocket import NativeWebSocket
from realtime.transports import can_withhold

logger = logging.getLogger("realtime")

Application = Callable[
    [dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]
Address = list[Any] | None
"""Host and port; ``None`` for a client of a UNIX socket."""
Forwarded = Callable[[Headers, Address, str], tuple[Address, str]]
"""Given headers, address and scheme of a request, say what a trusted proxy in front of us says they are."""


_RETRY_AFTER = (b"retry-after", b"1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The bounds of every socket. Sizes are in bytes, times in seconds, 0 messages or bytes is no bound."""

    max_message_bytes: int = 1024 * 1024
    max_inbound_messages: int = 32
    read_buffer_bytes: int = 4096
    write_buffer_bytes: int = 64 * 1024
    deflate: Policy | None = None
    connect_timeout: float = 5.0
    """How long an application may take to answer a handshake."""
    close_timeout: float = 5.0
    """How long a peer may take to answer a close frame."""
    application_close_timeout: float = 10.0
    """How long an application may run on after its socket closed."""
    keepalive_interval: float = 0.0
    """A socket that no layer above watches is pinged when it has been silent this long, and dropped after as long again."""
    max_age: float = 0.0
    """A socket that has been open this long is closed with 1000; looked at once per ``keepalive_interval``."""
    root_path: str = ""
    server_name: str = "daphne"


class Engine:
    """
    The native WebSockets of one server.

    :meth:`begin` is given every socket that has sent the head of an upgrade request; from there on the
    socket belongs to a :class:`NativeWebSocket`, which is in ``sockets`` until it is closed and its
    application has ended.

    """

    def __init__(
        self,
        application: Application,
        options: Options,
        *,
        loop: asyncio.AbstractEventLoop,
        forwarded: Forwarded | None = None,
        on_action: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self.application = application
        self.options = options
        self.loop = loop
        self.pause_at = options.max_inbound_messages or (1 << 62)
        self.resume_at = self.pause_at // 2
        self.sockets: set[NativeWebSocket] = set()
        self.draining = False
        self.parsers = Parsers(options.read_buffer_bytes)
        self.cork = Cork()
        can_withhold(loop, self)
        self._forwarded = forwarded
        self._on_action = on_action
        self._empty = asyncio.Event()
        self._round: list[NativeWebSocket] = []
        self._per_tick = 0
        self._next_round = loop.time() + options.keepalive_interval
        self._tick = min(1.0, options.keepalive_interval / 4)
        self._keepalive: asyncio.TimerHandle | None = None
        if options.keepalive_interval:
            self._keepalive = loop.call_later(self._tick, self._keep_alive)

    # Arrivals

    def begin(self, sock: socket.socket, head: Head, address: Address) -> None:
        """Answer a request for a WebSocket that has arrived on ``sock`` and is still unread there."""
        _consume(sock, head.size)
        try:
            request = handshake(head)
        except HandshakeRefused as refused:
            self.respond(sock, refused.status, refused.headers, f"{refused}\n".encode())
            return
        if self.draining:
            self.respond(sock, 503, [_RETRY_AFTER], b"The server is restarting.\n")
            return
        client, scheme = address, "ws"
        if self._forwarded is not None:
            client, scheme = self._forwarded(request.headers, client, scheme)
        websocket = NativeWebSocket(self, sock, request)
        websocket.scope.update(
            {
                "type": "websocket",
                "asgi": {"version": "3.0", "spec_version": "2.5"},
                "http_version": "1.1",
                "scheme": scheme,
                "path": request.path,
                "raw_path": request.raw_path,
                "query_string": request.query_string,
                "root_path": self.options.root_path,
                "headers": request.headers,
                "client": client,
                "server": _local_address(sock),
                "subprotocols": list(request.subprotocols),
                "extensions": {"websocket.http.response": {}, "realtime": websocket},
            }
        )
        self.sockets.add(websocket)
        self._tell("connecting", websocket)
        websocket.start()

    def respond(self, sock: socket.socket, status: int, headers: Headers, body: bytes) -> None:
        """Answer with HTTP and end the connection; the caller is not to touch ``sock`` again."""
        named = (
            [*headers, (b"server", self.options.server_name.encode("latin-1"))]
            if self.options.server_name
            else headers
        )
        if body and not any(name.lower() == b"content-type" for name, _ in headers):
            named = [*named, (b"content-type", b"text/plain; charset=utf-8")]
        data = denying_head(status, named, body_bytes=len(body)) + body
        Farewell(self.loop, Stream(self.loop, sock, self.cork), data)

    # What sockets report

    def opened(self, websocket: NativeWebSocket) -> None:
        """The application has accepted ``websocket``."""
        self._tell("connected", websocket)

    def forget(self, websocket: NativeWebSocket) -> None:
        """``websocket`` is closed, and its application has ended."""
        if websocket in self.sockets:
            self.sockets.discard(websocket)
            self._tell("rejected" if websocket.opened_at is None else "disconnected", websocket)
            if not self.sockets:
                self._empty.set()

    def closing_for(self, *, failed: bool, cancelled: bool) -> tuple[int, str]:
        """Return code and reason for a socket whose application ended without closing it."""
        if cancelled and self.draining:
            return RESTART.code, RESTART.text
        reason = SERVER_ERROR if failed or cancelled else DONE
        return reason.code, reason.text

    def _tell(self, action: str, websocket: NativeWebSocket) -> None:
        if self._on_action is not None:
            client = websocket.scope["client"]
            shown = f"{client[0]}:{client[1]}" if client else None
            self._on_action(action, {"path": websocket.scope["path"], "client": shown})

    def hold_back(self) -> None:
        """Keep what is written from now on; as much as a socket may have waiting leaves all the same."""
        self.cork.held = self.cork.kept = True

    def let_go(self) -> None:
        """Send what was kept, in one piece for each socket, and keep nothing any more."""
        self.cork.kept = False
        self.cork.pull()

    # The end

    def refuse_handshakes(self) -> None:
        """Answer every handshake that is waiting for its application, and every later one, with 503."""
        self.draining = True
        for websocket in list(self.sockets):
            websocket.refuse(503, [_RETRY_AFTER])

    async def quiet(self) -> None:
        """Return when no socket is open, and no application runs."""
        while self.sockets:
            self._empty.clear()
            await self._empty.wait()

    def close(self) -> None:
        """Drop every socket, and cancel every application."""
        self.draining = True
        if self._keepalive is not None:
            self._keepalive.cancel()
        for websocket in list(self.sockets):
            websocket.abort()
            websocket.cancel()

    # Sockets that no layer above looks after

    def _keep_alive(self) -> None:
        """Look after the next few sockets: each has its turn once in ``keepalive_interval`` seconds, and not all at once."""
        now = self.loop.time()
        if now >= self._next_round:
            self._next_round = now + self.options.keepalive_interval
            self._round = list(self.sockets)
            self._per_tick = math.ceil(len(self._round) * self._tick / self.options.keepalive_interval)
        due, self._round = self._round[: self._per_tick], self._round[self._per_tick :]
        for websocket in due:
            websocket.keep_alive(self.options.max_age)
        self._keepalive = self.loop.call_later(self._tick, self._keep_alive)


def _consume(sock: socket.socket, size: int) -> None:
    """Take the head off the socket; all of it is known to be there."""
    while size > 0:
        size -= len(sock.recv(size))


def _local_address(sock: socket.socket) -> list[Any]:
    name = sock.getsockname()
    return [name[0], name[1]] if isinstance(name, tuple) else [str(name), None]
