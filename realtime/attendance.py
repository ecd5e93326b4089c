"""Presence over nodes: who is in this node's rooms, here and elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from django.utils.crypto import salted_hmac

from ratelimit.logs import get_logger
from realtime import envelope
from realtime.errors import PublishQueueFull, StateUnavailable
from realtime.presence import Person
from realtime.rooms import Room, group_name

if TYPE_CHECKING:
    from realtime.connections import Connection
    from realtime.nodes import Node

logger = get_logger("realtime")

DELAY = 0.05
"""Seconds that changes of a room are gathered before they are told, so that a reload shows nobody leaving."""

MEMBERS_A_SECOND, MOST_DELAY = 10_000, 2.0
"""Where many are told, changes are gathered for longer: so many are told within a second, and nobody waits longer."""

READ_A_SECOND = 5_000
"""People of one room that are read within a second."""

PATIENCE = 2.0
"""Seconds that one who enters waits to be told who is at other nodes."""

CHECK_INTERVAL = 60.0
"""Seconds between two looks at every room, in case a message of another node was lost."""

AT_ONCE = 500
"""Rooms that are written and read together."""

BREATH = 0.02
"""Seconds between two rounds, in which what is asked meanwhile is gathered."""

RETRY = 0.5
"""Seconds before a state that does not answer is asked again."""

_decode = msgspec.json.Decoder(Person).decode
_encode = msgspec.json.Encoder().encode


class Attendance:
    """
    The people in the rooms of one node. Belongs to the loop of the node.

    Those who are here are told at once. The state is told what has changed of them, one call a room and change however
    many have come, and the other nodes that something has; these ask the state who is there. While the state is away
    everybody stays where they were.

    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._wake = asyncio.Event()
        self._dirty: dict[str, None] = {}
        """Rooms where the state may not have who is here."""
        self._stale: dict[str, None] = {}
        """Rooms where others may have come or gone elsewhere."""
        self._asked: dict[str, asyncio.Future[None]] = {}
        """Rooms where somebody waits to be told who is elsewhere."""
        self._written: dict[str, dict[str, float | None]] = {}
        """What the state has, by room and identity: since when they look as they do; ``None`` where that is not known."""
        self._elsewhere: dict[str, Collection[str]] = {}
        """Nodes with people in a room."""
        self._not_before: dict[str, float] = {}
        self._life = 0
        if node.has_others:
            node.lease.on_fresh.append(self._on_fresh)
            node.census.on_gone.append(self._on_gone)
            node.census.on_trusted.append(self.check)

    # Who comes and goes here.

    def enter(
        self, room: Room, connection: Connection, entry: dict[str, Any], *, counts: bool = False
    ) -> None:
        """Show a connection's person in a room, as ``entry``; with ``counts`` the room tells numbers from now on."""
        identity = public_id(_identity(connection, connection.id))
        room.roster.counts |= counts
        since = round(self._node.lease.shared_time(time.monotonic()), 6)
        room.roster.enter(identity, connection.id, {**entry, "id": identity}, since)
        self._announce(room)

    def leave(self, room: Room, connection: Connection) -> None:
        """Show it no more; one that is not seen there is ignored."""
        self._take_out(room, connection, connection.id)

    def rekey(self, connection: Connection, before: str) -> None:
        """A connection has another id than ``before``: its rooms see it by that when it enters them again."""
        for name in connection.rooms:
            if (room := self._node.hub.rooms.get(name)) is not None:
                self._take_out(room, connection, before)

    def _take_out(self, room: Room, connection: Connection, id: str) -> None:
        if not room.roster:
            return
        identity = public_id(_identity(connection, id))
        if room.roster.has(identity, id):
            room.roster.leave(identity, id)
            self._announce(room)

    async def settled(self, room: Room) -> None:
        """Return when it is known who is in a room at other nodes, or that cannot be found out soon."""
        node = self._node
        if not node.has_others or room.roster.complete or not (node.state.available and node.census.trusted):
            return
        asked = self._asked.get(room.name)
        if asked is None:
            asked = self._asked[room.name] = node.loop.create_future()
            self._look_again([room.name])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.shield(asked)

    def told(self, room: Room) -> list[dict[str, Any]] | dict[str, int]:
        """Return what to tell one who enters: who is there, or how many are."""
        return {"count": room.roster.count} if room.roster.counts else room.roster.told()

    # Telling those who are here.

    def _announce(self, room: Room) -> None:
        if not room.announcing:
            room.announcing = True
            members = len(room.members) + len(room.arriving)
            delay = min(DELAY + members / MEMBERS_A_SECOND, MOST_DELAY)
            self._node.loop.call_later(delay, self._announce_now, room)

    def _announce_now(self, room: Room) -> None:
        room.announcing = False
        self._tell(room)
        if self._node.has_others:
            self._dirty[room.name] = None
            self._wake.set()

    def _tell(self, room: Room) -> None:
        if room.roster.counts:
            count = room.roster.recount()
            if count is not None:
                self._node.hub.tell(room, envelope.presence_count(room.name, count))
            return
        joins, leaves = room.roster.changes()
        if joins or leaves:
            self._node.hub.tell(room, envelope.presence(room.name, joins, leaves))

    # What other nodes have to do with it.

    def changed_elsewhere(self, name: str) -> None:
        """Somebody has come to or gone from a room at another node."""
        if name in self._node.hub.rooms:
            self._look_again([name])

    def check(self) -> None:
        """Look at every room again: what other nodes said of them may have been lost."""
        if self._node.has_others:
            self._dirty |= dict.fromkeys(self._written)
            self._look_again(name for name, room in self._node.hub.rooms.items() if _shows(room))

    def _look_again(self, names: Iterable[str]) -> None:
        self._stale |= dict.fromkeys(names)
        self._wake.set()

    def _on_fresh(self) -> None:
        """Write everything again: nothing is left of it."""
        self._life += 1
        self._written.clear()
        self._dirty |= dict.fromkeys(name for name, room in self._node.hub.rooms.items() if room.roster)
        self._wake.set()

    def _on_gone(self, ids: Collection[str]) -> None:
        """Let those go who were at nodes that are gone."""
        rooms = self._node.hub.rooms
        self._look_again(
            [
                name
                for name, nodes in self._elsewhere.items()
                if name in rooms and not set(ids).isdisjoint(nodes)
            ]
        )
        self._look_again([name for name, room in rooms.items() if room.roster.counts])

    async def run(self) -> None:
        """Tell the state who is here, and ask it who is elsewhere, until cancelled."""
        # What a node writes before it has come in is lost when it does.
        await self._node.lease.asked()
        due = time.monotonic() + CHECK_INTERVAL
        while True:
            await self._until(due)
            self._wake.clear()
            if time.monotonic() >= due:
                due = time.monotonic() + CHECK_INTERVAL
                self.check()
            well = await self._round()
            await asyncio.sleep(BREATH if well else RETRY)

    async def _until(self, due: float) -> None:
        """Wait until there is something to do, ``due`` at the latest."""
        waiting = [self._not_before.get(name, 0.0) for name in self._stale]
        moment = 0.0 if self._dirty else min([due, *waiting])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, moment - time.monotonic())):
                await self._wake.wait()

    async def _round(self) -> bool:
        """Do what there is to do, some of it; return whether the state could be reached."""
        now = time.monotonic()
        dirty = dict.fromkeys(list(self._dirty)[:AT_ONCE])
        due = [name for name in self._stale if self._not_before.get(name, 0.0) <= now]
        stale = dict.fromkeys(due[:AT_ONCE] if self._node.census.trusted else ())
        for name in dirty:
            del self._dirty[name]
        for name in stale:
            del self._stale[name]
        names = list(dirty | stale)
        done = await asyncio.gather(
            *(self._attend(name, write=name in dirty, read=name in stale) for name in names),
            return_exceptions=True,
        )
        well = True
        for name, error in zip(names, done, strict=True):
            if (asked := self._asked.pop(name, None)) is not None:
                asked.set_result(None)
            if isinstance(error, StateUnavailable):
                well = False
                self._dirty[name] = self._stale[name] = None
            elif isinstance(error, BaseException):
                raise error
        return well

    async def _attend(self, name: str, *, write: bool, read: bool) -> None:
        if write and await self._write(name):
            self._tell_others(name)
        room = self._node.hub.rooms.get(name)
        if room is None:
            self._elsewhere.pop(name, None)
            self._not_before.pop(name, None)
        elif read:
            await self._read(room)

    async def _write(self, name: str) -> bool:
        """Tell the state who is here; return whether it did not know."""
        room, state, own = self._node.hub.rooms.get(name), self._node.state, self._node.lease.id
        here = {} if room is None else dict(room.roster.here)
        known = self._written.setdefault(name, {})
        changed = {one: person for one, person in here.items() if known.get(one) != person.since}
        gone = [one for one in known if one not in here]
        if changed or gone:
            # Until the answer has come, none of it is certain.
            known |= dict.fromkeys([*changed, *gone])
            life = self._life
            calls = []
            if changed:
                rows = {one: _encode(person) for one, person in changed.items()}
                calls.append(state.set_presence(name, own, rows))
            if gone:
                calls.append(state.drop_presence(name, own, gone))
            await asyncio.gather(*calls)
            if life == self._life:
                known |= {one: person.since for one, person in changed.items()}
                for one in gone:
                    del known[one]
        if not known and self._written.get(name) is known:
            del self._written[name]
        return bool(changed or gone)

    def _tell_others(self, name: str) -> None:
        try:
            self._node.hub.send_remote({"group": group_name(name), "op": "presence", "to": name})
        except PublishQueueFull as error:
            logger.warning("other nodes are told later who is in a room", room=name, reason=str(error))

    async def _read(self, room: Room) -> None:
        """Ask the state who is elsewhere."""
        state, own = self._node.state, self._node.lease.id
        ask = state.count_presence if room.roster.counts else state.presence
        answer = await ask(room.name)
        if not self._node.census.trusted:
            # It went away and came back meanwhile: this may be from before all others had come back too.
            self._stale[room.name] = None
            return
        if isinstance(answer, int):
            room.roster.count_elsewhere = max(0, answer - len(self._written.get(room.name, ())))
        else:
            answer.pop(own, None)
            self._elsewhere[room.name] = frozenset(answer)
            people = [one for rows in answer.values() for one in _people(rows)]
            room.roster.set_others(people)
            self._not_before[room.name] = time.monotonic() + len(people) / READ_A_SECOND
        room.roster.complete = True
        if not room.announcing:
            self._tell(room)


def _people(rows: Mapping[str, bytes]) -> Iterator[tuple[str, Person]]:
    """Return the people of another node that can be read: while versions change, it may write something else."""
    for one, row in rows.items():
        try:
            yield one, _decode(row)
        except msgspec.MsgspecError as error:
            logger.info("somebody at another node cannot be shown", reason=str(error))


def _identity(connection: Connection, id: str) -> str:
    """Return what makes two connections one person: the user, and for visitors the connection itself."""
    return f"user:{connection.user_id}" if connection.user_id is not None else f"visitor:{id}"


def public_id(identity: str) -> str:
    """
    Return what stands for a person in a list that others see.

    It is keyed with the project's secret: primary keys are few, and a plain hash of one is soon guessed.

    """
    return salted_hmac("realtime.presence", identity, algorithm="sha256").hexdigest()[:16]


def _shows(room: Room) -> bool:
    """Return whether anybody here may have been told who is in a room."""
    return room.roster.complete or len(room.roster) > 0
