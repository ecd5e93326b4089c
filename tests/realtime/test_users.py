"""The middleware that says who is behind a socket."""

from __future__ import annotations

from typing import Any

import channels.auth
import pytest
from channels.auth import AuthMiddlewareStack
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.backends.db import SessionStore

from realtime.users import user_middleware_stack


class Told:
    """An application that remembers its scope."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scope = scope
        await receive()
        await send({"type": "websocket.accept"})


async def seen(stack: Any, cookie: str | None = None) -> dict[str, Any]:
    told = Told()
    headers = [] if cookie is None else [(b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode())]
    socket = WebsocketCommunicator(stack(told), "/", headers=headers)
    assert (await socket.connect())[0]
    await socket.wait()
    return told.scope


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The scopes for which Channels looked in the database."""
    scopes = []
    get_user = channels.auth.get_user

    async def counting(scope: dict[str, Any]) -> Any:
        scopes.append(scope)
        return await get_user(scope)

    monkeypatch.setattr(channels.auth, "get_user", counting)
    return scopes


@pytest.mark.parametrize("stack", [AuthMiddlewareStack, user_middleware_stack])
async def test_a_client_without_a_session_cookie_is_a_visitor_with_an_empty_session(stack):
    scope = await seen(stack)
    assert scope["user"].is_anonymous
    assert scope["session"].session_key is None
    assert scope["session"].is_empty()
    assert scope["cookies"] == {}


async def test_nobody_looks_in_the_database_for_a_client_without_a_session_cookie(asked):
    await seen(user_middleware_stack)
    assert asked == []
    await seen(AuthMiddlewareStack)
    assert len(asked) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("stack", [AuthMiddlewareStack, user_middleware_stack])
async def test_who_is_logged_in_is_found_by_the_session(stack):
    user = await get_user_model().objects.acreate(username="ada")
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    await session.asave()
    scope = await seen(stack, session.session_key)
    assert scope["user"].pk == user.pk


@pytest.mark.django_db(transaction=True)
async def test_a_session_that_is_none_makes_a_visitor(asked):
    scope = await seen(user_middleware_stack, "0123456789abcdef0123456789abcdef")
    assert scope["user"].is_anonymous
    assert len(asked) == 1
