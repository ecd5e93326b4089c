"""Function style: one async function serves one socket, reading it as an async iterator."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from realtime.close_codes import CloseReason
from realtime.connections import Connection
from realtime.consumers import ConsumerRoom, RealtimeConsumer, Receive
from realtime.errors import SocketClosed
from realtime.frames import Frame
from realtime.limits import Limits

Serve = Callable[["WebSocket"], Awaitable[None]]


class WebSocket:
    """
    One accepted socket, as a function sees it.

    ``async for message in ws`` yields ``str`` for text and ``bytes`` for binary messages until the
    socket closes; no envelope is read or written. When the function returns, the socket is closed.

    """

    def __init__(self, consumer: _FunctionConsumer, receive: Receive) -> None:
        self._consumer = consumer
        self._receive = receive

    @property
    def scope(self) -> dict[str, Any]:
        """The ASGI scope."""
        return self._consumer.scope

    @property
    def id(self) -> str:
        """The id of this socket."""
        return self._consumer.client_id

    @property
    def connection(self) -> Connection:
        """The socket's entry in the registry."""
        return self._consumer.connection

    @property
    def kwargs(self) -> dict[str, Any]:
        """What the URL pattern captured."""
        return dict((self.scope.get("url_route") or {}).get("kwargs", {}))

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def receive(self) -> str | bytes | None:
        """Return the next message; ``None`` when the socket is closed."""
        return await self._consumer.next_message(self._receive)

    async def send(self, message: str | bytes) -> None:
        """Send one message; waits while the client reads too slowly. Raise SocketClosed if it is gone."""
        if self.connection.closed or self.connection.transport.closed:
            raise SocketClosed("the socket is closed")
        await self._consumer.send_frame(Frame(message))

    async def close(self, reason: int | CloseReason | None = None) -> None:
        """Close the socket, with a reason of the table or a code."""
        await self._consumer.close(reason)

    async def join(self, room: str) -> None:
        """Enter a room: what is published there is sent to this socket as the JSON of its envelope."""
        await self._consumer.join(room)

    async def leave(self, room: str) -> None:
        """Leave a room."""
        await self._consumer.leave(room)

    def room(self, name: str) -> ConsumerRoom:
        """Return a room to publish to."""
        return self._consumer.room(name)


class _FunctionConsumer(RealtimeConsumer):
    """The consumer behind a function."""

    speaks_protocol = False
    serve: Serve

    async def _serve_accepted(self, receive: Receive) -> None:
        if not self.connection.accepted:
            return
        # A function that only sends ends with SocketClosed.
        with contextlib.suppress(SocketClosed):
            await type(self).serve(WebSocket(self, receive))
        if not self.connection.closed:
            await self.close()
        # The peer's answer, so that what it still sends is not mistaken for a new conversation.
        while await self.next_message(receive) is not None:
            pass

    async def next_message(self, receive: Receive) -> str | bytes | None:
        """Return the next message; ``None``, again and again, when there is none any more."""
        if self._disconnected:
            return None
        message = await receive()
        if message["type"] == "websocket.receive":
            return self._took(message, time.monotonic())
        self._disconnected = True
        self._close_code = message.get("code")
        return None


def websocket(
    *, limits: Limits | None = None, subprotocols: Iterable[str] = ()
) -> Callable[[Serve], Callable[..., Any]]:
    """
    Make an ASGI application of ``async def serve(ws: WebSocket)``.

    The result goes into a ``URLRouter`` as it is. ``limits`` are those of this route.

    """

    def make(serve: Serve) -> Callable[..., Any]:
        attributes = {
            "__module__": serve.__module__,
            "__doc__": serve.__doc__,
            "limits": limits or Limits(),
            "subprotocols": tuple(subprotocols),
            "serve": staticmethod(serve),
        }
        consumer: Any = type(serve.__name__, (_FunctionConsumer,), attributes)
        application: Callable[..., Any] = consumer.as_asgi()
        return functools.update_wrapper(application, serve)

    return make
