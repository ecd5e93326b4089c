"""The way to the channel layer: messages handed over in order, those to one group many at a time."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer

from ratelimit.logs import get_logger
from realtime.counters import Counters
from realtime.state import State

logger = get_logger("realtime")

PROCESS = secrets.token_hex(8)
"""Names this process to the others, so that it ignores its own messages."""

GIVE_UP = 30.0
"""Seconds a message waits for a channel layer that does not answer before it is given up."""

GIVE_UP_WITH_HISTORY = 2.0
"""The same for a message that the others also find in the history of its room."""

BATCH_MESSAGES, BATCH_BYTES = 256, 256 * 1024
"""What one message of the channel layer carries at most; a larger one of ours goes alone."""

_RETRY = 0.2
"""Seconds before a channel layer that failed is tried again."""

_BREATH = 0.002
"""Seconds between full batches: a receiver that has to take out one after the other must keep up."""


def crossing_layer(state: State | None = None) -> Any:
    """
    Return what carries messages to other processes; ``None``: nobody is there to be told anything.

    That is the channel layer, if it leaves the process, or in its place the bus of a ``state`` that has one: those who
    share a state have no need of a layer that can do more, and is slower for it.

    """
    layer = get_channel_layer()
    if layer is None or isinstance(layer, InMemoryChannelLayer):
        return None
    return layer if state is None or state.bus is None else state.bus


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A message that waits for the channel layer."""

    give_up: float
    """When it is given up; monotonic seconds."""
    message: dict[str, Any]
    gone: asyncio.Future[Exception | None] | None
    """Set when it was handed over, with ``None``, or given up, with the reason."""

    def leave(self, error: Exception | None = None) -> None:
        """Tell who waits for it."""
        if self.gone is not None and not self.gone.done():
            self.gone.set_result(error)


class Courier:
    """
    Messages on their way to the other processes. Belongs to one event loop.

    Where the layer takes them more slowly than they come, consecutive ones to one group go together: a layer
    that holds a hundred messages for a process holds thousands of ours. With ``patience`` 0 a message is not
    tried twice.

    """

    def __init__(self, layer: Any, counters: Counters, *, patience: float = GIVE_UP) -> None:
        self._layer = layer
        self._counters = counters
        self._patience = patience
        self._waiting: deque[_Outgoing] = deque()
        self._has_some = asyncio.Event()
        self._held = False

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, message: dict[str, Any], gone: asyncio.Future[Exception | None] | None = None) -> None:
        """Queue a message to the group that its ``group`` names; ``gone`` is told what became of it."""
        patience = min(self._patience, GIVE_UP_WITH_HISTORY) if "epoch" in message else self._patience
        self._waiting.append(_Outgoing(time.monotonic() + patience, message, gone))
        self._has_some.set()

    def hold_back(self) -> None:
        """Queue what is sent, and hand over nothing until :meth:`let_go`: more is about to follow."""
        self._held = True

    def let_go(self) -> None:
        """Hand over what is queued."""
        self._held = False
        if self._waiting:
            self._has_some.set()

    async def run(self) -> None:
        """Hand over what is queued until cancelled."""
        failing = False
        while True:
            await self._has_some.wait()
            # What has come by the next turn of the loop goes along.
            await asyncio.sleep(0)
            while self._waiting and not self._held:
                count = self._batch()
                try:
                    await self._hand_over(count)
                except Exception as error:  # noqa: BLE001 - any layer may raise anything
                    if not failing:
                        logger.warning("channel layer does not take messages", error=str(error))
                    failing = True
                    if not self._give_up(error):
                        await asyncio.sleep(_RETRY)
                    continue
                for _ in range(count):
                    self._waiting.popleft().leave()
                if failing:
                    logger.info("channel layer takes messages again")
                failing = False
                if count == BATCH_MESSAGES:
                    await asyncio.sleep(_BREATH)
            self._has_some.clear()

    def _batch(self) -> int:
        """Return how many of those that wait go together."""
        group, size, count = self._waiting[0].message["group"], 0, 0
        for outgoing in islice(self._waiting, BATCH_MESSAGES):
            size += len(outgoing.message.get("payload") or "")
            if outgoing.message["group"] != group or (count and size > BATCH_BYTES):
                break
            count += 1
        return count

    async def _hand_over(self, count: int) -> None:
        messages = [outgoing.message for outgoing in islice(self._waiting, count)]
        envelope = {"type": "realtime.deliver", "from": PROCESS}
        # One alone goes without a list around it: that is what every version understands.
        carried = messages[0] if count == 1 else {"ops": messages}
        await self._layer.group_send(messages[0]["group"], {**envelope, **carried})

    def _give_up(self, error: Exception) -> int:
        """Give up those at the front whose time is over; return how many."""
        count = 0
        while self._waiting and time.monotonic() >= self._waiting[0].give_up:
            self._waiting.popleft().leave(error)
            self._counters.messages_failed += 1
            count += 1
        return count
