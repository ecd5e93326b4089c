"""Those who enter a room with history: each is brought to where the room is, and becomes a member there."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ratelimit.logs import get_logger
from realtime import envelope
from realtime.close_codes import SERVER_ERROR
from realtime.errors import StateUnavailable
from realtime.history import Entry, Place, Recovery, Sequencer
from realtime.repairs import lines_of
from realtime.rooms import Line, Room

if TYPE_CHECKING:
    from realtime.connections import Connection
    from realtime.hub import Hub

T = TypeVar("T")

logger = get_logger("realtime")

RESUME_GRACE = 0.25
"""Seconds that a new socket's first message may take, before it is clear that it resumes nothing."""

PATIENCE = 2.0
"""Seconds that a recovery is waited for; it goes on by itself."""

MAX_FETCHES = 5
"""How often older messages are fetched for one who enters: a room that is faster than that is not to be caught up with."""

_RETRY = 0.5
"""Seconds before a state that does not answer is asked again."""


class Arrivals:
    """
    Brings connections to where their rooms are. Belongs to the node's loop.

    A room's position moves only in the step in which a message is handed to its members. So whoever has been sent
    everything up to it, and becomes a member before anything else runs, misses nothing and gets nothing twice.

    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._holds: weakref.WeakKeyDictionary[Connection, asyncio.Event] = weakref.WeakKeyDictionary()
        self._needs: dict[str, list[int]] = {}
        """By room, from which offsets on those who wait for a fetch need messages."""

    def come_in(self, connection: Connection, room: Room, told: Place | None, *, hold: float = 0.0) -> None:
        """
        Make a connection a member that was ``told`` where the room is: at once, where it is still there.

        With ``hold`` it stays where it was told for so many seconds, or until :meth:`release`, in case it is
        about to say that it has been here before (:meth:`recover`). Without a place it is told one first.

        """
        if connection not in room.arriving or room.arriving[connection] is not None:
            return
        if not hold and told is not None and told == room.place:
            self._admit(connection, room)
        else:
            self._start(connection, room, self._hold(connection, room, told, hold))

    def release(self, connection: Connection) -> None:
        """Hold a connection back no longer: its first message has come, and resumes nothing."""
        if (held := self._holds.pop(connection, None)) is not None:
            held.set()

    async def recover(self, connection: Connection, room: Room, seen: Place | None) -> None:
        """
        Send a connection that has joined a room what it missed since ``seen``, then make it a member.

        It is told what becomes of it, before anything else of the room, with ``system.recovered``. Where the
        state has to be asked and is away, that happens as soon as it is back.

        """
        if room.past is None or room.name not in connection.rooms:
            return
        room.members.pop(connection, None)
        if (task := room.arriving.get(connection)) is not None:
            task.cancel()
        room.arriving[connection] = None
        task = self._start(connection, room, self.bring_up(connection, room, seen, say=True))
        await asyncio.wait([task], timeout=PATIENCE)

    def forget(self, connection: Connection, room: Room) -> None:
        """Stop bringing a connection into a room."""
        if (task := room.arriving.pop(connection, None)) is not None:
            task.cancel()

    def _start(
        self, connection: Connection, room: Room, work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name="realtime.arrival")
        room.arriving[connection] = task
        task.add_done_callback(functools.partial(_look_at, connection))
        return task

    async def _hold(self, connection: Connection, room: Room, told: Place | None, seconds: float) -> None:
        if seconds:
            held = self._holds.setdefault(connection, asyncio.Event())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await held.wait()
        await self.bring_up(connection, room, told, say=False)

    async def bring_up(self, connection: Connection, room: Room, seen: Place | None, *, say: bool) -> None:
        """
        Send a connection what it has not seen of a room, and make it a member.

        With ``say`` it is told what follows; without, only where not all of it does. One that has ``seen``
        nothing starts where the room is, and is told where that is if it has not been.

        """
        fetches = 0
        asked = False
        fetched: Sequence[Entry[Line]] = ()
        while self._is_arriving(connection, room):
            past = await self._placed(room)
            if seen is None:
                seen = Place(past.epoch, past.position)
                connection.say("joined", {"room": room.name, "offset": seen.offset, "epoch": seen.epoch})
            if not asked and (seen.epoch != past.epoch or seen.offset > past.position):
                # It has come from a node that knew more.
                asked = True
                await self._patiently(connection, room, lambda: self._hub.repairs.catch_up(room))
                continue
            recovery = past.recovery(*seen, fetched)
            if recovery is None:
                fetches += 1
                found = (
                    await self._fetched(connection, room, past, seen.offset)
                    if fetches <= MAX_FETCHES
                    else None
                )
                if room.past is past and found is None:
                    recovery = past.unrecoverable(seen.offset)
                else:
                    fetched = found or ()
                    continue
            fetched = ()
            if say or not recovery.complete or recovery.epoch != seen.epoch:
                self._say(connection, room, recovery)
            say = False
            await self._send(connection, recovery)
            seen = Place(recovery.epoch, recovery.to)
            if seen == room.place and self._is_arriving(connection, room):
                self._admit(connection, room)
                return

    def _admit(self, connection: Connection, room: Room) -> None:
        del room.arriving[connection]
        room.members[connection] = None

    def _is_arriving(self, connection: Connection, room: Room) -> bool:
        return connection in room.arriving and not connection.closed

    async def _placed(self, room: Room) -> Sequencer[Line]:
        """Return the past of a room as soon as it is known where it is."""
        while room.past is None or not room.past.placed:
            await self._hub.repairs.place(room, _RETRY)
            if room.past is not None and not room.past.placed:
                await asyncio.sleep(_RETRY)
        return room.past

    async def _fetched(
        self, connection: Connection, room: Room, past: Sequencer[Line], offset: int
    ) -> Sequence[Entry[Line]] | None:
        """Return what the state has after ``offset``; ``None`` if not all of it is there."""
        needs = self._needs.setdefault(room.name, [])
        needs.append(offset)
        try:
            async with room.reading:
                if room.past is not past or past.ring.after(offset) is not None:
                    # Somebody who waited for the same has brought it.
                    return ()
                lowest = min(needs)
                found = await self._read(connection, room, past, lowest)
                if found is None and lowest < offset:
                    found = await self._read(connection, room, past, offset)
                return found
        finally:
            needs.remove(offset)
            if not needs:
                self._needs.pop(room.name, None)

    async def _read(
        self, connection: Connection, room: Room, past: Sequencer[Line], offset: int
    ) -> Sequence[Entry[Line]] | None:
        count = past.position - offset
        history = await self._patiently(
            connection, room, lambda: self._hub.repairs.fetch(room, offset, count)
        )
        if history is None or room.past is not past:
            return ()
        if history.epoch != past.epoch:
            await self._patiently(connection, room, lambda: self._hub.repairs.catch_up(room))
            return ()
        lines = lines_of(room, history)
        if lines is None:
            return None
        entries = [Entry(*line) for line in lines]
        past.remember(entries)
        return entries

    async def _patiently(
        self, connection: Connection, room: Room, ask: Callable[[], Coroutine[Any, Any, T]]
    ) -> T | None:
        """Ask the state until it answers; ``None`` if the connection is not to enter any more."""
        while self._is_arriving(connection, room):
            try:
                return await ask()
            except StateUnavailable:
                await asyncio.sleep(_RETRY)
        return None

    def _say(self, connection: Connection, room: Room, recovery: Recovery[Line]) -> None:
        count = sum(connection.id not in entry.item.exclude for entry in recovery.entries)
        if connection.speaks_protocol:
            connection.offer(envelope.recovered(room.name, recovery, count), "disconnect")

    async def _send(self, connection: Connection, recovery: Recovery[Line]) -> None:
        for entry in recovery.entries:
            if connection.outbox:
                # What was missed may be more than what may wait for a slow reader.
                await connection.cleared()
            if connection.closed:
                return
            if connection.id not in entry.item.exclude:
                connection.offer(entry.item.frame, "disconnect")


def _look_at(connection: Connection, task: asyncio.Task[None]) -> None:
    """Say what went wrong, and have the client come back: nobody waits for the end of such a task."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a connection was not brought into its room", client=connection.id, exc_info=error)
        connection.close(SERVER_ERROR)
