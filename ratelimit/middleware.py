"""The limits as ASGI middleware, for any application that speaks WebSocket."""

from __future__ import annotations

import time

from ratelimit import bans
from ratelimit.appsettings import check_all
from ratelimit.asgi import Application, Receive, Scope, Send
from ratelimit.conf import get_settings
from ratelimit.refusals import refuse
from ratelimit.routes import user_key
from ratelimit.sockets import Clock, guarded


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
            await bans.watch.current(settings.ban_refresh)
            refusal = socket.guard.enter(settings, self.clock())
            if refusal is None and (user := user_key(scope)) is not None:
                refusal = socket.guard.enter_user(user)
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
            socket.guard.enforce(
                messages_per_window=settings.messages_per_window,
                message_window=settings.message_window,
                bytes_per_window=settings.bytes_per_window,
                system_messages_per_window=settings.system_messages_per_window,
                burst_multiplier=settings.burst_multiplier,
                disconnect_after=settings.disconnect_after,
            )
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

    It is made when the server starts, and raises ImproperlyConfigured then if a setting is wrong.

    """

    def __init__(self, app: Application, *, clock: Clock = time.monotonic) -> None:
        check_all()
        limited = SizeGuardMiddleware(MessageLimitMiddleware(app, clock=clock), clock=clock)
        self.app = ConnectionLimitMiddleware(limited, clock=clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
