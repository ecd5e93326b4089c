"""A wait for slow readers to catch up: one future for all of them, set by the last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realtime.connections import Connection


class CatchUp:
    """
    Connections that are behind, and whoever waits for them.

    A connection leaves when nothing waits for its peer any more, or when it is closed; it says so
    itself, so that waiting for thousands costs neither a task nor a look at those that are not ready.

    """

    __slots__ = ("_behind", "_done")

    def __init__(self, connections: Iterable[Connection]) -> None:
        self._behind = {one: None for one in connections if one.is_behind}
        self._done: asyncio.Future[None] | None = None
        for connection in self._behind:
            connection.follow(self)

    def __len__(self) -> int:
        return len(self._behind)

    async def wait(self, seconds: float | None = None) -> list[Connection]:
        """
        Return when all have caught up, at the latest after ``seconds``; those that have not are returned.

        These are marked as ``stalled`` until they have caught up, so that nobody need wait for them again.
        Without a time nobody gives up, and nothing is marked.

        """
        self._done = asyncio.get_running_loop().create_future()
        try:
            if self._behind:
                await asyncio.wait([self._done], timeout=seconds)
            late = list(self._behind)
            for connection in late:
                connection.stalled = True
            return late
        finally:
            for connection in self._behind:
                connection.unfollow(self)

    def caught_up(self, connection: Connection) -> None:
        """Take a connection out. Called by itself."""
        self._behind.pop(connection, None)
        if not self._behind and self._done is not None and not self._done.done():
            self._done.set_result(None)
