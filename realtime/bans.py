"""News of bans: one that is made in any process closes sockets in all of them at once."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer, get_channel_layer

from ratelimit import bans
from ratelimit.logs import get_logger
from realtime import nodes
from realtime.courier import PROCESS
from realtime.hub import EVERYONE, LAYER_PATIENCE, Hub, on_operation
from realtime.nodes import Node

logger = get_logger("realtime")

_NEWS = {"group": EVERYONE, "op": "bans"}

_reading: set[asyncio.Task[None]] = set()


def share() -> None:
    """Tell the other processes of the bans that this one makes, and hear of theirs. May be called again."""
    on_operation("bans", _heard)
    if tell not in bans.on_commit:
        bans.on_commit.append(tell)


def tell() -> None:
    """
    Tell the other processes that the bans have changed. Call from a thread without a running loop.

    Who does not hear of it, because the channel layer is away, finds out at the next look at the table.

    """
    layer = get_channel_layer()
    if layer is None or isinstance(layer, InMemoryChannelLayer):
        return
    if here := nodes.live():
        here[0].loop.call_soon_threadsafe(_tell_from, here[0])
    else:
        async_to_sync(_tell_through)(layer)


def _tell_from(node: Node) -> None:
    node.hub.send_remote(dict(_NEWS))


async def _tell_through(layer: Any) -> None:
    try:
        async with asyncio.timeout(LAYER_PATIENCE):
            await layer.group_send(EVERYONE, {"type": "realtime.deliver", "from": PROCESS, **_NEWS})
    except Exception as error:  # noqa: BLE001 - any layer may raise anything, and the ban is made
        logger.warning("other nodes were not told of a ban", error=str(error))


async def _heard(hub: Hub, message: dict[str, Any]) -> None:
    task = asyncio.get_running_loop().create_task(_read(), name="realtime.bans")
    _reading.add(task)
    task.add_done_callback(_reading.discard)


async def _read() -> None:
    await bans.refresh()
    # The read that this joined may have begun before the ban was made.
    await bans.refresh()
