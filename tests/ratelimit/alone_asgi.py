"""An application of somebody who has installed ``ratelimit`` only, and uses plain consumers."""

from __future__ import annotations

import os
import sys

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter

# Before django.setup(), as people write it.
from ratelimit.middleware import RateLimit

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.ratelimit.alone")
django.setup()


class Echo(AsyncWebsocketConsumer):
    """Answers what it is told, and on request what else of ours is loaded."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "who else is here?":
            others = {"realtime", "dashboard", "wsproject"} & set(sys.modules)
            text_data = ",".join(others) or "nobody"
        await self.send(text_data=text_data, bytes_data=bytes_data)


application = ProtocolTypeRouter({"websocket": RateLimit(Echo.as_asgi())})
