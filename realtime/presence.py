"""Who is in a room: several connections of one person are one entry, changes are told as differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Person(NamedTuple):
    """What others see of somebody, and since when, in seconds."""

    entry: dict[str, Any]
    since: float = 0.0


class Roster:
    """
    The people in one room.

    ``enter`` and ``leave`` record connections of this node; ``others`` are those of all other nodes. ``changes``
    returns who came and who went since it was last asked. Who came and went between two questions was never there,
    except for those who were ``told`` meanwhile.

    """

    __slots__ = (
        "_announced",
        "_connections",
        "_counted",
        "_others",
        "_people",
        "_told",
        "complete",
        "count_elsewhere",
        "counts",
    )

    def __init__(self) -> None:
        self.counts = False
        """Whether only the number of people is told. ``count_elsewhere`` is then used in the place of ``others``."""
        self.complete = False
        """Whether it is known who is in the room at other nodes."""
        self.count_elsewhere = 0
        """People at other nodes; who is at several is counted at each."""
        self._connections: dict[str, set[str]] = {}
        self._people: dict[str, Person] = {}
        self._others: Mapping[str, Person] = {}
        self._announced: dict[str, dict[str, Any]] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._counted = 0

    def __len__(self) -> int:
        return len(self._people)

    @property
    def here(self) -> Mapping[str, Person]:
        """The people of this node, by identity, the longest here first."""
        return self._people

    @property
    def count(self) -> int:
        """How many people are in the room, where only that is told."""
        return len(self._people) + self.count_elsewhere

    def enter(self, identity: str, connection: str, entry: dict[str, Any], since: float = 0.0) -> None:
        """Record that ``connection`` of ``identity`` is here; ``entry`` is what others see of it."""
        self._connections.setdefault(identity, set()).add(connection)
        known = self._people.get(identity)
        if known is None or known.entry != entry:
            self._people[identity] = Person(dict(entry), since)

    def leave(self, identity: str, connection: str) -> None:
        """Record that a connection is gone; the person goes with the last one. Unknown ones are ignored."""
        connections = self._connections.get(identity)
        if connections is None:
            return
        connections.discard(connection)
        if not connections:
            del self._connections[identity], self._people[identity]

    def has(self, identity: str, connection: str) -> bool:
        """Return whether a connection is here."""
        return connection in self._connections.get(identity, ())

    def set_others(self, people: Iterable[tuple[str, Person]]) -> None:
        """Record who is at other nodes; of one who is at several what was last to be seen counts."""
        others: dict[str, Person] = {}
        for identity, person in people:
            if identity not in others or person.since > others[identity].since:
                others[identity] = person
        self._others = others

    def told(self) -> list[dict[str, Any]]:
        """Return what to tell one who comes, so that the next ``changes`` lead to the whole."""
        now = self._now()
        self._told |= {one: entry for one, entry in now.items() if self._announced.get(one) != entry}
        return list({**self._announced, **now}.values())

    def changes(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return who came and who went since the last call."""
        before, told, now = self._announced, self._told, self._now()
        joins = [
            entry
            for one, entry in now.items()
            if before.get(one) != entry or (one in told and told[one] != entry)
        ]
        leaves = [entry for one, entry in {**told, **before}.items() if one not in now]
        self._announced, self._told = dict(now), {}
        return joins, leaves

    def recount(self) -> int | None:
        """Return the number of people if it is another one than at the last call."""
        if self._counted == self.count:
            return None
        self._counted = self.count
        return self._counted

    def _now(self) -> dict[str, dict[str, Any]]:
        """Return all entries, those of this node first, the longest here first."""
        now = {one: person.entry for one, person in self._people.items()}
        for one, person in self._others.items():
            here = self._people.get(one)
            if here is None or person.since > here.since:
                now[one] = person.entry
        return now
