"""One node: everything that one event loop of this process runs, and what observers may know of it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version

from asgiref.sync import sync_to_async
from django.apps import apps
from django.db import close_old_connections

from ratelimit import bans
from realtime import handlers
from realtime.conf import get_settings
from realtime.counters import Counters, Rates, RateWindow, Sample
from realtime.heartbeat import HeartbeatWorker
from realtime.hub import Hub
from realtime.registry import ConnectionInfo, Registry
from realtime.supervisor import Supervisor, TaskState

BAN_CHECK_INTERVAL = 5.0
"""Seconds after which a ban made by another process closes the sockets it is about."""


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
    queue_size: int
    queue_limit: int
    handlers: int
    totals: Totals
    rates: Rates
    tasks: tuple[TaskState, ...]


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
        self.hub = Hub(self)
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
        if self.hub.layer is not None:
            self.supervisor.start("receiver", self.hub.run_receiver)
            self.supervisor.start("sender", self.hub.run_sender)
            self.supervisor.start("maintenance", self.hub.run_maintenance)

    async def aclose(self) -> None:
        """Stop the background tasks and leave the channel layer."""
        await self.supervisor.stop()
        await self.hub.aclose()
        _NODES.pop(self.loop, None)

    async def _keep_house(self) -> None:
        """Once a second: a sample for the rates, and the things that cost a thread and so are not done per message."""
        bans_checked = 0.0
        while True:
            now = time.monotonic()
            counters = self.counters
            self.rates.add(Sample(now, counters.messages_in, counters.messages_out, counters.messages_failed))
            if self.database_used:
                self.database_used = False
                await sync_to_async(close_old_connections)()
            if now - bans_checked >= BAN_CHECK_INTERVAL and apps.is_installed("ratelimit"):
                bans_checked = now
                await bans.refresh()
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
    nodes = live()
    connections = sum(len(node.registry) for node in nodes)
    named = sum(node.registry.named for node in nodes)
    return NodeSnapshot(
        name=node_name(),
        pid=os.getpid(),
        version=package_version(),
        started_at=min((node.started_at for node in nodes), default=time.time()),
        taken_at=time.time(),
        draining=any(node.draining for node in nodes),
        connections=connections,
        named=named,
        anonymous=connections - named,
        rooms=sum(len(node.hub.rooms) for node in nodes),
        buffered_bytes=sum(
            c.outbox.bytes + c.transport.buffered_bytes for node in nodes for c in node.registry
        ),
        queue_size=sum(node.hub.queue_size for node in nodes),
        queue_limit=get_settings().max_queue_size,
        handlers=len(handlers.registered()),
        totals=_totals([node.counters for node in nodes]),
        rates=_summed([node.rates.rates() for node in nodes]),
        tasks=tuple(state for node in nodes for state in node.supervisor.states()),
    )


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
    )


def _merged(several: Iterable[dict[str, int]]) -> dict[str, int]:
    merged: dict[str, int] = {}
    for one in several:
        for name, count in list(one.items()):
            merged[name] = merged.get(name, 0) + count
    return merged


def _summed(several: list[Rates]) -> Rates:
    return Rates(*(round(sum(getattr(one, field.name) for one in several), 2) for field in fields(Rates)))
