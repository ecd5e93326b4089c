"""Function style: one async function serves one socket, reading it as an async iterator."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from functools import partial
from typing import Any

from realtime.close_codes import CloseReason
from realtime.connections import Connection
from realtime.consumers import ConsumerRoom, RealtimeConsumer
from realtime.errors import SocketClosed
from realtime.frames import Frame
from realtime.inflow import Inflow, Payload, later, passed
from realtime.limits import Limits
from realtime.stepping import Rest
from realtime.transports import Receive

Serve = Callable[["WebSocket"], Awaitable[None]]


class WebSocket:
    """
    One accepted socket, as a function sees it.

    ``async for message in ws`` yields ``str`` for text and ``bytes`` for binary messages until the
    socket closes; no envelope is read or written. When the function returns, the socket is closed.

    """

    def __init__(self, consumer: _FunctionConsumer) -> None:
        self._consumer = consumer

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
        if asyncio.current_task() is self.connection.task:
            return await _Next()
        # A task of the function's own, be it wait_for()'s. What the function has begun is for the socket's to finish.
        while self._consumer.has_begun:  # noqa: ASYNC110 - that task runs in the next turn
            await asyncio.sleep(0)
        return await self._consumer.inflow.next()

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


class _Next:
    """What a function awaits for its next message: it stops at the marker, and is sent the message there."""

    __slots__ = ()

    def __await__(self) -> Generator[object, Payload | None, Payload | None]:
        return (yield _NEXT)


_NEXT = object()


class _Returned(Exception):
    """The function has returned, where nobody but the task of the socket can be told."""


class _FunctionConsumer(RealtimeConsumer):
    """
    The consumer behind a function.

    It runs the function's coroutine up to where that wants a message, and waits for one in its place. A
    transport that hands over messages as they come can so let the coroutine go on at once, without a
    task waking up.

    """

    speaks_protocol = False
    serve: Serve
    inflow: Inflow
    has_begun = False
    """Whether the function went on as a message came, and now has to wait: the task of the socket does that for it."""

    async def _serve_accepted(self, receive: Receive) -> None:
        if not self.connection.accepted:
            return
        self.inflow = Inflow(self.connection, receive)
        # A function that only sends ends with SocketClosed.
        with contextlib.suppress(SocketClosed):
            await self._run_function()
        if not self.connection.closed:
            await self.close()
        # The peer's answer, so that what it still sends is not mistaken for a new conversation.
        while await self.inflow.next() is not None:
            pass
        self._close_code = self.inflow.code

    async def _run_function(self) -> None:
        self._iterator: Any = type(self).serve(WebSocket(self)).__await__()
        self._wants_message = self.has_begun = False
        self.inflow.attach(self._go_on_at_once)
        try:
            await self._until_it_wants(next, self._iterator)
            while True:
                await self._give_it_the_next()
        except _Returned:
            pass
        finally:
            self._wants_message = self.has_begun = False

    async def _give_it_the_next(self) -> None:
        try:
            payload = await self.inflow.next()
        except BaseException as error:
            if not (self._wants_message or self.has_begun):
                # Raised by the function itself, while it went on as messages came.
                raise
            await self._until_it_wants(self._iterator.throw, error)
        else:
            await self._until_it_wants(self._iterator.send, payload)

    async def _until_it_wants(self, go_on: Callable[[Any], Any], value: Any) -> None:
        """Let the function go on until it wants a message. Raise _Returned when it returns."""
        self._wants_message = self.has_begun = False
        try:
            waited_for = go_on(value)
        except StopIteration:
            raise _Returned from None
        if await Rest(self._iterator, waited_for, _NEXT) is not _NEXT:
            raise _Returned
        self._wants_message = True

    def _go_on_at_once(self, payload: Payload) -> dict[str, Any] | None:
        """Give the function a message as it comes."""
        if not self._wants_message or asyncio.current_task() is not self.connection.task:
            return passed(payload)
        self._wants_message = False
        try:
            waited_for = self._iterator.send(payload)
        except StopIteration:
            raise _Returned from None
        if waited_for is _NEXT:
            self._wants_message = True
            return None
        self.has_begun = True
        return later(partial(self._until_it_wants, _as_it_is, waited_for))


def _as_it_is(waited_for: Any) -> Any:
    return waited_for


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
