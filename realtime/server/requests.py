"""daphne's HTTP requests, with their faults mended."""

from __future__ import annotations

import logging
from typing import Any

import daphne.http_protocol
from twisted.internet import defer
from twisted.protocols.policies import ProtocolWrapper

logger = logging.getLogger("realtime.server")


class WebRequest(daphne.http_protocol.WebRequest):
    """One HTTP request: answered by the application, or turned into a WebSocket."""

    def process(self) -> defer.Deferred[None]:
        """The whole request is here."""
        # Any client could choose the root path with it, and the URL patterns would never match.
        self.requestHeaders.removeHeader(b"daphne-root-path")
        processed: defer.Deferred[None] = super().process()
        if self.transport is None:
            self._hand_over()
        return processed

    def _hand_over(self) -> None:
        """The transport belongs to a WebSocket now: give it what came behind the head, and then let the peer wait."""
        transport: Any = self.channel.transport
        socket: Any = (
            transport.wrappedProtocol if isinstance(transport, ProtocolWrapper) else transport.protocol
        )
        early, self.channel._buffer = self.channel._buffer, b""
        if early:
            socket.dataReceived(early)
        if socket.state == socket.STATE_CONNECTING:
            socket.pause_reading()

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Do what the application says."""
        if message["type"] == "http.response.start" and self.server.draining and not self.finished:
            self.channel.persistent = 0
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
        super().handle_reply(message)

    def application_ended(self, *, failed: bool) -> None:
        """The application is no more, and the response may not be complete."""
        if self.finished or self.channel is None:
            return
        if self._response_started:
            # Nothing can be said any more; an end that comes too early says it.
            self.channel.loseConnection()
            return
        if not failed:
            logger.error(
                "The application ended without a response to %s.", self.path.decode("ascii", "replace")
            )
        self.basic_error(500, b"Internal Server Error", "Exception inside application.")


class HTTPFactory(daphne.http_protocol.HTTPFactory):
    """Makes the channels that our requests come through."""

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's name
        """Return a channel for one TCP connection."""
        channel = super().buildProtocol(addr)
        channel.requestFactory = WebRequest
        return channel
