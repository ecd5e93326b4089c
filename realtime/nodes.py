"""One node: everything that one event loop of this process runs, and what observers may know of it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.db import close_old_connections

from ratelimit import bans, overrides
from realtime import handlers
from realtime.census import Census
from realtime.conf import get_settings
from realtime.counters import Counters, Rates, RateWindow, Sample
from realtime.heartbeat import HeartbeatWorker
from realtime.hub import Hub
from realtime.lease import Lease
from realtime.memory import MemoryKeeper
from realtime.registrar import Held, Registrar, entry_of
from realtime.registry import ConnectionInfo, Registry
from realtime.resumption import Sessions
from realtime.state import State, open_state
from realtime.supervisor import Supervisor, TaskState

TABLE_CHECK_INTERVAL = 5.0
"""Seconds after which a ban or an override of another process counts here at the latest, if the news of it was lost."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What the process has counted since it started."""

    connections: int
    disconnections: int
    disconnections_by_code: dict[str, int]
    """By the name of the close code."""
    messages_in: int
    messages_out: int
    messages_failed: int
    bytes_in: int
    bytes_out: int
    queue_overflows: int
    heartbeat_timeouts: int
    slow_consumers: dict[str, int]
    """By policy."""
    handler_errors: int
    task_restarts: int
    evictions: int
    """Sockets closed to save memory."""


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """One moment of one process. Safe to keep, compare or send elsewhere. Times are seconds since the epoch."""

    name: str
    pid: int
    version: str
    started_at: float
    taken_at: float
    draining: bool
    connections: int
    named: int
    anonymous: int
    rooms: int
    buffered_bytes: int
    memory_bytes: int
    """What the open sockets take: their objects, what waits for them and their session data."""
    queue_size: int
    queue_limit: int
    handlers: int
    totals: Totals
    rates: Rates
    tasks: tuple[TaskState, ...]
    state_problem: str = ""
    """Why what nodes share cannot be reached, and since when, as a sentence; empty while it can."""
    rooms_behind: int = 0
    """Rooms with history that have waited for some seconds for messages that are known to exist."""


class Node:
    """The sockets of one event loop with all that serves them. Made by :func:`current`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.name = node_name()
        self.started_at = time.time()
        self.draining = False
        self.counters = Counters()
        self.registry = Registry()
        self.supervisor = Supervisor(self.counters)
        self.heartbeat = HeartbeatWorker(self.counters)
        self.state = open_state(get_settings().state_url)
        """What this node shares with the others."""
        self.has_others = get_settings().state_url != "memory://"
        """Whether there may be others: not where the state is in the memory of this process."""
        self.lease = Lease(self.state, self.supervisor, self.name)
        self.lease.describe = self._described
        self.census = Census(self.state, self.lease)
        self.registrar = Registrar(self.registry, self.state, self.lease)
        self.hub = Hub(self)
        self.sessions = Sessions(self)
        self.memory = MemoryKeeper(self.registry, self.counters)
        self.rates = RateWindow()
        self.cleanup = asyncio.Semaphore(get_settings().max_concurrent_cleanup)
        """Held by a consumer while it cleans up, so that ten thousand do not meet in the database at once."""
        self.database_used = False
        """Set by whatever may have used the database; its connections are then looked after."""

    def start(self) -> None:
        """Start the background tasks. Call from the node's loop."""
        if get_settings().heartbeat_enabled:
            self.supervisor.start("heartbeat", self.heartbeat.run)
        self.supervisor.start("housekeeping", self._keep_house)
        self.supervisor.start("memory", self.memory.run)
        self.supervisor.start("sessions", self.sessions.run)
        if self.hub.layer is not None:
            self.supervisor.start("receiver", self.hub.run_receiver)
            self.supervisor.start("sender", self.hub.courier.run)
            self.supervisor.start("maintenance", self.hub.run_maintenance)
        if self.has_others:
            self.lease.keep()
            self.supervisor.start("census", self.census.run)
            self.supervisor.start("registrar", self.registrar.run)
            self.supervisor.start("presence", self.hub.attendance.run)

    def _described(self) -> bytes:
        """Return the row of this node in the shared state."""
        return entry_of(_snapshot_of([self], self.registrar.held))

    async def aclose(self) -> None:
        """Stop the background tasks and leave the channel layer."""
        await self.supervisor.stop()
        await self.hub.aclose()
        await self.state.aclose()
        _NODES.pop(self.loop, None)

    async def _keep_house(self) -> None:
        """Once a second: a sample for the rates, and the things that cost a thread and so are not done per message."""
        checked = 0.0
        while True:
            now = time.monotonic()
            counters = self.counters
            self.rates.add(Sample(now, counters.messages_in, counters.messages_out, counters.messages_failed))
            if self.database_used:
                self.database_used = False
                await sync_to_async(close_old_connections)()
            if now - checked >= TABLE_CHECK_INTERVAL and apps.is_installed("ratelimit"):
                checked = now
                await bans.watch.refresh()
                await overrides.watch.refresh()
            await asyncio.sleep(1.0)


