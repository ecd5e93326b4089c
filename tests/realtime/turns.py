"""The turns of the event loop, as one who is always ready sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def each_turn(look: Callable[[], T]) -> Iterator[list[T]]:
    """Yield what ``look()`` returns in each turn that the loop has meanwhile."""
    seen: list[T] = []

    async def watch() -> None:
        while True:
            seen.append(look())
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
