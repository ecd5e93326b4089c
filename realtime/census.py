"""Which nodes live, as the shared state has it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection

import msgspec

from realtime.conf import get_settings
from realtime.courier import PROCESS
from realtime.errors import StateUnavailable
from realtime.lease import RENEWALS, Lease, next_look
from realtime.state import NodeRow, State

RETRY = 0.5
"""Seconds before a state that does not answer is asked again."""

GRACE = 2.0
"""Seconds that all nodes need to find a state that is back, once a second, and to write what is missing, 0.5 s later."""


class _Row(msgspec.Struct):
    """What the census wants to know of a node."""

    process: str = ""


class Census:
    """
    Counts the nodes as often as they renew their leases, and when one of these runs out, and tells who wants to know
    which of them are gone.

    Belongs to the loop of the node. While the state is away everything counts as it was. A state that is back, perhaps
    without its data, is not trusted to know all nodes before each has had the time to come back too.

    """

    def __init__(self, state: State, lease: Lease) -> None:
        self.processes = 1
        """Processes that live, this one included."""
        self.on_gone: list[Callable[[Collection[str]], None]] = []
        """Called with the ids of nodes that were alive and are not any more."""
        self.on_trusted: list[Callable[[], None]] = []
        """Called when the state is trusted again."""
        self._state = state
        self._alive: frozenset[str] = frozenset()
        self._wake = asyncio.Event()
        self._trusted_from = 0.0
        self._has_entered = False
        lease.on_fresh.append(self._on_fresh)
        state.on_change.append(self._on_change)

    @property
    def trusted(self) -> bool:
        """Whether what the state says of other nodes is to be believed."""
        return time.monotonic() >= self._trusted_from

    async def run(self) -> None:
        """Count until cancelled."""
        was_trusted = True
        while True:
            self._wake.clear()
            left = self._trusted_from - time.monotonic()
            if left <= 0:
                left = await self._look(get_settings().node_lease)
                if not was_trusted:
                    for tell in self.on_trusted:
                        tell()
            was_trusted = self.trusted
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()

    async def _look(self, lease: float) -> float:
        """Look at the nodes, and return in how many seconds to do so again."""
        try:
            rows = await self._state.nodes()
        except StateUnavailable:
            # It has said so itself.
            return min(RETRY, lease / RENEWALS)
        if not self.trusted:
            # It went away and came back meanwhile.
            return 0.0
        self._count(rows)
        return next_look(lease, [row.age for row in rows])

    def _on_fresh(self) -> None:
        if self._has_entered:
            self._distrust()
        self._has_entered = True

    def _on_change(self, state: State) -> None:
        if state.available:
            self._distrust()

    def _distrust(self) -> None:
        self._trusted_from = time.monotonic() + GRACE
        self._wake.set()

    def _count(self, rows: list[NodeRow]) -> None:
        alive = frozenset(row.id for row in rows)
        gone = self._alive - alive
        self._alive = alive
        self.processes = 1 + len({_process_of(row) for row in rows} - {PROCESS})
        if gone:
            for tell in self.on_gone:
                tell(gone)


def _process_of(row: NodeRow) -> str:
    """Return which process a node is in; several loops of one process are nodes of their own."""
    try:
        return msgspec.json.decode(row.row, type=_Row).process or row.id
    except msgspec.MsgspecError:
        return row.id
