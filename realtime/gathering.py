"""Several messages at once to the same sockets: what leaves is held back while more is about to follow."""

from __future__ import annotations

import asyncio
from types import TracebackType

from realtime.courier import Courier
from realtime.transports import hold_back, let_go

PATIENCE = 0.002
"""Seconds for which a message waits for those that follow it, at most."""


class Gathering:
    """
    Holds back what a node sends, to its sockets and to other nodes, while several messages come at once.

    Each socket then gets them in one piece, and so do the other nodes. A message that comes alone does not wait.
    Entered by every publish while it waits to be let in by the shared state: the next may follow in a moment, and
    nothing is let go before it has, for :data:`PATIENCE` at most. Belongs to the loop of a node.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop, courier: Courier) -> None:
        self._loop = loop
        self._courier = courier
        self._entering = 0
        self._deadline: float | None = None
        """When everything is let go; ``None`` while nothing is held back. Seconds of the clock of the loop."""
        self._look: asyncio.Handle | None = None

    def __enter__(self) -> None:
        self._entering += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entering -= 1
        self.begin()

    def begin(self) -> None:
        """Hold back what leaves from now on, to the end of this turn of the loop or until what follows has come."""
        if self._deadline is None:
            self._deadline = self._loop.time() + PATIENCE
            self._courier.hold_back()
            hold_back(self._loop)
        if self._look is not None:
            self._look.cancel()
        # After whatever is ready to run now.
        self._look = self._loop.call_soon(self._let_go_unless_more_comes)

    def _let_go_unless_more_comes(self) -> None:
        assert self._deadline is not None  # noqa: S101 - it is scheduled by those who set it
        if self._entering:
            self._look = self._loop.call_at(self._deadline, self.end)
        else:
            self.end()

    def end(self) -> None:
        """Let everything go now."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._deadline is not None:
            self._deadline = None
            self._courier.let_go()
            let_go(self._loop)
