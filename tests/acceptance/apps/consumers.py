"""Consumers of Channels and of ours behind one URL router, each writing down how its socket ended."""

from __future__ import annotations

import asyncio
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

# First, because it sets Django up.
from tests.acceptance.apps.plain import application as plain
from tests.acceptance.apps.plain import note

from realtime.consumers import RealtimeConsumer  # isort: skip
from realtime.handlers import on  # isort: skip


class Plain(AsyncWebsocketConsumer):
    """Knows nothing of us."""

    groups = ["everybody"]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)

    async def disconnect(self, code: int) -> None:
        await asyncio.sleep(0.1)
        note(f"plain {code}")


class Ours(RealtimeConsumer):
    """Lives in a room."""

    async def connected(self) -> None:
        await self.join("everybody")

    @on("echo")
    async def echo(self, data: Any) -> None:
        await self.send_event("echoed", data)

    async def disconnect(self, code: int) -> None:
        await asyncio.sleep(0.1)
        note(f"ours {code}")


class Refusing(RealtimeConsumer):
    """Lets nobody in."""

    async def connect(self) -> None:
        await self.close()


class Hesitating(RealtimeConsumer):
    """Never decides whether to let somebody in."""

    async def connect(self) -> None:
        note("waiting")
        await asyncio.Event().wait()


application = ProtocolTypeRouter(
    {
        "http": plain,
        "websocket": URLRouter(
            [
                path("plain", Plain.as_asgi()),
                path("ours", Ours.as_asgi()),
                path("refusing", Refusing.as_asgi()),
                path("hesitating", Hesitating.as_asgi()),
            ]
        ),
    }
)
