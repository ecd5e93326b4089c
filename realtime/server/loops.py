"""The event loop under daphne's reactor, and uvloop in its place: the one module that imports uvloop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import daphne.server
from twisted.internet import reactor

new_event_loop: Callable[[], Any] | None = None
try:
    import uvloop

    new_event_loop = uvloop.new_event_loop
except ImportError:  # optional: there is none for Windows
    pass


def use_uvloop() -> bool:
    """
    Let the reactor run on uvloop. Return whether it does: not where that is not installed.

    daphne makes its reactor, and with it a loop, when it is imported, which is before any command can
    choose another; so what the reactor has told that loop is told the new one. To be called before it runs.

    """
    if new_event_loop is None:
        return False
    loop = new_event_loop()
    _move(reactor, loop)
    daphne.server.twisted_loop = loop
    return True


def _move(reactor: Any, loop: Any) -> None:
    old = reactor._asyncioEventloop
    readers, writers = reactor.getReaders(), reactor.getWriters()
    for reader in readers:
        reactor.removeReader(reader)
    for writer in writers:
        reactor.removeWriter(writer)
    reactor._asyncioEventloop = loop
    for reader in readers:
        reactor.addReader(reader)
    for writer in writers:
        reactor.addWriter(writer)
    # What was to be called later.
    reactor._scheduledAt = None
    reactor._reschedule()
    if old._default_executor is not None:
        loop.set_default_executor(old._default_executor)
    old.close()
