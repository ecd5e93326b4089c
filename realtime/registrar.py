"""What the other nodes can know of this one: its connections, written down in the shared state as they change."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from realtime.conf import get_settings
from realtime.courier import PROCESS
from realtime.errors import StateUnavailable
from realtime.memory import CONNECTION_BYTES, SLICE, held_by
from realtime.state import State

if TYPE_CHECKING:
    from realtime.connections import Connection
    from realtime.lease import Lease
    from realtime.nodes import NodeSnapshot
    from realtime.registry import Registry

MOST_CHANGED = 2000
"""
Connections whose numbers are written again in one round, those that were written longest ago first: ten thousand that
all talk take up to five rounds. Those that have come or gone are written in any case.
"""

AT_ONCE = 200
"""Connections that are written with one call."""

_encode = msgspec.json.Encoder().encode

Mark = tuple[object, ...]


@dataclass(slots=True)
class Held:
    """What the connections of a node held when they were looked at, in bytes."""

    buffered: int = 0
    """Waiting for slow readers."""
    memory: int = 0
    """Their objects, what waits for them and their session data."""

    def add(self, connection: Connection) -> None:
        """Add what one connection holds."""
        self.buffered += connection.outbox.bytes + connection.transport.buffered_bytes
        if not connection.closed:
            self.memory += CONNECTION_BYTES + held_by(connection)


def entry_of(snapshot: NodeSnapshot) -> bytes:
    """Return the row of a node of this process. Another process that starts under the same name is another one."""
    return _encode({"process": PROCESS, "snapshot": snapshot})


class Registrar:
    """
    Keeps the rows of one node's connections. Belongs to the loop of the node.

    A connection that does nothing is looked at and no more: it is written again when it was heard of, and a silent one is
    that once a heartbeat.

    """

    def __init__(self, registry: Registry, state: State, lease: Lease) -> None:
        self.held = Held()
        """As of the last round."""
        self._registry = registry
        self._state = state
        self._lease = lease
        self._written: dict[str, Mark] = {}
        """What the state has, by client id, the oldest first."""
        self._life = 0
        """How often the state has forgotten everything."""

    async def run(self) -> None:
        """Write what has changed every ``REALTIME_REGISTRY_SYNC_INTERVAL`` until cancelled."""
        self._lease.on_fresh.append(self._forget)
        # What a node writes before it has come in is lost when it does.
        await self._lease.asked()
        while True:
            # A state that is away has said so itself; what it was not told it is told the next time.
            with contextlib.suppress(StateUnavailable):
                await self.write()
            await asyncio.sleep(get_settings().registry_sync_interval)

    async def write(self) -> None:
        """Write what has changed since the last time."""
        here = {connection.id: connection for connection in self._registry if connection.accepted}
        await self._measure(list(here.values()))
        gone = [id for id in self._written if id not in here]
        for start in range(0, len(gone), AT_ONCE):
            await self._remove(gone[start : start + AT_ONCE])
        await self._write_some([one for id, one in here.items() if id not in self._written])
        await self._write_some(list(islice(await self._changed(here), MOST_CHANGED)))

    async def _measure(self, connections: list[Connection]) -> None:
        held = Held()
        for number, connection in enumerate(connections, start=1):
            held.add(connection)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        self.held = held

    async def _changed(self, here: dict[str, Connection]) -> list[Connection]:
        """Return the connections that are not what was written, the one written longest ago first."""
        changed = []
        for number, (id, mark) in enumerate(list(self._written.items()), start=1):
            connection = here.get(id)
            if connection is not None and _mark(connection) != mark:
                changed.append(connection)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return changed

    async def _write_some(self, connections: list[Connection]) -> None:
        for start in range(0, len(connections), AT_ONCE):
            some = connections[start : start + AT_ONCE]
            marks = {connection.id: _mark(connection) for connection in some}
            life = self._life
            await self._state.write_registry(
                self._lease.id, {connection.id: _encode(connection.info()) for connection in some}
            )
            if life == self._life:
                for id, mark in marks.items():
                    self._written.pop(id, None)
                    self._written[id] = mark

    async def _remove(self, ids: list[str]) -> None:
        await self._state.write_registry(self._lease.id, {}, ids)
        for id in ids:
            self._written.pop(id, None)

    def _forget(self) -> None:
        self._life += 1
        self._written.clear()


def _mark(connection: Connection) -> Mark:
    """Return what changes with whatever an observer would want to know; cheap, because it is asked of everybody."""
    return (
        connection.last_heard,
        connection.messages_out,
        connection.outbox.bytes,
        connection.errors,
        len(connection.rooms),
    )
