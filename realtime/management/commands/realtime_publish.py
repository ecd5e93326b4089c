"""Publish to a room from the command line."""

from __future__ import annotations

import json
from typing import Any

from channels.exceptions import ChannelFull
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ratelimit import overrides
from realtime import publish
from realtime.checks import split_rooms
from realtime.errors import PublishError


class Command(BaseCommand):
    """Send one message to every member of a room, in all server processes."""

    help = "Publishes a message to a room: every member gets it, whichever server process it is connected to."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add what to publish."""
        parser.add_argument("room", help="the room's name")
        parser.add_argument("type", help="the message's type, such as chat.line")
        parser.add_argument("data", nargs="?", default="null", metavar="JSON", help="its data (null)")

    def handle(self, *args: Any, room: str, type: str, data: str, **options: Any) -> None:
        """Publish, and say where the message went."""
        try:
            decoded = json.loads(data)
        except ValueError as error:
            raise CommandError(
                f"{data!r} is not JSON: {error}. A text needs quotes of its own: '\"hello\"'."
            ) from None
        if reason := split_rooms():
            raise CommandError(
                f"{reason} No server would hear of it. Configure CHANNEL_LAYERS with channels_redis."
            )
        overrides.watch.read_once()
        try:
            result = publish.publish_sync(room, type, decoded)
        except (PublishError, ValueError, ChannelFull, OSError) as error:
            raise CommandError(f"Not published: {error}") from error
        if result.offset is None:
            self.stdout.write(f"published to {room}")
        else:
            self.stdout.write(f"published to {room} at offset {result.offset}")
