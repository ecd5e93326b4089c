"""Messages of one socket on their way to its application, and the brake on a peer that sends too fast."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]


class Inbox:
    """
    What ``receive`` of one ASGI application waits at.

    ``pause`` is called when more than ``limit`` messages wait, ``resume`` when the application has
    worked that off to half. What has been read from the socket by then is kept all the same.

    """

    __slots__ = ("_limit", "_messages", "_pause", "_resume", "_waiters", "paused")

    def __init__(self, limit: int, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._limit = limit
        self._pause = pause
        self._resume = resume
        self._messages: deque[Message] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.paused = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        """Add a message, and wake the application."""
        self._messages.append(message)
        self._wake()
        if not self.paused and len(self._messages) > self._limit:
            self.paused = True
            self._pause()

    async def receive(self) -> Message:
        """Return the oldest message, when there is one: the ``receive`` of ASGI."""
        while not self._messages:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._give_up(waiter)
                raise
        message = self._messages.popleft()
        if self.paused and len(self._messages) <= self._limit // 2:
            self.paused = False
            self._resume()
        return message

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _give_up(self, waiter: asyncio.Future[None]) -> None:
        if waiter.cancelled():
            self._waiters.remove(waiter)
        elif self._messages:
            # It had been woken for a message that somebody else may be waiting for.
            self._wake()
