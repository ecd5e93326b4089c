"""
The same applications with this project, with all limits.

``/open/...`` is without the limits' middleware, ``/full/...`` also has what the demonstration puts in front: origin,
session, user.

"""

from __future__ import annotations

import os

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.served.settings")
django.setup()

from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402 - models need the setup above

from ratelimit.asgi import Application, Receive, Scope, Send  # noqa: E402
from ratelimit.middleware import RateLimit  # noqa: E402
from realtime.auth import AuthMiddlewareStack  # noqa: E402
from realtime.consumers import RealtimeConsumer  # noqa: E402
from realtime.server import install  # noqa: E402
from realtime.turbo import TurboBroadcast, TurboEcho  # noqa: E402


class Echo(RealtimeConsumer):
    """Sends back what comes."""

    speaks_protocol = False

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


class Room(RealtimeConsumer):
    """Passes on what comes to everybody."""

    speaks_protocol = False

    async def connected(self) -> None:
        await self.join("everybody")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.room("everybody").publish("line", text_data)


class Idle(RealtimeConsumer):
    """Is in a room and says nothing."""

    async def connected(self) -> None:
        await self.join("idle")


routes = URLRouter(
    [
        path("echo", Echo.as_asgi()),
        path("room", Room.as_asgi()),
        path("idle", Idle.as_asgi()),
        path("turbo/echo", TurboEcho(prefix="Echo: ")),  # type: ignore[arg-type]
        path("turbo/room", TurboBroadcast("turbo")),  # type: ignore[arg-type]
    ]
)
limited = RateLimit(routes)
full = RateLimit(AllowedHostsOriginValidator(AuthMiddlewareStack(routes)))

STACKS: dict[str, Application] = {"/open": routes, "/full": full}
"""What stands in front of the routes, by the first part of the path."""


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the path behind the stack that its first part names, else behind the limits alone."""
    for prefix, stack in STACKS.items():
        if scope["path"].startswith(f"{prefix}/"):
            await stack({**scope, "path": scope["path"].removeprefix(prefix)}, receive, send)
            return
    await limited(scope, receive, send)


application: Application = ProtocolTypeRouter({"websocket": websocket})

install()
