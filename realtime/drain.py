"""Send everybody away in order: told why and when to come back, a few at a time, and all of them gone in time."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from realtime.close_codes import RESTART, CloseReason
from realtime.conf import get_settings

if TYPE_CHECKING:
    from realtime.nodes import Node

logger = logging.getLogger("realtime")

RETURNS_PER_SECOND = 100
"""How many clients a node takes back per second without an effort."""
PAUSE = 0.2
"""Seconds between two batches where the window is long enough."""
CLOSING_SHARE = 0.5
"""Which part of the time may be used to tell everybody; the rest is for their answers and clean-up."""
ANSWER_SECONDS = 3.0
"""How long a peer may take to answer its close frame."""
LAST_SECONDS = 1.0
"""How long those that were forced may take to end."""


class Socket(Protocol):
    """What a drain needs of a socket."""

    @property
    def closed(self) -> bool:
        """Whether it has been told to close."""

    @property
    def transport(self) -> Any:
        """Its way out."""

    def close(self, reason: CloseReason, *, retry_after: float | None = None) -> None:
        """Tell the peer to go, and to come back after ``retry_after`` seconds."""

    def abort(self) -> None:
        """Drop it."""


class Crowd(Protocol):
    """Sockets that are to go."""

    def __iter__(self) -> Iterator[Socket]:
        """Those that are still here."""

    async def empty(self) -> None:
        """Return when the last is gone, its clean-up included."""


@dataclass(frozen=True, slots=True)
class Batch:
    """``size`` sockets to close together, and the seconds to wait before the next batch."""

    size: int
    pause: float


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What a drain did."""

    closed: int
    """Sockets whose peers answered, or went, and whose consumers ended by themselves."""
    forced: int
    """Sockets that had to be dropped: no answer in time, or a consumer that did not end."""
    seconds: float


def plan(count: int, batch: int, window: float) -> list[Batch]:
    """
    Divide ``count`` sockets into batches of at most ``batch``, spread evenly over at most ``window`` seconds.

    One batch never waits, and several wait no longer than :data:`PAUSE` for one another.

    """
    number = math.ceil(count / batch)
    pause = min(PAUSE, window / (number - 1)) if number > 1 else 0.0
    return [
        Batch(min(batch, count - start), pause if start + batch < count else 0.0)
        for start in range(0, count, batch)
    ]


def retry_after(count: int, spread: float, draw: Callable[[], float] = random.random) -> float:
    """
    Return after how many seconds one of ``count`` clients should come back: anywhere in a window.

    The window grows with the crowd, from a second for a few to ``spread`` seconds at most.
    ``draw`` returns a number from 0 to 1.

    """
    return draw() * min(spread, 1 + count / RETURNS_PER_SECOND)


async def drain(node: Node, *, timeout: float) -> DrainReport:
    """
    Close every connection of ``node`` with 1012 and wait until all are gone, at most ``timeout`` seconds.

    The node is marked as draining, and stays so.

    """
    node.draining = True
    return await see_off(node.registry, timeout=timeout)


async def see_off(crowd: Crowd, *, timeout: float) -> DrainReport:
    """
    Close every socket of ``crowd`` with 1012 and wait until it is empty, at most ``timeout`` seconds.

    Peers that do not answer are dropped after a short grace; consumers that do not end are forced to
    at the end of the time. Returns, and logs, what was done.

    """
    clock = asyncio.get_running_loop().time
    started = clock()
    deadline = started + timeout
    gone = asyncio.ensure_future(crowd.empty())
    leaving = _Leaving(crowd, deadline)
    try:
        await _send_away(crowd, leaving, timeout * CLOSING_SHARE)
        await _wait(gone, deadline - clock())
        if not gone.done():
            leaving.drop_all()
            await _wait(gone, LAST_SECONDS)
    finally:
        leaving.stop()
        gone.cancel()
    report = DrainReport(leaving.closed, len(leaving.forced), clock() - started)
    logger.info(
        "Drained: %d closed, %d forced, %.1f s.",
        report.closed,
        report.forced,
        report.seconds,
        extra={"closed": report.closed, "forced": report.forced, "seconds": round(report.seconds, 3)},
    )
    return report


class _Leaving:
    """
    Those who have been told to go. Peers that do not answer in time are dropped.

    By the drain itself, before whoever else watches over a socket gives its peer up, so that they are counted.

    """

    def __init__(self, crowd: Crowd, deadline: float) -> None:
        self.forced: set[int] = set()
        """Ids of the transports that were dropped."""
        self._crowd = crowd
        self._deadline = deadline
        # The sockets are kept, so that the id of one that is gone cannot become another's.
        self._told: dict[int, Socket] = {}
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def closed(self) -> int:
        """How many of them went without being dropped."""
        return len(self._told.keys() - self.forced)

    def tell(self, sockets: list[Socket], retry_after: Callable[[], float]) -> None:
        """Close some sockets."""
        for socket in sockets:
            socket.close(RESTART, retry_after=retry_after())
            self._told[id(socket.transport)] = socket
        loop = asyncio.get_running_loop()
        due = min(loop.time() + ANSWER_SECONDS, self._deadline)
        self._timers.append(loop.call_at(due, self._drop_silent, sockets))

    def _drop_silent(self, sockets: list[Socket]) -> None:
        """Drop the peers that have not answered. Consumers that are busy cleaning up are left to it."""
        # Most transports know whether the peer is still there, and it may be where the consumer has ended. Of others it is
        # known by their consumer only.
        knows_all = all(hasattr(socket.transport, "is_open") for socket in sockets)
        here = () if knows_all else {id(socket.transport) for socket in self._crowd}
        for socket in sockets:
            if getattr(socket.transport, "is_open", id(socket.transport) in here):
                self.forced.add(id(socket.transport))
                socket.transport.abort()

    def drop_all(self) -> None:
        """Drop whoever is left."""
        for socket in list(self._crowd):
            self._told.setdefault(id(socket.transport), socket)
            self.forced.add(id(socket.transport))
            socket.abort()

    def stop(self) -> None:
        """Drop nobody any more."""
        for timer in self._timers:
            timer.cancel()


async def _send_away(crowd: Crowd, leaving: _Leaving, window: float) -> None:
    """Close everybody, in batches."""
    settings = get_settings()
    sockets = list(crowd)
    start = 0
    clock = asyncio.get_running_loop().time
    due = clock()
    for batch in plan(len(sockets), settings.drain_batch, window):
        leaving.tell(
            sockets[start : start + batch.size],
            lambda: retry_after(len(sockets), settings.reconnect_spread),
        )
        start += batch.size
        if batch.pause:
            # The time that closing took is made up for, but never by more than double speed.
            due += batch.pause
            await asyncio.sleep(max(due - clock(), batch.pause / 2))


async def _wait(gone: asyncio.Future[None], seconds: float) -> None:
    await asyncio.wait([gone], timeout=max(0.0, seconds))
