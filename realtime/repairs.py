"""The repairs of one node's rooms: where each of them is, and what it has missed, asked of the shared state."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ratelimit.logs import get_logger
from realtime.conf import get_settings
from realtime.errors import PublishQueueFull, StateUnavailable
from realtime.history import Place
from realtime.rooms import Line, Room, line_of
from realtime.state import History, Position, State

if TYPE_CHECKING:
    from realtime.hub import Hub

logger = get_logger("realtime")

SETTLE = 0.02
"""Seconds that a missing message has to come by itself."""

PAGE = 1000
"""Messages of one room fetched at once."""

ROOMS_AT_ONCE = 100
"""Rooms whose messages are fetched at once."""

LATE = 5.0
"""Seconds after which an operator should know that a room is behind."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
"""Seconds between attempts that lead to nothing."""


class Repairs:
    """
    Keeps the rooms with history of one node complete. Belongs to the node's loop.

    Asks for nothing while every message comes: only every ``REALTIME_HISTORY_CHECK_INTERVAL`` where all rooms
    are, in one round trip. Nothing waits for it but those who want to enter a room that is not placed.

    """

    def __init__(self, hub: Hub, state: State) -> None:
        self._hub = hub
        self._state = state
        self._started = False
        self._behind: dict[str, float] = {}
        """Rooms that are looked after, each with the monotonic time since when."""
        self._woken = asyncio.Event()
        self._back = asyncio.Event()
        self._check_due = 0.0
        """Monotonic seconds."""

    def start(self) -> None:
        """Look after the rooms from now on; nothing happens if that is done already."""
        if not self._started:
            self._started = True
            self._check_due = time.monotonic() + get_settings().history_check_interval
            self._state.on_change.append(self._state_changed)
            self._hub.supervise("history", self.run)

    def wake(self, room: Room) -> None:
        """Look after a room that is behind."""
        self._behind.setdefault(room.name, time.monotonic())
        self._woken.set()

    def late(self) -> int:
        """Return how many rooms have been behind for longer than a repair takes. Safe from any thread."""
        horizon = time.monotonic() - LATE
        return sum(since < horizon for since in list(self._behind.values()))

    def check_soon(self) -> None:
        """Ask for all rooms where they are: something may have been lost."""
        self._check_due = 0.0
        self._woken.set()

    def _state_changed(self, state: State) -> None:
        if state.available:
            self.check_soon()
            self._back.set()

    async def run(self) -> None:
        """Repair what is behind, until cancelled."""
        pause = 0.0
        while True:
            await self._rest(pause)
            before = self._progress()
            try:
                if time.monotonic() >= self._check_due:
                    self._check_due = time.monotonic() + get_settings().history_check_interval
                    await self._check(self._rooms())
                await self._repair([room for room in self._rooms() if room.name in self._behind])
            except StateUnavailable:
                # It has said so itself, and says when it is back: then every room is looked at.
                self._check_due = 0.0
                pause = min(pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
            else:
                stuck = self._behind and self._progress() == before
                pause = min(pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE) if stuck else 0.0

    async def place(self, room: Room, patience: float) -> None:
        """Find out where a room is: one question for all who wait, each for ``patience`` seconds at most."""
        if room.placing is None:
            room.placing = asyncio.get_running_loop().create_task(self._place(room), name="realtime.placing")
        await asyncio.wait([room.placing], timeout=patience)

    async def catch_up(self, room: Room) -> None:
        """Bring one room to where the state says it is. Raise StateUnavailable where that cannot be asked."""
        await self._check([room])
        before = None
        while room.past is not None and room.past.behind and before != room.place:
            before = room.place
            await self._repair([room])

    async def fetch(self, room: Room, offset: int, count: int) -> History:
        """Return up to ``count`` entries after ``offset``, in pages. Raise StateUnavailable where it cannot be asked."""
        history = await self._state.since(room.name, offset, limit=min(count, PAGE))
        entries = history.entries
        while entries and len(entries) < count and entries[-1].offset < history.top:
            more = await self._state.since(room.name, entries[-1].offset, limit=PAGE)
            if more.epoch != history.epoch or more.entries is None:
                return more
            entries += more.entries
            if not more.entries:
                break
        return history._replace(entries=entries)

    async def _place(self, room: Room) -> None:
        try:
            await self._check([room])
        except StateUnavailable:
            self.wake(room)
        finally:
            room.placing = None
        if room.past is not None and room.past.behind:
            self.wake(room)

    async def _rest(self, pause: float) -> None:
        """Return when there is something to do: what was merely overtaken has come by then."""
        if pause:
            self._back.clear()
            # A state that is back is not kept waiting.
            await _wait(self._back, pause)
            return
        if not self._behind:
            await _wait(self._woken, max(0.0, self._check_due - time.monotonic()))
        self._woken.clear()
        if self._behind:
            await asyncio.sleep(SETTLE)

    def _rooms(self) -> list[Room]:
        return [room for room in list(self._hub.rooms.values()) if room.past is not None]

    def _progress(self) -> list[tuple[str, str, int]]:
        rooms = (self._hub.rooms.get(name) for name in self._behind)
        return [(room.name, room.past.epoch, room.past.position) for room in rooms if room and room.past]

    async def _check(self, rooms: Sequence[Room]) -> None:
        """Hear where rooms are."""
        pasts = [(room, room.past, room.past.mark()) for room in rooms if room.past is not None]
        if not pasts:
            return
        tops = await self._state.top([room.name for room, _, _ in pasts], create=True)
        for (room, past, mark), top in zip(pasts, tops, strict=True):
            if top is None or room.past is not past:
                continue
            was = Place(past.epoch, past.position) if past.placed else None
            told = past.checked(mark, Place(top.epoch, top.offset), _base(top))
            if told is not None:
                self._hub.tell_lost(room, told)
                if was is not None and was.epoch != past.epoch and not told.complete:
                    # Only this node may know that the earlier epoch had more than the state remembers.
                    with contextlib.suppress(PublishQueueFull):
                        self._hub.hint_others(room, was)
            if past.behind:
                self.wake(room)

    async def _repair(self, rooms: Sequence[Room]) -> None:
        """Fill the holes of rooms, or give up what is not to be had."""
        doubtful = [room for room in rooms if room.past is not None and room.past.doubt is not None]
        if doubtful:
            await self._check(doubtful)
        for start in range(0, len(rooms), ROOMS_AT_ONCE):
            await asyncio.gather(*(self._fill(room) for room in rooms[start : start + ROOMS_AT_ONCE]))
        self._behind = {
            name: since
            for name, since in self._behind.items()
            if (room := self._hub.rooms.get(name)) is not None and room.past is not None and room.past.behind
        }

    async def _fill(self, room: Room) -> None:
        past = room.past
        wanted = None if past is None else past.wanted()
        if past is None or wanted is None:
            return
        after, count = wanted
        history = await self._state.since(room.name, after, limit=min(count, PAGE))
        if room.past is not past:
            return
        filled = past.fill(after, Place(history.epoch, history.top), lines_of(room, history))
        if filled.lost is not None:
            self._hub.tell_lost(room, filled.lost)
        for entry in filled.entries:
            self._hub.hand_on(room, entry)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _base(top: Position) -> Place | None:
    return Place(top.before.epoch, top.before.offset) if top.before is not None else None


def lines_of(room: Room, history: History) -> list[tuple[int, Line, int]] | None:
    """Return entries of a history as they are delivered; ``None`` if they are not there, or not to be read."""
    if history.entries is None:
        return None
    try:
        return [(offset, line_of(payload, offset), len(payload)) for offset, payload in history.entries]
    except ValueError:
        logger.exception("what is kept of a room cannot be read", room=room.name)
        return None
