"""The state of a cluster of many processes, in Redis."""

from __future__ import annotations

import asyncio
import functools
import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from realtime.errors import StateUnavailable
from realtime.state import scripts
from realtime.state.bundles import Bundles
from realtime.state.bus import Bus
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
from realtime.state.endpoint import Endpoint
from realtime.state.link import Link
from realtime.state.resp import Reply
from realtime.state.scripts import Script

KEY_TTL = 2 * 86400.0
"""Seconds after which what hangs on nodes goes, where no node is left to remove it."""

_RENEWAL = KEY_TTL / 4
"""Seconds for which a key of a living node needs no renewal."""

_ROOMS_AT_ONCE = 500
"""Rooms one script looks at: Redis does nothing else meanwhile."""


_ABOUT_SESSIONS = (scripts.SAVE_SESSIONS, scripts.RESUME_SESSIONS, scripts.DROP_SESSIONS)


class RedisState(State):
    """
    A state that lasts as long as Redis keeps it. Belongs to one event loop; see :class:`realtime.state.link.Link`.

    All times are those of Redis: a node's clock may be wrong. ``timeout`` is in seconds. What concerns one room, node,
    session or key always takes the same of the ``pool_size`` connections, and so stays in order.

    """

    def __init__(
        self, url: str, *, prefix: str = "channels-ops", timeout: float = 2.0, pool_size: int = 1
    ) -> None:
        super().__init__()
        endpoint = Endpoint(url)
        self._prefix = _bytes(prefix) + b":"
        self._reasons = [""] * pool_size
        self._unsure: set[str] = set()
        """Nodes whose renewal failed: it may have been the one that said they are fresh."""
        self._links = [
            Link(endpoint, timeout, functools.partial(self._changed, number)) for number in range(pool_size)
        ]
        self.bus: Bus = Bus(self._links[0], endpoint, self._prefix, timeout)
        self._sessions = [
            {script: Bundles(link, script) for script in _ABOUT_SESSIONS} for link in self._links
        ]

    def _changed(self, number: int, reason: str) -> None:
        self._reasons[number] = reason
        self._set_reason(next(filter(None, self._reasons), ""))

    def _number(self, key: bytes) -> int:
        """Return the number of the connection that a key always takes."""
        return 0 if len(self._links) == 1 else zlib.crc32(key) % len(self._links)

    def _link(self, key: bytes) -> Link:
        return self._links[self._number(key)]

    # Histories.

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
        name = _bytes(room)
        words = self._history_keys(name)
        if dedupe is not None and window > 0:
            words.append(b"%bonce:%d:%b:%b" % (self._prefix, len(name), name, _bytes(dedupe)))
        keys = len(words)
        words += (_ms(max(ttl, POSITION_TTL)), payload, b"%d" % size, _ms(ttl), _ms(window))
        reply = await self._link(name).call(scripts.APPEND, keys, words)
        if isinstance(reply, bytes):
            offset, _, epoch = reply.partition(b" ")
            return Appended(epoch.decode(), int(offset), True)
        return Appended(reply[0].decode(), reply[1], False)

    def _history_keys(self, room: bytes) -> list[bytes]:
        prefix = self._prefix
        return [b"%btop:%b" % (prefix, room), b"%bhistory:%b" % (prefix, room)]

    async def top(self, rooms: Sequence[str], *, create: bool = False) -> list[Position | None]:
        calls = []
        for start in range(0, len(rooms), _ROOMS_AT_ONCE):
            words: list[bytes] = []
            for room in rooms[start : start + _ROOMS_AT_ONCE]:
                words += self._history_keys(_bytes(room))
            keys = len(words)
            words += (_ms(POSITION_TTL), b"1" if create else b"0")
            calls.append(self._links[0].call(scripts.TOP, keys, words, repeatable=True))
            if start:
                # Thousands of rooms must not hold up the loop.
                await asyncio.sleep(0)
        found: list[Position | None] = []
        for positions in await _all(calls):
            found.extend(
                known and Position(known[0].decode(), known[1], _before(known[2:])) for known in positions
            )
        return found

    async def since(self, room: str, offset: int, *, limit: int) -> History:
        name = _bytes(room)
        words = [*self._history_keys(name), _ms(POSITION_TTL), b"%d" % offset, b"%d" % limit]
        reply = await self._link(name).call(scripts.SINCE, 2, words, repeatable=True)
        if reply is None:
            return History("", 0, None)
        epoch, top, *before, whole = reply[:5]
        entries = list(map(Entry, itertools.count(offset + 1), reply[5:])) if whole else None
        return History(epoch.decode(), top, entries, _before(before))

    async def claim(self, key: str, window: float) -> bool:
        name = b"%bclaim:%b" % (self._prefix, _bytes(key))
        words = [b"SET", name, b"1", b"NX", b"PX", _ms(window)]
        return await self._link(name).call(None, 0, words) is not None

    # Sessions.

    async def save_session(self, id: str, data: bytes, ttl: float, *, turn: int = 0) -> bool:
        bundles, key = self._bundles(id, scripts.SAVE_SESSIONS)
        return bool(await bundles.call(key, [data, _ms(ttl), b"%d" % turn]))

    async def resume_session(self, id: str, ttl: float) -> tuple[bytes | Revoked | None, int]:
        bundles, key = self._bundles(id, scripts.RESUME_SESSIONS)
        # A call that is sent again takes another turn, which is a higher one too.
        return _session(await bundles.call(key, [_ms(ttl)]))

    async def load_session(self, id: str) -> bytes | Revoked | None:
        key = self._session_key(id)
        return _session(await self._link(key).call(None, 0, [b"GET", key], repeatable=True))[0]

    async def drop_session(self, id: str) -> None:
        bundles, key = self._bundles(id, scripts.DROP_SESSIONS)
        await bundles.call(key, [])

    async def revoke_session(self, id: str, ttl: float) -> None:
        key = self._session_key(id)
        await self._link(key).call(None, 0, [b"SET", key, b"r", b"PX", _ms(ttl)], repeatable=True)

    def _session_key(self, id: str, script: Script | None = None) -> bytes:
        """Return the key of a session; whatever has been asked of it goes first, unless it goes with the same script."""
        key = b"%bsession:%b" % (self._prefix, _bytes(id))
        for bundles in self._sessions[self._number(key)].values():
            if bundles.script is not script:
                bundles.hurry(key)
        return key

    def _bundles(self, id: str, script: Script) -> tuple[Bundles, bytes]:
        key = self._session_key(id, script)
        return self._sessions[self._number(key)][script], key

    # Odds and ends.

    async def now(self) -> float:
        seconds, micros = await self._links[0].call(None, 0, [b"TIME"], repeatable=True)
        return int(seconds) + int(micros) / 1e6

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        name = self._value(key)
        await self._link(name).call(None, 0, [b"SET", name, value, b"PX", _ms(ttl)], repeatable=True)

    async def get(self, key: str) -> bytes | None:
        name = self._value(key)
        return cast("bytes | None", await self._link(name).call(None, 0, [b"GET", name], repeatable=True))

    def _value(self, key: str) -> bytes:
        return b"%bvalue:%b" % (self._prefix, _bytes(key))

    # Nodes, and what hangs on their leases.

    async def renew_node(self, node_id: str, row: bytes, lease: float) -> Renewed:
        node = _bytes(node_id)
        words = [self._prefix, node, row, _ms(lease), _ms(KEY_TTL)]
        try:
            now, fresh = await self._link(node).call(scripts.RENEW_NODE, 0, words)
        except StateUnavailable:
            self._unsure.add(node_id)
            raise
        fresh = bool(fresh) or node_id in self._unsure
        self._unsure.discard(node_id)
        return Renewed(float(now) / 1000, fresh)

    async def nodes(self) -> list[NodeRow]:
        now, *rows = await self._links[0].call(scripts.NODES, 0, [self._prefix], repeatable=True)
        return sorted(
            NodeRow(_text(id), row, max(0.0, float(now) - float(renewed)) / 1000) for id, row, renewed in rows
        )

    async def drop_node(self, node_id: str) -> None:
        node = _bytes(node_id)
        await self._link(node).call(scripts.DROP_NODE, 0, [self._prefix, node], repeatable=True)

    async def write_registry(
        self, node_id: str, changed: Mapping[str, bytes], gone: Iterable[str] = ()
    ) -> None:
        node = _bytes(node_id)
        words = [b"%bnode:%b:clients" % (self._prefix, node), _ms(KEY_TTL), b"%d" % (2 * len(changed))]
        words += _pairs(changed)
        words += map(_bytes, gone)
        await self._link(node).call(scripts.WRITE_REGISTRY, 1, words, repeatable=True)

    async def registry(self, node_id: str) -> dict[str, bytes]:
        return _mapping(await self._registry(_bytes(node_id)))

    def _registry(self, node: bytes) -> asyncio.Future[Reply]:
        return self._link(node).call(scripts.REGISTRY, 0, [self._prefix, node], repeatable=True)

    async def registries(self) -> dict[str, dict[str, bytes]]:
        ids = [node.id for node in await self.nodes()]
        replies = await _all([self._registry(_bytes(id)) for id in ids])
        return {id: _mapping(reply) for id, reply in zip(ids, replies, strict=True)}

    async def set_presence(self, room: str, node_id: str, entries: Mapping[str, bytes]) -> None:
        if not entries:
            return
        name, node = _bytes(room), _bytes(node_id)
        words = [*self._presence_keys(name, node), _ms(KEY_TTL), node, name, *_pairs(entries)]
        await self._link(name).call(scripts.SET_PRESENCE, 3, words, repeatable=True)

    async def drop_presence(self, room: str, node_id: str, client_ids: Iterable[str]) -> None:
        name, node = _bytes(room), _bytes(node_id)
        words = [*self._presence_keys(name, node), node, name, *map(_bytes, client_ids)]
        await self._link(name).call(scripts.DROP_PRESENCE, 3, words, repeatable=True)

    def _presence_keys(self, room: bytes, node: bytes) -> list[bytes]:
        prefix = self._prefix
        return [
            b"%bpresent:%d:%b:%b" % (prefix, len(node), node, room),
            b"%bpresent-nodes:%b" % (prefix, room),
            b"%bnode:%b:rooms" % (prefix, node),
        ]

    async def presence(self, room: str) -> dict[str, dict[str, bytes]]:
        found = await self._present(_bytes(room), b"HGETALL")
        return {_text(node): _mapping(clients) for node, clients in sorted(found) if clients}

    async def count_presence(self, room: str) -> int:
        return sum(count for _, count in await self._present(_bytes(room), b"HLEN"))

    def _present(self, room: bytes, command: bytes) -> asyncio.Future[Reply]:
        words = [b"%bpresent-nodes:%b" % (self._prefix, room), self._prefix, room, command]
        return self._link(room).call(scripts.PRESENCE, 1, words, repeatable=True)

    # Limits.

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
        prefix, node, what = self._prefix, _bytes(node_id), _what(kind, key)
        interval = window / rate if rate > 0 else 0.0
        words = [
            b"%bopen:%b" % (prefix, what),
            b"%brate:%b" % (prefix, what),
            b"%bnode:%b:held" % (prefix, node),
            prefix,
            node,
            what,
            _ms(KEY_TTL),
            b"%d" % max_concurrent,
            b"%.3f" % (interval * 1000),
            b"%.3f" % (window * 1000),
        ]
        ok, reason, wait = await self._link(what).call(scripts.ENTER, 3, words)
        return Entered(bool(ok), cast("Any", reason.decode() or None), float(wait) / 1000)

    async def leave(self, kind: str, key: str, node_id: str) -> None:
        prefix, node, what = self._prefix, _bytes(node_id), _what(kind, key)
        words = [b"%bopen:%b" % (prefix, what), b"%bnode:%b:held" % (prefix, node), node, what]
        await self._link(what).call(scripts.LEAVE, 2, words)

    async def hold(self, node_id: str, counts: Mapping[tuple[str, str], int]) -> None:
        node = _bytes(node_id)
        words = [b"%bnode:%b:held" % (self._prefix, node), self._prefix, node, _ms(KEY_TTL)]
        for (kind, key), count in counts.items():
            if count > 0:
                words += (_what(kind, key), b"%d" % count)
        await self._link(node).call(scripts.HOLD, 1, words, repeatable=True)

    # Chores.

    async def lead(self, node_id: str, name: str, lease: float) -> bool:
        key = b"%blead:%b" % (self._prefix, _bytes(name))
        words = [key, _bytes(node_id), _ms(lease)]
        return bool(await self._link(key).call(scripts.LEAD, 1, words, repeatable=True))

    async def sweep(self) -> int:
        words = [self._prefix, _ms(KEY_TTL), _ms(_RENEWAL)]
        return int(await self._links[0].call(scripts.SWEEP, 0, words))

    async def aclose(self) -> None:
        await self.bus.aclose()
        for link in self._links:
            await link.aclose()


