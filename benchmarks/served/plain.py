"""The baseline: consumers of Channels' own, with nothing of this project loaded."""

from __future__ import annotations

import os
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.served.settings")
django.setup()


class Echo(AsyncWebsocketConsumer):
    """Sends back what comes."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


class Room(AsyncWebsocketConsumer):
    """Passes on what comes to everybody."""

    groups = ["everybody"]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("everybody", {"type": "line", "text": text_data})

    async def line(self, event: dict[str, Any]) -> None:
        """Send one line of the group to this client."""
        await self.send(text_data=event["text"])


routes = URLRouter([path("echo", Echo.as_asgi()), path("room", Room.as_asgi())])

application = ProtocolTypeRouter({"websocket": routes})
