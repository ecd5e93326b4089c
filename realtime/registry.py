"""The connections of one node, and what an observer may know of each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realtime.connections import Connection


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One connection at one moment. Times are seconds since the epoch, ``rtt`` is seconds."""

    id: str
    user_id: str | None
    user: str
    """What people call the user; empty for an anonymous visitor."""
    address: str
    path: str
    route: str
    """The URL pattern that matched, where it is known; its path otherwise."""
    node: str
    consumer: str
    rooms: tuple[str, ...]
    opened_at: float
    last_seen: float
    rtt: float | None
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    outbound_bytes: int
    errors: int
    limited: int
    remaining: int | None
    """Messages it may send right now; ``None`` where nothing limits it."""
    subprotocol: str
    user_agent: str
    transport: str


class Registry:
    """Every open connection of one node, by id and by user. Belongs to the node's loop; reading is safe anywhere."""

    def __init__(self) -> None:
        self._by_id: dict[str, Connection] = {}
        self._by_user: dict[str, dict[str, Connection]] = {}
        self._emptied: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_id.values()))

    @property
    def named(self) -> int:
        """Connections of authenticated users."""
        return sum(len(of_user) for of_user in list(self._by_user.values()))

    def add(self, connection: Connection) -> None:
        """Take a connection in. One that has the same id is replaced: it stays, but is not found by it any more."""
        replaced = self._by_id.get(connection.id)
        if replaced is not None and replaced is not connection:
            self._enter(replaced.instance, replaced)
        self._enter(connection.id, connection)

    def remove(self, connection: Connection) -> None:
        """Let a connection go; one that is not here is ignored."""
        self._leave(connection)
        if not self._by_id and self._emptied is not None:
            self._emptied.set()

    def rekey(self, connection: Connection, client_id: str) -> None:
        """Give a connection that is here another id, which :meth:`add` says what becomes of if it is taken."""
        self._leave(connection)
        connection.id = client_id
        self.add(connection)

    def _enter(self, key: str, connection: Connection) -> None:
        self._by_id[key] = connection
        if connection.user_id is not None:
            self._by_user.setdefault(connection.user_id, {})[key] = connection

    def _leave(self, connection: Connection) -> None:
        for key in (connection.id, connection.instance):
            # The id may be that of the one who replaced it.
            if self._by_id.get(key) is connection:
                del self._by_id[key]
                if connection.user_id is not None:
                    of_user = self._by_user[connection.user_id]
                    del of_user[key]
                    if not of_user:
                        del self._by_user[connection.user_id]

    def get(self, client_id: str) -> Connection | None:
        """Return the connection with this id, if it is here."""
        return self._by_id.get(client_id)

    def of_user(self, user_id: str) -> list[Connection]:
        """Return the connections of a user."""
        return list(self._by_user.get(user_id, {}).values())

    async def empty(self) -> None:
        """Return when no connection is left."""
        while self._by_id:
            if self._emptied is None or self._emptied.is_set():
                self._emptied = asyncio.Event()
            await self._emptied.wait()
