"""The state of a cluster of one process, in its memory."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ratelimit.limits import Meter
from realtime.state.contract import (
    POSITION_TTL,
    REVOKED,
    Appended,
    Entered,
    Entry,
    History,
    NodeRow,
    Position,
    Renewed,
    Revoked,
    State,
)
from realtime.state.expiring import Expiring

_EPOCH_STARTED = time.time() - time.monotonic()


def steady_time() -> float:
    """Return seconds since the epoch, by a clock that never jumps."""
    return _EPOCH_STARTED + time.monotonic()


class _Top:
    """The position of one room."""

    __slots__ = ("epoch", "offset")

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(8)
        self.offset = 0


@dataclass(slots=True)
class _Node:
    """What hangs on the lease of one node."""

    row: bytes = b""
    renewed: float = 0.0
    expires: float = 0.0
    registry: dict[str, bytes] = field(default_factory=dict)
    rooms: set[str] = field(default_factory=set)
    held: dict[tuple[str, str], int] = field(default_factory=dict)


class MemoryState(State):
    """
    A state that is lost with the process. Safe to use from several loops and threads.

    ``clock`` returns seconds since the epoch.

    """

    def __init__(self, clock: Callable[[], float] = steady_time) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        """Held by every method from beginning to end; none of them waits for anything inside."""
        self._tops: Expiring[str, _Top] = Expiring()
        self._entries: Expiring[str, deque[Entry]] = Expiring()
        self._firsts: Expiring[tuple[str, str], Appended] = Expiring()
        self._claims: Expiring[str, bool] = Expiring()
        self._sessions: Expiring[str, bytes | Revoked] = Expiring()
        self._turns: Expiring[str, int] = Expiring()
        self._values: Expiring[str, bytes] = Expiring()
        self._nodes: dict[str, _Node] = {}
        self._present: dict[str, dict[str, dict[str, bytes]]] = {}
        self._meters: Expiring[tuple[str, str], tuple[tuple[float, float], Meter]] = Expiring()
        self._leads: Expiring[str, str] = Expiring()

    async def append(
        self,
        room: str,
        payload: bytes,
        *,
        size: int,
        ttl: float,
        dedupe: str | None = None,
        window: float = 0.0,
    ) -> Appended:
        with self._lock:
            now = self._clock()
            if dedupe is not None and (first := self._firsts.get((room, dedupe), now)) is not None:
                return first
            top = self._begun(room, now, max(ttl, POSITION_TTL))
            top.offset += 1
            entries = self._entries.get(room, now)
            if entries is None:
                entries = deque()
            self._entries.put(room, entries, now, ttl)
            entries.append(Entry(top.offset, payload))
            while len(entries) > size:
                entries.popleft()
            if dedupe is not None and window > 0:
                self._firsts.put((room, dedupe), Appended(top.epoch, top.offset, True), now, window)
            return Appended(top.epoch, top.offset, False)

    def _begun(self, room: str, now: float, ttl: float) -> _Top:
        """Return the position of a room, of a new epoch if it has none, and remember it for ``ttl`` seconds at least."""
        top = self._tops.get(room, now)
        if top is None:
            top = _Top()
            self._entries.drop(room)
            self._tops.put(room, top, now, ttl)
        else:
            self._tops.keep(room, now, ttl)
        return top

    async def top(self, rooms: Sequence[str], *, create: bool = False) -> list[Position | None]:
        with self._lock:
            now = self._clock()
            return [
                self._position(self._begun(room, now, POSITION_TTL))
                if create or self._tops.get(room, now) is not None
                else None
                for room in rooms
            ]

    @staticmethod
    def _position(top: _Top) -> Position:
        return Position(top.epoch, top.offset)

    async def since(self, room: str, offset: int, *, limit: int) -> History:
        with self._lock:
            now = self._clock()
            top = self._tops.get(room, now)
            if top is None:
                return History("", 0, None)
            self._tops.keep(room, now, POSITION_TTL)
            if offset == top.offset:
                return History(top.epoch, top.offset, [])
            entries = self._entries.get(room, now)
            if not entries or not entries[0].offset - 1 <= offset < top.offset:
                return History(top.epoch, top.offset, None)
            start = offset + 1 - entries[0].offset
            return History(top.epoch, top.offset, list(itertools.islice(entries, start, start + limit)))

    async def claim(self, key: str, window: float) -> bool:
        with self._lock:
            now = self._clock()
            if self._claims.get(key, now):
                return False
            self._claims.put(key, True, now, window)
            return True

    async def save_session(self, id: str, data: bytes, ttl: float, *, turn: int = 0) -> bool:
        with self._lock:
            now = self._clock()
            if self._sessions.get(id, now) is REVOKED or (self._turns.get(id, now) or 0) > turn:
                return False
            self._sessions.put(id, data, now, ttl)
            if turn:
                self._turns.put(id, turn, now, ttl)
            return True

    async def resume_session(self, id: str, ttl: float) -> tuple[bytes | Revoked | None, int]:
        with self._lock:
            now = self._clock()
            kept = self._sessions.get(id, now)
            if kept is REVOKED:
                return kept, 0
            turn = max((self._turns.get(id, now) or 0) + 1, int(now * 1000))
            self._turns.put(id, turn, now, ttl)
            if kept is not None:
                self._sessions.put(id, kept, now, ttl)
            return kept, turn

    async def load_session(self, id: str) -> bytes | Revoked | None:
        with self._lock:
            return self._sessions.get(id, self._clock())

    async def drop_session(self, id: str) -> None:
        with self._lock:
            if self._sessions.get(id, self._clock()) is not REVOKED:
                self._sessions.drop(id)

    async def revoke_session(self, id: str, ttl: float) -> None:
        with self._lock:
            self._sessions.put(id, REVOKED, self._clock(), ttl)

    async def now(self) -> float:
        return self._clock()

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        with self._lock:
            self._values.put(key, value, self._clock(), ttl)

    async def get(self, key: str) -> bytes | None:
        with self._lock:
            return self._values.get(key, self._clock())

    async def renew_node(self, node_id: str, row: bytes, lease: float) -> Renewed:
        with self._lock:
            now = self._clock()
            node = self._nodes.get(node_id)
            fresh = node is None or not node.expires
            if node is None or fresh:
                # What it wrote while it was no node of ours is not complete.
                self._forget(node_id)
                node = self._nodes[node_id] = _Node()
            node.row, node.renewed, node.expires = row, now, now + lease
            return Renewed(now, fresh)

    async def nodes(self) -> list[NodeRow]:
        with self._lock:
            now = self._clock()
            return [NodeRow(id, node.row, now - node.renewed) for id, node in self._living(now)]

    def _living(self, now: float) -> list[tuple[str, _Node]]:
        return [(id, node) for id, node in sorted(self._nodes.items()) if node.expires > now]

    def _lives(self, node_id: str, now: float) -> bool:
        node = self._nodes.get(node_id)
        return node is not None and node.expires > now

    async def drop_node(self, node_id: str) -> None:
        with self._lock:
            self._forget(node_id)

    def _forget(self, node_id: str) -> None:
        node = self._nodes.pop(node_id, None)
        for room in node.rooms if node else ():
            self._absent(room, node_id)

    def _absent(self, room: str, node_id: str) -> None:
        nodes = self._present[room]
        del nodes[node_id]
        if not nodes:
            del self._present[room]

    def _entry(self, node_id: str) -> _Node:
        """Return what hangs on a node, which may not have come in yet: then nobody sees it."""
        return self._nodes.setdefault(node_id, _Node())

    async def write_registry(
        self, node_id: str, changed: Mapping[str, bytes], gone: Iterable[str] = ()
    ) -> None:
        with self._lock:
            registry = self._entry(node_id).registry
            registry.update(changed)
            for client_id in gone:
                registry.pop(client_id, None)

    async def registry(self, node_id: str) -> dict[str, bytes]:
        with self._lock:
            return dict(self._nodes[node_id].registry) if self._lives(node_id, self._clock()) else {}

    async def registries(self) -> dict[str, dict[str, bytes]]:
        with self._lock:
            return {id: dict(node.registry) for id, node in self._living(self._clock())}

    async def set_presence(self, room: str, node_id: str, entries: Mapping[str, bytes]) -> None:
        with self._lock:
            if entries:
                self._entry(node_id).rooms.add(room)
                self._present.setdefault(room, {}).setdefault(node_id, {}).update(entries)

    async def drop_presence(self, room: str, node_id: str, client_ids: Iterable[str]) -> None:
        with self._lock:
            clients = self._present.get(room, {}).get(node_id)
            if clients is None:
                return
            for client_id in client_ids:
                clients.pop(client_id, None)
            if not clients:
                self._absent(room, node_id)
                self._nodes[node_id].rooms.discard(room)

    async def presence(self, room: str) -> dict[str, dict[str, bytes]]:
        with self._lock:
            now = self._clock()
            present = self._present.get(room, {})
            return {id: dict(clients) for id, clients in sorted(present.items()) if self._lives(id, now)}

    async def count_presence(self, room: str) -> int:
        with self._lock:
            now = self._clock()
            return sum(
                len(clients) for id, clients in self._present.get(room, {}).items() if self._lives(id, now)
            )

    async def enter(
        self,
        kind: str,
        key: str,
        node_id: str,
        *,
        max_concurrent: int = 0,
        rate: float = 0,
        window: float = 1.0,
    ) -> Entered:
        with self._lock:
            now = self._clock()
            what = (kind, key)
            if max_concurrent > 0 and self._count(what, node_id, now) >= max_concurrent:
                return Entered(False, "concurrent")
            if rate > 0 and (wait := self._meter(what, now, rate, window).take(now)):
                return Entered(False, "rate", wait)
            if max_concurrent > 0:
                held = self._entry(node_id).held
                held[what] = held.get(what, 0) + 1
            return Entered(True)

    def _count(self, what: tuple[str, str], node_id: str, now: float) -> int:
        """Return how many the living nodes hold; the one that asks does live."""
        return sum(
            node.held.get(what, 0) for id, node in self._nodes.items() if id == node_id or node.expires > now
        )

    def _meter(self, what: tuple[str, str], now: float, rate: float, window: float) -> Meter:
        numbers = (rate, window)
        known = self._meters.get(what, now)
        meter = known[1] if known and known[0] == numbers else Meter(rate, window)
        # Once it is full again, a meter says no more than a new one.
        self._meters.put(what, (numbers, meter), now, meter.depth + meter.interval)
        return meter

    async def leave(self, kind: str, key: str, node_id: str) -> None:
        with self._lock:
            node = self._nodes.get(node_id)
            count = node.held.get((kind, key), 0) if node else 0
            if node and count > 1:
                node.held[kind, key] = count - 1
            elif node:
                node.held.pop((kind, key), None)

    async def hold(self, node_id: str, counts: Mapping[tuple[str, str], int]) -> None:
        with self._lock:
            self._entry(node_id).held = {what: count for what, count in counts.items() if count > 0}

    async def lead(self, node_id: str, name: str, lease: float) -> bool:
        with self._lock:
            now = self._clock()
            if self._leads.get(name, now) not in (None, node_id):
                return False
            self._leads.put(name, node_id, now, lease)
            return True

    async def sweep(self) -> int:
        with self._lock:
            now = self._clock()
            # One that has not come in yet has no lease that could have run out.
            dead = [id for id, node in self._nodes.items() if node.expires and node.expires <= now]
            for node_id in dead:
                self._forget(node_id)
            for timed in (self._tops, self._entries, self._firsts, self._claims, self._sessions):
                timed.expire(now)
            self._turns.expire(now)
            self._values.expire(now)
            self._meters.expire(now)
            self._leads.expire(now)
            return len(dead)

    async def aclose(self) -> None:
        """Do nothing: the other loops of the process go on using it."""


_SHARED_LOCK = threading.Lock()
_users: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_shared = MemoryState()


def shared() -> MemoryState:
    """
    Return the state of this process, for the running loop.

    It lasts for as long as one of the loops that asked for it runs: what the last of them left behind is of no use
    to the next.

    """
    global _shared
    with _SHARED_LOCK:
        if not any(loop.is_running() for loop in _users):
            _shared = MemoryState()
            _users.clear()
        _users.add(asyncio.get_running_loop())
        return _shared
