"""News between processes: what one of them has changed in the database for all is read by the others at once."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer, get_channel_layer

from ratelimit import bans, overrides
from ratelimit.logs import get_logger
from ratelimit.watches import Watch
from realtime import nodes
from realtime.conf import get_settings
from realtime.courier import PROCESS
from realtime.hub import EVERYONE, LAYER_PATIENCE, Hub, on_operation
from realtime.nodes import Node
from realtime.state import open_state

logger = get_logger("realtime")


class News:
    """
    Tells the other processes that something has changed, and hears of it from them.

    ``name`` says what has changed, in messages between processes and in the log; ``watch`` reads it again.

    """

    def __init__(self, name: str, watch: Watch[Any]) -> None:
        self.name = name
        self.reading: set[asyncio.Task[None]] = set()
        """The reads that were asked for from elsewhere and go on."""
        self._watch = watch

    def share(self) -> None:
        """Tell what this process changes from now on, and hear of what others do. May be called again."""
        on_operation(self.name, self._heard)
        if self.tell not in self._watch.on_commit:
            self._watch.on_commit.append(self.tell)

    def tell(self) -> None:
        """
        Tell the other processes. Call from a thread without a running loop.

        Who does not hear of it, because the channel layer is away, finds out at the next look at the table.

        """
        layer = get_channel_layer()
        if layer is None or isinstance(layer, InMemoryChannelLayer):
            return
        if here := nodes.live():
            here[0].loop.call_soon_threadsafe(self._tell_from, here[0])
        else:
            async_to_sync(self._tell_through)(layer)

    def _tell_from(self, node: Node) -> None:
        node.hub.send_remote(self._message())

    async def _tell_through(self, layer: Any) -> None:
        message = {"type": "realtime.deliver", "from": PROCESS, **self._message()}
        state = open_state(get_settings().state_url)
        try:
            async with asyncio.timeout(LAYER_PATIENCE):
                await (state.bus or layer).group_send(EVERYONE, message)
        except Exception as error:  # noqa: BLE001 - any layer may raise anything, and the change is made
            logger.warning("other nodes were not told", news=self.name, error=str(error))
        finally:
            await state.aclose()

    def _message(self) -> dict[str, Any]:
        return {"group": EVERYONE, "op": self.name}

    async def _heard(self, hub: Hub, message: dict[str, Any]) -> None:
        task = asyncio.get_running_loop().create_task(self._read(), name=f"realtime.{self.name}")
        self.reading.add(task)
        task.add_done_callback(self.reading.discard)

    async def _read(self) -> None:
        await self._watch.refresh()
        # The read that this joined may have begun before the change was made.
        await self._watch.refresh()


BANS: Final = News("bans", bans.watch)
OVERRIDES: Final = News("overrides", overrides.watch)


def share() -> None:
    """Share what operators decide with the other processes. May be called again."""
    BANS.share()
    OVERRIDES.share()
