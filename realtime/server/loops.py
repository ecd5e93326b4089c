"""The event loop under daphne's reactor, and uvloop in its place: the one module that imports uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import daphne.server
from twisted.internet import reactor as installed_reactor

reactor: Any = installed_reactor
"""Any, because what Twisted says of its types is for a plugin of mypy that is no more."""

new_event_loop: Callable[[], Any] | None = None
try:
    import uvloop

    new_event_loop = uvloop.new_event_loop
except ImportError:  # optional: there is none for Windows
    pass

_of_the_parent: list[Any] = []
"""Kept only so that they are not collected, which would close them."""


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


def begin_anew() -> None:
    """
    Let the reactor run on a loop of its own in a process that was forked from one that has a reactor.

    The old loop is the parent's too: what is unregistered from it here, or by its end, the parent no longer
    hears of. So it is left as it is, and kept.

    """
    _of_the_parent.append(reactor._asyncioEventloop)
    readers = reactor.getReaders()
    reactor._readers.clear()
    reactor._writers.clear()
    loop = asyncio.new_event_loop()
    _give(reactor, loop, readers, [])
    daphne.server.twisted_loop = loop


def _move(reactor: Any, loop: Any) -> None:
    old = reactor._asyncioEventloop
    readers, writers = reactor.getReaders(), reactor.getWriters()
    for reader in readers:
        reactor.removeReader(reader)
    for writer in writers:
        reactor.removeWriter(writer)
    _give(reactor, loop, readers, writers)
    if old._default_executor is not None:
        loop.set_default_executor(old._default_executor)
    old.close()


def _give(reactor: Any, loop: Any, readers: list[Any], writers: list[Any]) -> None:
    """Let ``reactor`` run on ``loop``, with these descriptors and with what it was to call later."""
    reactor._asyncioEventloop = loop
    for reader in readers:
        reactor.addReader(reader)
    for writer in writers:
        reactor.addWriter(writer)
    reactor._scheduledAt = None
    reactor._reschedule()
