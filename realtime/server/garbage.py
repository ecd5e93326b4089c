"""Short pauses of the garbage collector, however many sockets are open."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

GROWTH: Final = 2.0
"""By how much the objects that are left alone may have grown before all are looked at again."""

_OLDEST: Final = 2
"""The generation whose collection looks at every object that is not left alone."""


class Settled:
    """
    What the garbage collector leaves alone: everything that was there when it last looked.

    It looks through every object of the process again and again while sockets come and go. With ten
    thousand sockets that takes a third of a second, in which none is served. Left alone, what it has seen
    costs nothing, and is freed as ever once nobody refers to it. Only what refers to itself, and was in
    use for so long, has to wait for the next look at everything: that comes when twice as much is
    left alone as the last time, so what waits is bounded too.

    """

    def __init__(self) -> None:
        self._known = 0
        self._looks_at_all = False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Leave alone what is there now, and meanwhile what turns out to stay."""
        gc.collect()
        gc.freeze()
        self._known = gc.get_freeze_count()
        gc.callbacks.append(self._collected)
        try:
            yield
        finally:
            gc.callbacks.remove(self._collected)

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        """Called by the collector, before and after it has worked."""
        if phase != "stop" or info["generation"] != _OLDEST:
            return
        gc.freeze()
        count = gc.get_freeze_count()
        if self._looks_at_all:
            self._looks_at_all = False
            self._known = count
        elif count > GROWTH * self._known:
            self._looks_at_all = True
            # Not here: the collector would not begin within its own call.
            gc.unfreeze()
