"""
What happens to sockets, told to whoever listens.

``client_connected(sender, connection)`` after accept, ``client_disconnected(sender, connection, code)``
after everything was cleaned up, ``client_refused(sender, scope, refusal)`` before accept. Receivers may
be sync or async; one that raises is logged and hurts nobody.

"""

from __future__ import annotations

from typing import Any

from django.dispatch import Signal

from ratelimit.logs import get_logger
from ratelimit.signals import client_refused

__all__ = ["client_connected", "client_disconnected", "client_refused", "tell"]

client_connected = Signal()
client_disconnected = Signal()

logger = get_logger("realtime")


async def tell(signal: Signal, sender: Any, **named: Any) -> None:
    """Send ``signal``; nothing at all is done when nobody listens."""
    if not signal.receivers or not signal.has_listeners(sender):
        return
    for receiver, outcome in await signal.asend_robust(sender, **named):
        if isinstance(outcome, Exception):
            logger.error("signal receiver failed", receiver=repr(receiver), exc_info=outcome)
