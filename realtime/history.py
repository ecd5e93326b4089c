"""
A room's past as one process knows it: the order of its messages, the missing ones, and what a client missed.

Every message of a room with history has an offset, 1 and up, in an epoch; the state hands them out. A new
epoch may go on from an earlier one: then both agree up to its ``base``. Nothing here waits, and nothing grows
without a bound.

"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

Doubt = Literal["unplaced", "epoch", "loss"]
"""``unplaced``: no position yet. ``epoch``: a message of an unknown epoch came. ``loss``: one that the state has lost."""

RETIRED_EPOCHS = 8
"""Epochs of one room that are remembered, to know a latecomer from a message of a new one."""


class Place(NamedTuple):
    """An offset in an epoch."""

    epoch: str
    offset: int


class Entry(NamedTuple, Generic[T]):
    """A message at its offset; ``size`` is the bytes it is counted as."""

    offset: int
    item: T
    size: int


@dataclass(frozen=True, slots=True)
class Recovery(Generic[T]):
    """
    What was missed: all of it, in order, or nothing and ``complete`` is false.

    Whoever is told this goes on after ``to`` in ``epoch``.

    """

    complete: bool
    start: int
    """The offset they were at: in an earlier epoch, if the epoch has changed."""
    to: int
    epoch: str
    entries: Sequence[Entry[T]] = ()


@dataclass(frozen=True, slots=True)
class Filled(Generic[T]):
    """What an answer of the state leads to: members are told ``lost``, if there is one, and then get ``entries``."""

    entries: Sequence[Entry[T]] = ()
    lost: Recovery[T] | None = None


class Shelf:
    """
    The memory that the rings of a process share, in bytes.

    Where they would take more, the ring that has been quiet for longest gives up its oldest entries.

    """

    __slots__ = ("_rings", "max_bytes", "used")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._rings: dict[Ring[Any], None] = {}

    def grew(self, ring: Ring[Any], size: int) -> None:
        """Take note that ``ring`` has ``size`` bytes more, and make room where that is too much."""
        self.used += size
        # Re-inserted, so the dict stays ordered from the longest quiet.
        self._rings.pop(ring, None)
        self._rings[ring] = None
        while self.used > self.max_bytes:
            next(iter(self._rings)).drop_oldest()

    def shrank(self, ring: Ring[Any], size: int) -> None:
        """Take note that ``ring`` has ``size`` bytes less; one that is empty is forgotten."""
        self.used -= size
        if not ring:
            self._rings.pop(ring, None)


class Ring(Generic[T]):
    """The newest entries of one room, without a hole: at most ``max_count`` of them and ``max_bytes`` together."""

    __slots__ = ("_entries", "_shelf", "bytes", "max_bytes", "max_count")

    def __init__(self, max_count: int, max_bytes: int, shelf: Shelf | None = None) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: deque[Entry[T]] = deque()
        self._shelf = shelf

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first(self) -> int | None:
        """The offset of the oldest entry."""
        return self._entries[0].offset if self._entries else None

    def append(self, entry: Entry[T]) -> None:
        """Keep the newest entry. One that does not follow the last makes those before it useless."""
        if self._entries and entry.offset != self._entries[-1].offset + 1:
            self.clear()
        self._entries.append(entry)
        self.bytes += entry.size
        if self._shelf is not None:
            self._shelf.grew(self, entry.size)
        while len(self._entries) > self.max_count or self.bytes > self.max_bytes:
            self.drop_oldest()

    def extend_back(self, older: Sequence[Entry[T]]) -> None:
        """Keep entries that end right before the oldest one here: the newest part of them that there is room for."""
        for entry in reversed(older):
            if len(self._entries) >= self.max_count or self.bytes + entry.size > self.max_bytes:
                return
            # What is old must not push out what is new in another room.
            if self._shelf is not None and self._shelf.used + entry.size > self._shelf.max_bytes:
                return
            self._entries.appendleft(entry)
            self.bytes += entry.size
            if self._shelf is not None:
                self._shelf.grew(self, entry.size)

    def after(self, offset: int) -> list[Entry[T]] | None:
        """Return the entries after ``offset``, ``None`` if not all of them are here."""
        if not self._entries or offset < self._entries[0].offset - 1:
            return None
        return list(islice(self._entries, offset + 1 - self._entries[0].offset, None))

    def drop_oldest(self) -> None:
        """Give up the oldest entry."""
        size = self._entries.popleft().size
        self.bytes -= size
        if self._shelf is not None:
            self._shelf.shrank(self, size)

    def clear(self) -> None:
        """Give everything up."""
        size, self.bytes = self.bytes, 0
        self._entries.clear()
        if self._shelf is not None:
            self._shelf.shrank(self, size)


class Sequencer(Generic[T]):
    """
    Puts the messages of one room in order, each of them once.

    Feed it with what comes, from publishers here and from other processes, by :meth:`take`, and deliver what
    that returns. Where ``doubt`` is set, ask the state for the room's top and pass the answer to
    :meth:`checked`; where :meth:`wanted` says so, ask it for what is missing and pass that to :meth:`fill`.

    """

    __slots__ = (
        "_base",
        "_doubts",
        "_retired",
        "_waiting",
        "_waiting_bytes",
        "doubt",
        "epoch",
        "max_waiting",
        "max_waiting_bytes",
        "position",
        "ring",
        "top",
    )

    def __init__(self, ring: Ring[T], *, max_waiting: int, max_waiting_bytes: int) -> None:
        self.ring = ring
        self.max_waiting = max_waiting
        self.max_waiting_bytes = max_waiting_bytes
        self.epoch = ""
        self.position = 0
        """The offset of the last message that was handed out."""
        self.top = 0
        """The highest offset that is known to exist."""
        self.doubt: Doubt | None = "unplaced"
        self._doubts = 0
        self._base: Place | None = None
        self._retired: dict[str, int | None] = {}
        """Earlier epochs, each with the offset up to which its messages are accounted for; ``None`` is all of them."""
        self._waiting: dict[int, Entry[T]] = {}
        self._waiting_bytes = 0

    @property
    def placed(self) -> bool:
        """Whether it has a position: without one it hands out nothing."""
        return self.doubt != "unplaced"

    @property
    def behind(self) -> bool:
        """Whether the state has to be asked."""
        return self.doubt is not None or self.top > self.position

    def take(self, epoch: str, offset: int, item: T, size: int) -> list[Entry[T]]:
        """Take a message of ``size`` bytes in; return what can be delivered now, in order."""
        if epoch != self.epoch or self.doubt == "unplaced":
            self.hint(epoch, offset)
            return []
        entry = Entry(offset, item, size)
        if offset == self.position + 1:
            self._hand_out(entry)
            return [entry, *self._drain()] if self._waiting else [entry]
        if offset > self.position:
            self._wait(entry)
        return []

    def hint(self, epoch: str, offset: int) -> None:
        """Take note that somebody knows of a message at ``offset``."""
        if self.doubt == "unplaced":
            # Whether that is before or after the position to come cannot be known: look again when it has come.
            self._doubts += 1
        elif epoch == self.epoch:
            self.top = max(self.top, offset)
        elif epoch not in self._retired:
            self._question("epoch")
        elif (known := self._retired[epoch]) is not None and offset > known:
            self._retired[epoch] = None
            self._question("loss")

    def mark(self) -> int:
        """Return what :meth:`checked` has to be given: call it when the state is asked for the room's top."""
        return self._doubts

    def checked(self, mark: int, top: Place, base: Place | None = None) -> Recovery[T] | None:
        """
        Take the state's word for where the room is; return what members have to be told, if anything.

        ``base`` is the earlier epoch that this one goes on from, with the last offset they have in common.

        """
        if top.epoch in self._retired:
            # An answer that was overtaken by a later one.
            return None
        told: Recovery[T] | None = None
        if self.doubt == "unplaced":
            self.epoch, self.position = top.epoch, top.offset
            self._go_on_from(base)
            # What was seen meanwhile may be newer than the answer.
            self.doubt = "epoch" if mark != self._doubts else None
        elif top.epoch != self.epoch:
            told = self._change_epoch(top.epoch, base)
        elif self.doubt == "loss":
            told = Recovery(False, self.position, self.position, self.epoch)
        if mark == self._doubts:
            self.doubt = None
        self.top = max(self.top, top.offset)
        return told

    def wanted(self) -> tuple[int, int] | None:
        """Return after which offset, and how many, entries are to be fetched: one answer fills every hole."""
        if self.doubt is not None or self.top <= self.position:
            return None
        highest = self.top
        while highest in self._waiting:
            highest -= 1
        return self.position, highest - self.position

    def fill(self, asked_after: int, top: Place, entries: Iterable[tuple[int, T, int]] | None) -> Filled[T]:
        """
        Take the state's answer to :meth:`wanted`; ``None`` says that not all of what was asked for is there.

        ``entries`` are offset, item and size. What cannot be had is given up: members go on after the first hole.

        """
        if self.doubt is not None or top.epoch != self.epoch:
            if top.epoch not in self._retired:
                self._question("epoch")
            return Filled()
        if entries is None:
            return self._give_up(asked_after, top.offset)
        delivered: list[Entry[T]] = []
        for offset, item, size in entries:
            delivered += self.take(top.epoch, offset, item, size)
        # The state knows best what exists, save for what has come since it was asked.
        self.top = max(top.offset, self.position, *self._waiting)
        return Filled(delivered)

    def recovery(self, epoch: str, offset: int, fetched: Sequence[Entry[T]] = ()) -> Recovery[T] | None:
        """
        Return what somebody missed who has seen everything up to ``offset``.

        ``fetched`` is what the state has after that offset, as far as it was asked for. ``None``: what was
        missed is not at hand; ask the state, and if it does not have it either, :meth:`unrecoverable` is the
        answer. Whoever is ahead of this process has seen what is not known here: catch up first.

        """
        if offset > self.position or not self._goes_on_from(epoch, offset):
            return self.unrecoverable(offset)
        entries = [entry for entry in fetched if offset < entry.offset <= self.position]
        have = entries[-1].offset if entries else offset
        if have < self.position:
            rest = self.ring.after(have)
            if rest is None:
                return None
            entries += rest
        if len(entries) != self.position - offset:
            return None
        return Recovery(True, offset, self.position, self.epoch, entries)

    def unrecoverable(self, offset: int) -> Recovery[T]:
        """Return the answer for somebody who has seen up to ``offset``, where the rest cannot be had."""
        return Recovery(False, offset, self.position, self.epoch)

    def remember(self, fetched: Sequence[Entry[T]]) -> None:
        """Keep what was fetched for one who was away, for others who were, as far as there is room."""
        before = self.ring.first or self.position + 1
        older = [entry for entry in fetched if entry.offset < before]
        if older and older[-1].offset == before - 1:
            self.ring.extend_back(older)

    def _goes_on_from(self, epoch: str, offset: int) -> bool:
        """Whether what follows ``offset`` in that epoch is what follows it in this one."""
        if epoch == self.epoch:
            return True
        known = self._retired.get(epoch)
        return self._base is not None and epoch == self._base.epoch and known is not None and offset <= known

    def _question(self, doubt: Doubt) -> None:
        self._doubts += 1
        if self.doubt != "loss":
            self.doubt = doubt

    def _hand_out(self, entry: Entry[T]) -> None:
        self.position = entry.offset
        if entry.offset > self.top:
            self.top = entry.offset
        self.ring.append(entry)

    def _drain(self) -> list[Entry[T]]:
        """Hand out what waited for its turn and now has it."""
        ready: list[Entry[T]] = []
        while (entry := self._waiting.pop(self.position + 1, None)) is not None:
            self._waiting_bytes -= entry.size
            self._hand_out(entry)
            ready.append(entry)
        return ready

    def _wait(self, entry: Entry[T]) -> None:
        """Keep a message whose turn has not come; where there is no room it has to be fetched like the missing ones."""
        self.top = max(self.top, entry.offset)
        if (
            entry.offset not in self._waiting
            and len(self._waiting) < self.max_waiting
            and self._waiting_bytes + entry.size <= self.max_waiting_bytes
        ):
            self._waiting[entry.offset] = entry
            self._waiting_bytes += entry.size

    def _give_up(self, asked_after: int, top: int) -> Filled[T]:
        to = min([top, *(offset - 1 for offset in self._waiting)])
        if asked_after != self.position or to <= self.position:
            # It has gone on since it asked: what is missing now is another question.
            return Filled()
        lost: Recovery[T] = Recovery(False, self.position, to, self.epoch)
        self.position, self.top = to, max(self.top, to)
        self.ring.clear()
        return Filled(self._drain(), lost)

    def _change_epoch(self, epoch: str, base: Place | None) -> Recovery[T]:
        start, common, complete = self.position, 0, False
        if base is not None and base.epoch == self.epoch:
            common = min(start, base.offset)
            # What is known to have been beyond the base, seen by members or not, is gone.
            complete = self.top <= base.offset
        elif base is not None:
            # Members may have seen what is older than the base, and must not see it again.
            common = base.offset
        self._retired[self.epoch] = None
        self.epoch, self.position, self.top = epoch, common, common
        self._go_on_from(base, lost=not complete)
        self._waiting.clear()
        self._waiting_bytes = 0
        self.ring.clear()
        return Recovery(complete, start, common, epoch)

    def _go_on_from(self, base: Place | None, *, lost: bool = False) -> None:
        self._base = base
        if base is not None:
            self._retired[base.epoch] = None if lost else base.offset
        while len(self._retired) > RETIRED_EPOCHS:
            del self._retired[next(iter(self._retired))]


# What is kept of a message.


def stored(event: bytes, exclude: Collection[str] = ()) -> bytes:
    """Return what the state keeps: the event's JSON, after a line with the client ids that must not get it."""
    return msgspec.json.encode(list(exclude)) + b"\n" + event if exclude else event


def restored(payload: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return the event's JSON and who must not get it. Raise ValueError for what :func:`stored` did not make."""
    if payload.startswith(b"{"):
        return payload, ()
    exclude, _, event = payload.partition(b"\n")
    if not event.startswith(b"{"):
        raise ValueError(f"{payload[:40]!r} is not a stored event.")
    return event, msgspec.json.decode(exclude, type=tuple[str, ...])


def numbered(event: bytes, offset: int) -> bytes:
    """Return the JSON of an event with its offset in it."""
    return b'{"offset":%d,%b' % (offset, event[1:])
