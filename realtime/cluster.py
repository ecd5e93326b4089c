"""All nodes as an observer sees them: this process as it is, the others as they last wrote themselves down."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from ratelimit.logs import get_logger
from realtime import nodes
from realtime.conf import get_settings
from realtime.courier import PROCESS
from realtime.errors import StateUnavailable
from realtime.nodes import NodeSnapshot
from realtime.outside import Outside, outside
from realtime.registry import ConnectionInfo

T = TypeVar("T")

logger = get_logger("realtime")


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """The row of a node in the shared state."""

    process: str
    snapshot: NodeSnapshot


_decode_info = msgspec.json.Decoder(ConnectionInfo).decode
_decode_entry = msgspec.json.Decoder(NodeEntry).decode


@dataclass(frozen=True)
class Others:
    """The other processes at one moment."""

    snapshots: list[NodeSnapshot] = field(default_factory=list)
    """By name."""
    connections: list[ConnectionInfo] = field(default_factory=list)
    """The newest first."""
    problem: str = ""
    """Why nothing is known of them, as a sentence; empty where it is."""

    @cached_property
    def ids(self) -> frozenset[str]:
        """The ids of their connections."""
        return frozenset(info.id for info in self.connections)


NOBODY = Others()


class _Remembered(Generic[T]):
    """What was read, kept for ``REALTIME_REGISTRY_SYNC_INTERVAL``; nobody writes more often. Safe from any thread."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._kept: tuple[float, object, T] | None = None

    def get(self) -> T:
        settings = get_settings()
        with self._lock:
            now = time.monotonic()
            if self._kept is None or self._kept[0] <= now or self._kept[1] is not settings:
                read = self._read()
                self._kept = time.monotonic() + settings.registry_sync_interval, settings, read
            return self._kept[2]


def is_shared() -> bool:
    """Return whether there may be other nodes: not where the state is in the memory of this process."""
    return get_settings().state_url != "memory://"


def other_nodes() -> Others:
    """Return the other processes, without their connections. May wait ``REALTIME_STATE_TIMEOUT``."""
    return _nodes.get() if is_shared() else NOBODY


def others() -> Others:
    """Return the other processes with their connections. May wait ``REALTIME_STATE_TIMEOUT``."""
    return _connections.get() if is_shared() else NOBODY


def connection_infos(limit: int | None = None) -> list[ConnectionInfo]:
    """Return what is known of the open connections of all nodes, the newest first, ``limit`` of them."""
    here = nodes.connection_infos(limit=limit)
    elsewhere = others().connections
    if not elsewhere:
        return here
    merged = heapq.merge(here, elsewhere, key=lambda info: info.opened_at, reverse=True)
    return (
        [info for _, info in zip(range(limit), merged, strict=False)] if limit is not None else list(merged)
    )


def snapshots() -> list[NodeSnapshot]:
    """Return every process, this one first."""
    return [nodes.snapshot(), *other_nodes().snapshots]


def is_elsewhere(client_id: str) -> bool:
    """Return whether a connection belongs to another process."""
    return client_id in others().ids


def _read_nodes() -> Others:
    return _read(_rows)


def _read_connections() -> Others:
    return _read(_rows_and_clients)


Read = tuple[list[bytes], list[dict[str, bytes]]]


def _read(read: Callable[[Outside], Coroutine[Any, Any, Read]]) -> Others:
    try:
        rows, registries = outside().run(read).result()
    except StateUnavailable as error:
        return Others(problem=str(error))
    connections = [info for registry in registries for info in _decoded(registry.values(), _decode_info)]
    connections.sort(key=lambda info: info.opened_at, reverse=True)
    return Others(_by_process(_decoded(rows, _decode_entry)), connections)


async def _rows(outside: Outside) -> Read:
    return [row for _, row in await _other_rows(outside)], []


async def _rows_and_clients(outside: Outside) -> Read:
    rows = await _other_rows(outside)
    registries = await asyncio.gather(*(outside.state.registry(id) for id, _ in rows))
    return [row for _, row in rows], registries


async def _other_rows(outside: Outside) -> list[tuple[str, bytes]]:
    own = msgspec.json.encode(PROCESS)
    return [(row.id, row.row) for row in await outside.state.nodes() if own not in row.row]


def _decoded(rows: Iterable[bytes], decode: Callable[[bytes], T]) -> list[T]:
    """Return what can be read: while versions change, a node may have written something else."""
    found, strange = [], 0
    for row in rows:
        try:
            found.append(decode(row))
        except msgspec.MsgspecError:
            strange += 1
    if strange:
        logger.info("rows of another version were left out", rows=strange)
    return found


def _by_process(entries: Iterable[NodeEntry]) -> list[NodeSnapshot]:
    """Return one snapshot for each process: each of its loops is a node of its own."""
    found: dict[str, NodeSnapshot] = {}
    for entry in entries:
        known = found.get(entry.process)
        found[entry.process] = entry.snapshot if known is None else nodes.together(known, entry.snapshot)
    return sorted(found.values(), key=lambda snapshot: (snapshot.name, snapshot.pid))


_nodes = _Remembered(_read_nodes)
_connections = _Remembered(_read_connections)
