"""The application of the live-server tests: tells a socket how many users the server's database has."""

from __future__ import annotations

import os
from typing import Any

import django
from channels.db import database_sync_to_async

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.acceptance.apps.settings")
django.setup()

from django.contrib.auth.models import User  # noqa: E402 - the apps have to be there first


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a page"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        users = await database_sync_to_async(User.objects.count)()
        await send({"type": "websocket.send", "text": str(users)})