async def _all(calls: Sequence[asyncio.Future[Reply]]) -> list[Reply]:
    return list(await asyncio.gather(*calls))


def _bytes(text: str) -> bytes:
    # A client may send half of a surrogate pair, which is no character but must not be an error here.
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _ms(seconds: float) -> bytes:
    """Return what Redis takes for a time: milliseconds, at least one."""
    return b"%d" % max(1, round(seconds * 1000))


def _what(kind: str, key: str) -> bytes:
    return b"%b:%b" % (_bytes(kind), _bytes(key))


def _pairs(entries: Mapping[str, bytes]) -> Iterable[bytes]:
    for key, value in entries.items():
        yield _bytes(key)
        yield value


def _mapping(reply: list[bytes]) -> dict[str, bytes]:
    return {_text(key): value for key, value in zip(reply[::2], reply[1::2], strict=True)}


def _session(reply: bytes | None) -> tuple[bytes | Revoked | None, int]:
    """Return what the key of a session says: what is kept of it, and who resumed it last."""
    if reply is None:
        return None, 0
    if reply == b"r":
        return REVOKED, 0
    turn, _, kept = reply.partition(b" ")
    return kept[1:] if kept.startswith(b"s") else None, int(turn)


def _before(reply: list[Reply]) -> Position | None:
    epoch, top = reply
    return None if epoch is None else Position(epoch.decode(), int(top))