_NODES: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Node] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()
"""Guards the making of nodes, which may happen in several threads; no message passes here."""


def current() -> Node:
    """Return the node of the running loop; it is made, and its background tasks started, on the first call."""
    loop = asyncio.get_running_loop()
    node = _NODES.get(loop)
    if node is None:
        with _LOCK:
            node = _NODES[loop] = Node(loop)
        node.start()
    return node


def live() -> list[Node]:
    """Return the nodes of this process whose loops run. Safe from any thread."""
    with _LOCK:
        nodes = list(_NODES.values())
    return [node for node in nodes if node.loop.is_running()]


def node_name() -> str:
    """Return what this node is called: ``REALTIME_NODE_NAME``, else the host's name."""
    return get_settings().node_name or socket.gethostname()


def package_version() -> str:
    """Return the version of this package; ``0`` when it runs without being installed."""
    try:
        return version("channels-ops")
    except PackageNotFoundError:
        return "0"


def connection_infos(limit: int | None = None) -> list[ConnectionInfo]:
    """Return what is known of the open connections, the newest first, ``limit`` of them. Safe from any thread."""
    connections = [connection for node in live() for connection in node.registry]
    connections.sort(key=lambda connection: connection.opened, reverse=True)
    return [connection.info() for connection in connections[:limit]]


def snapshot() -> NodeSnapshot:
    """Return this process as it is now. Safe from any thread."""
    here = live()
    held = Held()
    for node in here:
        for connection in node.registry:
            held.add(connection)
    return _snapshot_of(here, held)


def _snapshot_of(several: list[Node], held: Held) -> NodeSnapshot:
    connections = sum(len(node.registry) for node in several)
    named = sum(node.registry.named for node in several)
    return NodeSnapshot(
        name=node_name(),
        pid=os.getpid(),
        version=package_version(),
        started_at=min((node.started_at for node in several), default=time.time()),
        taken_at=time.time(),
        draining=any(node.draining for node in several),
        connections=connections,
        named=named,
        anonymous=connections - named,
        rooms=sum(len(node.hub.rooms) for node in several),
        buffered_bytes=held.buffered,
        memory_bytes=held.memory,
        queue_size=sum(node.hub.queue_size for node in several),
        queue_limit=get_settings().max_queue_size,
        handlers=len(handlers.registered()),
        totals=_totals([node.counters for node in several]),
        rates=_summed([node.rates.rates() for node in several]),
        tasks=tuple(state for node in several for state in node.supervisor.states()),
        state_problem=next((_state_problem(node.state) for node in several if not node.state.available), ""),
        rooms_behind=sum(node.hub.repairs.late() for node in several),
    )


def _state_problem(state: State) -> str:
    since = time.localtime(state.away_since)
    return f"since {time.strftime('%Y-%m-%d %H:%M:%S', since)}: {state.reason}"


def together(one: NodeSnapshot, other: NodeSnapshot) -> NodeSnapshot:
    """Return two loops of one process as one."""
    summed = ("connections", "named", "anonymous", "rooms", "buffered_bytes", "memory_bytes", "queue_size")
    return replace(
        one,
        started_at=min(one.started_at, other.started_at),
        draining=one.draining or other.draining,
        totals=Totals(
            *(_added(getattr(one.totals, f.name), getattr(other.totals, f.name)) for f in fields(Totals))
        ),
        rates=_summed([one.rates, other.rates]),
        tasks=one.tasks + other.tasks,
        state_problem=one.state_problem or other.state_problem,
        **{name: getattr(one, name) + getattr(other, name) for name in summed},
    )


def _added(one: Any, other: Any) -> Any:
    return _merged([one, other]) if isinstance(one, dict) else one + other


def _totals(counters: list[Counters]) -> Totals:
    by_code = _merged(counter.disconnections for counter in counters)
    return Totals(
        connections=sum(counter.connections for counter in counters),
        disconnections=sum(by_code.values()),
        disconnections_by_code=by_code,
        messages_in=sum(counter.messages_in for counter in counters),
        messages_out=sum(counter.messages_out for counter in counters),
        messages_failed=sum(counter.messages_failed for counter in counters),
        bytes_in=sum(counter.bytes_in for counter in counters),
        bytes_out=sum(counter.bytes_out for counter in counters),
        queue_overflows=sum(counter.queue_overflows for counter in counters),
        heartbeat_timeouts=sum(counter.heartbeat_timeouts for counter in counters),
        slow_consumers=_merged(counter.slow_consumers for counter in counters),
        handler_errors=sum(counter.handler_errors for counter in counters),
        task_restarts=sum(counter.task_restarts for counter in counters),
        evictions=sum(counter.evictions for counter in counters),
    )


def _merged(several: Iterable[dict[str, int]]) -> dict[str, int]:
    merged: dict[str, int] = {}
    for one in several:
        for name, count in list(one.items()):
            merged[name] = merged.get(name, 0) + count
    return merged


def _summed(several: list[Rates]) -> Rates:
    return Rates(*(round(sum(getattr(one, field.name) for one in several), 2) for field in fields(Rates)))
