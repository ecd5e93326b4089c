"""A room: its name, the group it is in the channel layer, who of this process is in it, and what is kept of it."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from django.core.signals import setting_changed

from realtime.conf import get_settings
from realtime.frames import Frame
from realtime.history import Place, Sequencer, numbered, restored
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


class Kept(NamedTuple):
    """What is kept of a room."""

    size: int
    """Messages."""
    ttl: float
    """Seconds after the last of them."""


@functools.lru_cache(maxsize=10_000)
def history_of(name: str) -> Kept | None:
    """Return what ``REALTIME_HISTORY_SIZE`` and ``REALTIME_HISTORY_TTL`` say of a room; ``None``: it has no history."""
    settings = get_settings()
    size = _of_room(settings.history_size, name)
    return Kept(size, _of_room(settings.history_ttl, name) or _DEFAULT_TTL) if size else None


_DEFAULT_TTL = 300
"""Seconds, for a room that no pattern of ``REALTIME_HISTORY_TTL`` matches."""


def _of_room(chosen: int | Mapping[str, int], name: str) -> int:
    if isinstance(chosen, int):
        return chosen
    return next((number for pattern, number in chosen.items() if fnmatchcase(name, pattern)), 0)


def _forget_histories(*, setting: str, **kwargs: Any) -> None:
    if setting.startswith("REALTIME_HISTORY_"):
        history_of.cache_clear()


setting_changed.connect(_forget_histories)


class Line(NamedTuple):
    """A message of a room with history, as its members get it."""

    frame: Frame
    exclude: Collection[str]
    """Client ids that do not get it."""


def line_of(payload: bytes, offset: int) -> Line:
    """Return the message that is kept as ``payload``. Raise ValueError if it is none."""
    event, exclude = restored(payload)
    encoded = numbered(event, offset)
    return Line(Frame(encoded.decode(), size=len(encoded)), exclude)


class Room:
    """The part of a room that is in this process."""

    __slots__ = (
        "announcing",
        "arriving",
        "group",
        "members",
        "name",
        "past",
        "placing",
        "policy",
        "reading",
        "roster",
        "subscribed",
        "syncing",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.group = group_name(name)
        self.policy = policy_of(get_settings().slow_consumer, name)
        """What becomes of its messages where a member reads too slowly."""
        self.members: dict[Connection, None] = {}
        """Those who have everything up to the position of its past, and get what follows."""
        self.arriving: dict[Connection, asyncio.Task[None] | None] = {}
        """Those who still have to get there, each with the task that sees to it."""
        self.past: Sequencer[Line] | None = None
        """``None``: no history."""
        self.placing: asyncio.Task[None] | None = None
        """The question to the state where the room is."""
        self.reading = asyncio.Lock()
        """Held while older messages are fetched, so that many who come back fetch them once."""
        self.roster = Roster()
        self.subscribed: bool | None = False
        """Whether the channel layer sends this room to this process; ``None`` while that changes, or if nobody knows."""
        self.syncing: asyncio.Future[None] | None = None
        self.announcing = False

    @property
    def wanted(self) -> bool:
        """Whether anybody is here."""
        return bool(self.members or self.arriving)

    @property
    def place(self) -> Place | None:
        """Where the room is; ``None`` where it has no history, or that is not known yet."""
        past = self.past
        return Place(past.epoch, past.position) if past is not None and past.placed else None
