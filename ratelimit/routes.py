"""Limits of one route, for plain consumers."""

from __future__ import annotations

from ratelimit import bans
from ratelimit.asgi import Application, Receive, Scope, Send
from ratelimit.conf import get_settings
from ratelimit.limits import Limits
from ratelimit.refusals import refuse
from ratelimit.sockets import guarded


def limited(app: Application, limits: Limits | None = None) -> Application:
    """
    Wrap the application of a route in limits of its own, and in the cap and the bans that go by user.

    It belongs inside the authentication middleware, where the user is known. What ``limits`` leaves open
    is as the middlewares around it have it; without any, it is off.

    """

    async def limited_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await app(scope, receive, send)
            return
        settings = get_settings()
        with guarded(scope, receive, send, settings) as socket:
            socket.guard.apply(limits)
            user = user_key(scope)
            if user is not None:
                await bans.watch.current(settings.ban_refresh)
                refusal = await socket.guard.enter_user(user)
                if refusal is not None:
                    await refuse(refusal, socket.scope, socket.receive, socket.send)
                    return
            await app(socket.scope, socket.receive, socket.send)

    return limited_app


def user_key(scope: Scope) -> str | None:
    """Return the primary key, as text, of the user in a scope; ``None`` if nobody is logged in."""
    user = scope.get("user")
    return str(user.pk) if user is not None and user.is_authenticated else None
