"""Short pauses of the garbage collector, however many sockets are open."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

GROWTH: Final = 2.0
"""By how much the objects that are left alone may have grown before all are looked at again."""
PATIENCE: Final = 600.0
"""Seconds after which all are looked at again, though they have not grown."""

_OLDEST: Final = 2
"""The generation whose collection looks at every object that is not left alone."""


class Settled:
    """
    What the garbage collector leaves alone: everything that was there when it last looked.

    It looks through every object of the process again and again while sockets come and go. With ten
    thousand sockets that takes a third of a second, in which none is served. Left alone, what it has seen
    costs nothing, and is freed as ever once nobody refers to it. Only what refers to itself, and was in
    use for so long, has to wait for a look at everything: one is due when twice as much is left alone as
    at the last one, and after ten minutes. That holds for ``gc.collect()`` too.

    """

    def __init__(self) -> None:
        self._known = 0
        self._looks_at_all = False
        self._looked_at = 0.0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Leave alone what is there now, and meanwhile what turns out to stay."""
        gc.collect()
        gc.freeze()
        self._remember(gc.get_freeze_count())
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
            self._remember(count)
        elif count > GROWTH * self._known or time.monotonic() - self._looked_at > PATIENCE:
            self._looks_at_all = True
            # Not here: the collector would not begin within its own call.
            gc.unfreeze()

    def _remember(self, count: int) -> None:
        self._known = count
        self._looked_at = time.monotonic()
