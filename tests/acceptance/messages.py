"""What a real client of a consumer is sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from websockets.asyncio.client import ClientConnection


async def message(connection: ClientConnection, type: str, seconds: float = 10.0) -> dict[str, Any]:
    """Return the next message of a type, passing over others. Raise TimeoutError if it takes too long."""
    async with asyncio.timeout(seconds):
        while True:
            received: dict[str, Any] = json.loads(await connection.recv())
            if received["type"] == type:
                return received


async def expect(connection: ClientConnection, type: str, seconds: float = 10.0) -> Any:
    """Return the data of the next message of a type."""
    return (await message(connection, type, seconds))["data"]
