"""Visitors of an application under test, and an application that answers what it is told."""

from __future__ import annotations

import json
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.testing import WebsocketCommunicator

from ratelimit.asgi import Application, Message

ADDRESS = "192.0.2.1"


class Echo(AsyncWebsocketConsumer):
    """A plain consumer, as anybody has one."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


class User:
    """Somebody who is logged in."""

    is_authenticated = True

    def __init__(self, pk: int) -> None:
        self.pk = pk


class Visitor(WebsocketCommunicator):
    """A client with an address."""

    def __init__(
        self,
        app: Application,
        address: str | None = ADDRESS,
        *,
        forwarded_for: str | None = None,
        user: User | None = None,
        denial: bool = False,
    ) -> None:
        headers = [(b"x-forwarded-for", forwarded_for.encode())] if forwarded_for is not None else []
        super().__init__(app, "/", headers)
        if address is not None:
            self.scope["client"] = (address, 50000)
        if user is not None:
            self.scope["user"] = user
        if denial:
            self.scope["extensions"] = {"websocket.http.response": {}}

    async def is_let_in(self) -> bool:
        return (await self.connect())[0]

    async def echoed(self, text: str = "hello") -> bool:
        """Say ``text``, and return whether it comes back rather than a warning."""
        await self.send_to(text)
        return await self.receive_from() == text

    async def warned(self, text: str = "hello") -> dict[str, Any]:
        """Say ``text``, and return the warning that comes back."""
        await self.send_to(text)
        warning = await self.receive_json_from()
        assert warning["type"] == "system.rate_limited"
        return dict(warning["data"])

    async def close_code(self) -> int:
        """Wait to be closed."""
        message: Message = await self.receive_output()
        assert message["type"] == "websocket.close"
        return int(message["code"])

    async def denied(self) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
        """Knock, and return status, headers and body of the answer."""
        await self.send_input({"type": "websocket.connect"})
        start, body = await self.receive_output(), await self.receive_output()
        return start["status"], dict(start["headers"]), json.loads(body["body"])


async def gone(*visitors: Visitor) -> None:
    """Have everybody leave."""
    for visitor in visitors:
        await visitor.disconnect()
