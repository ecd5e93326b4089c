"""Signals that ask a process to end before its server minds them: kept, so that it ends in order once it can."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

_OF_PYTHON: Final = ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler))


class Interrupts:
    """
    SIGTERM and SIGINT from before a process listens until somebody minds them.

    Twisted minds them when its reactor runs, and by then there may be clients. While they are :meth:`heard` the first is
    kept, and a second one ends the process at once. :meth:`give` is for who minds them from then on. One that nobody
    has taken is raised again in the end.

    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._kept: int | None = None

    @contextmanager
    def heard(self) -> Iterator[None]:
        """
        Keep what comes meanwhile: in the main thread, and unless somebody else handles it.

        Afterwards signals that nobody has taken over are as they were before. May be nested; the outermost counts.

        """
        if self._before or threading.current_thread() is not threading.main_thread():
            yield
            return
        for number, handler in _OF_PYTHON:
            if signal.getsignal(number) == handler:
                self._before[number] = handler
                signal.signal(number, self._keep)
        try:
            yield
        finally:
            self._forget()

    def _keep(self, number: int, frame: object) -> None:
        self._kept = number
        for heard in self._before:
            signal.signal(heard, signal.SIG_DFL)

    def give(self, handler: Callable[..., Any]) -> int | None:
        """Let ``handler`` have the signals that are still heard here; return the one that was kept before, if any."""
        for number in self._before:
            if signal.getsignal(number) == self._keep:
                signal.signal(number, handler)
        kept, self._kept = self._kept, None
        return kept

    def _forget(self) -> None:
        for number, handler in self._before.items():
            # The default is what is left of one that was kept.
            if signal.getsignal(number) in (self._keep, signal.SIG_DFL):
                signal.signal(number, handler)
        self._before.clear()
        kept, self._kept = self._kept, None
        if kept is not None:
            signal.raise_signal(kept)


interrupts: Final = Interrupts()
"""Those of this process."""
