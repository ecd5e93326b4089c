"""The limits as ASGI middleware, for any application that speaks WebSocket."""

from __future__ import annotations

import time
from typing import Any

from ratelimit import bans
from ratelimit.appsettings import check_all
from ratelimit.asgi import Application, Receive, Scope, Send
from ratelimit.conf import RateLimitSettings, get_settings
from ratelimit.refusals import Refusal, refuse
from ratelimit.routes import user_key
from ratelimit.sockets import Clock, Guarded, guarded


class ConnectionLimitMiddleware:
    """Turns away who is banned, who connects too often, and whoever there is no room for."""

    def __init__(self, app: Application, *, clock: Clock = time.monotonic) -> None:
        self.app = app
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        settings = get_settings()
        with guarded(scope, receive, send, settings, self.clock) as socket:
            refusal = await _admit(socket, settings, self.clock)
            if refusal is not None:
                await refuse(refusal, socket.scope, socket.receive, socket.send)
            else:
                await self.app(socket.scope, socket.receive, socket.send)


class MessageLimitMiddleware:
    """Refuses messages over the budget, first with a word of when to try again, then by closing with 4429."""

    def __init__(self, app: Application, *, clock: Clock = time.monotonic) -> None:
        self.app = app
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        settings = get_settings()
        with guarded(scope, receive, send, settings, self.clock) as socket:
            socket.guard.enforce(**_budgets(settings))
            await self.app(socket.scope, socket.receive, socket.send)


class SizeGuardMiddleware:
    """Closes with 1009 for a message that is too big, before the application sees it."""

    def __init__(self, app: Application, *, clock: Clock = time.monotonic) -> None:
        self.app = app
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        settings = get_settings()
        with guarded(scope, receive, send, settings, self.clock) as socket:
            socket.guard.enforce(max_message_bytes=settings.max_message_bytes)
            await self.app(socket.scope, socket.receive, socket.send)


class RateLimit:
    """
    All limits: ``RateLimit(app)`` goes outermost, so that the cheapest refusal comes first.

    It does what the three middlewares do one inside the other, in one: whatever waits for a message is
    resumed through every coroutine between it and the server. It is made when the server starts, and
    raises ImproperlyConfigured then if a setting is wrong.

    """

    def __init__(self, app: Application, *, clock: Clock = time.monotonic) -> None:
        check_all()
        self.app = app
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        settings = get_settings()
        with guarded(scope, receive, send, settings, self.clock) as socket:
            refusal = await _admit(socket, settings, self.clock)
            if refusal is not None:
                await refuse(refusal, socket.scope, socket.receive, socket.send)
                return
            socket.guard.enforce(max_message_bytes=settings.max_message_bytes, **_budgets(settings))
            await self.app(socket.scope, socket.receive, socket.send)


async def _admit(socket: Guarded, settings: RateLimitSettings, clock: Clock) -> Refusal | None:
    """Count a socket in, or return why it must not come in."""
    await bans.watch.current(settings.ban_refresh)
    refusal = socket.guard.enter(settings, clock())
    if refusal is None and (user := user_key(socket.scope)) is not None:
        refusal = socket.guard.enter_user(user)
    return refusal


def _budgets(settings: RateLimitSettings) -> dict[str, Any]:
    return {
        "messages_per_window": settings.messages_per_window,
        "message_window": settings.message_window,
        "bytes_per_window": settings.bytes_per_window,
        "system_messages_per_window": settings.system_messages_per_window,
        "burst_multiplier": settings.burst_multiplier,
        "disconnect_after": settings.disconnect_after,
    }
