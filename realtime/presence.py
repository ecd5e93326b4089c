"""Who is in a room: several connections of one person are one entry, changes are told as differences."""

from __future__ import annotations

from typing import Any


class Roster:
    """
    The people in one room.

    ``enter`` and ``leave`` record connections; ``changes`` returns who came and who went since it was
    last asked. Who came and went between two questions was never there.

    """

    __slots__ = ("_announced", "_connections", "_entries")

    def __init__(self) -> None:
        self._connections: dict[str, set[str]] = {}
        self._entries: dict[str, dict[str, Any]] = {}
        self._announced: dict[str, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, identity: str, connection: str, entry: dict[str, Any]) -> None:
        """Record that ``connection`` of ``identity`` is here; ``entry`` is what others see of it."""
        self._connections.setdefault(identity, set()).add(connection)
        self._entries[identity] = dict(entry)

    def leave(self, identity: str, connection: str) -> None:
        """Record that a connection is gone; the person goes with the last one. Unknown ones are ignored."""
        connections = self._connections.get(identity)
        if connections is None:
            return
        connections.discard(connection)
        if not connections:
            del self._connections[identity], self._entries[identity]

    def everyone(self) -> list[dict[str, Any]]:
        """Return all entries, the longest here first."""
        return list(self._entries.values())

    def changes(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return who came and who went since the last call."""
        before, now = self._announced, self._entries
        joins = [entry for identity, entry in now.items() if before.get(identity) != entry]
        leaves = [entry for identity, entry in before.items() if identity not in now]
        self._announced = dict(now)
        return joins, leaves
