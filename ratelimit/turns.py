"""Work that is done some per turn of the event loop, so that other work gets turns between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, TypeVar

T = TypeVar("T")

AT_ONCE: Final = 500
"""Items that are done before other work gets a turn."""


def in_turns(loop: asyncio.AbstractEventLoop, items: Iterator[T], do: Callable[[T], None]) -> None:
    """
    Call ``do`` with each item, in order: with some now, with the others in later turns of ``loop``.

    To be called from the loop.

    """
    some = list(islice(items, AT_ONCE))
    for item in some:
        do(item)
    if some:
        loop.call_soon(in_turns, loop, items, do)
