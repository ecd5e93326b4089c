"""One native WebSocket: what the application may do with it, and what its client may."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import logging
import socket
from typing import TYPE_CHECKING, Any, cast

from ratelimit.sizes import payload_size
from realtime.frames import Frame
from realtime.server.deflate import Deflater, negotiate
from realtime.server.farewell import Farewell
from realtime.server.heads import Handshake, accepting_head, denying_head
from realtime.server.messages import (
    NO_CODE,
    Assembly,
    Violation,
    close_payload,
    header,
    packed_bound,
    read_close,
)
from realtime.server.parser import (
    CLOSE,
    CLOSE_FRAME,
    PING,
    PONG,
    TEXT,
    TEXT_FRAME,
    ParsedFrame,
    Parser,
    SharedParser,
    lone_close,
)
from realtime.server.stream import Stream
from realtime.transports import Receive, Take, TransportListener

if TYPE_CHECKING:
    from realtime.server.engine import Engine

logger = logging.getLogger("realtime")

# Documented for those who extend asyncio, for all their underscores.
_enter_task, _leave_task = asyncio.tasks._enter_task, asyncio.tasks._leave_task

Message = dict[str, Any]

ABNORMAL = 1006
"""Stands for a socket that ended without a close frame."""

_TEXT_HEADERS = [bytes((0x81, size)) for size in range(126)]
_CLOSE_OPCODE, _PING_OPCODE, _PONG_OPCODE, _TEXT_OPCODE, _BINARY_OPCODE = 0x8, 0x9, 0xA, 0x1, 0x2

_SENDS_IN_ROW = 50
"""Messages an application may send without receiving one before the loop gets a turn."""

_LATE_SENDS = 100
"""Messages to a client that has left which are dropped in silence, while the application has not heard of it."""

_CHAFF_FREE = 128
_CHAFF_SECONDS = 8e-6
"""
Frames that complete no message cost their receiver and nobody else: above ``_CHAFF_FREE`` of them in a
row their sender is not read for ``_CHAFF_SECONDS`` each, several times what they took to handle.
"""


class SocketClosed(ConnectionError):
    """The application sent to a WebSocket that is closed, or closing. It may catch this and clean up."""


class Phase(enum.IntEnum):
    """How far a WebSocket is."""

    CONNECTING = 0
    """The application has not answered the handshake."""
    DENYING = 1
    """It is answering with an HTTP response."""
    OPEN = 2
    CLOSING = 3
    """A close frame has been sent, and the peer's is awaited."""
    CLOSED = 4


_OPEN = Phase.OPEN
"""Looked at for every message: an attribute of an enumeration costs more than a name."""


class _Hold(enum.IntFlag):
    """Why the socket is not being read."""

    QUEUE = 1
    CHAFF = 2


