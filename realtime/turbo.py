"""Turbo routes: what is done with each message is so simple that no code of an application is needed for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar

import msgspec

from realtime import envelope
from realtime.consumers import RealtimeConsumer
from realtime.errors import ClientError
from realtime.frames import Frame
from realtime.inflow import Inflow, Payload, later
from realtime.limits import Limits
from realtime.publish import publish, relay
from realtime.transports import Receive, Send


class Turbo:
    """
    An ASGI application for a ``URLRouter``, made of a consumer that needs nothing but attributes.

    Its sockets are refused, limited, counted, listed, drained and closed like those of any consumer.
    Where the server hands over messages as they come, each is done with before the next is looked at.

    """

    def __init__(
        self,
        consumer: type[RealtimeConsumer],
        *,
        limits: Limits | None,
        subprotocols: Iterable[str],
        **attributes: Any,
    ) -> None:
        attributes |= {"limits": limits or Limits(), "subprotocols": tuple(subprotocols)}
        made = type(type(self).__name__, (consumer,), {"__module__": type(self).__module__, **attributes})
        self._application: Callable[..., Awaitable[None]] = made.as_asgi()  # type: ignore[attr-defined]

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one socket."""
        await self._application(scope, receive, send)


class TurboEcho(Turbo):
    """Sends every message back, with ``prefix`` in front of it."""

    def __init__(
        self, *, prefix: str = "", limits: Limits | None = None, subprotocols: Iterable[str] = ()
    ) -> None:
        super().__init__(
            _Echo, limits=limits, subprotocols=subprotocols, prefix=prefix, binary_prefix=prefix.encode()
        )


class TurboBroadcast(Turbo):
    """
    Sends every message, as it is, to everybody in ``room``, and lets whoever connects into it.

    ``room`` may hold what the URL captured: ``"lobby.{name}"``. The sender is sent its own messages
    unless ``exclude_self``. What others publish to the room arrives too, as the JSON of its envelope.

    """

    def __init__(
        self,
        room: str,
        *,
        exclude_self: bool = False,
        limits: Limits | None = None,
        subprotocols: Iterable[str] = (),
    ) -> None:
        super().__init__(
            _Broadcast, limits=limits, subprotocols=subprotocols, room_name=room, exclude_self=exclude_self
        )


class TurboRelay(Turbo):
    """
    Publishes every message to ``room`` as an event of ``type``: a feed that others listen to.

    A message is JSON text and becomes the event's ``data``. The sender is not in the room. ``room`` may
    hold what the URL captured: ``"sensors.{site}"``. A message that is not JSON is answered with
    ``system.error``; ``REALTIME_MAX_CLIENT_ERRORS`` of them in a row close the socket.

    """

    def __init__(
        self, room: str, *, type: str, limits: Limits | None = None, subprotocols: Iterable[str] = ()
    ) -> None:
        super().__init__(_Relay, limits=limits, subprotocols=subprotocols, room_name=room, event_type=type)


class _Echo(RealtimeConsumer):
    speaks_protocol = False
    prefix: ClassVar[str]
    binary_prefix: ClassVar[bytes]

    async def _receive_loop(self, receive: Receive) -> None:
        inflow = Inflow(self.connection, receive)
        # No code of an application runs, so nobody asks for its task or its context.
        inflow.attach(self._echo, as_task=False)
        await inflow.next()
        self._close_code = inflow.code

    def _echo(self, payload: Payload) -> dict[str, Any] | None:
        connection = self.connection
        echoed = self.prefix + payload if isinstance(payload, str) else self.binary_prefix + payload
        connection.offer(Frame(echoed))
        # A client that does not read what it is sent is not read either.
        return later(connection.cleared) if connection.outbox.bytes else None


class _Publishing(RealtimeConsumer):
    speaks_protocol = False
    # Nothing is gained by publishing out of order.
    concurrency = 1
    room_name: ClassVar[str]

    @property
    def _room(self) -> str:
        return self.room_name.format(**(self.scope.get("url_route") or {}).get("kwargs", {}))


class _Broadcast(_Publishing):
    exclude_self: ClassVar[bool]

    async def connected(self) -> None:
        await self.join(self._room)

    def _handling(self, running: Any, payload: Payload) -> Awaitable[Any]:
        return relay(self._room, payload, exclude=(self.client_id,) if self.exclude_self else ())


class _Relay(_Publishing):
    event_type: ClassVar[str]
    tells_errors = True

    def _handling(self, running: Any, payload: Payload) -> Awaitable[Any]:
        if not isinstance(payload, str):
            raise ClientError("text_expected", "This route takes JSON text, not binary messages.")
        envelope.check_depth(payload)
        try:
            data = _as_json(payload)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise ClientError("malformed", f"This is not JSON: {error}.") from None
        return publish(self._room, self.event_type, data)


_as_json = msgspec.json.Decoder(msgspec.Raw).decode
