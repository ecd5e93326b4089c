"""A socket with its guard: what passes between the server and the application."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ratelimit.asgi import Message, Receive, Scope, Send
from ratelimit.clients import client_of
from ratelimit.close_codes import CloseReason
from ratelimit.closing import send_close
from ratelimit.conf import RateLimitSettings
from ratelimit.guards import Guard, Verdict, open_guards

Clock = Callable[[], float]


class Guarded(NamedTuple):
    """What an application is called with, and the guard that is in its scope."""

    guard: Guard
    scope: Scope
    receive: Receive
    send: Send


@contextlib.contextmanager
def guarded(
    scope: Scope, receive: Receive, send: Send, settings: RateLimitSettings, clock: Clock = time.monotonic
) -> Iterator[Guarded]:
    """
    Give a WebSocket its guard, for as long as the context lasts; or find the one that it has.

    However many middlewares ask, there is one guard and one wrapper around ``receive`` per socket.

    """
    guard: Guard | None = scope.get("ratelimit")
    if guard is not None:
        yield Guarded(guard, scope, receive, send)
        return
    socket = GuardedSocket(receive, send, clock)
    guard = Guard(client_of(scope, settings.trusted_proxies, settings.ipv6_prefix), socket.close)
    socket.guard = guard
    # Before anything is judged: a ban made from now on finds this socket among the open ones.
    open_guards.add(guard)
    try:
        yield Guarded(guard, {**scope, "ratelimit": guard}, socket.receive, socket.send)
    finally:
        open_guards.discard(guard)
        guard.release()


def take_over(scope: Scope, receive: Receive) -> GuardedSocket | None:
    """
    Return the socket behind ``receive`` if that is the wrapper around it, for an application that does the wrapper's work.

    It then calls ``server_receive`` and, for each ``websocket.receive``, asks ``guard.judge`` and has
    ``carry_out`` act on any verdict: what the wrapper does, without a coroutine more per message.

    """
    socket = getattr(receive, "__self__", None)
    return socket if isinstance(socket, GuardedSocket) and socket.guard is scope.get("ratelimit") else None


class GuardedSocket:
    """
    Stands between a server's ``receive`` and ``send`` and the application's.

    It moves messages and does what its guard says; it decides nothing. Once the socket is closed from
    here, nothing passes in either direction but the disconnect.

    """

    __slots__ = ("_clock", "_closed", "_closing", "_send", "guard", "server_receive")

    guard: Guard

    def __init__(self, receive: Receive, send: Send, clock: Clock) -> None:
        self.server_receive = receive
        """The server's own ``receive``."""
        self._send = send
        self._clock = clock
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """Return the next message that the application may see."""
        while True:
            message = await self.server_receive()
            if message["type"] != "websocket.receive":
                return message
            verdict = self.guard.judge(message, self._clock())
            if verdict is None:
                return message
            await self.carry_out(verdict)

    async def send(self, message: Message) -> None:
        """Pass on what the application sends, unless the socket was closed."""
        if self._closed:
            # The application cannot know yet, and servers raise for a message after the close.
            return
        if message["type"] == "websocket.close":
            self._closed = True
        await self._send(message)

    def close(self, reason: CloseReason) -> None:
        """Close the socket, in a task."""
        if not self._closed:
            self._closed = True
            self._closing = asyncio.get_running_loop().create_task(send_close(self._send, reason))

    async def carry_out(self, verdict: Verdict) -> None:
        """Do what the guard said about a message that the application must not see."""
        if verdict.notice is not None and not self._closed:
            # ASGI 2.4: the peer is gone. The next message will be the disconnect.
            with contextlib.suppress(OSError):
                await self._send({"type": "websocket.send", "text": verdict.notice})
        if verdict.close is not None:
            self.guard.close(verdict.close)
