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


class GuardedSocket:
    """
    Stands between a server's ``receive`` and ``send`` and the application's.

    It moves messages and does what its guard says; it decides nothing. Once the socket is closed from
    here, nothing passes in either direction but the disconnect.

    """

    __slots__ = ("_clock", "_closed", "_closing", "_receive", "_send", "guard")

    guard: Guard

    def __init__(self, receive: Receive, send: Send, clock: Clock) -> None:
        self._receive = receive
        self._send = send
        self._clock = clock
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """Return the next message that the application may see."""
        while True:
            message = await self._receive()
            if message["type"] != "websocket.receive":
                return message
            verdict = self.guard.judge(message, self._clock())
            if verdict is None:
                return message
            await self._carry_out(verdict)

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

    async def _carry_out(self, verdict: Verdict) -> None:
        if verdict.notice is not None and not self._closed:
            # ASGI 2.4: the peer is gone. The next message will be the disconnect.
            with contextlib.suppress(OSError):
                await self._send({"type": "websocket.send", "text": verdict.notice})
        if verdict.close is not None:
            self.guard.close(verdict.close)
