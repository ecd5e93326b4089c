"""What all native WebSockets of one server share: the application, the bounds, and the list of them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from realtime.close_codes import DONE, RESTART, SERVER_ERROR
from realtime.server.deflate import Policy
from realtime.server.farewell import Farewell
from realtime.server.heads import HandshakeRefused, Head, Headers, denying_head, handshake
from realtime.server.websocket import NativeWebSocket, Phase
from realtime.server.parser import open_stream

logger = logging.getLogger("realtime")

Application = Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]
Address = tuple[str, int] | None
Forwarded = Callable[[Headers, Address, str], tuple[Address, str]]
"""Given headers, address and scheme of a request, say what a trusted proxy in front of us says they are."""


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
    """A socket that no layer above watches is pinged when it has been silent this long; 0 never."""
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
        self._forwarded = forwarded
        self._on_action = on_action
        self._responses: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._keepalive: asyncio.TimerHandle | None = None
        if options.keepalive_interval:
            self._keepalive = loop.call_later(options.keepalive_interval, self._keep_alive)

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
            self.respond(sock, 503, [(b"retry-after", b"1")], b"The server is restarting.\n")
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
                "state": {},
                "extensions": {"websocket.http.response": {}, "realtime": websocket},
            }
        )
        self.sockets.add(websocket)
        self._tell("connecting", websocket)
        websocket.start()

    def respond(self, sock: socket.socket, status: int, headers: Headers, body: bytes) -> None:
        """Answer with HTTP and end the connection; the caller is not to touch ``sock`` again."""
        named = [*headers, (b"server", self.options.server_name.encode("latin-1"))] if self.options.server_name else headers
        if body and not any(name.lower() == b"content-type" for name, _ in headers):
            named = [*named, (b"content-type", b"text/plain; charset=utf-8")]
        data = denying_head(status, named, body_bytes=len(body)) + body
        task = self.loop.create_task(self._respond(sock, data))
        self._responses.add(task)
        task.add_done_callback(self._responses.discard)

    async def _respond(self, sock: socket.socket, data: bytes) -> None:
        farewell = Farewell(self.loop)
        try:
            stream = await open_stream(self.loop, sock, farewell)
        except OSError:
            sock.close()
            return
        stream.write_nocheck(data)
        farewell.begin(stream)

    # What sockets report

    def opened(self, websocket: NativeWebSocket) -> None:
        """The application has accepted ``websocket``."""
        self._tell("connected", websocket)

    def forget(self, websocket: NativeWebSocket) -> None:
        """``websocket`` is closed, and its application has ended."""
        if websocket in self.sockets:
            self.sockets.discard(websocket)
            self._tell("disconnected", websocket)
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
            self._on_action(
                action, {"path": websocket.scope["path"], "client": "%s:%s" % tuple(client) if client else None}
            )

    # The end

    async def wait_empty(self, timeout: float) -> bool:
        """Wait until no socket is left, at most ``timeout`` seconds. Return whether that came about."""
        if self.sockets:
            self._empty.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._empty.wait()
            except TimeoutError:
                return False
        return True

    def close_all(self, code: int, reason: str) -> None:
        """Begin to close every socket, and cancel the applications that have not answered their handshake."""
        for websocket in list(self.sockets):
            if websocket.phase is Phase.OPEN:
                websocket.close(code, reason)
            elif websocket.phase < Phase.OPEN:
                websocket.cancel()

    def abort_all(self) -> None:
        """Drop every socket, and cancel every application."""
        if self._keepalive is not None:
            self._keepalive.cancel()
        for websocket in list(self.sockets):
            websocket.abort()
            websocket.cancel()

    def _keep_alive(self) -> None:
        """Ping the silent sockets that no layer above watches, and drop those that were silent after a ping as well."""
        for websocket in list(self.sockets):
            websocket.keep_alive()
        self._keepalive = self.loop.call_later(self.options.keepalive_interval, self._keep_alive)


def _consume(sock: socket.socket, size: int) -> None:
    """Take the head off the socket; all of it is known to be there."""
    while size > 0:
        size -= len(sock.recv(size))


def _local_address(sock: socket.socket) -> Address | tuple[str, None]:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return name[0], name[1]
    return str(name), None
