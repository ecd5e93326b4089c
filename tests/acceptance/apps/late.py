"""A consumer whose answers come late, and that writes down how its socket ended."""

from __future__ import annotations

import asyncio

# First, because it sets Django up.
from tests.acceptance.apps.plain import note

from realtime.consumers import RealtimeConsumer  # isort: skip


class Late(RealtimeConsumer):
    speaks_protocol = False

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await asyncio.sleep(0.05)
        await self.send(text_data=text_data, bytes_data=bytes_data)
        note("answered")

    async def disconnect(self, code: int) -> None:
        note(f"disconnected with {code}")


application = Late.as_asgi()
