"""What a client of a room may see: in order, nothing twice, nothing missing that was not said to be. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Welcomed:
    """A connection began; resumed or afresh."""

    resumed: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """The room was entered at its top; without an offset it has no history."""

    epoch: str | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of the room. ``key`` is what its publisher called it; no two publishes share one."""

    key: str
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """The server said what became of the messages after ``start``, up to and with ``to``."""

    complete: bool
    start: int
    to: int
    epoch: str
    count: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended."""


Entry = Welcomed | Joined | Heard | Recovered | Lost
Place = tuple[str, int]
"""An epoch, and the offset of the last message of it."""


def violations(
    logs: Mapping[str, Sequence[Entry]],
    *,
    acked: Collection[str] = (),
    strict: bool = False,
    settled: bool = True,
) -> list[str]:
    """
    Return in sentences what is wrong with what the clients of one room saw, by the name of the client.

    ``acked`` are the keys whose publishers were told that they are published. ``settled`` says that the
    clients had time to get everything. ``strict`` is for runs in which nothing may be given up: no
    recovery is incomplete and no session begins afresh.

    """
    readers = {name: _Reader(name, strict) for name in logs}
    found = [sentence for name, log in logs.items() for sentence in readers[name].read(log)]
    found.extend(_disagreements(readers.values()))
    if settled:
        found.extend(_unfinished(readers.values()))
        found.extend(_vanished(readers.values(), acked))
    return found


class _Reader:
    """One client's log, read from its beginning."""

    def __init__(self, name: str, strict: bool) -> None:
        self.name = name
        self.place: Place | None = None
        self.seen: dict[Place, str] = {}
        self.keys: set[str] = set()
        """Keys heard in any epoch."""
        self.has_gaps = False
        """Whether it was told, or can tell, that it did not get everything."""
        self.entered: Place | None = None
        """Where it came in: what was said before is not for it."""
        self._strict = strict
        self._before: Place | None = None
        self._of_epoch: set[str] = set()
        self._promised: int | None = None
        """The offset up to which a complete recovery said that messages follow."""
        self._resumed = True

    def read(self, log: Sequence[Entry]) -> Iterator[str]:
        for entry in log:
            for problem in self._one(entry):
                yield f"{self.name}: {problem}"
        for problem in self._connection_over():
            yield f"{self.name}: {problem}"

    def _one(self, entry: Entry) -> Iterator[str]:
        if isinstance(entry, Lost):
            yield from self._connection_over()
            self._before = self.place or self._before
            self._promised = None
        elif isinstance(entry, Welcomed):
            self._resumed = entry.resumed
            self.place = self._before if entry.resumed else None
            if self._before is not None and not entry.resumed:
                self.has_gaps = True
        elif isinstance(entry, Joined):
            yield from self._joined(entry)
        elif isinstance(entry, Recovered):
            yield from self._recovered(entry)
        else:
            yield from self._heard(entry)

    def _connection_over(self) -> Iterator[str]:
        if self._strict and self._before is not None and not self._resumed:
            yield f"began afresh, although it had been at {self._before}"
        self._resumed = True

    def _joined(self, entry: Joined) -> Iterator[str]:
        if entry.epoch is None or entry.offset is None:
            return
        if self.place is None:
            self._go_to((entry.epoch, entry.offset))
            self.entered = self.entered or self.place
        elif (entry.epoch, entry.offset) < self.place and entry.epoch == self.place[0]:
            yield f"entered at {entry.offset}, which is before {self.place[1]}, where it was"

    def _recovered(self, entry: Recovered) -> Iterator[str]:
        if self.place is None:
            yield f"was told of a recovery from {entry.start} without ever having been in the room"
        elif entry.start != self.place[1]:
            yield f"was recovered from {entry.start}, but was at {self.place[1]}"
        if not entry.complete:
            if self._strict:
                yield f"was told that messages after {entry.start} are lost"
            if entry.count:
                yield f"got {entry.count} messages of a recovery that is not complete"
            self.has_gaps = True
            self._promised = None
            self._go_to((entry.epoch, entry.to))
            return
        if self.place is not None and entry.epoch != self.place[0]:
            # It goes on from what both epochs have: what was heard in the earlier one does not come again.
            self.place = (entry.epoch, entry.start)
        if entry.count != entry.to - entry.start:
            yield f"was promised {entry.count} messages for the offsets after {entry.start} to {entry.to}"
        self._promised = entry.to

    def _heard(self, entry: Heard) -> Iterator[str]:
        if entry.key in self._of_epoch:
            yield f"heard {entry.key!r} twice"
        self.keys.add(entry.key)
        self._of_epoch.add(entry.key)
        if entry.offset is None:
            return
        if self.place is None:
            yield f"heard offset {entry.offset} before it knew where it was"
            return
        epoch, at = self.place
        if entry.offset <= at:
            yield f"heard offset {entry.offset} after {at}"
            return
        if entry.offset > at + 1:
            yield f"missed offsets {at + 1} to {entry.offset - 1}" + (
                " of a recovery that was called complete" if (self._promised or 0) > at else ""
            )
        self.place = (epoch, entry.offset)
        self.seen[self.place] = entry.key

    def _go_to(self, place: Place) -> None:
        if self.place is None or place[0] != self.place[0]:
            # Without its data the state cannot know what was published in another epoch.
            self._of_epoch = set()
        self.place = place


def _disagreements(readers: Collection[_Reader]) -> Iterator[str]:
    """A place in a room is one message, whoever hears it."""
    truth: dict[Place, tuple[str, str]] = {}
    for reader in readers:
        for place, key in reader.seen.items():
            name, other = truth.setdefault(place, (reader.name, key))
            if other != key:
                yield f"{name} and {reader.name}: {place} is {other!r} to one and {key!r} to the other"


def _unfinished(readers: Collection[_Reader]) -> Iterator[str]:
    """In the end everybody is where the first of them is."""
    tops: dict[str, int] = {}
    for reader in readers:
        for epoch, offset in reader.seen:
            tops[epoch] = max(offset, tops.get(epoch, 0))
    for reader in readers:
        if reader.place is not None and reader.place[1] < tops.get(reader.place[0], 0):
            yield f"{reader.name}: ended at {reader.place[1]}, others at {tops[reader.place[0]]}"
    epochs = {reader.place[0] for reader in readers if reader.place is not None}
    if len(epochs) > 1:
        yield f"the clients ended in different epochs: {sorted(epochs)}"


def _vanished(readers: Collection[_Reader], acked: Collection[str]) -> Iterator[str]:
    """What was published is heard by everybody who was there and was not told otherwise."""
    places = {key: place for reader in readers for place, key in reader.seen.items()}
    for reader in readers:
        missing = [
            key for key in acked if key not in reader.keys and not _is_earlier(places.get(key), reader)
        ]
        if missing and not reader.has_gaps:
            shown = ", ".join(repr(key) for key in missing[:5])
            yield f"{reader.name}: never heard {len(missing)} acknowledged messages: {shown}"


def _is_earlier(place: Place | None, reader: _Reader) -> bool:
    entered = reader.entered
    return place is not None and entered is not None and place[0] == entered[0] and place[1] <= entered[1]
