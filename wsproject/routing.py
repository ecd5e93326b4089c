"""Which consumer serves which WebSocket address."""

from __future__ import annotations

from typing import Any, cast

from channels.routing import URLRouter
from django.urls import re_path

from ratelimit.asgi import Receive, Scope, Send
from ratelimit.refusals import Refusal, refuse
from realtime.close_codes import FORBIDDEN
from realtime.turbo import TurboBroadcast, TurboEcho
from wsproject.consumers import MAX_ROOM_NAME, ChatConsumer, SurveyConsumer, echo

UNKNOWN_ADDRESS = Refusal(
    status=404,
    name="unknown_address",
    text="there is no WebSocket at this address",
    close=FORBIDDEN,
    retry_after=None,
)


async def unknown_address(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a socket that no route takes, before it is accepted."""
    await refuse(UNKNOWN_ADDRESS, scope, receive, send)


_router = URLRouter(
    [
        re_path(r"^ws/echo/$", echo),
        re_path(r"^ws/survey/$", SurveyConsumer.as_asgi()),
        re_path(r"^ws/turbo/echo/$", cast("Any", TurboEcho(prefix="Echo: "))),
        re_path(r"^ws/turbo/broadcast/$", cast("Any", TurboBroadcast("turbo"))),
        # A room may be called anything, slashes and line ends included.
        re_path(rf"^ws/chat/(?P<room>(?s:.{{1,{MAX_ROOM_NAME}}}))/$", ChatConsumer.as_asgi()),
        # URLRouter raises where nothing matches: what anybody can cause is not an error of the server.
        re_path(r"", cast("Any", unknown_address)),
    ]
)


async def route(scope: Scope, receive: Receive, send: Send) -> Any:
    """Serve a socket by its path."""
    # A root path that is not the beginning of the path, which a client can claim by a header, fits no route either.
    if not scope["path"].startswith(scope.get("root_path", "")):
        return await unknown_address(scope, receive, send)
    return await _router(scope, receive, send)
