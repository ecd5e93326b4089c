"""A consumer's own channel in the channel layer, made only when something uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ratelimit.logs import get_logger
from realtime.errors import ChannelLayerMissing
from realtime.stepping import Rest, step

logger = get_logger("realtime")

RETRY = 0.5
"""Seconds before a channel layer that failed is asked again."""


class OwnChannel:
    """
    The channel that ``channel_layer.group_add(group, self.channel_name)`` needs.

    Most layers name a channel without talking to anybody; there the channel, and the task that listens
    to it, exist only once the name was asked for. A layer that has to talk first cannot answer an
    attribute access: call :meth:`prepare` when the socket opens.

    """

    def __init__(self, layer: Any, deliver: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self._layer = layer
        self._deliver = deliver
        self._name: str | None = None
        self._listener: asyncio.Task[None] | None = None
        self._closed = False
        self.listening = False
        """Whether messages of the layer may come."""

    async def prepare(self) -> None:
        """Make the channel now."""
        if self._name is None:
            self._name = await self._new_channel()
            self._listen()

    def name(self) -> str:
        """Return the channel's name; made and listened to from the first call on."""
        if self._name is None:
            rest = step(self._remember_name())
            if rest is not None:
                self._give_up(rest)
            self._listen()
        assert self._name is not None  # noqa: S101 - the step above ran to its end
        return self._name

    async def close(self) -> None:
        """Stop listening."""
        self._closed = True
        self.listening = False
        # The consumer knows this channel as well: reference counts would never free them.
        self._deliver = _nobody
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _new_channel(self) -> str:
        if self._layer is None:
            raise ChannelLayerMissing("CHANNEL_LAYERS has no 'default': groups and channel_name need one.")
        return str(await self._layer.new_channel())

    async def _remember_name(self) -> None:
        self._name = await self._new_channel()

    def _give_up(self, rest: Rest) -> None:
        rest.close()
        raise ChannelLayerMissing(
            f"{type(self._layer).__name__} cannot name a channel without waiting."
            " Set uses_channel_layer = True on the consumer."
        )

    def _listen(self) -> None:
        if self._closed:
            return
        self.listening = True
        self._listener = asyncio.get_running_loop().create_task(self._run(), name="realtime.own-channel")

    async def _run(self) -> None:
        failing = False
        while True:
            try:
                message = await self._layer.receive(self._name)
            except Exception as error:  # noqa: BLE001 - any layer may raise anything, and may be back soon
                if not failing:
                    logger.warning("channel layer does not deliver", channel=self._name, error=str(error))
                failing = True
                await asyncio.sleep(RETRY)
                continue
            failing = False
            await self._deliver(message)


async def _nobody(message: dict[str, Any]) -> None:
    """Take what comes after the end."""
