"""The base class of consumers: one socket, its messages in order, and everything given back at the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.parse
from collections.abc import Awaitable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import msgspec
from channels import DEFAULT_CHANNEL_LAYER
from channels.consumer import get_handler_name
from channels.exceptions import AcceptConnection, DenyConnection, StopConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer

from ratelimit.logs import get_logger
from ratelimit.refusals import Refusal, refuse
from realtime import envelope, handlers, nodes, publish, signals
from realtime.arrivals import RESUME_GRACE
from realtime.close_codes import BAD_MESSAGES, DONE, RATE_LIMITED, RESTART, CloseReason, name_of
from realtime.conf import get_settings
from realtime.connections import Connection
from realtime.envelope import SYSTEM, Envelope
from realtime.errors import ClientError, PublishError, SessionDataError, StateUnavailable
from realtime.frames import Frame
from realtime.history import Place
from realtime.hub import BroadcastResult
from realtime.inflow import Inflow, later
from realtime.layer import OwnChannel
from realtime.limits import Limits
from realtime.once import Once, handling
from realtime.overrides import adopt
from realtime.rooms import MAX_NAME, Room
from realtime.sessions import MAX_TOKEN, RoomPlace
from realtime.stepping import Rest, step
from realtime.transports import Receive, Send, transport_of

if TYPE_CHECKING:
    from realtime.handlers import Handler

logger = get_logger("realtime")

RESUME = f"{SYSTEM}resume"
"""The message with which a client says that it has been here before."""

SHUTTING_DOWN = Refusal(
    status=503, name="draining", text="the server is restarting: try again", close=RESTART, retry_after=1.0
)

UNAVAILABLE = ClientError(
    "unavailable", "The server cannot do this now. Send it again, with the same id, in a moment."
)


class ConsumerRoom:
    """A room as one consumer uses it."""

    __slots__ = ("_consumer", "name")

    def __init__(self, consumer: RealtimeConsumer, name: str) -> None:
        self._consumer = consumer
        self.name = name

    async def publish(
        self,
        type: str,
        data: Any = None,
        *,
        exclude_self: bool = False,
        exclude: Collection[str] = (),
        wait: bool | float = False,
    ) -> BroadcastResult:
        """
        Send to every member of the room, in all processes; ``exclude`` holds client ids.

        With ``wait`` return when they have taken it, as :func:`realtime.publish.publish` says.

        """
        left_out = [*exclude, self._consumer.client_id] if exclude_self else exclude
        return await publish.publish(self.name, type, data, exclude=left_out, wait=wait)


class RealtimeConsumer(AsyncJsonWebsocketConsumer):
    """
    One socket.

    Subclasses write handlers, ``@on("type") async def name(self, payload)``, and override what they need of
    :meth:`connected`, :meth:`receive_bytes` and :meth:`may_join`. What Channels' own consumers have works
    as it does there: ``connect()``, ``accept()``, ``disconnect(code)``, ``receive_json()``, ``groups``,
    ``channel_name`` and methods named after channel-layer messages.

    Messages are handled one at a time and in order. A handler that raises, or takes longer than its
    timeout, costs the client an error frame, not the socket. ``disconnect()`` runs once for every
    socket that was accepted, whatever ended it.

    """

    limits: ClassVar[Limits] = Limits()
    """What this route sets apart from the settings."""
    subprotocols: ClassVar[Iterable[str]] = ()
    """Subprotocols this consumer speaks, the best first; the first that the client offers is chosen."""
    speaks_protocol: ClassVar[bool] = True
    """Whether clients speak the envelope; without it no ``system.`` message is sent."""
    tells_errors: ClassVar[bool | None] = None
    """Whether what cannot be handled is answered with ``system.error``. ``None``: where the protocol is spoken."""
    concurrency: ClassVar[int | None] = None
    """Handlers of one socket that may run at once, in place of ``REALTIME_HANDLER_CONCURRENCY``."""
    uses_channel_layer: ClassVar[bool | None] = None
    """Whether a channel of its own is made on opening. ``None``: when it is first asked for, where the layer can do that."""
    handlers: ClassVar[dict[str, Handler]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.handlers = handlers.gather(cls, RealtimeConsumer)
        cls._consumer_name = f"{cls.__module__}.{cls.__qualname__}"
        cls._overrides_receive = cls.receive is not RealtimeConsumer.receive
        cls._overrides_receive_json = cls.receive_json is not RealtimeConsumer.receive_json

    _consumer_name = f"{__module__}.{__qualname__}"
    _overrides_receive = False
    _overrides_receive_json = False

    is_resumed = False
    """Whether the client has come back as the one it was: its id, its session data and its rooms are as they were."""

    # What applications override.

    async def connected(self) -> None:
        """
        Run after the socket was accepted, before its first message.

        A client that says with its first message that it comes back is a new one here, and another one in
        :meth:`resumed`; one that says so in its address is ``is_resumed`` here already.

        """

    async def resumed(self) -> None:
        """Run after a client has come back: its id, its session data and its rooms are as they were."""

    async def receive_bytes(self, data: bytes) -> None:
        """Take a binary message. Without an override it is refused."""
        raise ClientError("text_expected", "This route takes JSON text, not binary messages.")

    async def may_join(self, room: str) -> bool:
        """Whether the client may enter ``room`` with ``system.join``. Nobody may, unless this is overridden."""
        return False

    async def may_resume(self, room: str) -> bool:
        """Whether a client that comes back may be in ``room`` again, where it was before."""
        return True

    def presence_entry(self) -> dict[str, Any]:
        """Return what others see of this socket's user in a room with presence, besides an opaque ``id``."""
        return {"user": self.user_label}

    # What applications use.

    @property
    def client_id(self) -> str:
        """
        The id of the client. Made by the server, unique, and not a secret between it and its client.

        A client that comes back has it on its next socket too.

        """
        return self.connection.id

    @property
    def user_label(self) -> str:
        """What to call the user: the user name, and for a visitor ``guest-`` with a few letters of the client id."""
        return self.connection.user_label or f"guest-{self.connection.id[:4]}"

    def room(self, name: str) -> ConsumerRoom:
        """Return a room to publish to; the consumer need not be in it."""
        return ConsumerRoom(self, name)

    async def join(
        self, room: str, *, presence: bool | Literal["count"] = False, recover: bool = False
    ) -> None:
        """
        Enter a room and tell the client so; with ``presence`` the other members see who is here.

        ``presence="count"`` is for large rooms: everybody sees how many are here, and nobody who. It is the same for
        all who enter a room.

        With ``recover`` a client that comes back enters it again and gets what it missed, where the room has
        a history.

        """
        entry = self.presence_entry() if presence else None
        hub, connection = self.node.hub, self.connection
        # Who has the answer is known to all nodes, whatever becomes of this one.
        await self.node.sessions.kept(connection)
        joined = await hub.join(connection, room, presence=entry, counts=presence == "count")
        seen = self._missed.pop(room, None)
        place = joined.place
        self._say_joined(joined, presence=bool(presence))
        self._keep_place(room, RoomPlace(presence, recover, *(seen or place or ())))
        if seen is not None:
            await hub.arrivals.recover(connection, joined, seen)
        elif joined.past is not None:
            # A socket whose first message has not come may be about to say where it was.
            hold = RESUME_GRACE if recover and not connection.messages_in else 0.0
            hub.arrivals.come_in(connection, joined, place, hold=hold)

    def _say_joined(self, room: Room, *, presence: bool) -> None:
        data: dict[str, Any] = {"room": room.name}
        if (place := room.place) is not None:
            data.update(offset=place.offset, epoch=place.epoch)
        if presence:
            data["presence"] = self.node.hub.attendance.told(room)
        self.connection.say("joined", data)

    async def leave(self, room: str) -> None:
        """Leave a room and tell the client so."""
        await self.node.hub.leave(self.connection, room)
        self.connection.say("left", {"room": room})
        self.connection.places.pop(room, None)
        self.node.sessions.changed(self.connection, rooms=True)

    async def send_event(self, type: str, data: Any = None) -> None:
        """Send ``{"type", "data", "ts"}`` to this client; waits while it reads too slowly."""
        await self.send_frame(envelope.event(type, data))

    def set_session(self, key: str, value: Any) -> None:
        """
        Keep ``value`` (anything JSON can hold) for this client, on this socket and those it comes back on.

        There it is what JSON makes of it: a tuple comes back as a list.

        Raise SessionDataError when all that is kept would be larger than ``REALTIME_MAX_SESSION_DATA_BYTES``.

        """
        data = {**self.connection.data, key: value}
        try:
            size = len(msgspec.json.encode(data))
        except (TypeError, UnicodeError, RecursionError) as error:
            raise SessionDataError(f"{key!r} cannot be kept: {error}.") from None
        limit = get_settings().max_session_data_bytes
        if size > limit:
            raise SessionDataError(
                f"With {key!r} the session data would be {size} bytes; REALTIME_MAX_SESSION_DATA_BYTES is {limit}."
            )
        self.connection.keep(data, size)
        self.node.sessions.changed(self.connection)

    def get_session(self, key: str, default: Any = None) -> Any:
        """Return what :meth:`set_session` kept under ``key``."""
        return self.connection.data.get(key, default)

    # What Channels' consumers have.

    @property
    def channel_name(self) -> str:
        """The name of this socket's own channel in the channel layer."""
        name = self._own_channel.name()
        if self._inflow is not None:
            # Messages of the layer may come from now on: whatever comes takes its turn with them.
            self._inflow.pass_on()
        return name

    async def accept(
        self, subprotocol: str | None = None, headers: Iterable[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Accept the socket. The first of ``subprotocols`` that the client offers is chosen unless one is given."""
        chosen = subprotocol or self._chosen_subprotocol()
        message: dict[str, Any] = {"type": "websocket.accept", "subprotocol": chosen}
        if headers:
            message["headers"] = list(headers)
        await self.base_send(message)
        await self._opened(chosen)

    async def send(
        self, text_data: str | None = None, bytes_data: bytes | None = None, close: bool | int = False
    ) -> None:
        """Send one message; waits while the client reads too slowly."""
        payload = text_data if text_data is not None else bytes_data
        if payload is None:
            raise ValueError("You must pass one of bytes_data or text_data")
        connection = self.connection
        connection.offer(Frame(payload))
        if connection.outbox.bytes:
            await connection.cleared()
        if close:
            await self.close(None if close is True else close)

    async def send_json(self, content: Any, close: bool | int = False) -> None:
        """Send ``content`` as JSON."""
        await self.send(text_data=await self.encode_json(content), close=close)

    async def close(self, code: int | CloseReason | None = None, reason: str | None = None) -> None:
        """Close the socket, with a code or a reason of :mod:`realtime.close_codes`; before accept, refuse it."""
        if isinstance(code, CloseReason):
            self.connection.close(code)
            return
        chosen = CloseReason(code or DONE.code, name_of(code or DONE.code), reason or "", retry=False)
        self.connection.close(chosen, notice=False)

    # The life of a socket.

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one socket."""
        self.scope = scope
        self.base_send = send
        self.channel_layer = get_channel_layer(self.channel_layer_alias or DEFAULT_CHANNEL_LAYER)
        self._settings = get_settings()
        self.node = nodes.current()
        self.connection = Connection(
            node=self.node,
            transport=transport_of(scope, send),
            scope=scope,
            settings=self._settings,
            consumer=self._consumer_name,
            limits=self.limits,
            speaks_protocol=self.speaks_protocol,
        )
        self.connection.task = asyncio.current_task()
        self._own_channel = OwnChannel(self.channel_layer, self._from_layer)
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        self._begun: _Running | None = None
        self._inflow: Inflow | None = None
        self._errors_in_row = 0
        self._has_spoken = False
        self._missed: dict[str, Place] = {}
        self._left_behind: dict[str, RoomPlace] = {}
        self._ended = False
        self._failure: BaseException | None = None
        self._close_code: int | None = None
        try:
            await self._serve(receive)
        except StopConsumer:
            pass
        except asyncio.CancelledError:
            if not self._ended:
                raise
            cast("asyncio.Task[Any]", self.connection.task).uncancel()
        finally:
            await self._give_back()
        if self._failure is not None:
            raise self._failure

    async def _serve(self, receive: Receive) -> None:
        refusal = await self._admitted(receive)
        if refusal is not None:
            await refuse(refusal, self.scope, receive, self.base_send)
            return
        if self.uses_channel_layer or (
            self.uses_channel_layer is None and _must_talk_first(self.channel_layer)
        ):
            await self._own_channel.prepare()
        await self._connect()
        await self._serve_accepted(receive)

    async def _serve_accepted(self, receive: Receive) -> None:
        """Serve a socket whose ``connect()`` has been run, until it is closed."""
        if self.connection.accepted and not self.connection.closed:
            await self.connected()
            if self.is_resumed:
                await self._come_back({})
        await self._receive_loop(receive)

    async def _admitted(self, receive: Receive) -> Refusal | None:
        """Wait for the handshake; return why the socket may not come in, if so."""
        message = await receive()
        if message["type"] != "websocket.connect":
            self._close_code = message.get("code")
            raise StopConsumer
        if self.node.draining:
            return SHUTTING_DOWN
        guard = self.connection.guard
        if guard is None:
            return None
        guard.apply(self.limits)
        if self.connection.user_id is not None:
            return await guard.enter_user(self.connection.user_id)
        return None

    async def _connect(self) -> None:
        for group in self.groups:
            await self.channel_layer.group_add(group, self.channel_name)
        try:
            await self.connect()
        except AcceptConnection:
            await self.accept()
        except DenyConnection:
            await self.close()

    async def _receive_loop(self, receive: Receive) -> None:
        inflow = self._inflow = Inflow(self.connection, receive)
        concurrency = self.concurrency or self._settings.handler_concurrency
        if concurrency == 1 and not self._own_channel.listening:
            inflow.attach(self._begin)
        while (payload := await inflow.next()) is not None:
            await self._take_a_turn(payload, concurrency)
        self._close_code = inflow.code

    async def _take_a_turn(self, payload: str | bytes, concurrency: int) -> None:
        """Handle a message where something else may be running: in turn, or beside a bounded number of others."""
        if concurrency == 1:
            async with self._turn:
                await self._begin_and_finish(payload)
            return
        while len(self._running) >= concurrency:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.get_running_loop().create_task(self._begin_and_finish(payload))
        self._running.add(task)
        task.add_done_callback(self._ran)

    async def _begin_and_finish(self, payload: str | bytes) -> None:
        event = self._begin(payload)
        if event is not None:
            await event["work"]()

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end_with(error)

    def _begin(self, payload: str | bytes) -> dict[str, Any] | None:
        """Run the handler of a message until it ends or first waits; then return the event that finishes it."""
        running = _Running()
        try:
            handled = self._handling(running, payload) if self._has_spoken else self._first(running, payload)
            rest = step(handled)
        except Exception as error:  # noqa: BLE001 - the client is told, and what is not its fault is logged
            self._failed(running, error)
            return None
        if rest is None:
            if running.envelope is None:
                self._errors_in_row = 0
            else:
                self._succeeded(running)
            return None
        running.rest = rest
        self._begun = running
        return later(partial(self._finish, running))

    async def _finish(self, running: _Running) -> None:
        """Finish a handler that had to wait, within its timeout."""
        self._begun = None
        self.node.database_used = True
        timeout = self._timeout_of(running.handler)
        rest = cast("Rest", running.rest)
        started = time.perf_counter()
        try:
            if timeout:
                async with asyncio.timeout(timeout):
                    await rest
            else:
                await rest
        except Exception as error:  # noqa: BLE001 - the client is told, and what is not its fault is logged
            if isinstance(error, TimeoutError) and timeout and time.perf_counter() - started >= timeout:
                error = ClientError(
                    "handler_timeout", f"The server took longer than {timeout:g} seconds. Try again later."
                )
            self._failed(running, error)
        else:
            self._succeeded(running)
        if running.handler is not None:
            running.handler.seconds += time.perf_counter() - started

    def _first(self, running: _Running, payload: str | bytes) -> Awaitable[Any]:
        """Begin with the first message: unless it says that the client comes back, this is a new one."""
        self._has_spoken = running.is_first = True
        try:
            return self._handling(running, payload)
        finally:
            if running.envelope is None or running.envelope.type != RESUME:
                self.node.hub.arrivals.release(self.connection)

    def _handling(self, running: _Running, payload: str | bytes) -> Awaitable[Any]:
        """Return the awaitable that handles a message: the application's, or the protocol's own."""
        if self._overrides_receive:
            # As Channels documents it.
            received: Awaitable[Any] = (
                self.receive(text_data=payload)
                if isinstance(payload, str)
                else self.receive(bytes_data=payload)
            )
            return received
        if isinstance(payload, bytes):
            return self.receive_bytes(payload)
        if self._overrides_receive_json:
            return self._decode_and_receive(payload)
        parsed = running.envelope = envelope.parse(payload)
        handler = self.handlers.get(parsed.type)
        if handler is not None:
            running.handler = handler
            handler.calls += 1
            started = handler.start(self, parsed)
            return started if parsed.id is None else self._once(running, parsed.id, started)
        if parsed.type == RESUME:
            return self._resume(parsed, is_first=running.is_first)
        return self._system(parsed)

    async def _once(self, running: _Running, id: str, started: Awaitable[Any]) -> None:
        """Run a handler so that what it publishes is published once, however often the client sends the message."""
        running.once = Once(self.client_id, id)
        token = handling.set(running.once)
        try:
            await started
        finally:
            handling.reset(token)

    async def _decode_and_receive(self, text: str) -> None:
        try:
            content = await self.decode_json(text)
        except (ValueError, RecursionError) as error:
            raise ClientError("malformed", f"This is not JSON: {error}.") from None
        await self.receive_json(content)

    async def _system(self, message: Envelope) -> None:
        """Do what the protocol itself asks for."""
        if message.type == f"{SYSTEM}pong":
            self.connection.answered()
        elif message.type == f"{SYSTEM}ping":
            self.connection.say("pong", {"ts": _data(message, _Ping).ts})
        elif message.type == f"{SYSTEM}join":
            room = _data(message, _Room).room
            if not await self.may_join(room):
                raise ClientError("forbidden", "You may not join this room.")
            await self.join(room, recover=True)
        elif message.type == f"{SYSTEM}leave":
            await self.leave(_data(message, _Room).room)
        else:
            known = ", ".join(sorted(self.handlers)) or "none"
            raise ClientError(
                "unknown_type", f"Nothing handles {message.type[:64]!r} here. Known types: {known}."
            )

    def _succeeded(self, running: _Running) -> None:
        self._errors_in_row = 0
        if running.envelope is not None and running.envelope.id is not None:
            told: dict[str, Any] = {"id": running.envelope.id}
            if running.once is not None and running.once.offset is not None:
                told["offset"] = running.once.offset
            self.connection.say("ack", told)

    def _failed(self, running: _Running, error: Exception) -> None:
        """Tell the client what went wrong; close when there is too much of it."""
        if isinstance(error, StopConsumer):
            raise error
        if isinstance(error, StateUnavailable):
            # Nothing the client did, and said elsewhere: it may try as often as it likes.
            self._tell(running, UNAVAILABLE, self._errors_left())
            return
        if not isinstance(error, ClientError):
            error = self._hide(running, error)
        self.connection.errors += 1
        if running.handler is not None:
            running.handler.errors += 1
        self._errors_in_row += 1
        left = self._errors_left()
        self._tell(running, error, left)
        if left == 0:
            self.connection.close(BAD_MESSAGES)

    def _errors_left(self) -> int | None:
        budget = get_settings().max_client_errors
        return max(budget - self._errors_in_row, 0) if budget else None

    def _tell(self, running: _Running, error: ClientError, left: int | None) -> None:
        if self.speaks_protocol if self.tells_errors is None else self.tells_errors:
            id = running.envelope.id if running.envelope is not None else None
            self.connection.offer(envelope.error(error, errors_left=left, id=id))

    def _hide(self, running: _Running, error: Exception) -> ClientError:
        """Log what failed on this side, and return what the client may know of it."""
        self.node.counters.handler_errors += 1
        self.node.database_used = True
        kind = running.handler.type if running.handler is not None else None
        logger.error(
            "handler failed",
            consumer=self.connection.consumer,
            type=kind,
            client=self.client_id,
            exc_info=error,
        )
        return ClientError("handler_failed", "The server could not do this. Try again later.")

    def _timeout_of(self, handler: Handler | None) -> float:
        for own in (handler.timeout if handler is not None else None, self.limits.handler_timeout):
            if own is not None:
                return own
        return get_settings().handler_timeout

    # Opening and closing.

    async def _opened(self, subprotocol: str | None) -> None:
        connection = self.connection
        connection.accepted = True
        connection.subprotocol = subprotocol or ""
        if connection.guard is not None:
            connection.guard.closer = self._close_for_guard
            if self.limits.max_message_bytes is not None:
                connection.transport.limit_messages(self.limits.max_message_bytes)
            connection.guard.label = connection.user_label or connection.id
        if connection.speaks_protocol:
            await self.node.sessions.ready()
        problem = await self._resume_by_address()
        self.node.counters.connections += 1
        self.node.registry.add(connection)
        self.node.heartbeat.track(connection)
        if (settings := get_settings()) is not self._settings:
            # Changed since the handshake began, when nobody could find this socket.
            adopt(connection, settings)
        self._welcome(problem)
        logger.info(
            "socket opened",
            client=connection.id,
            path=self.scope.get("path", ""),
            address=connection.address,
            user=connection.user_label or None,
        )
        await signals.tell(signals.client_connected, type(self), connection=connection)

    def _welcome(self, problem: ClientError | None = None) -> None:
        """Tell the client who it is here; with ``problem``, why it is not who it said it was."""
        connection, sessions = self.connection, self.node.sessions
        if not connection.speaks_protocol:
            return
        sessions.opened(connection)
        told = {
            "client_id": connection.id,
            "session": sessions.token(connection),
            "user": self.user_label,
            "resumed": self.is_resumed,
            "heartbeat": get_settings().heartbeat_interval,
            "limits": self._limits_told(),
            "node": self.node.name,
            "version": envelope.VERSION,
        }
        if problem is not None:
            told["problem"] = problem.code
        connection.say("welcome", told)

    def _close_for_guard(self, reason: CloseReason) -> None:
        guard = self.connection.guard
        retry_after = guard.retry_after if guard is not None and reason is RATE_LIMITED else None
        self.connection.close(reason, retry_after=retry_after)

    def _limits_told(self) -> dict[str, Any]:
        guard = self.connection.guard
        if guard is None:
            return {}
        limits = guard.limits
        return {
            "max_message_bytes": limits.max_message_bytes,
            "messages_per_window": limits.messages_per_window,
            "message_window": limits.message_window,
        }

    async def _give_back(self) -> None:
        """Undo everything that the socket holds, whatever has gone wrong before."""
        connection = self.connection
        await self._own_channel.close()
        if self._begun is not None:
            # It began as its message came, and its task was cancelled before it could go on.
            cast("Rest", self._begun.rest).close()
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
        # One that this side has closed, and the peer has said yes to.
        self._was_answered = connection.closed and self._close_code not in (None, 1006)
        connection.gone()
        self.node.heartbeat.forget(connection)
        try:
            if connection.accepted:
                async with self.node.cleanup:
                    await self._say_goodbye()
            if connection.accepted and connection.speaks_protocol:
                await self.node.sessions.closed(connection, answered=self._was_answered)
        finally:
            await self.node.hub.leave_all(connection)
            self.node.registry.remove(connection)
            if connection.accepted:
                await self._closed()

    async def _say_goodbye(self) -> None:
        """Run the application's ``disconnect()`` and leave Channels' groups; neither can keep the other from running."""
        code = self._close_code if self._close_code is not None else 1006
        try:
            rest = step(self.disconnect(code))
            if rest is not None:
                async with asyncio.timeout(get_settings().handler_timeout or None):
                    await rest
        except StopConsumer:
            pass
        except Exception:
            logger.exception("disconnect() failed", consumer=self.connection.consumer, client=self.client_id)
        for group in self.groups:
            try:
                await self.channel_layer.group_discard(group, self.channel_name)
            except Exception as error:  # noqa: BLE001 - any layer may raise anything
                logger.warning("group was not left", group=group, error=str(error))

    async def _closed(self) -> None:
        connection = self.connection
        self.node.counters.disconnected(name_of(self._close_code))
        self.node.database_used = True
        logger.info(
            "socket closed",
            client=connection.id,
            code=self._close_code,
            seconds=round(time.monotonic() - connection.opened, 3),
            messages_in=connection.messages_in,
            messages_out=connection.messages_out,
        )
        await signals.tell(
            signals.client_disconnected, type(self), connection=connection, code=self._close_code
        )

    # Coming back.

    async def _resume_by_address(self) -> ClientError | None:
        """Resume the session that the address names; return why that cannot be."""
        if not self.speaks_protocol or b"session=" not in self.scope.get("query_string", b""):
            return None
        query = urllib.parse.parse_qs(self.scope["query_string"].decode("latin-1"))
        token = query.get("session", [""])[0]
        try:
            await self._become(token)
        except ClientError as problem:
            return problem
        return None

    async def _resume(self, message: Envelope, *, is_first: bool) -> None:
        """Do what ``system.resume`` asks for: be who the client was, where it was."""
        try:
            asked = _data(message, _Resume)
            if not is_first:
                raise ClientError("too_late", "A session is resumed with the first message of a connection.")
            if not self.is_resumed:
                await self._become(asked.session)
                self._welcome()
            await self._come_back(
                {name: Place(seen.epoch, seen.offset) for name, seen in asked.rooms.items()}
            )
        finally:
            self.node.hub.arrivals.release(self.connection)

    async def _become(self, token: str) -> None:
        """Be the client that was given ``token``. Raise ClientError where that cannot be."""
        connection, node = self.connection, self.node
        resumed = await node.sessions.resume(connection, token)
        await node.sessions.take_over(connection, resumed)
        if connection.guard is not None:
            connection.guard.label = connection.user_label or connection.id
        if resumed.kept is not None:
            self.is_resumed = True
            self._left_behind = dict(resumed.kept.rooms)
            self._missed = {
                name: Place(at.epoch, at.offset) for name, at in self._left_behind.items() if at.epoch
            }
        # One that is not told is closed when it is to be saved.
        with contextlib.suppress(PublishError):
            await publish.replace_client(connection.id, turn=connection.turn, instance=connection.instance)

    async def _come_back(self, asked: dict[str, Place]) -> None:
        """Be in the rooms again, from where the client says it was, or is known to have been."""
        left_behind, self._left_behind = self._left_behind, {}
        self._missed.update(asked)
        named = list(dict.fromkeys((*left_behind, *asked)))
        most = get_settings().max_rooms
        names, too_many = named[:most], named[most:]
        done = await asyncio.gather(
            *(self._enter_again(name, left_behind.get(name)) for name in names), return_exceptions=True
        )
        for name in too_many:
            self.connection.say("left", {"room": name})
        for name, problem in zip(names, done, strict=True):
            if isinstance(problem, Exception):
                self.connection.say("left", {"room": name})
                if not isinstance(problem, ClientError):
                    logger.error("room not entered again", client=self.client_id, room=name, exc_info=problem)
        self._missed.clear()
        self.node.sessions.returned(self.connection)
        await self.resumed()

    async def _enter_again(self, name: str, before: RoomPlace | None) -> None:
        """Enter one room, unless ``connected()`` has done that; then give the client what it missed."""
        connection, hub = self.connection, self.node.hub
        if name not in connection.rooms:
            if not await (self.may_join(name) if before is None else self.may_resume(name)):
                raise ClientError("forbidden", "You may not join this room.")
            presence, recover = (before.presence, before.recover) if before else (False, True)
            await self.join(name, presence=presence, recover=recover)
            return
        here = connection.places.get(name)
        if here is not None and here.presence:
            # Seen by another name now, and told afresh who is here: before, it was one of them.
            counts = here.presence == "count"
            room = await hub.join(connection, name, presence=self.presence_entry(), counts=counts)
            self._say_joined(room, presence=True)
        if (seen := self._missed.pop(name, None)) is not None:
            if here is not None:
                self._keep_place(name, RoomPlace(here.presence, here.recover, *seen))
            await hub.arrivals.recover(connection, hub.rooms[name], seen)

    def _keep_place(self, room: str, place: RoomPlace) -> None:
        self.connection.places[room] = place
        self.node.sessions.changed(self.connection, rooms=True)

    # The channel layer.

    async def _from_layer(self, message: dict[str, Any]) -> None:
        """Handle a message of the channel layer as Channels does: by the method named after its type."""
        try:
            async with self._turn:
                handler = getattr(self, get_handler_name(message), None)
                if handler is None:
                    raise ValueError(f"No handler for message type {message['type']}")
                await handler(message)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised again where the socket is served
            self._end_with(error)

    def _end_with(self, error: BaseException) -> None:
        """End the consumer with ``error``, from a task beside it."""
        if self.connection.task is not None and not self.connection.task.done():
            self._ended = True
            self._failure = None if isinstance(error, StopConsumer) else error
            self.connection.task.cancel()

    async def send_frame(self, frame: Frame) -> None:
        """Send one frame to this client; waits while it reads too slowly."""
        connection = self.connection
        connection.offer(frame)
        if connection.outbox.bytes:
            await connection.cleared()

    def _chosen_subprotocol(self) -> str | None:
        offered = self.scope.get("subprotocols") or ()
        return next((own for own in self.subprotocols if own in offered), None)


class _Running:
    """A message on its way through its handler. Most need none of this: it is on the class until it is set."""

    envelope: Envelope | None = None
    handler: Handler | None = None
    once: Once | None = None
    is_first = False
    rest: Rest | None = None


class _Ping(msgspec.Struct):
    ts: float | None = None


class _Room(msgspec.Struct):
    room: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]


class _Seen(msgspec.Struct):
    offset: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    epoch: Annotated[str, msgspec.Meta(max_length=128)]


class _Resume(msgspec.Struct):
    session: Annotated[str, msgspec.Meta(max_length=MAX_TOKEN)]
    rooms: dict[Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)], _Seen] = {}


def _data(message: Envelope, shape: Any) -> Any:
    try:
        return msgspec.json.decode(message.data, type=shape)
    except msgspec.ValidationError as error:
        raise ClientError("bad_payload", f"The data of {message.type!r} does not fit: {error}.") from None


def _must_talk_first(layer: Any) -> bool:
    """Whether naming a channel makes this layer talk to somebody: Redis pub/sub subscribes."""
    return layer is not None and "pubsub" in type(layer).__module__
