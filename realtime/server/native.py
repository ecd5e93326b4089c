"""The native engine inside daphne's server."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from daphne.utils import parse_x_forwarded_for
from twisted.internet import reactor, tcp, unix

from realtime.close_codes import CloseReason
from realtime.conf import RealtimeSettings, get_settings
from realtime.server.deflate import Policy
from realtime.server.front import Front

try:
    from realtime.server.engine import Engine, Options
    from realtime.server.websocket import NativeWebSocket

    MISSING = ""
except ImportError as error:  # picows is not installed, or not the one this was built for
    MISSING = str(error)

if TYPE_CHECKING:
    from realtime.server.server import Server

logger = logging.getLogger("realtime.server")

BACKLOG = 2048
"""Connections the kernel keeps until they are accepted: a crowd that comes back after a restart comes at once."""


def native_half(server: Server) -> NativeHalf | None:
    """Return the native engine for ``server``; ``None``, with a word about it, where daphne's own protocol has to do."""
    settings = get_settings()
    if settings.engine != "native":
        return None
    if MISSING:
        logger.warning(
            "WebSockets are served by daphne's own protocol: the native engine needs picows (%s).", MISSING
        )
        return None
    return NativeHalf(server, settings)


class NativeHalf:
    """Takes over daphne's plain ports: upgrades become native WebSockets, everything else stays daphne's."""

    def __init__(self, server: Server, settings: RealtimeSettings) -> None:
        self._server = server
        loop: Any = reactor._asyncioEventloop  # daphne installed the asyncio reactor
        self.engine = Engine(
            server.application,
            options_of(server, settings),
            loop=loop,
            forwarded=self._forwarded if server.proxy_forwarded_address_header else None,
            on_action=partial(server.log_action, "websocket") if server.action_logger else None,
        )
        self._front = Front(loop, http=self._serve_http, websocket=self.engine.begin)

    def take(self, port: Any) -> bool:
        """Accept on ``port`` in place of Twisted. Return whether that can be done: not under TLS, for one."""
        if type(port) not in (tcp.Port, unix.Port) or port.factory is not self._server.http_factory:
            return False
        port.stopReading()
        listener = port.socket.dup()
        listener.listen(BACKLOG)
        self._front.listen(listener)
        return True

    def stop_listening(self) -> None:
        """Accept no more connections; those that are undecided are closed, and handshakes answered with 503."""
        self._front.close()
        self.engine.refuse_handshakes()

    def unwatched(self) -> Iterator[UnwatchedSocket]:
        """The sockets that no Connection looks after."""
        for websocket in list(self.engine.sockets):
            if websocket.listener is None:
                yield UnwatchedSocket(websocket)

    def _serve_http(self, sock: socket.socket) -> None:
        # Twisted works on a duplicate.
        reactor.adoptStreamConnection(sock.fileno(), sock.family, self._server.http_factory)
        sock.close()

    def _forwarded(
        self, headers: list[tuple[bytes, bytes]], client: list[Any] | None, scheme: str
    ) -> tuple[list[Any] | None, str]:
        server = self._server
        client, forwarded = parse_x_forwarded_for(
            dict(headers),
            server.proxy_forwarded_address_header,
            server.proxy_forwarded_port_header,
            server.proxy_forwarded_proto_header,
            client,
            scheme,
        )
        return client, "wss" if forwarded in ("https", "wss") else "ws"


class UnwatchedSocket:
    """A native socket of an application that is not ours, as a drain sees it."""

    def __init__(self, websocket: NativeWebSocket) -> None:
        self.transport = websocket

    @property
    def closed(self) -> bool:
        """Whether it has been told to close."""
        return self.transport.closed

    def close(self, reason: CloseReason, *, retry_after: float | None = None) -> None:
        """Close it; a protocol that could tell when to come back is not known."""
        self.transport.close(reason.code, reason.text)

    def abort(self) -> None:
        """Drop it, and cancel its application."""
        self.transport.abort()
        self.transport.cancel()


def options_of(server: Server, settings: RealtimeSettings) -> Options:
    """Return what the engine has to keep to: daphne's command line and our settings."""
    return Options(
        max_message_bytes=server.websocket_max_message_size,
        max_inbound_messages=settings.max_inbound_messages,
        read_buffer_bytes=settings.read_buffer_bytes,
        write_buffer_bytes=settings.write_buffer_bytes,
        deflate=_policy(settings),
        connect_timeout=_endless(server.websocket_connect_timeout),
        application_close_timeout=server.application_close_timeout,
        keepalive_interval=server.ping_interval,
        max_age=max(0, server.websocket_timeout),
        root_path=server.root_path,
        server_name=server.server_name,
    )


def _policy(settings: RealtimeSettings) -> Policy | None:
    if settings.compression == "none":
        return None
    return Policy(
        window_bits=settings.compression_window_bits,
        mem_level=settings.compression_mem_level,
        context_takeover=settings.compression_context_takeover,
        min_bytes=settings.compression_min_bytes,
    )


def _endless(seconds: float) -> float:
    """Return a time limit of daphne's as one of ours: there -1 is endless."""
    return seconds if seconds >= 0 else 365 * 86400.0
