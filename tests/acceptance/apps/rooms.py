"""An ASGI application with one consumer of ours that joins the room its path names."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.acceptance.apps.settings")

import django

django.setup()

import realtime.server
from realtime.consumers import RealtimeConsumer
from realtime.handlers import on

realtime.server.install()


class Member(RealtimeConsumer):
    """Joins a room, publishes to it, and answers with its id."""

    async def connected(self) -> None:
        """Enter the room named by the path."""
        await self.join(self.scope["path"].strip("/"))

    @on("say")
    async def say(self, data: Any) -> None:
        """Publish to the room."""
        result = await self.room(self.scope["path"].strip("/")).publish("said", data)
        await self.send_event("published", {"nodes": result.nodes, "targets": result.targets})


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve WebSockets; HTTP is answered with nothing."""
    if scope["type"] == "websocket":
        await Member.as_asgi()(scope, receive, send)
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
