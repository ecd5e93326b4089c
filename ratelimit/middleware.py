"""The limits as ASGI middleware, for any application that speaks WebSocket."""

from __future__ import annotations

import time
from typing import Any

from ratelimit import bans, overrides
from ratelimit.appsettings import check_all
from ratelimit.asgi import Application, Receive, Scope, Send
from ratelimit.conf import RateLimitSettings, get_settings
from ratelimit.refusals import Refusal, refuse
from ratelimit.routes import user_key
from ratelimit.sockets import Clock, Guarded, guarded


class _Limiting:
    """
    What the middlewares share: a guard for each WebSocket, prepared before the application is called.

    One coroutine stands between the server and the application: whatever waits for a message is resumed
    through it.

    """

    def __init__(self, app: Application, *, clock: Clock = time.monotonic) -> None:
        self.app = app
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        await overrides.watch.current(overrides.MAX_AGE, overrides.PATIENCE)
        settings = get_settings()
        with guarded(scope, receive, send, settings, self.clock) as socket:
            refusal = await self.prepare(socket, settings)
            if refusal is not None:
                await refuse(refusal, socket.scope, socket.receive, socket.send)
            else:
                await self.app(socket.scope, socket.receive, socket.send)

    async def prepare(self, socket: Guarded, settings: RateLimitSettings) -> Refusal | None:
        """Tell the guard what to enforce; return why the socket must not come in, if so."""
        raise NotImplementedError(f"{type(self).__name__} must override prepare() to say what it limits.")


class ConnectionLimitMiddleware(_Limiting):
    """Turns away who is banned, who connects too often, and whoever there is no room for."""

    async def prepare(self, socket: Guarded, settings: RateLimitSettings) -> Refusal | None:
        """Count the socket in, if it may come in."""
        return await _admit(socket, settings, self.clock)


class MessageLimitMiddleware(_Limiting):
    """Refuses messages over the budget, first with a word of when to try again, then by closing with 4429."""

    async def prepare(self, socket: Guarded, settings: RateLimitSettings) -> Refusal | None:
        """Set the budgets."""
        socket.guard.enforce(**_budgets(settings))
        return None


class SizeGuardMiddleware(_Limiting):
    """Closes with 1009 for a message that is too big, before the application sees it."""

    async def prepare(self, socket: Guarded, settings: RateLimitSettings) -> Refusal | None:
        """Set the size."""
        socket.guard.enforce(max_message_bytes=settings.max_message_bytes)
        return None


class RateLimit(_Limiting):
    """
    All limits: ``RateLimit(app)`` goes outermost, so that the cheapest refusal comes first.

    It does what the three middlewares do one inside the other, in one. It is made when the server starts,
    and raises ImproperlyConfigured then if a setting is wrong.

    """

    def __init__(self, app: Application, *, clock: Clock = time.monotonic) -> None:
        check_all()
        overrides.watch.read_once()
        super().__init__(app, clock=clock)

    async def prepare(self, socket: Guarded, settings: RateLimitSettings) -> Refusal | None:
        """Count the socket in, if it may come in, and set its budgets and its size."""
        refusal = await _admit(socket, settings, self.clock)
        if refusal is None:
            # Once more: an override may have come meanwhile, and has passed by a guard that enforces nothing yet.
            settings = get_settings()
            socket.guard.enforce(max_message_bytes=settings.max_message_bytes, **_budgets(settings))
        return refusal


async def _admit(socket: Guarded, settings: RateLimitSettings, clock: Clock) -> Refusal | None:
    """Count a socket in, or return why it must not come in."""
    await bans.watch.current(settings.ban_refresh)
    refusal = await socket.guard.enter(settings, clock())
    if refusal is None and (user := user_key(socket.scope)) is not None:
        refusal = await socket.guard.enter_user(user)
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
