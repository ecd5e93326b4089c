"""Two echoes for the test suite of the protocol, without limits: ``/asgi`` bare, ``/consumer`` through this project."""

from __future__ import annotations

import os

import django
from django.conf import settings
from django.core.management import call_command

from ratelimit.appsettings import from_environment
from realtime.conf import RealtimeSettings

settings.configure(
    SECRET_KEY="conformance",
    INSTALLED_APPS=[
        "daphne",
        "channels",
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "ratelimit",
        "realtime",
    ],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["CONFORMANCE_DATABASE"]}
    },
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    LOGGING={"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}},
    # The suite sends 16 MiB at once, and whatever else it likes.
    RATELIMIT_MAX_MESSAGE_BYTES=64 * 1024 * 1024,
    RATELIMIT_MESSAGES_PER_WINDOW=0,
    REALTIME_MAX_OUTBOUND_BYTES=256 * 1024 * 1024,
    REALTIME_COMPRESSION_MIN_BYTES=0,
    **{"REALTIME_COMPRESSION": "deflate", **from_environment([RealtimeSettings])},
)
django.setup()
call_command("migrate", verbosity=0)

from ratelimit.asgi import Receive, Scope, Send  # noqa: E402 - models need the setup above
from realtime.consumers import RealtimeConsumer  # noqa: E402
from realtime.server import install  # noqa: E402


class Echo(RealtimeConsumer):
    """Sends back what comes."""

    speaks_protocol = False

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send back what comes, with nothing between the server and this."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


consumer = Echo.as_asgi()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the echo that the path names; there is nothing else to have here."""
    if scope["type"] == "websocket":
        await (consumer if scope["path"] == "/consumer" else echo)(scope, receive, send)


install()
