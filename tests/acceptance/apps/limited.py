"""An application behind the limits: whoever says so in its query is a user, and an echo makes bans when asked."""

from __future__ import annotations

import os
import time
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.acceptance.apps.settings")

_offset = float(os.environ.get("CLOCK_OFFSET", "0"))
if _offset:
    _right = time.time
    # Before anything else looks at the clock.
    time.time = lambda: _right() + _offset

import django  # noqa: E402

django.setup()

import realtime.server  # noqa: E402
from ratelimit.middleware import RateLimit  # noqa: E402
from ratelimit.models import Ban  # noqa: E402
from realtime.consumers import RealtimeConsumer  # noqa: E402
from realtime.handlers import on  # noqa: E402

realtime.server.install()


class Echo(RealtimeConsumer):
    """In no room."""

    @on("echo")
    async def echo(self, data: Any) -> None:
        """Say it again."""
        await self.send_event("echoed", data)

    @on("ban")
    async def ban(self, network: str) -> None:
        """Ban a network."""
        await Ban.objects.acreate(network=network)


class _User:
    is_authenticated = True

    def __init__(self, pk: str) -> None:
        self.pk = pk

    def get_username(self) -> str:
        """Return a name."""
        return f"user {self.pk}"


limited = RateLimit(Echo.as_asgi())


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve WebSockets; HTTP is answered with nothing."""
    if scope["type"] == "websocket":
        if user := scope["query_string"].decode():
            scope = {**scope, "user": _User(user)}
        await limited(scope, receive, send)
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
