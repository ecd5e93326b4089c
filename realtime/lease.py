"""A node's lease in the shared state: whatever the node holds there is held for as long as it lives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable

import msgspec

from ratelimit.logs import get_logger
from realtime.conf import get_settings
from realtime.errors import StateUnavailable
from realtime.state import State
from realtime.supervisor import Supervisor

logger = get_logger("realtime")

RENEWALS = 3
"""How often a lease is renewed before it would run out."""

MARGIN = 0.02
"""Seconds after the moment in which a lease is due to run out: by then it has, whatever clocks and rounding do."""


def next_look(lease: float, ages: Iterable[float]) -> float:
    """
    Return in how many seconds the nodes are to be looked at again, whose leases were renewed ``ages`` seconds ago.

    That is after a third of a lease, or as soon as one that is not renewed has run out. So nobody who was seen once is
    missed for longer than :data:`MARGIN`: a killed node is noticed one lease after its last renewal, not up to a
    third later. A node that lives costs no look, for it renews its lease before it could need one. One that is as old
    as a lease and still there has been given a longer one than ``lease``, by other settings.

    """
    return min([lease / RENEWALS, *(lease - age + MARGIN for age in ages if age < lease)])


class Chores:
    """What one of all nodes does for the others. Give each of them a turn now and then."""

    def __init__(self, state: State, id: str) -> None:
        self._state = state
        self._id = id
        self._due = 0.0

    async def turn(self, lease: float) -> None:
        """Remove what dead nodes left behind, where it is up to this one and time for it; ``lease`` is in seconds."""
        now = time.monotonic()
        if now >= self._due and await self._state.lead(self._id, "sweep", 2 * lease):
            self._due = now + lease
            await self._state.sweep()


class Lease:
    """
    The lease of one node, renewed from :meth:`keep` until the node ends, and given back then.

    Belongs to the loop of the node.

    """

    def __init__(self, state: State, supervisor: Supervisor, name: str) -> None:
        self.id = f"{name}.{secrets.token_hex(4)}"
        """Names the node in the state. Another one each time it starts: what an earlier life left behind is not its own."""
        self.describe: Callable[[], bytes] = lambda: msgspec.json.encode({"name": name, "pid": os.getpid()})
        """Returns the row of the node."""
        self.on_fresh: list[Callable[[], None]] = []
        """Called when the state knew nothing of the node: all that it holds has to be written again."""
        self._state = state
        self._supervisor = supervisor
        self._kept = False
        self._asked = asyncio.Event()
        self._wake = asyncio.Event()
        self._ahead: float | None = None
        """Seconds that the shared clock is ahead of the monotonic one."""
        self._chores = Chores(state, self.id)

    def keep(self) -> None:
        """Hold the lease from now on; nothing happens if it is held already."""
        if not self._kept:
            self._kept = True
            # A Redis that is back may have lost everything.
            self._state.on_change.append(lambda _: self._wake.set())
            self._supervisor.start("lease", self._run)

    @property
    def was_asked(self) -> bool:
        """Whether the state has been asked for the lease, whatever it said."""
        return self._asked.is_set()

    async def asked(self) -> None:
        """Return when the state has been asked for the lease, whatever it said."""
        await self._asked.wait()

    async def learn_time(self) -> None:
        """Ask the state for the time that all nodes share, unless it is known. A state that is away is asked again."""
        if self._ahead is None:
            with contextlib.suppress(StateUnavailable):
                self._ahead = await self._state.now() - time.monotonic()

    def shared_time(self, moment: float) -> float:
        """Return when ``moment`` (seconds, monotonic) is by the clock that all nodes share, in seconds since the epoch."""
        return moment + (time.time() - time.monotonic() if self._ahead is None else self._ahead)

    async def _run(self) -> None:
        try:
            while True:
                self._wake.clear()
                await self._renew(get_settings().node_lease)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(get_settings().node_lease / RENEWALS):
                        await self._wake.wait()
        except asyncio.CancelledError:
            await self._give_back()
            raise

    async def _renew(self, lease: float) -> None:
        try:
            renewed = await self._state.renew_node(self.id, self.describe(), lease)
            self._ahead = renewed.now - time.monotonic()
            if renewed.fresh:
                for tell in self.on_fresh:
                    tell()
            await self._chores.turn(lease)
        except StateUnavailable:
            # It has said so itself, and is asked again soon.
            return
        finally:
            self._asked.set()

    async def _give_back(self) -> None:
        try:
            await self._state.drop_node(self.id)
        except StateUnavailable as error:
            logger.info("lease not given back: it runs out", reason=str(error))
