"""An ASGI application with one consumer of ours that joins the room its path names."""

from __future__ import annotations

import asyncio
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.acceptance.apps.settings")

import django

django.setup()

import realtime.server  # noqa: E402
from ratelimit.middleware import RateLimit  # noqa: E402
from realtime.consumers import RealtimeConsumer  # noqa: E402
from realtime.handlers import on  # noqa: E402
from realtime.limits import Limits  # noqa: E402

realtime.server.install()


class Member(RealtimeConsumer):
    """Joins a room, publishes to it, and answers with its id."""

    async def connected(self) -> None:
        """Enter the room named by the path."""
        await self.join(self.scope["path"].strip("/"), recover=True)

    @on("say")
    async def say(self, data: Any) -> None:
        """Publish to the room."""
        result = await self.room(self.scope["path"].strip("/")).publish("said", data)
        await self.send_event("published", {"nodes": result.nodes, "targets": result.targets})

    @on("work")
    async def work(self, data: float) -> None:
        """Take this many seconds."""
        await asyncio.sleep(data)
        await self.send_event("worked", data)


class Roomy(Member):
    """Takes larger messages than the others."""

    limits = Limits(max_message_bytes=3_000_000)


class Narrow(Member):
    """Takes smaller ones."""

    limits = Limits(max_message_bytes=100_000)


MEMBER = RateLimit(Member.as_asgi())
OTHERS = {"/roomy": RateLimit(Roomy.as_asgi()), "/narrow": RateLimit(Narrow.as_asgi())}


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve WebSockets; HTTP is answered with nothing."""
    if scope["type"] == "websocket":
        await OTHERS.get(scope["path"], MEMBER)(scope, receive, send)
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
