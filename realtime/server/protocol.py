"""daphne's WebSocket protocol, with its faults mended."""
# ruff: noqa: N802, N803, N815 - what is overridden has the names that Twisted and autobahn gave it

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import daphne.ws_protocol
from autobahn.util import encode_truncate
from daphne.utils import parse_x_forwarded_for
from twisted.internet import defer, tcp
from twisted.protocols.policies import ProtocolWrapper

from ratelimit.conf import get_settings as get_ratelimit_settings
from realtime.conf import get_settings
from realtime.server import refusal, wire
from realtime.server.inbox import Inbox, Message
from realtime.server.transport import DaphneTransport

if TYPE_CHECKING:
    from realtime.server.server import Server

logger = logging.getLogger("realtime.server")

LOST = 1006
"""What an application is told when the peer went away without a close frame."""
_COME_BACK = (1012, 1013)
"""Close codes that ask a client to come back; before accept that is 503, and all else 403."""
READ_BYTES = 4 * 1024
"""
Most bytes read at once, in place of Twisted's 64 KiB: what bounds the time one flooding client can keep the loop.
The smallest frames are parsed at well under a megabyte a second.
"""
NO_CODE = 1005
"""What an application is told when the peer's close frame carried no code."""


class WebSocketProtocol(daphne.ws_protocol.WebSocketProtocol):
    """
    One WebSocket, from its handshake to its end.

    Frames are parsed by autobahn; what is common (a whole small message) is read here, at a tenth of
    the price. Nothing is read before the application accepts, nor while it has too much to do.

    """

    # autobahn stops parsing at a violation when this is true; what happens to the socket then is told by
    # _fail_connection, which drops nothing: the peer gets a close frame with the reason.
    failByDrop = True
    # Longer than autobahn's second: a phone may need more to answer a close frame.
    closeHandshakeTimeout = 5

    server: Server | None = None
    inbox: Inbox | None = None
    client_addr: list[Any] | None = None
    server_addr: list[Any] | None = None
    path = b""
    is_connected = False
    """Whether the TCP connection of a request that reached an application is still there."""
    _told = False
    """Whether the application has been told of the end, or has ended itself."""
    _deaf = False
    """Whether whatever else comes from the peer is thrown away."""
    _reading_paused = False
    _straight: Any = None
    """The socket that bytes may be given to without asking Twisted, where there is one."""
    _turn = -1
    _last_resort: asyncio.TimerHandle | None = None
    _denial: tuple[int, list[tuple[bytes, bytes]]] | None = None
    _denial_begun = False

    # The handshake.

    def onConnect(self, request: Any) -> defer.Deferred[Any]:
        """Start the application for a handshake that is in order."""
        server: Server = self.factory.server_class
        self.server = server
        self.request = request
        self.link = DaphneTransport(self)
        self.socket_opened = self.last_ping = time.time()
        self.is_connected = True
        self.path = request.path.encode("ascii")
        self._find_addresses(request)
        server.protocol_connected(self)
        if server.draining:
            self.refuse(503, [(b"retry-after", b"1")])
        else:
            settings = get_settings()
            self.pings_itself = settings.heartbeat_enabled
            self.inbox = Inbox(settings.max_inbound_messages, self.pause_reading, self._resume_after_backlog)
            self.inbox.put({"type": "websocket.connect"})
            self._log_action("connecting")
            server.create_application(self, self._scope(request))
        # Never fired: accepting and refusing act at once, so that their errors reach the application.
        return defer.Deferred()

    def _find_addresses(self, request: Any) -> None:
        server = self.server
        assert server is not None  # noqa: S101 - for the type checker: onConnect has just set it
        peer, host = self.transport.getPeer(), self.transport.getHost()
        if hasattr(peer, "host") and hasattr(peer, "port"):
            self.client_addr = [str(peer.host), peer.port]
            self.server_addr = [str(host.host), host.port]
        # What CVE-2015-0219 abused: behind some proxies "_" in a name stands for "-".
        self.clean_headers = [
            (name.lower().encode("ascii"), value.encode("latin-1"))
            for name, value in request.headers.items()
            if "_" not in name
        ]
        secure = self._transport_details is not None and self._transport_details.is_secure
        self.client_scheme = "https" if secure else "http"
        if server.proxy_forwarded_address_header:
            self.client_addr, self.client_scheme = parse_x_forwarded_for(
                dict(self.clean_headers),
                server.proxy_forwarded_address_header,
                server.proxy_forwarded_port_header,
                server.proxy_forwarded_proto_header,
                self.client_addr,
                self.client_scheme,
            )

    def _scope(self, request: Any) -> dict[str, Any]:
        assert self.server is not None  # noqa: S101 - for the type checker
        return {
            "type": "websocket",
            # 2.4 is where send() of a closed socket raises; there the consumers of Channels, which do not expect
            # it, would never come to their disconnect().
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "wss" if self.client_scheme in ("https", "wss") else "ws",
            "path": unquote(request.path),
            "raw_path": self.path,
            "root_path": self.server.root_path,
            "headers": self.clean_headers,
            "query_string": self._raw_query_string,
            "client": self.client_addr,
            "server": self.server_addr,
            "subprotocols": request.protocols,
            "extensions": {"websocket.http.response": {}, "realtime": self.link},
        }

    def onOpenHandshakeTimeout(self) -> None:
        """The application took too long to accept or refuse."""
        self.openHandshakeTimeoutCall = None
        self.refuse(503, [(b"retry-after", b"1")])

    def onOpen(self) -> None:
        """The application accepted: from now on frames come and go."""
        # Until now the dead HTTP channel of the handshake was registered; letting it go frees it and its request.
        self.transport.unregisterProducer()
        self.transport.registerProducer(self.link, True)
        if type(self.transport) is tcp.Server and not self.transport.TLS:
            self._straight = self.transport.socket
        transport: Any = self.transport
        stream: Any = transport.transport if isinstance(transport, ProtocolWrapper) else transport
        stream.bufferSize = READ_BYTES
        self.resume_reading()
        self._log_action("connected")

    def refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """Answer the handshake with an HTTP response. Does nothing once it has been answered."""
        if self.state != self.STATE_CONNECTING or self._denial_begun:
            return
        self._begin_refusal(status, headers, size=len(body))
        self.sendData(body)
        self._end_refusal()

    def _begin_refusal(self, status: int, headers: list[tuple[bytes, bytes]], size: int | None) -> None:
        self.sendData(refusal.head(status, headers, server=self.factory.server or "", size=size))
        self._denial_begun = True

    def _end_refusal(self) -> None:
        self._tell(LOST, "")
        self._log_action("rejected")
        self.dropConnection(abort=False)

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        """Answer a handshake that is not in order."""
        headers = [(name.encode(), value.encode()) for name, value in responseHeaders or ()]
        text = reason.encode("utf-8", "replace")
        headers.append((b"content-type", b"text/plain; charset=utf-8"))
        self._begin_refusal(code, headers, size=len(text))
        self.sendData(text)

    # What the application sends.

    async def send(self, message: Message) -> None:
        """
        Do what the application says: the ``send`` of ASGI. Waits while the peer reads too slowly.

        After the socket has closed it does nothing, as ASGI had it before version 2.4. Raises ValueError
        for a message that makes no sense.

        """
        act = _ACTS.get(message["type"])
        if act is None:
            raise ValueError(f"A WebSocket cannot send {message['type']!r}.")
        if self.state not in (self.STATE_CONNECTING, self.STATE_OPEN):
            # An application that does nothing but send must not keep everybody else from running.
            await asyncio.sleep(0)
            return
        act(self, message)
        if not self.link.writable:
            await self.link.drained()

    def _accept(self, message: Message) -> None:
        self._must_be_connecting("accepted")
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and subprotocol not in self.websocket_protocols:
            offered = ", ".join(self.websocket_protocols) or "none"
            raise ValueError(
                f"Subprotocol {subprotocol!r} was not offered by the client (it offered {offered})."
            )
        headers: dict[str, list[str]] = {}
        for name, value in message.get("headers") or ():
            if refusal.is_unsafe(name) or refusal.is_unsafe(value):
                raise ValueError(f"Header {name!r}: {value!r} contains a line break or NUL.")
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        self.succeedHandshake((subprotocol, headers))

    def _send_message(self, message: Message) -> None:
        if self.state == self.STATE_CONNECTING:
            raise ValueError("The socket has not been accepted yet, so nothing can be sent.")
        text, data = message.get("text"), message.get("bytes")
        if (text is None) == (data is None):
            raise ValueError("websocket.send takes either text or bytes.")
        self.put(wire.frame(text if text is not None else bytes(data or b"")))

    def _close(self, message: Message) -> None:
        code = message.get("code")
        self.close(1000 if code is None else code, message.get("reason") or "")

    def _start_refusal(self, message: Message) -> None:
        self._must_be_connecting("answered")
        self._denial = (message["status"], list(message.get("headers") or ()))

    def _continue_refusal(self, message: Message) -> None:
        if self._denial is None:
            raise ValueError("websocket.http.response.start has to come first.")
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self._denial_begun:
            self._begin_refusal(*self._denial, size=None if more else len(body))
        self.sendData(body)
        if not more:
            self._end_refusal()

    def _must_be_connecting(self, done: str) -> None:
        if self.state != self.STATE_CONNECTING or self._denial is not None:
            raise ValueError(f"The handshake has been answered already, so it cannot be {done}.")

    def application_ended(self, *, failed: bool) -> None:
        """The application is no more: nobody will read this socket, nor close it."""
        self._told = True
        if self.state == self.STATE_CONNECTING:
            if not self._denial_begun:
                self.refuse(500, [])
            else:
                self._end_refusal()
        else:
            self.close(1011 if failed else 1000, "")

    # Bytes to the peer.

    def put(self, data: bytes) -> None:
        """
        Write ``data`` behind all that was written before.

        The first bytes of a turn of the loop go to the kernel at once, which spares a trip through the
        reactor; more in the same turn is left to Twisted, which joins it.

        """
        tcp = self.transport
        if self._straight is None or tcp.dataBuffer or tcp._tempDataBuffer or not self._first_in_turn():
            tcp.write(data)
            return
        try:
            taken = self._straight.send(data)
        except OSError:
            # Full, or broken: the reactor will meet the same and knows what to do.
            taken = 0
        if taken < len(data):
            tcp.write(data[taken:])

    def _first_in_turn(self) -> bool:
        assert self.server is not None  # noqa: S101 - for the type checker: only an open socket gets here
        turn = self.server.turns.current()
        if self._turn == turn:
            return False
        self._turn = turn
        return True

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write without the statistics and log arguments of autobahn."""
        self.put(data)

    def buffered_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        tcp = self.transport
        while hasattr(tcp, "wrappedProtocol"):
            tcp = tcp.transport
        return int(len(tcp.dataBuffer) - tcp.offset + tcp._tempDataLen)

    def close(self, code: int, reason: str) -> None:
        """
        Send a close frame after everything else; before accept, refuse. Does nothing once the end has begun.

        ``reason`` is cut to the 123 bytes that fit. Raise ValueError for a code that must not be sent.

        """
        if self.state == self.STATE_CONNECTING:
            self.refuse(403 if code not in _COME_BACK else 503, [])
            return
        if not wire.may_be_sent(code):
            raise ValueError(
                f"Close code {code!r} cannot be sent. Use 1000 to 1014 (not 1004 to 1006) or 3000 to 4999."
            )
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code=code, reasonUtf8=encode_truncate(reason, 123))
            # The peer's answer is behind whatever waits to be read.
            self.resume_reading()

    def abort(self) -> None:
        """Drop the TCP connection. Does nothing if it is gone."""
        if self.is_connected:
            self.dropConnection(abort=True)
            # autobahn takes a socket that is being closed for dropped, even if its last bytes wait for ever.
            self.transport.abortConnection()

    # Bytes from the peer.

    def pause_reading(self) -> None:
        """Leave what the peer sends to the kernel, whose full buffer stops the peer."""
        self._reading_paused = True
        self.transport.pauseProducing()
        if self.autoPingTimeoutCall:
            # A pong would not be seen.
            self._cancelAutoPingTimeoutCall()

    def resume_reading(self) -> None:
        """Read on."""
        self._reading_paused = False
        self.transport.resumeProducing()

    def _resume_after_backlog(self) -> None:
        self.link.heard()
        self.resume_reading()

    def dataReceived(self, data: bytes) -> None:
        """Take what the peer sent."""
        if self._deaf:
            return
        if self.state == self.STATE_OPEN:
            self.link.heard()
            if self.current_frame is None and not self.data and not self.inside_message:
                data = data[self._take_whole_messages(data) :]
        if data and not self._deaf:
            self._dataReceived(data)

    def _take_whole_messages(self, data: bytes) -> int:
        """Pass on the messages that are whole; return where the rest begins, which autobahn has to look at."""
        begin = 0
        limit = min(filter(None, (self.maxMessagePayloadSize, self.maxFramePayloadSize)), default=0)
        try:
            while found := wire.whole_message(data, begin, limit):
                payload, begin = found
                self.onMessage(payload, isinstance(payload, bytes))
        except UnicodeDecodeError:
            self._fail_connection(1007, "text that is not UTF-8")
        if begin and self.autoPingTimeoutCall:
            self._cancelAutoPingTimeoutCall()
        return begin

    def onMessage(self, payload: str | bytes, isBinary: bool) -> None:
        """Queue a message for the application."""
        if self._told or self.closedByMe or self.inbox is None:
            return
        self.last_ping = time.time()
        if isBinary:
            self.inbox.put({"type": "websocket.receive", "bytes": payload})
        else:
            self.inbox.put(
                {
                    "type": "websocket.receive",
                    "text": payload if isinstance(payload, str) else payload.decode(),
                }
            )

    def onMessageFrameData(self, payload: bytes) -> None:
        """Keep a part of a message. In one buffer: an object for each of many small parts would need many times as much."""
        if self.failedByMe:
            return
        if not self.message_data:
            self.message_data.append(bytearray())
        self.message_data[0] += payload

    def onMessageFrameEnd(self) -> None:
        """A frame is complete; what was in it has been kept."""

    def onMessageEnd(self) -> None:
        """A message of several parts is complete."""
        payload = b"".join(self.message_data)
        self.message_data.clear()
        if not self.failedByMe:
            self.onMessage(payload, self.message_is_binary)

    def onPing(self, payload: bytes) -> None:
        """Answer, unless the peer reads so slowly that answers pile up."""
        if self.link.writable:
            self.sendPong(payload)

    def onPong(self, payload: bytes) -> None:
        """A pong came."""
        self.link.ponged(payload)

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        """The peer broke the rules: tell it which, and listen no more."""
        if self.state == self.STATE_CLOSING:
            self.dropConnection(abort=False)
        if self.state != self.STATE_OPEN:
            return
        self.failedByMe = True
        self.close(code, reason)
        self._deaf = True
        self.data = b""
        self._tell(code, reason)
        # Closing now would make the kernel answer the rest of what the peer sends with a reset, which can overtake
        # the close frame. So only this direction ends, and the peer is read (and ignored) until it has seen that.
        self.transport.unregisterProducer()
        if self._straight is not None:
            self.transport.loseWriteConnection()

    # The end.

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The TCP connection is gone."""
        if self.server is None:
            return
        self.is_connected = False
        self._straight = None
        if self._last_resort is not None:
            self._last_resort.cancel()
        if self.closedByMe:
            self._tell(self.localCloseCode, (self.localCloseReason or b"").decode())
        elif wasClean:
            self._tell(NO_CODE if code is None else code, reason or "")
        else:
            self._tell(LOST, "")
        self.link.release()
        self.server.protocol_disconnected(self)
        self._log_action("disconnected")

    def dropConnection(self, abort: bool = False) -> None:
        """End the TCP connection: after all that was written, unless ``abort``."""
        # After a close handshake autobahn aborts, and the reset can overtake the close frame.
        super().dropConnection(abort and not self.wasClean)
        if self._last_resort is None and self.is_connected:
            # A peer that does not read would keep what is left for it, and with it the connection, for ever.
            loop = asyncio.get_running_loop()
            self._last_resort = loop.call_later(self.closeHandshakeTimeout, self.transport.abortConnection)

    def _tell(self, code: int, reason: str) -> None:
        """Tell the application of the end, once."""
        if not self._told and self.inbox is not None:
            self.inbox.put({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._told = True

    def check_timeouts(self) -> None:
        """Look after one socket; the server calls this every two seconds."""
        server = self.server
        assert server is not None  # noqa: S101 - for the type checker: only connected protocols are looked after
        age = time.time() - self.socket_opened
        if self.state == self.STATE_CONNECTING and 0 <= server.websocket_connect_timeout < age:
            self.refuse(503, [(b"retry-after", b"1")])
        elif self.state == self.STATE_OPEN:
            if 0 <= server.websocket_timeout < age:
                self.close(1000, "")
            elif self._wants_ping():
                self._sendAutoPing()
                self.last_ping = time.time()

    def _wants_ping(self) -> bool:
        """Whether daphne's own ping is due: not while one is out, and not for a socket whose heartbeat we keep."""
        assert self.server is not None  # noqa: S101 - for the type checker
        if (
            self._reading_paused
            or self.autoPingTimeoutCall
            or (self.pings_itself and self.link.listener is not None)
        ):
            return False
        return bool(time.time() - self.last_ping > self.server.ping_interval)

    def _log_action(self, action: str) -> None:
        if self.server is not None:
            client = ":".join(map(str, self.client_addr)) if self.client_addr else None
            self.server.log_action("websocket", action, {"path": self.request.path, "client": client})


_ACTS: dict[str, Callable[[WebSocketProtocol, Message], None]] = {
    "websocket.send": WebSocketProtocol._send_message,
    "websocket.accept": WebSocketProtocol._accept,
    "websocket.close": WebSocketProtocol._close,
    "websocket.http.response.start": WebSocketProtocol._start_refusal,
    "websocket.http.response.body": WebSocketProtocol._continue_refusal,
}


def message_limits(message_size: int, frame_size: int) -> tuple[int, int]:
    """
    Return the largest message and frame to accept, in bytes; 0 is no limit.

    What the command line or ``DAPHNE_WEBSOCKET_MAX_*`` says goes; daphne's default of 1 MiB stands for
    nothing said, and then ``RATELIMIT_MAX_MESSAGE_BYTES`` is the limit of messages, and that of frames.

    """
    said_nothing = 1024 * 1024
    message = get_ratelimit_settings().max_message_bytes if message_size == said_nothing else message_size
    return message, message if frame_size == said_nothing else frame_size
