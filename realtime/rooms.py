"""A room: its name, the group it is in the channel layer, and who of this process is in it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING

from realtime.conf import get_settings
from realtime.outbox import policy_of
from realtime.presence import Roster

if TYPE_CHECKING:
    from realtime.connections import Connection

MAX_NAME = 1024
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,60}\Z")


def checked_name(name: object) -> str:
    """Return ``name`` if it can name a room: a string of 1 to 1024 characters, whatever they are."""
    if not isinstance(name, str):
        raise TypeError(f"A room is named by a string, not by {name!r}.")
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"A room name has 1 to {MAX_NAME} characters; this one has {len(name)}.")
    return name


def group_name(room: str) -> str:
    """
    Return the channel-layer group of a room.

    The layer takes 99 ASCII letters, digits, hyphens, underscores and periods; any other name, and
    any longer one, is hashed.

    """
    if _PLAIN.match(room):
        return f"realtime.room.{room}"
    # Surrogates cannot come over a socket, but can come from a careless publisher.
    digest = hashlib.blake2b(room.encode("utf-8", "surrogatepass"), digest_size=24).hexdigest()
    return f"realtime.hashed.{digest}"


class Room:
    """The part of a room that is in this process."""

    __slots__ = ("announcing", "group", "members", "name", "policy", "roster", "subscribed", "syncing")

    def __init__(self, name: str) -> None:
        self.name = name
        self.group = group_name(name)
        self.policy = policy_of(get_settings().slow_consumer, name)
        """What becomes of its messages where a member reads too slowly."""
        self.members: dict[Connection, None] = {}
        self.roster = Roster()
        self.subscribed = False
        """Whether the channel layer sends this room to this process."""
        self.syncing: asyncio.Future[None] | None = None
        self.announcing = False
