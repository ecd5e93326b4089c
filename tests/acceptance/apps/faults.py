"""One node of a cluster that is put to the test: people in rooms, an echo, a burst, and what the node knows of all."""

from __future__ import annotations

import asyncio
import json
from typing import Any

# First: it may set the clock wrong.
import tests.acceptance.apps.cluster  # noqa: F401
from ratelimit import counters
from ratelimit.middleware import RateLimit
from realtime import cluster
from realtime.handlers import on
from realtime.health import health
from tests.acceptance.apps.rooms import Member


class Guest(Member):
    """Enters the room its path names; in those that begin with ``people`` everybody sees who is there."""

    async def connected(self) -> None:
        """Enter the room."""
        await self.join(self._name, presence=self._name.startswith("people"), recover=True)

    @on("echo")
    async def echo(self, data: Any) -> None:
        """Say it again, to this client alone."""
        await self.send_event("echoed", data)

    @on("burst")
    async def burst(self, data: int) -> None:
        """Publish so many messages at once."""
        room = self.room(self._name)
        await asyncio.gather(*(room.publish("said", f"burst-{number}") for number in range(data)))

    @property
    def _name(self) -> str:
        name: str = self.scope["path"].strip("/")
        return name


_websocket = RateLimit(Guest.as_asgi())


def _status() -> dict[str, Any]:
    limits = counters.snapshot()
    return {
        "reasons": health().reasons,
        "alone": limits.alone,
        "judged_alone": limits.judged_alone,
        "nodes": sorted(snapshot.name for snapshot in cluster.snapshots()),
        "clients": sorted(info.id for info in cluster.connection_infos()),
    }


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve WebSockets; HTTP is answered with what this node knows."""
    if scope["type"] == "websocket":
        await _websocket(scope, receive, send)
    elif scope["type"] == "http":
        body = json.dumps(await asyncio.to_thread(_status)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
