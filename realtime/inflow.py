"""What comes in on a socket: judged, counted, and handed on at once where the transport can, in turn where it cannot."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ratelimit.sizes import payload_size
from ratelimit.sockets import take_over
from realtime.transports import Receive

if TYPE_CHECKING:
    from ratelimit.guards import Verdict
    from ratelimit.sockets import GuardedSocket
    from realtime.connections import Connection

Payload = str | bytes

LATER, PASSED = "realtime.later", "realtime.passed"
"""Events of our own among those of ``receive``: something to await first, and a message that has been judged."""


def later(work: Callable[[], Awaitable[object]]) -> dict[str, Any]:
    """Return the event that has the task of the socket await ``work()`` before the next message."""
    return {"type": LATER, "work": work}


def passed(payload: Payload) -> dict[str, Any]:
    """Return the event that has the task of the socket handle ``payload``."""
    return {"type": PASSED, "payload": payload}


Handle = Callable[[Payload], "dict[str, Any] | None"]
"""Handles a message in place. Returns ``None`` when it is done with it, else :func:`later` or :func:`passed`."""


class Inflow:
    """
    The messages of one accepted socket, in order.

    :meth:`next` is for the task that serves the socket. What is attached with :meth:`attach` handles messages
    in place: those that come while the task waits for one without waking it, where the transport can do that.

    """

    __slots__ = ("_connection", "_guarded", "_handle", "_receive", "_weigh", "code", "ended")

    def __init__(self, connection: Connection, receive: Receive) -> None:
        guarded = take_over(connection.scope, receive)
        self._connection = connection
        self._guarded: GuardedSocket | None = guarded
        self._weigh: Callable[[Payload, int, float], Verdict | None] | None = None
        self._receive = receive
        if guarded is not None:
            self._receive, self._weigh = guarded.server_receive, guarded.guard.weigh
        self._handle: Handle = passed
        self.ended = False
        self.code: int | None = None
        """The code the socket closed with, once it has ended."""

    def attach(self, handle: Handle, *, as_task: bool = True) -> None:
        """
        Have ``handle`` called with messages as they come, or by :meth:`next` where the transport cannot do that.

        With ``as_task`` it runs as a part of the task that serves the socket. It is for code of
        applications, which looks at its task and its context.

        """
        self._handle = handle
        self._connection.transport.attach(self._receive, self._take, as_task=as_task)

    def pass_on(self) -> None:
        """Have :meth:`next` return messages again."""
        self._handle = passed

    async def next(self) -> Payload | None:
        """Return the next message that is to be handled; ``None``, as often as it is asked, when the socket has ended."""
        while not self.ended:
            event = await self._receive()
            if event["type"] == "websocket.receive":
                if (handled := self._received(event)) is None:
                    continue
                event = handled
            if event["type"] == LATER:
                await event["work"]()
            elif event["type"] == PASSED:
                payload: Payload = event["payload"]
                return payload
            else:
                self.ended = True
                self.code = event.get("code")
                # What handled messages knows the connection, as this does: reference counts would never free them.
                self.pass_on()
        return None

    def _received(self, message: dict[str, Any]) -> dict[str, Any] | None:
        if self._connection.closed:
            return None
        text: str | None = message.get("text")
        payload: Payload = message["bytes"] if text is None else text
        return self._take(payload, payload_size(payload))

    def _take(self, payload: Payload, size: int) -> dict[str, Any] | None:
        now = time.monotonic()
        if self._weigh is not None and (verdict := self._weigh(payload, size, now)) is not None:
            return later(partial(self._carry_out, verdict))
        connection = self._connection
        connection.last_heard = connection.last_message = now
        connection.messages_in += 1
        connection.bytes_in += size
        counters = connection.node.counters
        counters.messages_in += 1
        counters.bytes_in += size
        try:
            return self._handle(payload)
        except BaseException as error:  # noqa: BLE001 - it belongs to the task that serves the socket
            return later(partial(_raise, error))

    async def _carry_out(self, verdict: Verdict) -> None:
        if self._guarded is not None:
            await self._guarded.carry_out(verdict)


async def _raise(error: BaseException) -> None:
    raise error
