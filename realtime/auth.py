"""
Who a socket's user is: Channels' authentication, without a thread for clients that have no session.

:func:`AuthMiddlewareStack` takes the place of ``channels.auth.AuthMiddlewareStack``. What is in the scope is the same,
and so are ``channels.auth.login()``, ``logout()`` and ``get_user()``.

"""

from __future__ import annotations

from typing import Any

from channels.auth import AuthMiddleware as ChannelsAuthMiddleware
from channels.sessions import CookieMiddleware, InstanceSessionWrapper
from channels.sessions import SessionMiddleware as ChannelsSessionMiddleware
from django.contrib.sessions.backends.base import SessionBase

from ratelimit.asgi import Application, Receive, Scope, Send


class SessionMiddleware(ChannelsSessionMiddleware):
    """
    Puts ``scope["session"]`` beside ``scope["cookies"]``, as Channels' middleware of this name does.

    That one also stands between the application and the client, to save the session with the head of an HTTP response.
    A WebSocket has none, so that what is sent to it goes straight on.

    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with the session in its scope."""
        if scope["type"] != "websocket":
            await super().__call__(scope, receive, send)
            return
        wrapper = InstanceSessionWrapper(scope, send)
        await wrapper.resolve_session()
        await self.inner(wrapper.scope, receive, send)


class AuthMiddleware(ChannelsAuthMiddleware):
    """
    Puts ``scope["user"]`` beside ``scope["session"]``, as Channels' middleware of this name does.

    Who the user of a session is, that one asks in a thread. A client without a session is anonymous, and no
    storage need be asked.

    """

    async def resolve_scope(self, scope: Scope) -> None:
        """Find out who the user is."""
        if not _is_without_session(scope):
            await super().resolve_scope(scope)
            return
        # Not before the apps are loaded, and this module may be imported then.
        from django.contrib.auth.models import AnonymousUser

        scope["user"]._wrapped = AnonymousUser()


def AuthMiddlewareStack(inner: Application) -> Any:  # noqa: N802 - the name it has in Channels
    """Return ``inner`` behind cookies, session and user."""
    return CookieMiddleware(SessionMiddleware(AuthMiddleware(inner)))


def _is_without_session(scope: Scope) -> bool:
    """
    Whether the client sent no session key, or none that can be one, and nothing was put into its session since.

    Asks no storage. A key that is there may still be of a session that is over, or of nobody's: the storage knows.

    """
    session = scope["session"]
    # Itself, and not the proxy that Channels keeps it in: each look through that costs microseconds.
    session = getattr(session, "_wrapped", session)
    return isinstance(session, SessionBase) and session.is_empty()
