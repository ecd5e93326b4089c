"""The application of a node of ours: a room without envelopes, and one whose members come back."""

from __future__ import annotations

import os
from typing import Any

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.served.clustered")
django.setup()

from benchmarks.served import ours  # noqa: E402 - models need the setup above
from ratelimit.middleware import RateLimit  # noqa: E402
from realtime.consumers import RealtimeConsumer  # noqa: E402
from realtime.handlers import on  # noqa: E402


class Chat(RealtimeConsumer):
    """Is in a room, says what it is told to, and gets what it missed."""

    async def connected(self) -> None:
        await self.join("chat", recover=True)

    @on("say")
    async def say(self, data: Any) -> None:
        """Publish to the room."""
        await self.room("chat").publish("said", data)


application = ProtocolTypeRouter(
    {"websocket": RateLimit(URLRouter([path("room", ours.Room.as_asgi()), path("chat", Chat.as_asgi())]))}
)
