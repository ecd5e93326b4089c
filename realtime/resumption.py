"""The sessions of one node: kept while their sockets are open, handed over when a client comes back on another."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ratelimit.logs import get_logger
from realtime.close_codes import KICKED, REPLACED
from realtime.conf import get_settings
from realtime.errors import ClientError, SessionDataError, StateUnavailable
from realtime.sessions import (
    RoomPlace,
    Saves,
    Session,
    Token,
    TokenFlaw,
    issue_token,
    pack,
    read_token,
    unpack,
)
from realtime.state import REVOKED

if TYPE_CHECKING:
    from realtime.connections import Connection
    from realtime.nodes import Node

logger = get_logger("realtime")

SAVED_AT_ONCE = 500
"""Sessions of one node that are written together."""

MOST_WRITING = 2 * SAVED_AT_ONCE
"""Writes that may be on their way: what comes meanwhile waits, and goes with the next."""

ROUND = 1.0
"""Seconds between two rounds in which those sessions are written that can wait."""

FIRST_SAVE = 0.2
"""Seconds for which who enters a room waits at most until the state has its session."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a client that came back is."""

    client_id: str
    turn: int
    kept: Session | None
    """``None`` where nothing is kept of it, or what is cannot be had now."""


class Sessions:
    """The sessions of the clients of one node. Belongs to the node's loop."""

    def __init__(self, node: Node) -> None:
        settings = get_settings()
        self._node = node
        self._saves = Saves(settings.session_save_interval, settings.session_ttl / 2)
        self._strangers: dict[str, None] = {}
        """Sessions of those who turned out to be somebody else, to be dropped: nobody will ask for them."""
        self._returning: dict[str, dict[str, RoomPlace]] = {}
        """Where those were, by instance, who are entering their rooms again."""
        self._unkept: dict[str, asyncio.Future[None]] = {}
        """The first save, by instance, of those that no other process knows of yet."""
        self._wake = asyncio.Event()
        self._writing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._saves)

    # While a socket is open.

    async def ready(self) -> None:
        """Return when the clock that all nodes share is known, if it can be: tokens are judged by it."""
        self._node.lease.keep()
        await self._node.lease.learn_time()

    def opened(self, connection: Connection) -> None:
        """Keep the session of this socket from now on: in the next turn of the loop the state is told that there is one."""
        self._saves.opened(connection.id, time.monotonic())
        # A state of this process alone ends with it.
        if self._node.state.bus is not None and connection.instance not in self._returning:
            self._unkept[connection.instance] = self._node.loop.create_future()
        self.changed(connection, rooms=True)

    async def kept(self, connection: Connection) -> None:
        """
        Return when another node could resume the session of this socket.

        Where the state is away, or does not answer for :data:`FIRST_SAVE` seconds, the client has to go on without.

        """
        first = self._unkept.get(connection.instance)
        if first is not None and self._node.state.available:
            await asyncio.wait([first], timeout=FIRST_SAVE)

    def changed(self, connection: Connection, *, rooms: bool = False) -> None:
        """What is kept of this socket has changed. Where it is its ``rooms``, that is saved at once."""
        # Of one that is coming back the state has all that matters: it is saved once, when it is in its rooms again.
        at_once = rooms and connection.instance not in self._returning
        self._saves.changed(connection.id, at_once=at_once)
        if at_once:
            self._wake.set()

    def token(self, connection: Connection) -> str:
        """Return what the client comes back with. It is a secret between it and the server."""
        return issue_token(
            connection.id, user_id=connection.user_id, audience=connection.consumer, now=self._now()
        )

    def asked(self, connection: Connection) -> None:
        """The peer is sent something that it answers: by then it has read whatever it was sent before."""
        if connection.places and not connection.outbox and not self._node.hub.queue_size:
            connection.places_asked = dict(self._standing(connection))

    def answered(self, connection: Connection) -> None:
        """The peer has answered."""
        asked, connection.places_asked = connection.places_asked, {}
        # A room that was left meanwhile is not entered again.
        connection.places.update((name, place) for name, place in asked.items() if name in connection.places)

    def _standing(self, connection: Connection) -> list[tuple[str, RoomPlace]]:
        """Return how the connection is in its rooms when it has read all that it was sent."""
        rooms = self._node.hub.rooms
        standing = []
        for name, known in connection.places.items():
            room = rooms.get(name)
            if room is not None and connection in room.members and (place := room.place) is not None:
                standing.append((name, RoomPlace(known.presence, known.recover, place.epoch, place.offset)))
        return standing

    async def closed(self, connection: Connection, *, answered: bool) -> None:
        """
        Keep the session of a socket that has closed until the client comes back.

        ``answered``: the peer has answered the close, and so has read all that it was sent.

        """
        if self._node.registry.get(connection.id) is connection:
            self._saves.forget(connection.id)
            if answered:
                self.answered(connection)
            await self._save(connection)
        # Else the client has come back already, here.
        self._returning.pop(connection.instance, None)
        self._go_on(connection)

    async def run(self) -> None:
        """Write the sessions that are new, have changed or would run out, until cancelled."""
        due = time.monotonic() + ROUND
        async with asyncio.TaskGroup() as writes:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due - time.monotonic())):
                        await self._wake.wait()
                self._wake.clear()
                if self._node.state.available:
                    # Those of one turn of the loop go out in one piece, and no turn waits for the answers to another.
                    self._write(writes, self._saves.take_urgent(time.monotonic(), SAVED_AT_ONCE))
                    if time.monotonic() >= due:
                        self._write(writes, self._saves.take_due(time.monotonic(), SAVED_AT_ONCE))
                if time.monotonic() >= due:
                    due = time.monotonic() + ROUND
                if len(self._writing) >= MOST_WRITING:
                    await asyncio.wait(self._writing, return_when=asyncio.FIRST_COMPLETED)

    def _write(self, writes: asyncio.TaskGroup, client_ids: list[str]) -> None:
        strangers, self._strangers = self._strangers, {}
        found = map(self._node.registry.get, client_ids)
        saves = (self._save(connection) for connection in found if connection is not None)
        for write in (*saves, *map(self._drop, strangers)):
            task = writes.create_task(write)
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
        if self._saves.has_urgent:
            # There are more than go at once.
            self._wake.set()

    async def _drop(self, client_id: str) -> None:
        # Where that cannot be, it runs out.
        with contextlib.suppress(StateUnavailable):
            await self._node.state.drop_session(client_id)

    def _go_on(self, connection: Connection) -> None:
        """Let who waits for the first save go on: it has been made, or is not to be waited for."""
        first = self._unkept.pop(connection.instance, None)
        if first is not None and not first.done():
            first.set_result(None)

    async def _save(self, connection: Connection) -> None:
        try:
            packed = pack(self.record(connection))
            ttl = get_settings().session_ttl
            kept = await self._node.state.save_session(connection.id, packed, ttl, turn=connection.turn)
            if not kept and not connection.closed:
                await self._give_up(connection)
        except StateUnavailable:
            # The state has said so itself; whoever is still here is tried again.
            self._saves.failed(connection.id)
        except SessionDataError as error:
            logger.error("session not saved", client=connection.id, error=str(error))
        finally:
            self._go_on(connection)

    async def _give_up(self, connection: Connection) -> None:
        """Close a socket whose session is not its own any more, of which this node has not been told."""
        revoked = await self._node.state.load_session(connection.id) is REVOKED
        connection.close(KICKED if revoked else REPLACED)

    def record(self, connection: Connection) -> Session:
        """Return what is kept of a connection."""
        data = msgspec.json.encode(connection.data)
        # Until it is in all of its rooms again, where it was counts, and not how far it has got.
        rooms = self._returning.get(connection.instance, connection.places)
        return Session(connection.id, connection.user_id, connection.consumer, data, rooms=dict(rooms))

    # When a client comes back.

    async def resume(self, connection: Connection, token: str) -> Resumed:
        """
        Return what the client of ``connection`` was when it was given ``token``.

        Raise ClientError where the token is no good, or no good any more.

        """
        known = read_token(token, user_id=connection.user_id, audience=connection.consumer)
        if isinstance(known, TokenFlaw):
            raise ClientError("bad_session", "This is not a session of yours. Go on without it.")
        ttl = get_settings().session_ttl
        try:
            revoked = await self._revoked_at(connection.user_id)
            kept, turn = await self._node.state.resume_session(known.client_id, ttl)
        except StateUnavailable:
            # The token itself says who this is; what else there was cannot be known.
            self._refuse_stale(known)
            return Resumed(known.client_id, int(self._now() * 1000), None)
        if kept is REVOKED or known.issued <= revoked:
            raise ClientError("session_revoked", "This session was ended by an operator. Go on without it.")
        older = self._node.registry.get(known.client_id)
        if older is not None and older is not connection:
            # What is written of it may be some seconds old.
            session: Session | None = self.record(older)
        else:
            session = unpack(kept) if isinstance(kept, bytes) else None
        if session is None:
            self._refuse_stale(known)
        elif not session.belongs_to(connection.user_id, connection.consumer):
            raise ClientError("bad_session", "This is not a session of yours. Go on without it.")
        return Resumed(known.client_id, turn, session)

    async def take_over(self, connection: Connection, resumed: Resumed) -> None:
        """Make ``connection`` the one that this client has; whoever had its id here is closed."""
        registry = self._node.registry
        older = registry.get(resumed.client_id)
        before = connection.id
        if before in self._saves and before != resumed.client_id and self._node.state.available:
            self._strangers[before] = None
        self._saves.forget(before)
        if registry.get(connection.id) is connection:
            registry.rekey(connection, resumed.client_id)
        else:
            connection.id = resumed.client_id
        connection.turn = resumed.turn
        # The state has this one, and the stranger that it was is nobody's.
        self._go_on(connection)
        # Before anything is waited for: it may be saved from now on.
        if resumed.kept is not None:
            data: dict[str, Any] = msgspec.json.decode(resumed.kept.data)
            connection.keep(data, len(resumed.kept.data))
            self._returning[connection.instance] = resumed.kept.rooms
        self._node.hub.attendance.rekey(connection, before)
        if older is not None and older is not connection:
            older.close(REPLACED)
            # Now: when it ends, it must not take the new one out, which is seen there by the same name.
            await self._node.hub.leave_all(older)

    def returned(self, connection: Connection) -> None:
        """A client that has come back is in its rooms again, in those that it may be in."""
        self._returning.pop(connection.instance, None)
        self.changed(connection, rooms=True)

    def replaced(self, client_id: str, turn: int, instance: str) -> None:
        """A client has come back, somewhere: close what it had before here."""
        connection = self._node.registry.get(client_id)
        if connection is not None and connection.instance != instance and connection.turn < turn:
            connection.close(REPLACED)

    async def _revoked_at(self, user_id: str | None) -> float:
        """Return since when (seconds since the epoch) the earlier sessions of a user are revoked; 0 if they are not."""
        if user_id is None:
            return 0.0
        revoked = await self._node.state.get(revocation_key(user_id))
        return float(revoked) if revoked is not None else 0.0

    def _refuse_stale(self, token: Token) -> None:
        if not token.is_fresh(self._now(), get_settings().session_ttl):
            raise ClientError("session_expired", "This session is too old to be resumed. Go on without it.")

    def _now(self) -> float:
        """Return seconds since the epoch, by the clock that all nodes share."""
        return self._node.lease.shared_time(time.monotonic())


def revocation_key(user_id: str) -> str:
    """Return the key under which the state keeps since when the sessions of a user are revoked."""
    return f"revoked.{user_id}"
