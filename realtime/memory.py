"""The memory of sockets: what each holds, and which of them must go when it is too much."""

from __future__ import annotations

import asyncio
import functools
import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

from ratelimit.logs import get_logger
from realtime.close_codes import EVICTED
from realtime.conf import get_settings

if TYPE_CHECKING:
    from realtime.connections import Connection
    from realtime.counters import Counters
    from realtime.registry import Registry

logger = get_logger("realtime")

CONNECTION_BYTES = 13 * 1024
"""
What an open socket takes that waits for nothing and keeps nothing: its objects here, in Channels and in
the engine. Measured as the growth of a process by a thousand idle members of a room behind all limits, 12.7 KiB each.
"""

SLICE = 500
"""Sockets that are looked at before other work gets a turn."""

Policy = Literal["lru", "fifo", "largest"]
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Usage(Generic[Key]):
    """What one socket holds. Times are seconds of any one clock."""

    key: Key
    held: int
    """Bytes above those that every socket takes."""
    opened: float
    last_used: float


def total(usages: Iterable[Usage[Key]], base: int = CONNECTION_BYTES) -> int:
    """Return the bytes that sockets take together, each ``base`` and what it holds."""
    return sum(base + usage.held for usage in usages)


def choose(
    usages: Iterable[Usage[Key]],
    *,
    policy: Policy,
    max_each: int,
    max_total: int,
    base: int = CONNECTION_BYTES,
) -> list[Usage[Key]]:
    """
    Return which sockets have to go, the first to go first; no more of them than needed.

    Whoever holds more than ``max_each`` bytes goes. Of the others as many as must go until all that stay
    take no more than ``max_total``: ``fifo`` those that were opened first, ``lru`` those that were used
    longest ago, ``largest`` those that hold most. A limit of 0 is off.

    """
    going: list[Usage[Key]] = []
    staying: list[Usage[Key]] = []
    for usage in usages:
        (going if max_each and usage.held > max_each else staying).append(usage)
    left = total(staying, base)
    if not max_total or left <= max_total:
        return going
    # Counted along, so that equals keep their order and keys need none.
    queue = [(_place(usage, policy), number) for number, usage in enumerate(staying)]
    heapq.heapify(queue)
    while left > max_total and queue:
        usage = staying[heapq.heappop(queue)[1]]
        going.append(usage)
        left -= base + usage.held
    return going


def _place(usage: Usage[Key], policy: Policy) -> float:
    if policy == "fifo":
        return usage.opened
    return usage.last_used if policy == "lru" else -usage.held


@runtime_checkable
class TellsInbound(Protocol):
    """A transport that knows how much it has read for its application."""

    def inbound_size(self) -> int:
        """Return the bytes of messages, whole or begun, that the application has not received."""


@functools.cache
def _tells_inbound(kind: type) -> bool:
    # Asked of the class and remembered: asking every object would cost more than the answer.
    return issubclass(kind, TellsInbound)


def held_by(connection: Connection) -> int:
    """
    Return the bytes that wait for, or belong to, one socket. Safe from any thread.

    A frame that waits for several sockets is counted for each of them: it stays as long as any of them is slow.

    """
    transport = connection.transport
    held = connection.outbox.bytes + transport.buffered_bytes + connection.data_bytes
    if _tells_inbound(type(transport)):
        held += cast("TellsInbound", transport).inbound_size()
    return held


def usage_of(connection: Connection) -> Usage[Connection]:
    """Return what a socket holds now. It was used last when its client sent a message of its own."""
    return Usage(connection, held_by(connection), connection.opened, connection.last_message)


class MemoryKeeper:
    """Looks now and then what the sockets of one node hold, and sends away what is too much."""

    def __init__(self, registry: Registry, counters: Counters) -> None:
        self._registry = registry
        self._counters = counters

    async def run(self) -> None:
        """Check every ``REALTIME_MEMORY_CHECK_INTERVAL`` until cancelled."""
        while True:
            await asyncio.sleep(get_settings().memory_check_interval)
            await self.check()

    async def check(self) -> int:
        """Close with 4503 as many sockets as the limits ask for; return how many."""
        settings = get_settings()
        max_each, max_total = settings.max_memory_per_connection, settings.max_total_memory
        if not max_each and not max_total:
            return 0
        usages = await self._usages()
        policy: Policy = settings.memory_eviction_policy  # type: ignore[assignment]  # the setting has these very choices
        going = choose(usages, policy=policy, max_each=max_each, max_total=max_total)
        evicted = await self._evict(going, settings.reconnect_spread)
        if evicted:
            before = total(usages)
            logger.warning(
                "sockets evicted for memory",
                evicted=evicted,
                policy=policy,
                bytes_before=before,
                bytes_after=before - total(going),
                max_per_connection=max_each,
                max_total=max_total,
            )
        return evicted

    async def _usages(self) -> list[Usage[Connection]]:
        usages = []
        for number, connection in enumerate(self._registry, start=1):
            # What closes already gives its memory back by itself.
            if not connection.closed:
                usages.append(usage_of(connection))
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return usages

    async def _evict(self, going: list[Usage[Connection]], spread: float) -> int:
        slice_size = get_settings().max_concurrent_cleanup
        evicted = 0
        for number, usage in enumerate(going, start=1):
            if not usage.key.closed:
                # Many go together, and must not come back together.
                usage.key.close(EVICTED, retry_after=random.uniform(0, spread))  # noqa: S311
                evicted += 1
                self._counters.evictions += 1
            if number % slice_size == 0:
                await asyncio.sleep(0)
        return evicted