class NativeWebSocket:
    """
    One WebSocket, in its two roles.

    To the application it is ASGI's ``receive`` and ``send``. To the layers that know it, it is the
    :class:`realtime.transports.Transport` in ``scope["extensions"]["realtime"]``: every method of that
    is synchronous, and safe at any time.

    """

    __slots__ = (
        "_as_task",
        "_assembly",
        "_chaff",
        "_closed_by_application",
        "_context",
        "_deflater",
        "_denial",
        "_disconnect",
        "_engine",
        "_handshake",
        "_heard",
        "_held",
        "_late_pong",
        "_late_sends",
        "_loop",
        "_parser",
        "_ping",
        "_ping_sent_at",
        "_queue",
        "_sends_in_row",
        "_shared",
        "_sock",
        "_stream",
        "_take",
        "_task",
        "_timer",
        "_told",
        "_violation",
        "_waiter",
        "_writable",
        "_write_paused",
        "listener",
        "max_message_bytes",
        "opened_at",
        "phase",
        "scope",
        "writable",
    )

    name = "native"
    can_ping = True

    def __init__(self, engine: Engine, sock: socket.socket, handshake: Handshake) -> None:
        self._engine = engine
        self._loop = engine.loop
        self._sock: socket.socket | None = sock
        self._handshake: Handshake | None = handshake
        self.scope: dict[str, Any] = {}
        self.phase = Phase.CONNECTING
        self.listener: TransportListener | None = None
        self.max_message_bytes = engine.options.max_message_bytes
        """Largest message that is received, in bytes; 0 is any."""
        self.writable = False
        self._take: Take | None = None
        """Handles messages while ``receive`` is awaited: what :meth:`attach` was given."""
        self._as_task = False
        # A list: it is short, and an empty deque would be the largest part of an idle socket.
        self._queue: list[Message] = [{"type": "websocket.connect"}]
        self._waiter: asyncio.Future[None] | None = None
        self._disconnect: Message | None = None
        self._told = False
        self._stream: Stream | None = None
        self._shared: SharedParser
        self._assembly: Assembly
        self._deflater: Deflater | None = None
        self._denial: list[Any] | None = None
        self._closed_by_application = False
        self._late_sends = 0
        self._sends_in_row = 0
        self.opened_at: float | None = None
        """When the socket was accepted, in seconds of the loop's clock; ``None`` if it never was."""
        self._held = 0
        self._parser: Parser | None = None
        """Ours alone, while it holds a part of a frame."""
        self._violation: tuple[int, str] | None = None
        self._chaff = 0
        self._heard = False
        self._late_pong: bytes | None = None
        self._ping: bytes | None = None
        self._ping_sent_at = 0.0
        self._write_paused = False
        self._writable: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # The application's life

    def start(self) -> None:
        """Run the application for this socket."""
        self._context = contextvars.copy_context()
        self._task = self._loop.create_task(self._run(), context=self._context)
        self._task.add_done_callback(self._application_ended)
        self._timer = self._loop.call_later(self._engine.options.connect_timeout, self._never_answered)
        # In the next turn: an application that answers in this one need not be watched over.
        self._loop.call_soon(self._watch)

    async def _run(self) -> None:
        await self._engine.application(self.scope, self.receive, self.send)

    def _application_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, SocketClosed):
            logger.error(
                "A WebSocket application failed.", exc_info=error, extra={"path": self.scope.get("path")}
            )
        self._task = None
        if self.phase is Phase.CONNECTING:
            if error is None and not task.cancelled():
                logger.error(
                    "A WebSocket application returned without an answer.",
                    extra={"path": self.scope.get("path")},
                )
            self._deny(500, [], b"")
        elif self.phase is Phase.DENYING:
            self.abort()
        elif self.phase is Phase.OPEN:
            self.close(*self._engine.closing_for(failed=error is not None, cancelled=task.cancelled()))
        self._forget_if_over()

    def _never_answered(self) -> None:
        self._timer = None
        if self.phase is Phase.CONNECTING:
            logger.warning(
                "A WebSocket application did not answer in time.", extra={"path": self.scope.get("path")}
            )
            self._deny(503, [], b"")
        elif self.phase is Phase.DENYING:
            self.abort()

    def _overstayed(self) -> None:
        if self._task is not None:
            logger.warning(
                "A WebSocket application ran on after its socket closed, and was cancelled.",
                extra={"path": self.scope.get("path")},
            )
            self._task.cancel()

    def cancel(self) -> None:
        """Cancel the application; the socket is then closed."""
        if self._task is not None:
            self._task.cancel()

    @property
    def is_running(self) -> bool:
        """Whether the application has not ended."""
        return self._task is not None

    def _forget_if_over(self) -> None:
        if self.phase is Phase.CLOSED and self._task is None:
            self._engine.forget(self)
            # Both know this socket too, and reference counts would never free the three of them.
            self.listener = None
            self.scope = {}

    # ASGI: receive

    async def receive(self) -> Message:
        """Return the next event. What came before the end of the socket is delivered before it."""
        queue = self._queue
        self._sends_in_row = 0
        while not queue:
            if self._disconnect is not None:
                message, self._disconnect = self._disconnect, None
                return message
            if self._waiter is not None and not self._waiter.done():
                raise RuntimeError("receive() is being awaited already")
            # The message itself stays in the queue: cancelling this call cannot lose it.
            waiter = self._waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                if self._waiter is waiter:
                    self._waiter = None
        message = queue.pop(0)
        if self._held and len(queue) <= self._engine.resume_at:
            self._release(_Hold.QUEUE)
        return message

    def _deliver(self, message: Message) -> None:
        queue = self._queue
        queue.append(message)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        elif len(queue) >= self._engine.pause_at:
            self._hold(_Hold.QUEUE)

    def _tell_disconnected(self, code: int, reason: str) -> None:
        """Give the application its last event, once, and a bounded time to make an end."""
        if self._told:
            return
        self._told = True
        if self._writable is not None:
            self._writable.set()
        if self.listener is not None:
            # Who waits for this peer to read waits in vain. In a moment the phase says so too.
            self._loop.call_soon(self.listener.resume_writing)
        self._disconnect = {"type": "websocket.disconnect", "code": code, "reason": reason}
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._task is not None:
            timer = self._loop.call_later(self._engine.options.application_close_timeout, self._overstayed)
            self._task.add_done_callback(lambda _: timer.cancel())

    # ASGI: send

    async def send(self, message: Message) -> None:
        """Carry out one of the application's messages. Waits only while the peer reads too slowly."""
        if message["type"] == "websocket.send" and self.phase is Phase.OPEN:
            text: str | None = message.get("text")
            payload: Any = message.get("bytes")
            if (text is None) is (payload is None):
                raise ValueError("websocket.send takes either text or bytes")
            self._sends_in_row += 1
            if self._sends_in_row > _SENDS_IN_ROW:
                await self._breathe()
            stream = self._stream
            if stream is None or stream.is_closing:
                # The peer is gone and the loop is about to say so.
                await asyncio.sleep(0)
            elif text is not None:
                encoded = text.encode()
                size = len(encoded)
                if self._deflater is None and size < 126:
                    stream.write(_TEXT_HEADERS[size] + encoded)
                else:
                    self._write_message(stream, _TEXT_OPCODE, encoded)
            else:
                self._write_message(stream, _BINARY_OPCODE, payload)
            if self._write_paused:
                await self._until_writable()
            return
        await self._send_other(message)

    async def _send_other(self, message: Message) -> None:
        kind = message["type"]
        if self.phase >= Phase.CLOSING:
            await self._send_late(kind)
            return
        if kind == "websocket.accept" and self.phase is Phase.CONNECTING:
            await self._accept(message)
        elif kind == "websocket.close" and self.phase is Phase.CONNECTING:
            self._deny(403, [], b"")
        elif kind == "websocket.close" and self.phase is Phase.OPEN:
            code = message.get("code")
            self._closed_by_application = True
            self.close(1000 if code is None else code, message.get("reason") or "")
        elif kind == "websocket.http.response.start" and self.phase is Phase.CONNECTING:
            self._denial = [message["status"], list(message.get("headers", [])), []]
            # Checked here, where the application can see what is wrong with it.
            denying_head(message["status"], self._denial[1], body_bytes=None)
            self.phase = Phase.DENYING
        elif (
            kind == "websocket.http.response.body"
            and self.phase is Phase.DENYING
            and self._denial is not None
        ):
            status, headers, parts = self._denial
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                self._deny(status, headers, b"".join(parts))
        else:
            raise RuntimeError(f"{kind!r} cannot be sent to a WebSocket that is {self.phase.name.lower()}")

    async def _send_late(self, kind: str) -> None:
        """
        Take what is sent to a socket that is closed: it is lost, and sooner or later that is said.

        An application that closed the socket, or has received the disconnect, is told at once. Another may
        not know yet, and an error would keep it from ever receiving the disconnect and cleaning up; but one
        that only sends must be told some time.

        """
        if kind == "websocket.close":
            return
        self._late_sends += 1
        if self._closed_by_application or self._disconnect is None or self._late_sends > _LATE_SENDS:
            raise SocketClosed(f"{kind} after the WebSocket was closed")
        # Such an application must not keep everybody else from running.
        await asyncio.sleep(0)

    async def _accept(self, message: Message) -> None:
        handshake, sock = self._handshake, self._sock
        if handshake is None or sock is None:
            raise SocketClosed("the client left before it was accepted")
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and subprotocol not in handshake.subprotocols:
            raise ValueError(
                f"The client did not offer the subprotocol {subprotocol!r}: {list(handshake.subprotocols)}."
            )
        policy = self._engine.options.deflate
        agreement = negotiate(handshake.extensions, policy) if policy is not None else None
        head = accepting_head(
            handshake.key,
            subprotocol=subprotocol,
            extension=agreement.response if agreement is not None else None,
            headers=message.get("headers", ()),
        )
        self._deflater = Deflater(agreement) if agreement is not None else None
        self._assembly = Assembly(
            self.max_message_bytes, self._deflater.inflate if self._deflater is not None else None
        )
        self._share_parser()
        self._handshake = self._sock = None
        try:
            sent = _send_now(sock, head)
        except OSError:
            self._unwatch(sock)
            sock.close()
            self._lost()
            raise SocketClosed("the client left while it was being accepted") from None
        self._stream = Stream(
            self._loop, sock, self._engine.cork, high=self._engine.options.write_buffer_bytes
        )
        self._stream.hand_to(self)
        if sent < len(head):
            self._stream.write(head[sent:])
        self.phase = Phase.OPEN
        self.writable = not self._write_paused
        self.opened_at = self._loop.time()
        self._cancel_timer()
        self._stream.resume_reading()
        self._engine.opened(self)

    def refuse(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer the handshake in place of the application. Does nothing once that has been answered."""
        if self.phase is Phase.CONNECTING:
            self._deny(status, headers, b"")

    def _deny(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._unwatch(sock)
            self._engine.respond(sock, status, headers, body)
        self._tell_disconnected(ABNORMAL, "")
        self._let_go()

    async def _breathe(self) -> None:
        """Let the loop have a turn: an application that only sends would keep everybody else from running."""
        self._sends_in_row = 0
        await asyncio.sleep(0)

    async def _until_writable(self) -> None:
        if self._writable is None:
            self._writable = asyncio.Event()
        await self._writable.wait()

    # The socket before it is accepted: only its end is of interest

    def _watch(self) -> None:
        if self._sock is not None:
            self._loop.add_reader(self._sock.fileno(), self._look)

    def _unwatch(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())

    def _look(self) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            gone = not sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            gone = True
        # Frames sent too early stay in the kernel, within its bound, until the application accepts.
        self._unwatch(sock)
        if gone:
            sock.close()
            self._sock = None
            self._lost()

    # What the client sends

    def readable(self, sock: socket.socket) -> None:
        """Read once what the client sent, and handle each frame of it that is whole."""
        shared, held = self._shared, self._parser
        if held is None:
            parser = shared.parser
            room = parser.room
        else:
            parser = held
            room = parser.more_room()
        try:
            size = sock.recv_into(room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            size = 0
        if not size:
            self._ended()
            return
        # What goes on with a frame begins with none.
        first = room[0] if held is None else 0
        if first == CLOSE_FRAME and (payload := lone_close(room[:size])) is not None:
            self._on_close(payload)
            return
        cork = self._engine.cork
        cork.held = True
        try:
            is_empty = parser.feed(size, self, first == TEXT_FRAME)
            # A full read might have made the buffer grow, and its room be elsewhere; who reads a close frame is spent.
            if (
                held is not None
                or not is_empty
                or size == len(room)
                or self.phase is not _OPEN
                or self._violation is not None
            ):
                if held is None:
                    # Of whom it was borrowed: what it read may have set another bound.
                    shared.replace()
                self._keep(parser, is_empty)
        except BaseException:
            # A cancellation, most of all. Where it broke off, the parser holds what nobody may be given.
            if shared.parser is parser:
                shared.replace()
            self._break_off()
            raise
        finally:
            cork.pull()

    def _break_off(self) -> None:
        """Drop the socket: what it sent was read in part only, and the rest cannot be found."""
        self._parser = self._violation = None
        self.abort()

    def _ended(self) -> None:
        """Nothing more comes."""
        if self._stream is not None:
            self._stream.close()

    def _keep(self, parser: Parser, is_empty: bool) -> None:
        """Keep a parser that holds a part of a frame; return it if it holds none."""
        self._parser = None
        if self._violation is not None:
            (code, reason), self._violation = self._violation, None
            if self.phase is Phase.OPEN:
                self._fail(code, reason)
            elif self._stream is not None and not self._stream.is_closing:
                # Its answer to our close frame was awaited, and that cannot be found any more.
                self._leave(self._stream)
                self._let_go()
        elif is_empty:
            self._shared.give_back(parser)
        elif self._stream is not None:
            self._parser = parser

    def _on_close(self, payload: bytes) -> None:
        """Answer a close frame, or take it as the answer to ours."""
        if self.phase is Phase.OPEN:
            self._lives()
            try:
                self._control(CLOSE, payload)
            except Violation as violation:
                self._fail(violation.code, violation.text)
        elif self.phase is Phase.CLOSING and self._stream is not None:
            self._stream.close()

    def on_frame(self, frame: ParsedFrame, is_plain: bool) -> None:
        """Handle one frame."""
        if self.phase is not _OPEN:
            if self.phase is Phase.CLOSING and frame.msg_type is CLOSE and self._stream is not None:
                self._stream.close()
            return
        payload: str | bytes | None
        try:
            if (is_plain or _is_plain(frame)) and not self._assembly.opcode:
                payload = frame.get_payload_as_utf8_text()
                size = frame.payload_size
                if self._deflater is not None:
                    # The parser lets a little more pass.
                    self._assembly.check_size(size)
            else:
                payload = self._other(frame)
                if payload is None:
                    self._count_chaff(frame)
                    return
                size = payload_size(payload)
        except UnicodeDecodeError:
            self._fail(1007, "text that is not UTF-8")
            return
        except Violation as violation:
            self._fail(violation.code, violation.text)
            return
        waiter, take = self._waiter, self._take
        if take is not None and waiter is not None and not waiter.done():
            event = self._take_as_task(take, payload, size) if self._as_task else take(payload, size)
            if event is not None:
                self._deliver(event)
            return
        self._lives()
        self._deliver(_received(payload))

    def _other(self, frame: ParsedFrame) -> str | bytes | None:
        """Handle a control frame, or return the message that a frame completes."""
        kind = frame.msg_type
        if kind is not PING and kind is not PONG and kind is not CLOSE:
            message = self._assembly.feed(
                cast("int", kind),
                frame.get_payload_as_bytes(),
                fin=frame.fin,
                rsv1=frame.rsv1,
                rsv2=frame.rsv2,
                rsv3=frame.rsv3,
            )
            if message is None:
                self._lives()
            return message
        self._lives()
        if frame.rsv1 | frame.rsv2 | frame.rsv3:
            raise Violation(1002, "a reserved bit is set")
        self._control(kind, frame.get_payload_as_bytes())
        return None

    def _lives(self) -> None:
        """Anything at all came from the peer."""
        self._heard = True
        if self.listener is not None:
            self.listener.heard()

    def _take_as_task(self, take: Take, payload: str | bytes, size: int) -> Message | None:
        """Have ``take`` run as if the application's task, which waits for a message, had received it."""
        loop, task = self._loop, self._task
        if task is None:
            return _received(payload)
        try:
            _enter_task(loop, task)
        except RuntimeError:
            # Data that was held back is being fed to us by another task.
            return _received(payload)
        try:
            return self._context.run(take, payload, size)
        finally:
            _leave_task(loop, task)

    def _control(self, kind: object, payload: bytes) -> None:
        if kind is PING:
            if self._write_paused:
                # Answering the newest of several pings is enough (RFC 6455, 5.5.3).
                self._late_pong = payload
            else:
                self._write_frame(_PONG_OPCODE, payload)
        elif kind is PONG:
            if payload == self._ping:
                self._ping = None
                if self.listener is not None:
                    self.listener.ponged(self._loop.time() - self._ping_sent_at)
        else:
            code, reason = read_close(payload)
            self._begin_closing(1000 if code == NO_CODE else code, "")
            if self._stream is not None:
                self._stream.close()
            self._tell_disconnected(code, reason)

    def _count_chaff(self, frame: ParsedFrame) -> None:
        self._chaff += 1
        if self._chaff > _CHAFF_FREE and frame.last_in_buffer and self.phase is Phase.OPEN:
            self._hold(_Hold.CHAFF)
            self._loop.call_later(self._chaff * _CHAFF_SECONDS, self._release, _Hold.CHAFF)
            self._chaff = 0

    def _fail(self, code: int, reason: str) -> None:
        """Close with ``code`` because of what the client sent; whatever else it sends is not looked at."""
        if self.phase is not Phase.OPEN or self._stream is None:
            return
        stream = self._stream
        self._begin_closing(code, reason)
        self._leave(stream)
        self._tell_disconnected(code, reason)
        self._let_go()

    def _leave(self, stream: Stream) -> None:
        """Have what was written sent, and look at nothing that still comes."""
        self._stream = self._parser = None
        Farewell(self._loop, stream)

    def violated(self, code: int, reason: str) -> None:
        """The parser gave up. A frame it had read before may still follow in this very call, so the end waits for it."""
        self._violation = code, reason

    def lost(self) -> None:
        """The socket is gone."""
        self._stream = self._parser = None
        self._lost()

    def _hold(self, why: int) -> None:
        if not self._held and self._stream is not None:
            self._stream.pause_reading()
        self._held |= why

    def _release(self, why: int) -> None:
        if self._held & why:
            self._held &= ~why
            if not self._held and self._stream is not None:
                self._stream.resume_reading()

    # The transport: what the layers above may do at any time

    @property
    def closed(self) -> bool:
        return self.phase >= Phase.CLOSING

    @property
    def is_open(self) -> bool:
        """Whether the peer is still there, be it that it has not answered a close frame."""
        return self.phase is not Phase.CLOSED

    @property
    def buffered_bytes(self) -> int:
        stream = self._stream
        return 0 if stream is None else stream.buffered_bytes

    @property
    def is_held(self) -> bool:
        """Whether the socket is not being read: nothing can be heard from the peer meanwhile."""
        return bool(self._held)

    def inbound_size(self) -> int:
        """Return the bytes of messages, whole or begun, that the application has not received. Safe from any thread."""
        size = self._assembly.buffered_bytes if self.phase is Phase.OPEN else 0
        # Of a copy: the loop goes on meanwhile, if another thread asks.
        for message in tuple(self._queue):
            size += len(message.get("text") or message.get("bytes") or ())
        return size

    def write(self, frame: Frame) -> None:
        stream = self._stream
        if self.phase is not _OPEN or stream is None:
            return
        deflater, size = self._deflater, frame.size
        if deflater is None or size < deflater.min_bytes:
            plain = frame.plain
            if plain is None:
                payload = frame.payload
                # Most are short texts, and another call is a part of what one costs.
                if size < 126 and isinstance(payload, str):
                    encoded = payload.encode()
                    plain = _TEXT_HEADERS[len(encoded)] + encoded
                else:
                    plain = _plain(payload)
                frame.plain = plain
            stream.write(plain)
        elif deflater.share_key is not None:
            stream.write(frame.wire(deflater.share_key, deflater.wire_alone))
        else:
            payload = frame.payload
            if isinstance(payload, str):
                self._write_message(stream, _TEXT_OPCODE, payload.encode())
            else:
                self._write_message(stream, _BINARY_OPCODE, payload)

    def limit_messages(self, size: int) -> None:
        # A frame that has begun to come is still held to the bound that was.
        self.max_message_bytes = size
        if self.phase is Phase.OPEN:
            self._assembly.max_bytes = size
            self._share_parser()

    def _share_parser(self) -> None:
        """Read with the parser that refuses, at its header, a frame which no message within the bound can come in."""
        size = self.max_message_bytes
        self._shared = self._engine.parsers.of(size if self._deflater is None else packed_bound(size))

    def attach(self, receive: Receive, take: Take, *, as_task: bool) -> bool:
        if getattr(receive, "__self__", None) is not self or asyncio.current_task() is not self._task:
            return False
        self._take, self._as_task = take, as_task
        return True

    def ping(self) -> None:
        if self.phase is Phase.OPEN:
            self._ping_sent_at = self._loop.time()
            self._ping = self._ping_sent_at.hex().encode()
            self._write_frame(_PING_OPCODE, self._ping)

    def keep_alive(self, max_age: float) -> None:
        """Called at intervals: ping a socket nothing else watches, and drop it if it was silent after the last ping too."""
        if self.phase is not Phase.OPEN or self.opened_at is None:
            return
        if max_age and self._loop.time() - self.opened_at > max_age:
            self.close(1000, "")
        elif self.listener is not None or self._held:
            return
        elif self._heard:
            self._heard = False
        elif self._ping is None:
            self.ping()
        else:
            self.abort()

    def close(self, code: int, reason: str) -> None:
        if self.phase is Phase.CONNECTING:
            self._deny(403, [], b"")
        if self.phase is not Phase.OPEN or self._stream is None:
            return
        self._begin_closing(code, reason)
        self._release(self._held)
        self._tell_disconnected(code, reason)

    def abort(self) -> None:
        if self._stream is not None:
            self._stream.abort()
        elif self._sock is not None:
            self._unwatch(self._sock)
            self._sock.close()
            self._sock = None
        self._lost()

    def _begin_closing(self, code: int, reason: str) -> None:
        """Send our close frame. A peer that does not take it, or does not answer, is dropped after a while."""
        self._write_frame(_CLOSE_OPCODE, close_payload(code, reason))
        self.phase = Phase.CLOSING
        self.writable = False
        if self._stream is not None:
            self._timer = self._loop.call_later(self._engine.options.close_timeout, self._stream.abort)

    def _lost(self) -> None:
        self._tell_disconnected(ABNORMAL, "")
        self._let_go()

    def _let_go(self) -> None:
        self.phase = Phase.CLOSED
        self.writable = False
        self._take = None
        self._cancel_timer()
        self._forget_if_over()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write_frame(self, opcode: int, payload: bytes) -> None:
        if self._stream is not None:
            self._stream.write(header(opcode, len(payload)) + payload)

    def _write_message(self, stream: Stream, opcode: int, payload: bytes) -> None:
        deflater = self._deflater
        packed = None
        if deflater is not None and len(payload) >= deflater.min_bytes:
            packed = deflater.compress(payload)
        stream.write(
            header(opcode, len(payload)) + payload
            if packed is None
            else header(opcode, len(packed), rsv1=True) + packed
        )

    def pause_writing(self) -> None:
        self._write_paused = True
        self.writable = False
        if self._writable is not None:
            self._writable.clear()

    def resume_writing(self) -> None:
        self._write_paused = False
        self.writable = self.phase is Phase.OPEN
        if self._writable is not None:
            self._writable.set()
        if self._late_pong is not None:
            pong, self._late_pong = self._late_pong, None
            self._write_frame(_PONG_OPCODE, pong)
        if self.listener is not None and self.phase is Phase.OPEN:
            self.listener.resume_writing()


def _received(payload: str | bytes) -> Message:
    kind = "text" if payload.__class__ is str else "bytes"
    return {"type": "websocket.receive", kind: payload}


def _plain(payload: str | bytes) -> bytes:
    """Return the frame of a message as every socket can read it."""
    if isinstance(payload, str):
        encoded = payload.encode()
        return header(_TEXT_OPCODE, len(encoded)) + encoded
    return header(_BINARY_OPCODE, len(payload)) + payload


def _is_plain(frame: ParsedFrame) -> bool:
    """Whether this is a whole text message that nothing was done to."""
    return frame.msg_type is TEXT and bool(frame.fin) and not frame.rsv1 | frame.rsv2 | frame.rsv3


def _send_now(sock: socket.socket, data: bytes) -> int:
    """Write what the kernel takes at once, and return how much that is. Raise OSError if the peer is gone."""
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0
