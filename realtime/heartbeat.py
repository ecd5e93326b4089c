"""Find out which sockets live: ping the silent ones, close those that stay silent."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

from ratelimit.logs import get_logger
from realtime.close_codes import HEARTBEAT_TIMEOUT, RESTART, SERVER_ERROR
from realtime.conf import get_settings

if TYPE_CHECKING:
    from realtime.connections import Connection
    from realtime.counters import Counters

logger = get_logger("realtime")

Action = Literal["ping", "silent", "idle", "old"]

LONGEST_SLEEP = 1.0
"""Seconds between two looks at the deadlines when none is due sooner."""

HELD_LOOK = 1.0
"""Seconds after which a socket that is held is looked at again, at the latest."""


class Patience(NamedTuple):
    """How long a socket may be silent, idle and open, in seconds; 0 is for ever."""

    interval: float
    timeout: float
    idle: float
    age: float


class Signs(NamedTuple):
    """What is known of one socket, in monotonic seconds."""

    opened: float
    last_heard: float
    last_message: float
    pinged_at: float
    """When it was asked the last time; 0 if it never was."""
    asked_at: float
    """When it was asked first since it was last heard."""
    held: bool = False
    """Whether it is not being read, because its handler is behind."""


def verdict(patience: Patience, signs: Signs, now: float) -> tuple[Action | None, float]:
    """
    Return what is to be done at ``now``, and when to look again.

    Silence is counted from the last thing heard from the peer, never from what was sent to it, so the
    timeout that is configured is the timeout that happens. But nobody is called silent who was not
    asked: where the asking came late, because this process or the worker stood still, the peer has as
    long to answer as it has otherwise. And a socket that is held is neither asked nor called silent or
    idle: its peer has said more than we could handle, and whatever it says now we could not hear. That began
    with something heard, so that it is asked anew before its silence counts again.

    """
    if patience.age and now >= signs.opened + patience.age:
        return "old", now
    if signs.held:
        ends = [signs.opened + patience.age] if patience.age else []
        return None, min([now + min(patience.interval or HELD_LOOK, HELD_LOOK), *ends])
    if patience.idle and now >= signs.last_message + patience.idle:
        return "idle", now
    ends = []
    if patience.age:
        ends.append(signs.opened + patience.age)
    if patience.idle:
        ends.append(signs.last_message + patience.idle)
    if patience.timeout and signs.asked_at > signs.last_heard:
        end = max(signs.last_heard + patience.timeout, signs.asked_at + patience.timeout - patience.interval)
        if now >= end:
            return "silent", now
        ends.append(end)
    if not patience.interval:
        return None, min(ends, default=float("inf"))
    asked = max(signs.last_heard, signs.pinged_at)
    if now >= asked + patience.interval:
        if patience.timeout and signs.asked_at <= signs.last_heard:
            ends.append(max(signs.last_heard + patience.timeout, now + patience.timeout - patience.interval))
        return "ping", min([now + patience.interval, *ends])
    return None, min([asked + patience.interval, *ends])


Key = TypeVar("Key")


class Deadlines(Generic[Key]):
    """When to look at which key next; each key has one place. Time is an argument."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, list[Key]]] = []
        self._count = itertools.count()
        self._forgotten = 0

    def __len__(self) -> int:
        return len(self._heap) - self._forgotten

    def add(self, key: Key, at: float) -> list[Key]:
        """Look at ``key`` when ``at`` has come. Return its place, for :meth:`forget`."""
        place = [key]
        heapq.heappush(self._heap, (at, next(self._count), place))
        return place

    def forget(self, place: list[Key]) -> None:
        """Drop a place. What is left of dropped ones is swept out when they are the most."""
        if not place:
            return
        place.clear()
        self._forgotten += 1
        if self._forgotten > 64 and self._forgotten * 2 > len(self._heap):
            self._heap = [item for item in self._heap if item[2]]
            heapq.heapify(self._heap)
            self._forgotten = 0

    def next(self) -> float:
        """Return when the earliest is due; infinity when there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def due(self, now: float) -> Iterator[Key]:
        """Take out and yield what is due, the longest overdue first."""
        while self._heap and self._heap[0][0] <= now:
            _, _, place = heapq.heappop(self._heap)
            if place:
                yield place.pop()
            else:
                self._forgotten -= 1


class HeartbeatWorker:
    """Ask the silent sockets of one node, and close the dead ones. No socket costs anything between its deadlines."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._deadlines: Deadlines[Connection] = Deadlines()
        self._sleeping_until = 0.0
        self._wake: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def track(self, connection: Connection) -> None:
        """Look after a socket from now on, if anything can happen to it."""
        at = verdict(patience_of(connection), _signs(connection), connection.opened)[1]
        if at == float("inf"):
            return
        connection.heartbeat = self._deadlines.add(connection, at)
        if at < self._sleeping_until and self._wake is not None:
            self._wake.set()

    def forget(self, connection: Connection) -> None:
        """Stop looking after a socket."""
        if connection.heartbeat is not None:
            self._deadlines.forget(connection.heartbeat)
            connection.heartbeat = None

    async def beat(self) -> None:
        """Do one round: everything that is due now, some at a time."""
        slice_size = get_settings().max_concurrent_cleanup
        now = time.monotonic()
        for number, connection in enumerate(self._deadlines.due(now), start=1):
            connection.heartbeat = None
            if not connection.closed:
                self._attend_safely(connection, now)
            if number % slice_size == 0:
                await asyncio.sleep(0)

    async def run(self) -> None:
        """Beat until cancelled."""
        self._wake = asyncio.Event()
        while True:
            now = time.monotonic()
            self._sleeping_until = min(self._deadlines.next(), now + LONGEST_SLEEP)
            try:
                async with asyncio.timeout(max(self._sleeping_until - now, 0.0)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.beat()

    def _attend_safely(self, connection: Connection, now: float) -> None:
        """One socket that fails must not keep the others from being asked, nor live for ever."""
        try:
            self._attend(connection, now)
        except Exception:
            logger.exception("socket could not be looked after", client=connection.id)
            connection.close(SERVER_ERROR)

    def _attend(self, connection: Connection, now: float) -> None:
        action, again = verdict(patience_of(connection), _signs(connection), now)
        if action == "ping":
            connection.ping(get_settings().heartbeat_type)
        elif action == "old":
            connection.close(RESTART)
        elif action is not None:
            if action == "silent":
                self._counters.heartbeat_timeouts += 1
            connection.close(HEARTBEAT_TIMEOUT)
        if not connection.closed and again != float("inf"):
            connection.heartbeat = self._deadlines.add(connection, again)


def patience_of(connection: Connection) -> Patience:
    """
    Return how patient to be with a socket: its route's limits, else the settings.

    Each socket is asked after a share of its own of the interval, between half and all of it: sockets
    that came together, after a restart say, would be asked together for ever.

    """
    settings, limits = get_settings(), connection.limits
    interval = timeout = 0.0
    # A socket that cannot be asked must not be judged by its silence.
    if connection.can_be_asked(settings.heartbeat_type):
        share = 0.5 + (hash(connection.id) % 1024) / 2048
        interval = _first(limits.heartbeat_interval, settings.heartbeat_interval) * share
        timeout = _first(limits.heartbeat_timeout, settings.heartbeat_timeout)
        if timeout:
            # A route may be less patient than the settings ask often; the peer needs time to answer.
            interval = min(interval, timeout / 2)
    return Patience(
        interval, timeout, _first(limits.idle_timeout, settings.idle_timeout), settings.max_connection_age
    )


def _first(own: float | None, setting: float) -> float:
    return setting if own is None else own


def _signs(connection: Connection) -> Signs:
    return Signs(
        opened=connection.opened,
        last_heard=connection.last_heard,
        last_message=connection.last_message,
        pinged_at=connection.pinged_at,
        asked_at=connection.asked_at,
        held=connection.transport.is_held,
    )
