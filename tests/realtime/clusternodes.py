"""Nodes of a cluster in one process: each with a loop, a lease and a line to the state of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from realtime.counters import Counters
from realtime.errors import StateUnavailable
from realtime.lease import Lease
from realtime.supervisor import Supervisor

PATIENCE = 5.0
"""Seconds for which a slow line holds an answer back at most."""


class Line:
    """A node's way to the state, which can be cut."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self.cut = False
        self.slow: asyncio.Event | None = None
        """Answers are held back until it is set."""
        self.calls: list[str] = []
        self.on_change: list[Callable[[Any], None]] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*words: Any, **options: Any) -> Any:
            self.calls.append(name)
            if self.cut:
                raise StateUnavailable("The line is cut.")
            answer = await getattr(self.state, name)(*words, **options)
            if self.slow is not None:
                await asyncio.wait_for(self.slow.wait(), PATIENCE)
            return answer

        return call

    def mend(self) -> None:
        """End the cut, as a state does that can be reached again."""
        self.cut = False
        for callback in self.on_change:
            callback(self)


class Wires:
    """What a node sends to the others."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send_remote(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


class _Loop:
    """The running loop as one node has it, told apart from the others'."""

    def __init__(self) -> None:
        self.create_task = asyncio.get_running_loop().create_task


class ClusterNode:
    """As much of a node as hangs on its lease."""

    def __init__(self, state: Any, name: str) -> None:
        self.loop = _Loop()
        self.state = Line(state)
        self.supervisor = Supervisor(Counters())
        self.lease = Lease(self.state, self.supervisor, name)  # type: ignore[arg-type]
        self.hub = Wires()
        self.draining = False

    async def stop(self) -> None:
        """End in order."""
        await self.supervisor.stop()

    async def kill(self) -> None:
        """End without a word to the state."""
        self.state.cut = True
        await self.supervisor.stop()
