"""An event loop of this process's own, for what is published where no server runs."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ratelimit import overrides
from realtime.conf import get_settings
from realtime.counters import Counters
from realtime.courier import Courier, crossing_layer
from realtime.state import State, open_state

T = TypeVar("T")

TABLE_CHECK_INTERVAL = 5.0
"""Seconds after which an override of a setting that another process has made counts here."""
_PATIENCE = 2.0
"""Seconds that a process waits for this loop when it ends: nothing of value is left in it."""


class Outside:
    """
    What a process needs that publishes and serves nobody: a state, and a way to the channel layer.

    Both live in a loop in a thread, as long as the process does: a command, a shell or a worker that publishes
    now and then connects once.

    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        overrides.watch.read_once()
        self.state: State
        self._courier: Courier
        self._loop = asyncio.new_event_loop()
        # Before anything else can be asked of the loop.
        self._sender = self._loop.create_task(self._begin())
        self._reader = self._loop.create_task(self._keep_reading())
        self._thread = threading.Thread(target=self._run, name="realtime.outside", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def run(self, work: Callable[[Outside], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        """Do ``work`` in the loop. Safe from any thread."""
        return asyncio.run_coroutine_threadsafe(work(self), self._loop)

    async def send(self, message: dict[str, Any]) -> None:
        """Hand one message to the channel layer; raise what that raises."""
        gone: asyncio.Future[Exception | None] = self._loop.create_future()
        self._courier.send(message, gone)
        if (error := await gone) is not None:
            raise error

    def close(self) -> None:
        """End the thread. A process that was forked has no such thread."""
        if self.pid == os.getpid() and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._sender.cancel()
        self._reader.cancel()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _begin(self) -> None:
        self.state = open_state(get_settings().state_url)
        # Who publishes is told at once: nobody here could see to it later.
        self._courier = Courier(crossing_layer(self.state), Counters(), patience=0.0)
        await self._courier.run()

    async def _keep_reading(self) -> None:
        """Look at the overridden settings now and then: no news comes here."""
        while True:
            await asyncio.sleep(TABLE_CHECK_INTERVAL)
            await overrides.watch.refresh()

    async def _end(self) -> None:
        await asyncio.gather(self._sender, self._reader, return_exceptions=True)
        await self.state.aclose()
        layer = crossing_layer()
        if hasattr(layer, "close_pools"):
            await layer.close_pools()


_LOCK = threading.Lock()
_outside: Outside | None = None


def outside() -> Outside:
    """Return the loop of this process; it is made on the first call, and again in a process that was forked."""
    global _outside
    with _LOCK:
        if _outside is None or _outside.pid != os.getpid():
            _outside = Outside()
        return _outside
